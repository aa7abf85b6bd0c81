"""Metrics of a comparison: of every variant, and of its difference to the first, with intervals.

Everything is paired. All variants generate the same clips with the same seeds, and a resample draws evaluated tracks,
reference tracks and seeds once for all variants. Differences are taken within a resample, so what makes a clip hard, or
a seed lucky, cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from codecdiff_eval.compare.clips import PROBE_TRAINING, REAL, REFERENCE_RECONSTRUCTION, Clip, EvalSplit, Sets
from codecdiff_eval.embeddings import by_track
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, REFERENCE, oracle
from codecdiff_eval.metrics.bootstrap import Draws, OfDraw, interval_of
from codecdiff_eval.metrics.neighbors import distance_ratio, nearest_distances
from codecdiff_eval.metrics.probe import Probe, ProbeReading
from codecdiff_eval.results import Direction, VariantResults

LOSS, GAP, PROBES = "normalized validation loss", "cascade gap", "prompt adherence: mean probe score"
FULL_CASCADE = "Fréchet distance: full cascade"
Values = dict[str, Tensor]  # by variant, (draws, seeds): a metric of every draw and seed, NaN for seeds not drawn


@dataclass(frozen=True)
class CompareInputs:
    """What all metrics are computed from.

    embeddings: of what every run generated, by variant, a mapping for each seed.
    codecs: of what the codec of each variant makes (`ClipWriter.codec_sets`).
    losses: by variant and seed, the normalized validation loss of the whole model; of a trained model, none.
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


def measure(inputs: CompareInputs, *, resamples: int, seed: int) -> list[VariantResults]:
    """Return every metric there are inputs for, in the order in which they are read."""
    evaluated, reference = (
        by_track(c.track for c in each) for each in (inputs.split.evaluated, inputs.split.reference)
    )
    num_seeds = len(inputs.embeddings[inputs.first])
    draws = Draws.of(evaluated, reference, num_seeds=num_seeds, resamples=resamples, seed=seed)
    losses = {name: torch.tensor(v, dtype=torch.float64).expand(len(draws), -1) for name, v in inputs.losses.items()}
    num_oracles = max(len(seeds[0]) for seeds in inputs.embeddings.values()) - 1
    oracles = [oracle(count) for count in range(1, num_oracles + 1)]
    distances = _distances(inputs, draws, (GENERATED, *oracles, CODEC_RECONSTRUCTION, REAL))
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
    return [_comparable(result, inputs) if result.name == LOSS else result for result in results]


def _comparable(losses: VariantResults, inputs: CompareInputs) -> VariantResults:
    """Return the losses with the differences of those alone that depend on the same as the first's."""
    own = inputs.loss_keys.get(inputs.first)
    differences = {name: each for name, each in losses.differences.items() if inputs.loss_keys.get(name) == own}
    return replace(losses, differences=differences)


def probe_name(column: str) -> str:
    """Return the name of the metric of one column's probe."""
    return f"prompt adherence: {column}"


def _distances(inputs: CompareInputs, draws: Draws, names: Sequence[str]) -> dict[str, Values]:
    """Return the Fréchet distances of sets to the reference, each of the variants that have the set."""
    sets: dict[tuple[str, str], list[Tensor]] = {}
    for variant, seeds in inputs.embeddings.items():
        for name in names:
            homes = [inputs.codecs[variant]] if name in inputs.codecs[variant] else seeds
            if name in homes[0]:
                sets[name, variant] = [each[name] for each in homes]
    values: dict[str, Values] = {name: {} for name in names}
    for (name, variant), measured in draws.distances(sets, inputs.codecs[inputs.first][REFERENCE]).items():
        values[name][variant] = measured
    return values


def _memorization(inputs: CompareInputs, draws: Draws) -> Values:
    """Return the ratio of the distances to the nearest training clip and to the nearest of as many others.

    That of a trained model is left out: these clips are not what it was trained on.
    """

    def ratio(generated: Tensor, sets: Sets) -> OfDraw:
        nearest = nearest_distances(generated, sets[PROBE_TRAINING], sets[REFERENCE_RECONSTRUCTION])
        return lambda r: distance_ratio(nearest[draws.evaluated[r]])

    return {
        variant: draws.values([ratio(each[GENERATED], inputs.codecs[variant]) for each in seeds])
        for variant, seeds in inputs.embeddings.items()
        if variant in inputs.losses
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

    def score(reading: ProbeReading) -> OfDraw:
        return lambda r: reading.score(draws.evaluated[r])

    values = {}
    for variant, seeds in inputs.embeddings.items():
        sets = inputs.codecs[variant]
        probe, upper = Probe.fit(sets[PROBE_TRAINING][labeled], targets), sets[CODEC_RECONSTRUCTION]
        readings = [ProbeReading.of(probe, each[GENERATED], upper, truth) for each in seeds]
        values[variant] = draws.values([score(reading) for reading in readings])
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
        {variant: interval_of(mean) for variant, mean in means.items()},
        {variant: each[0].tolist() for variant, each in values.items()},
        {variant: interval_of(means[variant] - means[first]) for variant in others},
    )


LOSS_MEANING = (
    "loss on validation crops divided by that of predicting zero, the best constant. The loss of a model is the mean "
    "over its stages, weighted by the number of values that each generates per frame. Differences are only shown "
    "between variants whose stages have the same tasks. Other patterns, codecs and diffusion processes have other "
    "tasks, for example because a later stage sees the earlier ones, so compare what they generate instead"
)
CASCADE_MEANING = "all stages are generated from captions, and compared with other validation tracks"
ORACLE_MEANING = "the first stages are those of the real tracks; the others are generated from them and the captions"
GAP_MEANING = (
    "full cascade minus oracle first stage: the error of the generated first stage, and its effect on the later "
    "stages. It is also small if a real first stage helps little, so lower is not always better"
)
CODEC_MEANING = "the evaluated tracks, encoded and decoded: the best value to expect with this codec"
REAL_MEANING = (
    "the evaluated tracks themselves. It is not 0, because the sets are finite, and shows how small a difference this "
    "number of clips can detect"
)
PROBE_MEANING = (
    "accuracy of a linear probe on the generated clips, where 0 is chance and 1 is its accuracy on real music through "
    "the codec. Below 0, it finds what was requested less often than by chance, as happens with few clips. The probe "
    "is fitted to the metadata of training tracks"
)
MEMORIZATION_MEANING = (
    "distance to the nearest training clip, divided by the distance to the nearest of equally many validation clips. "
    "About 1 is usual; a value well below 1 means that the model copies its training data"
)
