"""Draws that several models, and several metrics of them, have in common: what makes a clip hard cancels out.

With one list of draws for all, `interval_of` the differences of their values is the interval of a paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from codecdiff.rng import generator
from codecdiff_eval.metrics.bootstrap import centered, draw_tracks
from codecdiff_eval.metrics.gaussian import fit_shrunk_gaussian, frechet_distance
from codecdiff_eval.results import RESAMPLES, Estimate

__all__ = ["Draws", "OfDraw", "interval_of"]

Name = TypeVar("Name", bound=Hashable)
OfDraw = Callable[[int], float]  # a metric as a function of the index of a draw


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
