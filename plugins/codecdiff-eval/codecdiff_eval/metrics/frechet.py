"""Fréchet audio distance, its limit for many clips, that of each track, and one with shrunk covariances."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.rng import generator
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Reference, Statistic, mean_over_clips
from codecdiff_eval.metrics.gaussian import GaussianStats, fit_gaussian, frechet_distance, shrunk_frechet_distance

Gaussian = tuple[Tensor, Tensor]


def _fad(clips: ClipEmbeddings, reference: Reference, *, seed: int) -> Statistic:
    """Fréchet audio distance (Kilgour et al. 2019): `frechet_distance` of sample means and covariances.

    All windows of all clips are pooled, and nothing is shrunk, as in the published numbers. Of a reference that is
    statistics alone, only the evaluated tracks are resampled.
    """

    def of(drawn: Tensor, *against: Tensor) -> float:
        return frechet_distance(*_fit(clips, drawn), *_reference(reference, *against))

    return Statistic(of, warnings=_size_warnings(clips, reference))


def _fad_infinity(clips: ClipEmbeddings, reference: Reference, *, seed: int, parts: int = 5) -> Statistic:
    """FAD as it would be with endlessly many clips (Gui et al. 2024): the intercept of a line in 1 / clips.

    Of a finite sample FAD exceeds its limit by about a constant over n. For j = 1...parts the clips are divided at
    random into j parts, whose mean FAD belongs to n / j clips; least squares fit the line. Every clip is used at every
    size. The reference stays finite, and so does its share of the bias.
    """
    if parts < 2:
        raise InvalidValue(f"parts={parts}: a line needs at least 2 sizes.")
    fad_infinity.require_clips(clips, reference, 2 * parts)

    def of(drawn: Tensor, *against: Tensor) -> float:
        order = torch.randperm(len(drawn), generator=generator("codecdiff_eval.fad_infinity", seed))
        gaussian = _reference(reference, *against)

        def mean_fad(num_parts: int) -> float:
            split = drawn[order].tensor_split(num_parts)
            return sum(frechet_distance(*_fit(clips, part), *gaussian) for part in split) / num_parts

        sizes = range(1, parts + 1)
        return float(np.polyfit([j / len(clips) for j in sizes], [mean_fad(j) for j in sizes], 1)[1])

    return Statistic(of, warnings=_size_warnings(clips, reference, parts), options={"parts": parts})


def _fad_per_track(clips: ClipEmbeddings, reference: Reference, *, seed: int) -> Statistic:
    """Mean over clips of the FAD of each clip alone against the reference (Gui et al. 2024), with every clip's own.

    It ranks clips; its size says little, for the windows of one clip rarely fill the space.
    """
    against = _reference(reference)
    values = torch.tensor([frechet_distance(*fit_gaussian(v), *against) for v in clips.by_clip()], dtype=torch.float64)
    width, most = clips.vectors.shape[1], int(clips.lengths.max())
    warning = (
        f"Every clip has {most} windows at most, under the {width} + 1 that fill the space: compare clips with each "
        "other, not with the FAD of a set."
    )
    return mean_over_clips(values, warnings=[warning] if most <= width else [])


def _fad_shrunk(clips: ClipEmbeddings, reference: ClipEmbeddings, *, seed: int) -> Statistic:
    """Fréchet distance with Ledoit-Wolf covariances (`shrunk_frechet_distance`): not the published FAD.

    Shrinking biases covariances towards a sphere, less the more windows there are, and keeps them regular where there
    are few. It treats windows as independent, so with few clips it exceeds its limit nearly as much as FAD does.
    """
    return Statistic(lambda a, b: shrunk_frechet_distance(clips.drawn(a), reference.drawn(b)))


def _fit(clips: ClipEmbeddings, drawn: Tensor) -> Gaussian:
    """Fit a Gaussian to the windows of drawn clips."""
    return fit_gaussian(clips.vectors, torch.bincount(drawn, minlength=len(clips)).repeat_interleave(clips.lengths))


def _reference(reference: Reference, drawn: Tensor | None = None) -> Gaussian:
    if not isinstance(reference, ClipEmbeddings):
        return reference.gaussian.gaussian()
    return fit_gaussian(reference.vectors) if drawn is None else _fit(reference, drawn)


def _size_warnings(clips: ClipEmbeddings, reference: Reference, parts: int = 1) -> list[str]:
    """Say which sets are too small for their covariance; of clips that are divided, whether their parts are."""
    other = GaussianStats.of(reference.vectors) if isinstance(reference, ClipEmbeddings) else reference.gaussian
    own = _size_warning("evaluated", GaussianStats.of(clips.vectors), len(clips), parts)
    return [*own, *_size_warning("reference", other, len(reference), 1)]


def _size_warning(which: str, stats: GaussianStats, clips: int, parts: int) -> list[str]:
    """Warn of a covariance that does not fill its space, or does so by windows of few clips, which are much alike."""
    windows, clips, width = int(stats.count) // parts, clips // parts, stats.width
    rank = min(stats.rank(), max(windows - 1, 0))
    part = f" when divided by {parts}" if parts > 1 else ""
    if rank < width:
        return [
            f"The covariance of the {which} clips{part} has rank {rank} of {width} (from {windows} windows): this "
            "distance is biased and depends on the number of clips. Add clips, or use KAD."
        ]
    if clips <= width:
        return [
            f"There are {clips} {which} clips{part} for {width} dimensions, and windows of one clip are similar: "
            "much of this distance may be bias. Compare it with the split half, or use KAD."
        ]
    return []


FAD_MEANING = (
    "Fréchet audio distance, between the mean and covariance of the embeddings of the clips and those of the "
    "reference. The fewer clips, the higher it is, for real music too, so compare only values of equally many clips"
)
INFINITY_MEANING = "FAD, extrapolated from parts of the clips to infinitely many"
PER_TRACK_MEANING = "mean over clips of the FAD of one clip to the reference; its absolute value is hard to interpret"
SHRUNK_MEANING = "FAD with covariances that are shrunk (Ledoit-Wolf), which keeps them regular with few clips"
fad = Metric("FAD", _fad, "lower", min_clips=2, accepts_stats=True, meaning=FAD_MEANING)
fad_infinity = Metric(
    "FAD-infinity", _fad_infinity, "lower", min_clips=2, accepts_stats=True, resamples=100, meaning=INFINITY_MEANING
)
fad_per_track = Metric("FAD-per-track", _fad_per_track, "lower", accepts_stats=True, meaning=PER_TRACK_MEANING)
fad_shrunk = Metric("FAD-shrunk", _fad_shrunk, "lower", min_clips=2, meaning=SHRUNK_MEANING)
