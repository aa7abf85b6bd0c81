"""Measures of music against music, or against its captions: each gives a `Score`.

    judged, reference = Embedded.load("made.safetensors"), Embedded.load("real.safetensors")
    score = fad(judged, reference)

Intervals resample recordings, never their clips or windows, for those of one recording are not independent.
docs/scores.md has every formula, its source and what it is sensitive to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codecdiff.embedded import Embedded, Statistics, require_alike
from codecdiff.gaussians import Moments, fitted, frechet, intercept, root
from codecdiff.kernels import clip_sums, mean_between, mean_within, median_distance
from codecdiff.metrics import Estimate, bootstrap_recordings, frechet_distance, shuffled
from codecdiff.neighbours import NEIGHBOURS, coverage, density, expected_coverage, inside
from codecdiff.protocols import Protocol, prompts_hash
from codecdiff.scores import RESAMPLES, Better, Interval, Score, share

KAD_SCALE = 100  # KAD is this times the squared MMD, as its authors' package has it
FEW = 20  # recordings, under which an interval by resampling is unreliable


def fad(judged: Embedded, reference: Embedded | Statistics, *, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """Fréchet audio distance (Kilgour et al. 2019): `gaussians.frechet` of the two sets' sample means and covariances.

    All windows of all clips are pooled, and nothing is shrunk, as in the published numbers. Of a reference given by its
    statistics only the judged recordings are resampled. Raises ValueError if the two were not heard alike.
    """

    def statistic(drawn: Tensor, against: tuple[Tensor, Tensor]) -> float:
        return frechet(*_fitted(judged, drawn), *against)

    _require(judged, reference, at_least=2)
    estimate = _resampled(statistic, judged, reference, resamples, seed)
    warnings = _gaussian_warnings(judged, reference)
    return _score("FAD", estimate, judged, reference, resamples, seed, better="lower", warnings=warnings)


def fad_infinity(
    judged: Embedded, reference: Embedded | Statistics, *, parts: int = 5, resamples: int = 100, seed: int = 0
) -> Score:
    """FAD as it would be with endless judged clips (Gui et al. 2024): the intercept of a line in 1 / clips.

    Of a finite sample FAD exceeds its limit by about a constant over n. For j = 1...parts the clips are divided at
    random into j parts, whose mean FAD belongs to n / j clips; least squares give the line. Every clip is used at every
    size. The reference stays finite, and so does its share of the bias. Raises ValueError for under 2 clips a part.
    """
    if parts < 2:
        raise ValueError(f"parts={parts}: a line needs at least 2 sizes.")

    def statistic(drawn: Tensor, against: tuple[Tensor, Tensor]) -> float:
        order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))

        def mean_fad(num_parts: int) -> float:
            distances = [frechet(*_fitted(judged, some), *against) for some in drawn[order].tensor_split(num_parts)]
            return sum(distances) / num_parts

        sizes = range(1, parts + 1)
        return intercept([j / len(judged) for j in sizes], [mean_fad(j) for j in sizes])

    _require(judged, reference, at_least=2 * parts)
    estimate = _resampled(statistic, judged, reference, resamples, seed)
    warnings = _gaussian_warnings(judged, reference, parts=parts)
    return _score(
        "FAD-infinity",
        estimate,
        judged,
        reference,
        resamples,
        seed,
        better="lower",
        warnings=warnings,
        options={"parts": parts},
    )


def fad_per_track(
    judged: Embedded, reference: Embedded | Statistics, *, resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """Mean over clips of the FAD of each clip alone against the reference (Gui et al. 2024), with every clip's own.

    It ranks clips; its size says little, for the windows of one clip rarely fill the space.
    """
    _require(judged, reference, at_least=1)
    against = _gaussian_of(reference)
    values = torch.tensor([frechet(*fitted(vectors), *against) for vectors in judged.by_clip()], dtype=torch.float64)
    width, most = judged.vectors.shape[1], int(judged.lengths.max())
    warnings = (
        (
            f"Every clip has {most} windows at most, under the {width} + 1 that fill the space: compare clips "
            "with each other, not with the FAD of a set.",
        )
        if most <= width
        else ()
    )
    return _mean_over_clips(
        "FAD-per-track", values, judged, reference, resamples, seed, better="lower", warnings=warnings
    )


def fad_shrunk(judged: Embedded, reference: Embedded, *, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """Fréchet distance with Ledoit-Wolf covariances (`metrics.frechet_distance`): not the published FAD.

    Shrinking biases covariances towards a sphere, less the more windows there are, and keeps them regular where there
    are few. It takes windows for independent, so with few clips it exceeds its limit nearly as much as FAD does.
    """

    def statistic(a: Tensor, b: Tensor) -> float:
        return frechet_distance(judged.drawn(a), reference.drawn(b))

    _require(judged, reference, at_least=2)
    estimate = bootstrap_recordings(
        statistic, judged.recordings(), reference.recordings(), resamples=resamples, seed=seed
    )
    return _score("FAD-shrunk", estimate, judged, reference, resamples, seed, better="lower")


def kad(
    judged: Embedded,
    reference: Embedded,
    *,
    across: bool = False,
    bandwidth: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Score:
    """Kernel audio distance (Chung et al. 2025): 100 times the unbiased squared MMD with a Gaussian kernel.

    The bandwidth is the median distance of the reference's windows unless given, and resampling keeps it. Unbiased, so
    0 in the mean for two sets of one distribution, and some such values are negative. That holds for independent
    windows: with `across` only windows of different clips are paired within a set ("KAD-across-clips"), so that it also
    holds for the windows of clips.
    """
    _require(judged, reference, at_least=2)
    width = bandwidth or median_distance(reference.vectors)
    a, b = (judged.vectors, judged.lengths), (reference.vectors, reference.lengths)
    within_a, within_b, between = clip_sums(*a, *a, width), clip_sums(*b, *b, width), clip_sums(*a, *b, width)

    def statistic(drawn_a: Tensor, drawn_b: Tensor) -> float:
        counts = _counts(drawn_a, len(judged)), _counts(drawn_b, len(reference))
        own = mean_within(within_a, judged.lengths, counts[0], across=across)
        other = mean_within(within_b, reference.lengths, counts[1], across=across)
        return KAD_SCALE * (own + other - 2 * mean_between(between, (judged.lengths, reference.lengths), counts))

    estimate = bootstrap_recordings(
        statistic, judged.recordings(), reference.recordings(), resamples=resamples, seed=seed
    )
    return _score(
        "KAD-across-clips" if across else "KAD",
        estimate,
        judged,
        reference,
        resamples,
        seed,
        better="lower",
        options={"scale": KAD_SCALE, "bandwidth": float(f"{width:.6g}")},
    )


def clap_score(judged: Embedded, texts: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """Mean over clips of the cosine between a clip's caption and its audio, texts (n, e) in the order of the clips.

    Of a clip of several windows the cosines are averaged. `chance` is the score with captions dealt at random among
    these clips. Raises ValueError unless there is one text a clip, and `judged.prompts` says what they are.
    """
    if len(texts) != len(judged) or not judged.prompts:
        raise ValueError(
            f"A CLAP score compares each clip with its caption, but {len(judged)} clips have {len(texts)} texts and "
            f"{len(judged.prompts)} prompts: give one of each for every clip."
        )
    audio = torch.nn.functional.normalize(judged.vectors.double(), dim=1)
    directions = torch.stack([windows.mean(0) for windows in audio.split(judged.lengths.tolist())])
    captions = torch.nn.functional.normalize(texts.double().cpu(), dim=1)
    chance = shuffled(lambda dealt: float((directions * dealt).sum(1).mean()), captions, seed=seed)
    return _mean_over_clips(
        "CLAP score", (directions * captions).sum(1), judged, None, resamples, seed, better="higher", chance=chance
    )


def density_score(
    judged: Embedded, reference: Embedded, *, k: int = NEIGHBOURS, resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """Density (Naeem et al. 2020) of clips, each the mean of its windows: fidelity. 1 for sets of one distribution.

    Resampling keeps the radii.
    """
    _require(judged, reference, at_least=1)
    within = inside(judged.means(), reference.means(), k)

    def statistic(drawn_a: Tensor, drawn_b: Tensor) -> float:
        return float(density(within[drawn_a][:, drawn_b], k).mean())

    estimate = bootstrap_recordings(
        statistic, judged.recordings(), reference.recordings(), resamples=resamples, seed=seed
    )
    return _score(
        "density",
        estimate,
        judged,
        reference,
        resamples,
        seed,
        better="higher",
        options={"neighbours": k},
        per_clip=dict(zip(judged.names, density(within, k).tolist(), strict=True)),
    )


def coverage_score(
    judged: Embedded, reference: Embedded, *, k: int = NEIGHBOURS, resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """Coverage (Naeem et al. 2020) of clips, each the mean of its windows: diversity, from 0 to 1.

    `ceiling` is what to expect of two sets of one distribution and these sizes. Resampling keeps the radii.
    """
    _require(judged, reference, at_least=1)
    within = inside(judged.means(), reference.means(), k)
    sets = judged.recordings(), reference.recordings()
    estimate = bootstrap_recordings(lambda a, b: coverage(within[a][:, b]), *sets, resamples=resamples, seed=seed)
    best = expected_coverage(len(reference), len(judged), k)
    return _score(
        "coverage",
        share(estimate),
        judged,
        reference,
        resamples,
        seed,
        better="higher",
        ceiling=Estimate(best, best, best),
        options={"neighbours": k},
    )


def split_half(measure: Callable[[Embedded, Embedded], Score], reference: Embedded, *, seed: int = 0) -> Score:
    """Measure one random half of the reference against the other: what a perfect model gets of half as many clips.

    No recording is in both halves. Raises ValueError for fewer than 4 recordings.
    """
    return measure(*reference.halves(seed))


def _require(judged: Embedded, reference: Embedded | Statistics, *, at_least: int) -> None:
    require_alike(judged.hearing, reference.hearing)
    if len(judged) < at_least or len(reference) < 2:
        raise ValueError(
            f"This score needs at least {at_least} judged clips and 2 of reference, but got {len(judged)} and "
            f"{len(reference)}."
        )


def _shared(judged: Embedded, reference: Embedded | Statistics | None) -> list[str]:
    """Warn of judged clips that the reference holds too."""
    known = set(reference.digests) if isinstance(reference, Embedded) else set()
    both = [name for name, digest in zip(judged.names, judged.digests, strict=True) if digest in known]
    return [f"{len(both)} judged clips, such as {both[0]}, are in the reference too."] if both else []


def _counts(drawn: Tensor, n: int) -> Tensor:
    """How often each of n clips was drawn."""
    return torch.bincount(drawn, minlength=n)


def _fitted(embedded: Embedded, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a Gaussian to the windows of drawn clips -> mean (p,) and factor."""
    return fitted(embedded.vectors, _counts(drawn, len(embedded)).repeat_interleave(embedded.lengths))


