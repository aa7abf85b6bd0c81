"""`codecdiff compare`: variants of one experiment, trained at one budget of FLOPs and evaluated on the same clips.

config      what is compared: one experiment, what each variant changes, seeds, a budget
budget      FLOPs of training and sampling, and the steps that a budget pays for
runs        the training of every (variant, seed), each an ordinary model folder
clips       clips of validation tracks, and the embeddings of what every run generates from them
measure     metrics of these embeddings, with intervals that are paired
report      the results as a page, as Markdown and as JSON
experiment  all of it in order
"""
