"""Evaluation of generated music: metrics with intervals, what they are read against, and reports."""
