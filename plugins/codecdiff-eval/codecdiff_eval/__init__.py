"""Evaluation and comparison of codecdiff models."""
