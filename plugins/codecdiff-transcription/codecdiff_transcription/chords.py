"""Chords: what sequence of major and minor triads music plays.

Chords are numbered as keys are: 0 to 11 for C major to B major, 12 to 23 for minor.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

TRIADS = ((0, 4, 7), (0, 3, 7))  # semitones over the root, major and minor
SMOOTHING = 0.5  # s of a running mean of chroma
CHANGE = 0.12  # what a change of chord costs: as much as a chord with a cosine of 0 for so many seconds


def triad_templates() -> Tensor:
    """Return the pitch classes of the 24 triads, (24, 12), of length one."""
    templates = torch.zeros(24, 12)
    for mode, triad in enumerate(TRIADS):
        for root in range(12):
            templates[12 * mode + root, [(root + step) % 12 for step in triad]] = 1
    return templates / 3**0.5


def chord_sequence(chroma: Tensor, frame_seconds: float) -> list[int]:
    """(w, 12) chroma -> the chords in order, each once for as long as it lasts; empty where nothing sounds.

    The sequence with the largest sum over frames of the cosine between chroma and a chord's pitch classes, less a cost
    for every change (Viterbi 1967; Fujishima 1999 for the templates).
    """
    if not len(chroma) or float(chroma.sum()) <= 0:
        return []
    width = 2 * round(SMOOTHING / frame_seconds / 2) + 1
    smooth = torch.nn.functional.avg_pool1d(chroma.T[None], width, 1, width // 2, count_include_pad=False)[0].T
    scores = torch.nn.functional.normalize(smooth, dim=1) @ triad_templates().T  # (w, 24)
    cost, total, sources = CHANGE / frame_seconds, scores[0], []
    for row in scores[1:]:
        best, chord = total.max(0)
        stays = total >= best - cost
        sources.append(torch.where(stays, torch.arange(24), chord))
        total = torch.where(stays, total, best - cost) + row
    path = [int(total.argmax())]
    for source in reversed(sources):
        path.append(int(source[path[-1]]))
    path.reverse()
    return [path[0], *(after for before, after in pairwise(path) if after != before)]