def _gaussian_of(reference: Embedded | Statistics) -> tuple[Tensor, Tensor]:
    if isinstance(reference, Embedded):
        return fitted(reference.vectors)
    return reference.moments.mean, root(reference.moments.covariance)


def _resampled(
    statistic: Callable[[Tensor, tuple[Tensor, Tensor]], float],
    judged: Embedded,
    reference: Embedded | Statistics,
    resamples: int,
    seed: int,
) -> Estimate:
    """Resample the judged recordings, and the reference's where they are known, for clips and a Gaussian."""
    own = judged.recordings()
    if isinstance(reference, Statistics):
        fixed = _gaussian_of(reference)
        return bootstrap_recordings(lambda a: statistic(a, fixed), own, resamples=resamples, seed=seed)
    return bootstrap_recordings(
        lambda a, b: statistic(a, _fitted(reference, b)),
        own,
        reference.recordings(),
        resamples=resamples,
        seed=seed,
    )


def _mean_over_clips(
    name: str,
    values: Tensor,
    judged: Embedded,
    reference: Embedded | Statistics | None,
    resamples: int,
    seed: int,
    **facts: Any,
) -> Score:
    """Make the score that is the mean of a value (n,) of each judged clip; the reference is not resampled."""
    estimate = bootstrap_recordings(
        lambda drawn: float(values[drawn].mean()), judged.recordings(), resamples=resamples, seed=seed
    )
    per_clip = dict(zip(judged.names, values.tolist(), strict=True))
    return _score(name, estimate, judged, reference, resamples, seed, kept=True, per_clip=per_clip, **facts)


