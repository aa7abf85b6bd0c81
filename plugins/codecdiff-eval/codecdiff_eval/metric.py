"""The one class of metrics: a statistic of two sets of clips, with an interval over tracks and all it follows from.

    def prepare(clips, reference, *, seed):
        return Statistic(lambda a, b: my_distance(clips.drawn(a), reference.drawn(b)))

    my_metric = Metric("My distance", prepare, "lower")
    result = my_metric(clips, reference)       # a MetricResult

In `pyproject.toml`, `[project.entry-points."codecdiff.metrics"]` with `my-distance = "my_package:my_metric"` makes it
`codecdiff evaluate --metric my-distance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from codecdiff import registry
from codecdiff.errors import BrokenPlugin, InvalidValue
from codecdiff.interfaces import Embedder, Prompt
from codecdiff_eval.embeddings import ClipEmbeddings, ReferenceStats
from codecdiff_eval.metrics.bootstrap import bootstrap_tracks, rate_interval
from codecdiff_eval.results import RESAMPLES, Direction, Estimate, Interval, MetricConfig, MetricResult, prompts_hash

__all__ = ["Metric", "Statistic", "load_metric", "mean_over_clips"]

FEW = 20  # tracks, under which an interval by resampling is unreliable
Reference = ClipEmbeddings | ReferenceStats
Compared = Literal["reference", "captions", "prompts", "clips"]


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of the clips that are drawn, with everything that is computed once.

    of: of the indices (n,) of clips, and with `resamples_reference` of those of reference clips, to a value.
    per_clip: the value of every clip (n,), where the metric is their mean.
    subset: indices of the clips that count, where not all do; `of` and `per_clip` are about these alone.
    bounds: that an interval, which is centered on the value, is clamped to.
    options: of the formula, that results must agree in to be comparable.
    """

    of: Callable[..., float]
    resamples_reference: bool = True
    per_clip: Tensor | None = None
    subset: Sequence[int] | None = None
    bounds: tuple[float, float] | None = None
    chance: Estimate | None = None
    upper_bound: Estimate | None = None
    warnings: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def mean_over_clips(values: Tensor, **facts: Any) -> Statistic:
    """Return the statistic that is the mean of a value (n,) of each clip; the reference is not resampled."""
    return Statistic(lambda a: float(values[a].mean()), resamples_reference=False, per_clip=values, **facts)


