"""Metrics of a comparison: of every variant, and of its difference to the first, with intervals.

Everything is paired. All variants generate the same clips with the same seeds, and a resample draws evaluated tracks,
reference tracks and seeds once for all variants. Differences are taken within a resample, so what makes a clip hard, or
a seed lucky, cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from codecdiff_eval.compare.clips import PROBE_TRAINING, REAL, REFERENCE_RECONSTRUCTION, Clip, EvalSplit, Sets
from codecdiff_eval.embeddings import by_track
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, REFERENCE, oracle
from codecdiff_eval.metrics.bootstrap import centered, paired_draws
from codecdiff_eval.metrics.gaussian import fit_shrunk_gaussian, frechet_distance
from codecdiff_eval.metrics.memorization import nearest_distances
from codecdiff_eval.metrics.probe import Probe, balanced_accuracy, probe_score
from codecdiff_eval.results import Direction, Estimate, VariantResults

LOSS, GAP, PROBES = "normalized validation loss", "cascade gap", "prompt adherence: mean probe score"
FULL_CASCADE = "Fréchet distance: full cascade"
Values = dict[str, Tensor]  # by variant, (draws, seeds): a metric of every draw and seed, NaN for seeds not drawn
OfDraw = Callable[[int], float]  # a metric as a function of the index of a draw


@dataclass(frozen=True)
class CompareInputs:
    """What all metrics are computed from.

    embeddings: of what every run generated, by variant, a mapping for each seed.
    codecs: of what the codec of each variant makes (`ClipWriter.codec_sets`).
    losses: by variant and seed, the normalized validation loss of the whole model.
    probes: columns of the metadata that probes read.
    loss_keys: by variant, what its losses depend on; they are compared with the first's only if that is equal.
    """

    split: EvalSplit
    embeddings: Mapping[str, Sequence[Sets]]
    codecs: Mapping[str, Sets]
    losses: Mapping[str, Sequence[float]]
    probes: Sequence[str]
    loss_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The variant that others are compared with."""
        return next(iter(self.embeddings))


@dataclass(frozen=True)
class Draws:
    """Indices of evaluated clips, of reference clips and of seeds: all of them, then those of each resample."""

    evaluated: Sequence[Tensor]
    reference: Sequence[Tensor]
    seeds: Sequence[Tensor]

    @classmethod
    def of(cls, split: EvalSplit, num_seeds: int, resamples: int, seed: int) -> Draws:
        """Draw tracks, with all their clips, and seeds."""
        generator = torch.Generator().manual_seed(seed)
        tracks = [by_track(clip.track for clip in clips) for clips in (split.evaluated, split.reference)]
        units = [*tracks, list(torch.arange(num_seeds).split(1))]
        return cls(*(paired_draws(each, resamples, generator) for each in units))

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


def measure(inputs: CompareInputs, *, resamples: int, seed: int) -> list[VariantResults]:
    """Return every metric there are inputs for, in the order in which they are read."""
    draws = Draws.of(inputs.split, len(inputs.embeddings[inputs.first]), resamples, seed)
    losses = {name: torch.tensor(v, dtype=torch.float64).expand(len(draws), -1) for name, v in inputs.losses.items()}
    num_oracles = max(len(seeds[0]) for seeds in inputs.embeddings.values()) - 1
    oracles = [oracle(count) for count in range(1, num_oracles + 1)]
    distances = {name: _distances(inputs, draws, name) for name in (GENERATED, *oracles, CODEC_RECONSTRUCTION, REAL)}
    cascade, first_oracle = distances[GENERATED], distances.get(oracle(), {})
    gap = {variant: cascade[variant] - values for variant, values in first_oracle.items()}
    adherence = {column: values for column in inputs.probes if (values := _adherence(inputs, draws, column))}
    measured: list[tuple[str, Direction, str, Values]] = [
        (LOSS, "lower", LOSS_MEANING, losses),
        (FULL_CASCADE, "lower", CASCADE_MEANING, cascade),
        *((f"Fréchet distance: {name}", "lower", ORACLE_MEANING, distances[name]) for name in oracles),
        (GAP, "", GAP_MEANING, gap),
        (f"Fréchet distance: {CODEC_RECONSTRUCTION}", "lower", CODEC_MEANING, distances[CODEC_RECONSTRUCTION]),
        (f"Fréchet distance: {REAL}", "", REAL_MEANING, distances[REAL]),
        *([(PROBES, "higher", PROBE_MEANING, _mean(list(adherence.values())))] if adherence else []),
        *((probe_name(column), "higher", PROBE_MEANING, values) for column, values in adherence.items()),
        ("memorization: nearest-neighbor distance ratio", "", MEMORIZATION_MEANING, _memorization(inputs, draws)),
    ]
    results = [_summary(*each, draws, inputs.first) for each in measured if each[-1]]
    comparable = {
        name: difference
        for name, difference in results[0].differences.items()
        if inputs.loss_keys.get(name) == inputs.loss_keys.get(inputs.first)
    }
    return [replace(results[0], differences=comparable), *results[1:]]


def probe_name(column: str) -> str:
    """Return the name of the metric of one column's probe."""
    return f"prompt adherence: {column}"