def _gaussian_warnings(judged: Embedded, reference: Embedded | Statistics, *, parts: int = 1) -> tuple[str, ...]:
    """Say which sets are too small for their covariance; of a judged set that is divided, whether its parts are."""
    other = reference.moments if isinstance(reference, Statistics) else Moments.of(reference.vectors)
    sets = {"judged": (Moments.of(judged.vectors), len(judged), parts), "reference": (other, len(reference), 1)}
    return tuple(warning for which, facts in sets.items() if (warning := _size_warning(which, *facts)))


def _size_warning(which: str, moments: Moments, clips: int, parts: int) -> str:
    """Warn of a covariance that does not fill its space, or does so by windows of few clips, which are much alike."""
    windows, clips, width = int(moments.count) // parts, clips // parts, moments.width
    rank = min(moments.rank(), max(windows - 1, 0))
    part = f" when divided by {parts}" if parts > 1 else ""
    if rank < width:
        return (
            f"The covariance of the {which} clips{part} has rank {rank} of {width} (from {windows} windows): this "
            "distance is biased and depends on the number of clips. Take more clips, or read KAD."
        )
    if clips <= width:
        return (
            f"There are {clips} {which} clips{part} for {width} dimensions, and windows of one clip are much alike: "
            "much of this distance may be bias. Read it beside the split half of as many clips, or read KAD."
        )
    return ""


def _score(
    name: str,
    estimate: Estimate,
    judged: Embedded,
    reference: Embedded | Statistics | None,
    resamples: int,
    seed: int,
    *,
    better: Better,
    kept: bool = False,
    warnings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    chance: Estimate | None = None,
    ceiling: Estimate | None = None,
    per_clip: Mapping[str, float] | None = None,
) -> Score:
    """Put a value together with what it follows from. A reference that is `kept` was not resampled."""
    recordings = len(judged.recordings())
    few = [f"{recordings} judged recordings are few: the interval is unreliable."] if recordings < FEW else []
    protocol = Protocol(
        judged.hearing,
        clips=len(judged),
        windows=len(judged.vectors),
        reference="" if reference is None else reference.identity,
        reference_clips=0 if reference is None else len(reference),
        prompts=prompts_hash(judged.prompts),
        options=options or {},
        seeds={**judged.seeds, "interval": seed},
    )
    resampled = f" and {len(reference.recordings())} reference" if isinstance(reference, Embedded) and not kept else ""
    return Score(
        name,
        estimate.value,
        Interval(estimate.low, estimate.high, over=f"{recordings} judged{resampled} recordings", resamples=resamples),
        protocol,
        better,
        (*warnings, *_shared(judged, reference), *few),
        chance,
        ceiling,
        per_clip or {},
    )
