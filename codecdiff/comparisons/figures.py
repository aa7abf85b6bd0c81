"""What is measured of a comparison, with intervals: of every variant, and of its difference to the first.

Everything is paired. All variants are asked for the same clips with the same seeds, so a resample draws recordings of
the asked clips, recordings of the reference, and seeds, once for all variants, and their difference is taken within it:
what makes a clip hard, or a seed lucky, falls out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from codecdiff.comparisons.clips import Chosen, Clip
from codecdiff.gaussians import frechet, root
from codecdiff.metrics import Estimate, Probe, balanced_accuracy, centred, ledoit_wolf, nearest_distance, probe_score

Better = Literal["lower", "higher", ""]
Sets = Mapping[str, Tensor]  # of vectors (n, w, e), by name


@dataclass(frozen=True)
class Difference:
    """A variant's figure less that of the first."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds zero: no difference is shown."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Figure:
    """One measure of all variants that have it: mean over seeds with its interval, each seed's, and differences."""

    name: str
    better: Better
    meaning: str
    values: Mapping[str, Estimate]
    seeds: Mapping[str, Sequence[float]]
    differences: Mapping[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        values = {name: estimate._asdict() for name, estimate in self.values.items()}
        differences = {n: {**asdict(d), "holds_zero": d.holds_zero} for n, d in self.differences.items()}
        told = {"name": self.name, "better": self.better, "meaning": self.meaning}
        return {**told, "values": values, "seeds": dict(self.seeds), "differences": differences}


@dataclass(frozen=True)
class Draws:
    """What resamples draw: numbers of asked clips, of reference clips, and of seeds. The first is everything once."""

    asked: Sequence[Tensor]
    reference: Sequence[Tensor]
    seeds: Sequence[Tensor]

    @classmethod
    def of(cls, chosen: Chosen, seeds: int, resamples: int, seed: int) -> Draws:
        """Draw recordings, with all their clips, and seeds."""
        generator = torch.Generator().manual_seed(seed)

        def drawn(groups: Sequence[Tensor]) -> list[Tensor]:
            def one() -> Tensor:
                places = torch.randint(len(groups), (len(groups),), generator=generator).tolist()
                return torch.cat([groups[i] for i in places])

            return [torch.cat(list(groups)), *(one() for _ in range(resamples))]

        each = [torch.tensor([i]) for i in range(seeds)]
        return cls(drawn(by_recording(chosen.asked)), drawn(by_recording(chosen.reference)), drawn(each))

    def __len__(self) -> int:
        return len(self.asked)


def by_recording(clips: Sequence[Clip]) -> list[Tensor]:
    """Give the numbers of the clips of every recording."""
    numbers: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        numbers.setdefault(clip.recording, []).append(i)
    return [torch.tensor(some) for some in numbers.values()]


@dataclass(frozen=True)
class Material:
    """What all figures are taken of.

    heard: what every run made, by variant, a mapping for each seed.
    codecs: what the codec of each variant makes, `clips.hear_codec`.
    losses: by variant and seed, held-out loss over that of answering zero, of the whole model.
    questions: by variant, what its losses are an answer to: those of another are not compared with the first's.
    """

    chosen: Chosen
    heard: Mapping[str, Sequence[Sets]]
    codecs: Mapping[str, Sets]
    losses: Mapping[str, Sequence[float]]
    probes: Sequence[str]
    questions: Mapping[str, str] = field(default_factory=dict)


Table = dict[str, Tensor]  # by variant, (draws, seeds): a figure of every resample and seed; NaN for seeds not drawn


def gaussian(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(n, w, e) vectors -> mean (e,) and the root (e, e) of the covariance, as `frechet_distance` has them."""
    windows = vectors.flatten(0, 1).double()
    return windows.mean(0), root(ledoit_wolf(windows))


def distances(material: Material, draws: Draws, name: str) -> Table:
    """Take the Fréchet distance of a set to the reference, of the variants that have it."""
    reference = next(iter(material.codecs.values()))["reference"]
    against = [gaussian(reference[drawn]) for drawn in draws.reference]

    def of(vectors: Tensor) -> Callable[[int], float]:
        return lambda r: frechet(*gaussian(vectors[draws.asked[r]]), *against[r])

    return _table(material, draws, name, of)


def _table(material: Material, draws: Draws, name: str, statistic: Callable[[Tensor], Callable[[int], float]]) -> Table:
    table = {}
    for variant, seeds in material.heard.items():
        sets = [{**material.codecs[variant], **some} for some in seeds]
        if name in sets[0]:
            table[variant] = _values([statistic(some[name]) for some in sets], draws, name in material.codecs[variant])
    return table


def _values(statistics: Sequence[Callable[[int], float]], draws: Draws, is_of_codec: bool = False) -> Tensor:
    """Evaluate a function of the draw for every seed that is drawn; what is of the codec alone, for one."""
    if is_of_codec:
        column = [statistics[0](r) for r in range(len(draws))]
        return torch.tensor(column, dtype=torch.float64)[:, None].expand(-1, len(statistics))
    values = torch.full((len(draws), len(statistics)), math.nan, dtype=torch.float64)
    for r, drawn in enumerate(draws.seeds):
        for s in drawn.unique().tolist():
            values[r, s] = statistics[s](r)
    return values


def figure(name: str, better: Better, meaning: str, table: Table, draws: Draws, *, first: str) -> Figure:
    """Summarise a table: means over the seeds of each draw, their intervals, and differences to the first variant."""
    picked = torch.stack(list(draws.seeds))
    means = {variant: values.gather(1, picked).mean(1) for variant, values in table.items()}
    apart = {variant: mean - means[first] for variant, mean in means.items() if variant != first and first in means}
    return Figure(
        name,
        better,
        meaning,
        {variant: _estimate(mean) for variant, mean in means.items()},
        {variant: table[variant][0].tolist() for variant in table},
        {variant: Difference(*_estimate(difference)) for variant, difference in apart.items()},
    )


def _estimate(values: Tensor) -> Estimate:
    kept = values[1:][values[1:].isfinite()].tolist()
    return centred(float(values[0]), kept) if kept else Estimate(float(values[0]), math.nan, math.nan)


def nearness(material: Material, draws: Draws) -> Table:
    """Divide the distance to the nearest training clip by that to the nearest of as many fresh ones."""

    def of(variant: str) -> Callable[[Tensor], Callable[[int], float]]:
        sets = material.codecs[variant]
        count = min(len(sets["fresh"]), len(sets["lessons"]))

        def statistic(vectors: Tensor) -> Callable[[int], float]:
            trained, fresh = (nearest_distance(vectors, sets[name][:count]) for name in ("lessons", "fresh"))
            return lambda r: float(trained[draws.asked[r]].mean() / fresh[draws.asked[r]].mean())

        return statistic

    made = {}
    for variant, seeds in material.heard.items():
        made[variant] = _values([of(variant)(some["given-0"]) for some in seeds], draws)
    return made


def obedience(material: Material, draws: Draws, column: str) -> Table:
    """Take the score of a probe of one column of the metadata: 0 is chance, 1 as legible as real music in that codec.

    Empty for a column of which the probe can tell nothing, or that fewer than two classes of are known.
    """
    lessons, asked = (
        [None if (value := clip.prompt.get(column)) is None else str(value) for clip in clips]
        for clips in (material.chosen.lessons, material.chosen.asked)
    )
    classes = sorted({label for label in lessons if label is not None})
    if len(classes) < 2:
        return {}
    known = torch.tensor([i for i, label in enumerate(lessons) if label is not None])
    taught = torch.tensor([classes.index(label) for label in lessons if label is not None])
    truth = torch.tensor([classes.index(label) if label in classes else -1 for label in asked])
    table = {}
    for variant, seeds in material.heard.items():
        sets = material.codecs[variant]
        probe = Probe.fit(sets["lessons"][known], taught)
        ceiling = probe.predict(sets["ceiling"])
        read = [probe.predict(some["given-0"]) for some in seeds]
        table[variant] = _values([_obeyed(one, ceiling, truth, 1 / len(classes), draws) for one in read], draws)
    return {} if any(values[0].isnan().any() for values in table.values()) else table


def _obeyed(read: Tensor, ceiling: Tensor, truth: Tensor, chance: float, draws: Draws) -> Callable[[int], float]:
    def statistic(r: int) -> float:
        drawn = draws.asked[r][truth[draws.asked[r]] >= 0]
        if not len(drawn):
            return math.nan
        reached, best = (balanced_accuracy(some[drawn], truth[drawn]) for some in (read, ceiling))
        return probe_score(reached, best, chance)

    return statistic


def mean_of(tables: Sequence[Table]) -> Table:
    """Give the mean of tables of the same variants, of what is a number in each draw."""
    return {variant: torch.stack([table[variant] for table in tables]).nanmean(0) for variant in tables[0]}


def measure(material: Material, *, resamples: int, seed: int) -> list[Figure]:
    """Take every figure there is material for, in the order in which they are read."""
    seeds = len(next(iter(material.heard.values())))
    draws = Draws.of(material.chosen, seeds, resamples, seed)
    losses = {
        variant: torch.tensor(values, dtype=torch.float64).expand(len(draws), -1)
        for variant, values in material.losses.items()
    }
    names = sorted({name for some in material.heard.values() for name in some[0]})
    far = {name: distances(material, draws, name) for name in ("real", "ceiling", *names)}
    shared = [variant for variant in far.get("given-1", {}) if variant in far["given-0"]]
    gap = {variant: far["given-0"][variant] - far["given-1"][variant] for variant in shared}
    probed = {column: table for column in material.probes if (table := obedience(material, draws, column))}
    told: list[tuple[str, Better, str, Table]] = [
        ("held-out loss over answering zero", "lower", LOSS, losses),
        ("Fréchet distance: cascade", "lower", CASCADE, far["given-0"]),
        *((f"Fréchet distance: {given(name)}", "lower", GIVEN, far[name]) for name in names if name != "given-0"),
        ("cascade gap", "", GAP, gap),
        ("Fréchet distance: codec ceiling", "lower", CEILING, far["ceiling"]),
        ("Fréchet distance: real music", "", REAL, far["real"]),
        *([("text is obeyed: mean probe score", "higher", OBEYED, mean_of(list(probed.values())))] if probed else []),
        *((f"text is obeyed: {column}", "higher", OBEYED, table) for column, table in probed.items()),
        ("nearness to training clips over fresh ones", "", MEMORY, nearness(material, draws)),
    ]
    first = next(iter(material.heard))
    found = [figure(name, better, meaning, table, draws, first=first) for name, better, meaning, table in told if table]
    return [_of_one_question(found[0], material.questions, first), *found[1:]]


def _of_one_question(losses: Figure, questions: Mapping[str, str], first: str) -> Figure:
    """Leave out differences of losses that answer another question than the first variant's."""
    alike = {name: d for name, d in losses.differences.items() if questions.get(name) == questions.get(first)}
    return replace(losses, differences=alike)


def given(name: str) -> str:
    """Say what a set is, in words: `given-1` is "first stage true"."""
    count = int(name.removeprefix("given-"))
    return "first stage true" if count == 1 else f"first {count} stages true"


LOSS = (
    "loss on held-out crops divided by the loss of the best constant answer, zero; a model's is the mean of its "
    "stages, weighted by the numbers they make in a frame. Stages of different patterns answer different questions, "
    "for a later stage is told the earlier ones, and so do those of different codecs and processes. Differences are "
    "between variants that answer the same; of others, read what is generated"
)
CASCADE = "everything generated from captions, against other held-out recordings"
GIVEN = "the first stages are those of the recordings, the rest is generated from them and the captions"
GAP = (
    "cascade less first stage true: what a generated first stage costs. It is small, too, where a true one helps "
    "little, so less is not always better"
)
CEILING = "the asked recordings encoded and decoded: the best that can be made with this codec"
REAL = "the asked recordings as they are: the least that can be told apart with so many clips"
OBEYED = (
    "a linear probe that learned the fact from training recordings hears the generated clips; 0 is chance, 1 as "
    "legible as real music through the codec"
)
MEMORY = "well under 1, a model plays from memory; about 1 is usual"