@dataclass(frozen=True)
class Metric:
    """A metric of a set of clips.

    label: as reports show it.
    prepare: takes the clips, what they are compared with and `seed`, and options by name, and returns a Statistic.
    direction: which way is better: "lower", "higher", or "" where neither is.
    compares: clips with a "reference"; with the vectors (n, e) of their "captions"; or with what their "prompts"
        request, where a reference, if there is any, provides the upper bound; or nothing, where the same of the
        reference is the upper bound ("clips").
    min_clips: that it needs.
    accepts_stats: whether `ReferenceStats` are enough of a reference.
    resamples: of the interval, unless specified.
    embedder: of its own, where it does not use the embeddings of others: estimators of tempo and key.
    requested: what a prompt requests of it, or None; for a metric that compares "prompts".
    meaning: what the value says, as reports explain it: a clause without a full stop.
    excludes_reference: a reason why clips made out of the reference cannot be measured, empty if they can.
    """

    label: str
    prepare: Callable[..., Statistic]
    direction: Direction
    compares: Compared = "reference"
    min_clips: int = 1
    accepts_stats: bool = False
    resamples: int = RESAMPLES
    embedder: Callable[[], Embedder] | None = None
    requested: Callable[[Prompt], Any] = lambda prompt: None
    excludes_reference: str = ""
    meaning: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("direction", Direction), ("compares", Compared)):
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(map(repr, get_args(kind)))
                raise InvalidValue(f"{self.label}: invalid {name}={getattr(self, name)!r}. Expected one of {allowed}.")

    def __call__(
        self, clips: ClipEmbeddings, against: Any = None, *, resamples: int | None = None, seed: int = 0, **options: Any
    ) -> MetricResult:
        """Measure clips against a reference, captions, or what prompts request.

        Raises a UserError where that is impossible, which a report then says: sets that were embedded differently, too
        few clips.
        """
        reference = against if isinstance(against, ClipEmbeddings | ReferenceStats) else None
        if reference is not None:
            self._check(clips, reference)
        try:
            statistic, resamples = self.prepare(clips, against, seed=seed, **options), resamples or self.resamples
        except Exception as error:  # of a function that a plugin may have written
            error.add_note(f"This was raised by `prepare` of the metric '{self.label}'.")
            raise
        if not isinstance(statistic, Statistic):
            raise BrokenPlugin(f"`prepare` of the metric '{self.label}' returned {statistic!r}: expected a Statistic.")
        reference = reference if self.compares == "reference" else None
        used = clips if statistic.subset is None else clips.select(statistic.subset)
        sets, over = [used.tracks()], f"{len(used.tracks())} evaluated tracks"
        if isinstance(reference, ClipEmbeddings) and statistic.resamples_reference:
            sets.append(reference.tracks())
            over = f"{len(sets[0])} evaluated and {len(sets[1])} reference tracks"
        estimate = bootstrap_tracks(statistic.of, *sets, resamples=resamples, seed=seed)
        if not all(map(math.isfinite, estimate)):
            raise InvalidValue(f"{self.label} is {estimate.value} [{estimate.low}, {estimate.high}]: not finite.")
        estimate = estimate.clamp(*statistic.bounds) if statistic.bounds else estimate
        if statistic.bounds == (0, 1) and estimate.low == estimate.high in (0, 1):  # all agree, and so do all resamples
            estimate = rate_interval(estimate.value * len(sets[0]), len(sets[0]))
        few = [f"With fewer than {FEW} evaluated tracks, the interval is unreliable."] if len(sets[0]) < FEW else []
        per_clip = () if statistic.per_clip is None else zip(used.names, statistic.per_clip.tolist(), strict=True)
        return MetricResult(
            self.label,
            estimate.value,
            Interval(estimate.low, estimate.high, over=over, resamples=resamples),
            _config(clips, used, reference, statistic.options, seed),
            self.direction,
            (*statistic.warnings, *_overlap(clips, reference), *few),
            statistic.chance,
            statistic.upper_bound,
            dict(per_clip),
            self.meaning,
        )

    def split_half(
        self, reference: ClipEmbeddings, *, num_clips: int | None = None, seed: int = 0, **options: Any
    ) -> MetricResult:
        """Measure clips of one random half of the reference against the other: two sets of the same music.

        No track is in both halves. Distances depend on the number of clips, so `num_clips` is that of the clips to
        compare with; by default, and at most, all of that half.

        Raises ValueError for fewer than 4 tracks.
        """
        return self(*reference.halves(seed, num_clips=num_clips), seed=seed, **options)

    def _check(self, clips: ClipEmbeddings, reference: Reference) -> None:
        clips.config.require_same(reference.config)
        if isinstance(reference, ReferenceStats) and not self.accepts_stats:
            raise InvalidValue("It needs the reference clip by clip, and only its statistics are available.")
        if self.compares == "reference":
            self.require_clips(clips, reference, self.min_clips)

    def require_clips(self, clips: ClipEmbeddings, reference: Reference, count: int) -> None:
        """Raise ValueError unless there are so many clips, and two of reference."""
        if len(clips) < count or len(reference) < 2:
            raise InvalidValue(
                f"{self.label} needs at least {count} clips and 2 of reference, but got {len(clips)} and "
                f"{len(reference)}."
            )


def _config(
    clips: ClipEmbeddings, used: ClipEmbeddings, reference: Reference | None, options: Mapping[str, Any], seed: int
) -> MetricConfig:
    """Return all that a result follows from: of all clips, and of those used."""
    return MetricConfig(
        clips.config,
        num_clips=len(used),
        num_windows=len(used.vectors),
        reference="" if reference is None else reference.identity,
        num_reference_clips=0 if reference is None else len(reference),
        prompts=prompts_hash(clips.prompts),
        options=options,
        seeds={**clips.seeds, "interval": seed},
        sampling=clips.sampling,
    )


def _overlap(clips: ClipEmbeddings, reference: Reference | None) -> list[str]:
    """Warn of clips that the reference holds too."""
    reference_hashes = set(reference.hashes) if isinstance(reference, ClipEmbeddings) else set()
    both = [name for name, digest in zip(clips.names, clips.hashes, strict=True) if digest in reference_hashes]
    return [f"{len(both)} evaluated clips, such as {both[0]}, are in the reference too."] if both else []


def load_metric(name: str) -> Metric:
    """Return an installed metric by name. Raises UnknownPart or BrokenPlugin."""
    metric = registry.load_entry("metrics", name)
    if not isinstance(metric, Metric):
        raise BrokenPlugin(f"The metric '{name}' is {metric!r}: expected a codecdiff_eval.metric.Metric.")
    return metric
