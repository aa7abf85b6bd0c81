"""Intervals by resampling tracks: clips and windows of one track are not independent, so tracks are the units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.stats import binomtest
from torch import Tensor

from codecdiff.rng import generator
from codecdiff_eval.results import RESAMPLES, Estimate

__all__ = ["bootstrap", "bootstrap_tracks", "centered", "draw_tracks", "permuted", "rate_interval"]


def draw_tracks(tracks: Sequence[Tensor], random: torch.Generator) -> Tensor:
    """Draw as many tracks as there are, with replacement: the indices (n,) of all their clips.

    `tracks` has the indices of the clips of every track.
    """
    drawn = torch.randint(len(tracks), (len(tracks),), generator=random)
    return torch.cat([tracks[i] for i in drawn.tolist()])


def bootstrap_tracks(
    statistic: Callable[..., float], *sets: Sequence[Tensor], resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return a statistic of clips with its interval, resampling the tracks of each set with all their clips.

    `statistic` takes a tensor of clip indices (n,) for every set, which is the indices of the clips of every track.
    What is paired shares a set. The interval is `centered`.

    In simulations with 64 clips the interval of a Fréchet distance was up to twice too wide, that of a ratio of two
    about a third too narrow.
    """
    value = statistic(*(torch.cat(list(tracks)) for tracks in sets))
    random = generator("codecdiff_eval.bootstrap", seed)
    draws = ([draw_tracks(tracks, random) for tracks in sets] for _ in range(resamples))
    return centered(value, [statistic(*drawn) for drawn in draws])


def bootstrap(statistic: Callable[..., float], *groups: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return `statistic(*groups)` with its interval, resampling each group along its first axis, the clips.

    Paired clips are resampled together when they share one tensor.
    """

    def of_drawn(*drawn: Tensor) -> float:
        return statistic(*(group[clips] for group, clips in zip(groups, drawn, strict=True)))

    sets = [torch.arange(len(group)).split(1) for group in groups]
    return bootstrap_tracks(of_drawn, *sets, resamples=resamples, seed=seed)


def centered(value: float, resampled: Sequence[float], level: float = 0.95) -> Estimate:
    """Return a value with the central `level` of what its resamples spread, shifted so that their mean is the value.

    Efron & Tibshirani (1993). A resample repeats clips, which pushes a Fréchet distance up as a smaller set would;
    centering removes this push and keeps the spread.
    """
    values = torch.tensor(resampled, dtype=torch.float64)
    low, high = _quantiles(values - values.mean(), level)
    return Estimate(value, value + low, value + high)


def permuted(
    statistic: Callable[[Tensor], float], labels: Tensor, *, permutations: int = 100, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Return the mean of `statistic` over permutations of `labels` (n, ...) along n, with its interval: chance."""
    random = generator("codecdiff_eval.permutation", seed)
    orders = [torch.randperm(len(labels), generator=random) for _ in range(permutations)]
    values = torch.tensor([statistic(labels[order]) for order in orders], dtype=torch.float64)
    return Estimate(float(values.mean()), *_quantiles(values, level))


def _quantiles(values: Tensor, level: float) -> tuple[float, float]:
    low, high = torch.quantile(values, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def rate_interval(successes: float, count: int) -> Estimate:
    """Return the rate of so many independent successes with its exact interval (Clopper & Pearson, 1934).

    It is not empty where all or none succeed. A half success counts as none at the lower end and as one at the upper.
    """
    low, high = (binomtest(end, count).proportion_ci(method="exact") for end in (int(successes), math.ceil(successes)))
    return Estimate(successes / count, low.low, high.high)
