"""Memorization: whether generated clips lie nearer to training clips than to as many clips never trained on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distance_ratio", "nearest_distance", "nearest_distances"]


def nearest_distance(features: Tensor, reference: Tensor) -> Tensor:
    """(n, w, p) features, (m, w', p) reference -> (n,) Euclidean distance of each clip to the nearest in reference.

    A clip is the mean of its windows.
    """
    return torch.cdist(features.mean(1), reference.mean(1)).amin(1)


def nearest_distances(features: Tensor, training: Tensor, fresh: Tensor) -> Tensor:
    """(n, w, p) features -> (n, 2) distances to the nearest training clip and to the nearest of as many fresh ones."""
    count = min(len(training), len(fresh))
    return torch.stack([nearest_distance(features, other[:count]) for other in (training, fresh)], 1)


def distance_ratio(distances: Tensor) -> float:
    """(n, 2) `nearest_distances` -> the ratio of their means: well under 1, a model plays from memory."""
    training, fresh = distances.mean(0).tolist()
    return training / fresh
