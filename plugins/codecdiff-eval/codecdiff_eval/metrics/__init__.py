"""Metrics, one subject per file: plain functions first, then a `Metric` that puts an interval around them.

    frechet         FAD, FAD-infinity, FAD per track, FAD with shrunk covariances    (gaussian has their equations)
    kad             kernel audio distance
    neighbors       density and coverage; distances to the nearest training clips: memorization
    clap_score      similarity of audio and caption
    adherence       tempo, key and instruments that prompts request                   (probe: linear classifiers)
    signal          pulse, tuning and full scale
    codec_quality   what a codec changes
    bootstrap       intervals over tracks, and chance by permutation

A metric is an entry point of the group `codecdiff.metrics` that names a `codecdiff_eval.metric.Metric`.
docs/scores.md has every formula, its source and what it is sensitive to.
"""
