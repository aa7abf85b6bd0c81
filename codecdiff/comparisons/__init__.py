"""Comparisons: several variants of one experiment, trained at one budget of FLOPs and judged alike.

settings   what is compared: one experiment, what each variant changes, seeds, a budget
budgets    FLOPs of training and sampling, and the steps that a budget pays for
runs       the training of every (variant, seed), each an ordinary model folder
clips      held-out recordings, and what every run makes of them and of their captions
figures    what is measured on those clips, with intervals that are paired
reports    the figures as a page, as Markdown and as JSON
"""
