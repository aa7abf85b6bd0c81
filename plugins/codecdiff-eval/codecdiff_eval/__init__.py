"""Evaluation of generated music: metrics with intervals, their context, and reports."""