def _distances(inputs: CompareInputs, draws: Draws, name: str) -> Values:
    """Return the Fréchet distance of a set to the reference, of the variants that have the set."""
    reference = inputs.codecs[inputs.first][REFERENCE]
    gaussians = [fit_shrunk_gaussian(reference[drawn]) for drawn in draws.reference]

    def distance(vectors: Tensor) -> OfDraw:
        return lambda r: frechet_distance(*fit_shrunk_gaussian(vectors[draws.evaluated[r]]), *gaussians[r])

    values = {}
    for variant, seeds in inputs.embeddings.items():
        sets = [inputs.codecs[variant]] if name in inputs.codecs[variant] else seeds
        if name in sets[0]:
            values[variant] = draws.values([distance(each[name]) for each in sets])
    return values


def _memorization(inputs: CompareInputs, draws: Draws) -> Values:
    """Return the ratio of the distances to the nearest training clip and to the nearest of as many others."""

    def ratio(generated: Tensor, sets: Sets) -> OfDraw:
        training, others = nearest_distances(generated, sets[PROBE_TRAINING], sets[REFERENCE_RECONSTRUCTION]).unbind(1)
        return lambda r: float(training[draws.evaluated[r]].mean() / others[draws.evaluated[r]].mean())

    return {
        variant: draws.values([ratio(each[GENERATED], inputs.codecs[variant]) for each in seeds])
        for variant, seeds in inputs.embeddings.items()
    }


def _adherence(inputs: CompareInputs, draws: Draws, column: str) -> Values:
    """Return the score of a probe of one column: 0 is chance, 1 as legible as real music through that codec.

    Empty if fewer than two classes occur, or the probe does not beat chance on real music.
    """
    training, evaluated = (_labels(clips, column) for clips in (inputs.split.probe_training, inputs.split.evaluated))
    classes = sorted({label for label in training if label is not None})
    if len(classes) < 2:
        return {}
    labeled = torch.tensor([i for i, label in enumerate(training) if label is not None])
    targets = torch.tensor([classes.index(label) for label in training if label is not None])
    truth = torch.tensor([classes.index(label) if label in classes else -1 for label in evaluated])

    def score(predicted: Tensor, reconstructed: Tensor) -> OfDraw:
        def of_draw(r: int) -> float:
            drawn = draws.evaluated[r][truth[draws.evaluated[r]] >= 0]
            if not len(drawn):
                return math.nan
            accuracy, upper_bound = (
                balanced_accuracy(each[drawn], truth[drawn]) for each in (predicted, reconstructed)
            )
            return probe_score(accuracy, upper_bound, 1 / len(classes))

        return of_draw

    values = {}
    for variant, seeds in inputs.embeddings.items():
        sets = inputs.codecs[variant]
        probe = Probe.fit(sets[PROBE_TRAINING][labeled], targets)
        upper = probe.predict(sets[CODEC_RECONSTRUCTION])
        values[variant] = draws.values([score(probe.predict(each[GENERATED]), upper) for each in seeds])
    return {} if any(each[0].isnan().any() for each in values.values()) else values


def _labels(clips: Sequence[Clip], column: str) -> list[str | None]:
    return [None if (value := clip.prompt.get(column)) is None else str(value) for clip in clips]


def _mean(values: Sequence[Values]) -> Values:
    """Return the mean of metrics of the same variants, of those that are numbers in each draw."""
    return {variant: torch.stack([each[variant] for each in values]).nanmean(0) for variant in values[0]}


def _summary(name: str, direction: Direction, meaning: str, values: Values, draws: Draws, first: str) -> VariantResults:
    """Return means over the seeds of each draw, their intervals, and differences to the first variant."""
    drawn = torch.stack(list(draws.seeds))
    means = {variant: each.gather(1, drawn).mean(1) for variant, each in values.items()}
    others = [variant for variant in means if variant != first and first in means]
    return VariantResults(
        name,
        direction,
        meaning,
        {variant: _estimate(mean) for variant, mean in means.items()},
        {variant: each[0].tolist() for variant, each in values.items()},
        {variant: _estimate(means[variant] - means[first]) for variant in others},
    )


def _estimate(values: Tensor) -> Estimate:
    resampled = values[1:][values[1:].isfinite()].tolist()
    return centered(float(values[0]), resampled) if resampled else Estimate(float(values[0]), math.nan, math.nan)


LOSS_MEANING = (
    "loss on validation crops divided by that of the zero predictor, the best constant; a model's is the mean of its "
    "stages, weighted by the values they generate in a frame. Stages of different patterns have different tasks, for a "
    "later stage sees the earlier ones, and so do those of different codecs and diffusion processes. Differences are "
    "between variants of the same tasks; of others, compare what is generated"
)
CASCADE_MEANING = "everything generated from captions, against other validation tracks"
ORACLE_MEANING = "the first stages are those of the real tracks, the others are generated from them and the captions"
GAP_MEANING = (
    "full cascade minus oracle first stage: what a generated first stage costs. It is also small where a real one "
    "helps little, so less is not always better"
)
CODEC_MEANING = "the evaluated tracks encoded and decoded: the upper bound of what this codec can do"
REAL_MEANING = "the evaluated tracks as they are: the least difference that can be detected with so many clips"
PROBE_MEANING = (
    "a linear probe of embeddings, fitted on training tracks, reads the label off the generated clips; 0 is chance, 1 "
    "as legible as real music through the codec"
)
MEMORIZATION_MEANING = (
    "distance to the nearest training clip over that to the nearest of as many validation clips: well under 1, a model "
    "copies what it was trained on; about 1 is usual"
)
