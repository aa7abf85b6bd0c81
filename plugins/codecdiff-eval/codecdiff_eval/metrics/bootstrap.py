"""Intervals by resampling tracks: clips and windows of one track are not independent, so tracks are the units.

`Draws` are resamples that several models, and several metrics of them, have in common: what makes a clip hard cancels
out. `interval_of` the differences of their values is the interval of a paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from scipy.stats import binomtest
from torch import Tensor

from codecdiff.rng import generator
from codecdiff_eval.metrics.gaussian import fit_shrunk_gaussian, frechet_distance
from codecdiff_eval.results import RESAMPLES, Estimate

__all__ = ["Draws", "OfDraw", "bootstrap", "bootstrap_tracks", "centered", "interval_of", "permuted", "rate_interval"]

Name = TypeVar("Name", bound=Hashable)
OfDraw = Callable[[int], float]  # a metric as a function of the index of a draw


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


def centered(value: float, resampled: Sequence[float]) -> Estimate:
    """Return a value with the central 95 % of what its resamples spread, shifted so that their mean is the value.

    Efron & Tibshirani (1993). A resample repeats clips, which pushes a Fréchet distance up as a smaller set would;
    centering removes this push and keeps the spread. The interval includes the value, also where nearly all resamples
    are equal and the few others move their mean outside of the central 95 %.
    """
    values = torch.tensor(resampled, dtype=torch.float64)
    low, high = _interval(values - values.mean())
    return Estimate(value, value + min(low, 0.0), value + max(high, 0.0))


def permuted(statistic: Callable[[Tensor], float], labels: Tensor, *, seed: int = 0) -> Estimate:
    """Return the mean of `statistic` over 100 permutations of `labels` (n, ...) along n, with its interval: chance."""
    random = generator("codecdiff_eval.permutation", seed)
    orders = [torch.randperm(len(labels), generator=random) for _ in range(100)]
    values = torch.tensor([statistic(labels[order]) for order in orders], dtype=torch.float64)
    return Estimate(float(values.mean()), *_interval(values))


def _interval(values: Tensor) -> list[float]:
    """(n,) values -> the ends of their central 95 %."""
    return torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def rate_interval(successes: float, count: int) -> Estimate:
    """Return the rate of so many independent successes with its exact interval (Clopper & Pearson, 1934).

    It is not empty where all or none succeed. A half success counts as none at the lower end and as one at the upper.
    """
    low, high = (binomtest(end, count).proportion_ci(method="exact") for end in (int(successes), math.ceil(successes)))
    return Estimate(successes / count, low.low, high.high)


@dataclass(frozen=True)
class Draws:
    """Indices of evaluated clips, of reference clips and of seeds: all of them, then those of each resample."""

    evaluated: Sequence[Tensor]
    reference: Sequence[Tensor]
    seeds: Sequence[Tensor]

    @classmethod
    def of(
        cls,
        evaluated: Sequence[Tensor],
        reference: Sequence[Tensor],
        *,
        num_seeds: int = 1,
        resamples: int = RESAMPLES,
        seed: int,
    ) -> Draws:
        """Draw tracks, each the indices of all its clips, and seeds."""
        units = {"evaluated": evaluated, "reference": reference, "seeds": torch.arange(num_seeds).split(1)}

        def draws(name: str) -> list[Tensor]:
            random = generator("codecdiff_eval.draws", name, seed)
            return [torch.cat(list(units[name])), *(draw_tracks(units[name], random) for _ in range(resamples))]

        return cls(*map(draws, units))

    def __len__(self) -> int:
        return len(self.seeds)

    def values(self, statistics: Sequence[OfDraw]) -> Tensor:
        """Evaluate the statistic of each seed for every draw that has the seed: (draws, seeds).

        A single statistic, of what no seed changes, is that of all.
        """
        if len(statistics) == 1:
            column = [statistics[0](r) for r in range(len(self))]
            return torch.tensor(column, dtype=torch.float64)[:, None].expand(-1, len(self.seeds[0]))
        values = torch.full((len(self), len(statistics)), math.nan, dtype=torch.float64)
        for r, drawn in enumerate(self.seeds):
            for s in drawn.unique().tolist():
                values[r, s] = statistics[s](r)
        return values

    def distances(self, sets: Mapping[Name, Sequence[Tensor]], reference: Tensor) -> dict[Name, Tensor]:
        """Return the shrunk Fréchet distances of sets to a reference (n, w, e), each (draws, seeds).

        `sets` has the embeddings (n, w, e) of every seed by name.
        """
        gaussians = [fit_shrunk_gaussian(reference[drawn]) for drawn in self.reference]

        def distance(vectors: Tensor) -> OfDraw:
            return lambda r: frechet_distance(*fit_shrunk_gaussian(vectors[self.evaluated[r]]), *gaussians[r])

        return {name: self.values([distance(vectors) for vectors in seeds]) for name, seeds in sets.items()}


def interval_of(values: Tensor) -> Estimate:
    """(draws,) values, the first of everything -> that one with the `centered` interval of the others."""
    resampled = values[1:][values[1:].isfinite()].tolist()
    return centered(float(values[0]), resampled) if resampled else Estimate(float(values[0]), math.nan, math.nan)
