"""What a model trained on composed music has learned, against music it never saw.

Sets of clips, all of one size and duration, are compared with a *reference*: held-out pieces as the codec
reconstructs them, since codes cannot beat their codec.

    held_out       reconstructions of other held-out pieces: the best a model can do
    true_primary   the first stage taken from those pieces, the rest generated from their captions
    generated      everything generated from those captions; half of them combine facts no training clip combines
    noise          unit-variance latents, quantised and decoded: what knowing nothing sounds like
    training       reconstructions of clips the model was trained on, to show memorising

Probes learn to read facts off reconstructed pieces of their own (*lessons*), then read them off `generated`.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from codecdiff.metrics import (
    Estimate,
    Probe,
    accuracies,
    bootstrap,
    frechet_distance,
    nearest_distance,
    probe_score,
    shuffled,
)
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff_starter.clips import compose_pieces, encode, generate, listen, training_clips, true_latents
from codecdiff_starter.composer import CLASSES, COMPOSER_VERSION, PARTS, SAMPLE_RATE, Facts, mapping

COMPARED = ("held_out", "true_primary", "generated", "noise")  # the last three made by the model
SEED = 20_250_001  # of evaluation; no training piece is composed from it
LESSONS_PER_CLIP = 2  # pieces the probes learn from, for each clip of a compared set


@dataclass(frozen=True)
class Targets:
    """What a model must reach; the defaults are the demo's."""

    minutes: float = 15  # from a fresh clone to the page
    memory: float = 4  # GB
    first_loss: float = 0.7  # held-out loss of the first stage, over that of answering zero
    later_loss: float = 0.9  # of every later stage
    frechet_ratio: float = 3  # generated over held out
    noise_ratio: float = 10  # noise over generated
    probe_mean: float = 0.6
    probe_least: float = 0.3
    shuffled: float = 0.1


DEMO = Targets()
SHIPPED = Targets(frechet_ratio=2, probe_mean=0.85)  # the model that comes with this package


@dataclass(frozen=True)
class Figure:
    """One line of the table: a measured value, its interval if it has one, and the bounds it must keep, if any."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the value keeps its bounds (NaN keeps none); None when there are none to keep."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def row(self) -> dict[str, Any]:
        """Give the fields and the verdict, for the report."""
        return asdict(self) | {"passed": self.passed}


class Example(NamedTuple):
    """A clip to listen to: one rendering of one prompt."""

    prompt: str  # empty for noise
    kind: str  # "composed", or the name of a set
    unseen: bool  # whether training lacks the combination the prompt asks for
    audio: Tensor  # (t,)


class Evaluation(NamedTuple):
    """The table, everything else that was measured (for JSON), and some of the clips it was measured on."""

    figures: list[Figure]
    details: dict[str, Any]
    examples: list[Example]


def distances(sets: Mapping[str, Tensor], seed: int) -> dict[str, Estimate]:
    """Fréchet distances to the reference, and the two ratios the table asks for."""
    reference = sets["reference"]
    measured = {
        name: bootstrap(frechet_distance, sets[name], reference, seed=seed) for name in COMPARED if name in sets
    }

    def ratio(a: Tensor, b: Tensor, reference: Tensor) -> float:
        return frechet_distance(a, reference) / max(frechet_distance(b, reference), 1e-9)

    for name, of, over in (("generated_ratio", "generated", "held_out"), ("noise_ratio", "noise", "generated")):
        measured[name] = bootstrap(ratio, sets[of], sets[over], reference, seed=seed)
    return measured


def labels(pieces: Sequence[Facts], part: str) -> Tensor:
    """Give the class (n,) of one part of every piece."""
    return torch.tensor([CLASSES[part].index(getattr(facts, part)) for facts in pieces])


class Reading(NamedTuple):
    """What is true of clips made from the same captions, and what probes read off them: classes (n, parts) each."""

    truth: Tensor
    generated: Tensor
    ceiling: Tensor  # off the held-out reconstructions


def read_parts(sets: Mapping[str, Tensor], lessons: Sequence[Facts], facts: Sequence[Facts]) -> Reading:
    """Fit a probe of each part to the lessons, and read `generated` and `held_out`, which `facts` describe."""
    probes = [Probe.fit(sets["lessons"], labels(lessons, part)) for part in PARTS]
    truth = torch.stack([labels(facts, part) for part in PARTS], 1)
    return Reading(
        truth, *(torch.stack([p.predict(sets[name]) for p in probes], 1) for name in ("generated", "held_out"))
    )


def scores(read: Tensor, truth: Tensor, ceiling: Sequence[float]) -> Tensor:
    """(n, parts) classes read, (n, parts) true classes, accuracies to reach -> probe scores (parts,)."""
    pairs = zip(accuracies(read, truth), ceiling, PARTS, strict=True)
    return torch.tensor([probe_score(accuracy, best, chance(part)) for accuracy, best, part in pairs])


def chance(part: str) -> float:
    """Balanced accuracy of guessing."""
    return 1 / len(CLASSES[part])


def obedience(reading: Reading, seed: int) -> dict[str, Any]:
    """Give probe scores with intervals: of every part, their mean and least, of combinations unseen and seen, shuffled.

    Clips are resampled with all their parts, and with the held-out clip of the same caption.
    """
    clips = torch.stack(reading, 2)  # (n, parts, 3)
    reached, best = (accuracies(read, reading.truth) for read in (reading.generated, reading.ceiling))

    def interval(summary: Callable[[Tensor], Tensor], clips: Tensor = clips) -> dict[str, float]:
        def statistic(some: Tensor) -> float:
            truth, read, ceiling = some.unbind(2)
            return float(summary(scores(read, truth, accuracies(ceiling, truth))))

        return bootstrap(statistic, clips, seed=seed)._asdict()

    def part(i: int, name: str) -> dict[str, Any]:
        score = interval(lambda each: each[i])
        return {"chance": chance(name), "accuracy": reached[i], "ceiling": best[i], "score": score}

    permuted = shuffled(lambda truth: float(scores(reading.generated, truth, best).mean()), reading.truth, seed=seed)
    return {
        "parts": {name: part(i, name) for i, name in enumerate(PARTS)},
        "mean": interval(torch.mean),
        "least": interval(torch.min),
        "unseen_combinations": interval(torch.mean, clips[::2]),
        "seen_combinations": interval(torch.mean, clips[1::2]),
        "shuffled": permuted._asdict(),
    }


def memorising(sets: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """Distance to the nearest training clip, to the nearest of as many fresh ones, and the ratio of their means.

    The fresh clips are lessons, which are composed as training pieces are. Clips generated from memory are nearer to
    training (a ratio under 1); held-out pieces show what is usual.
    """
    fresh = sets["lessons"][: len(sets["training"])]

    def nearness(name: str) -> dict[str, Any]:
        near = torch.stack([nearest_distance(sets[name], other) for other in (sets["training"], fresh)], 1)
        ratio = bootstrap(lambda clips: float(clips[:, 0].mean() / clips[:, 1].mean()), near, seed=seed)
        nearest_training, nearest_fresh = near.mean(0).tolist()
        return {
            "nearest_training": nearest_training,
            "nearest_fresh": nearest_fresh,
            "ratio": ratio._asdict(),
        }

    return {"generated": nearness("generated"), "held_out": nearness("held_out")}


def loss_figures(logs: Mapping[str, Sequence[Mapping[str, Any]]], targets: Targets) -> list[Figure]:
    """Give each stage's last held-out loss over the loss of the best constant answer, zero."""
    last = {
        stage: next((line for line in reversed(lines) if line.get("validation_loss") is not None), None)
        for stage, lines in logs.items()
    }
    bounds = {stage: targets.later_loss if i else targets.first_loss for i, stage in enumerate(logs)}
    return [
        Figure(
            f"held-out loss over answering zero: {stage}",
            line["validation_loss"] / line["zero_predictor_loss"],
            at_most=bounds[stage],
        )
        for stage, line in last.items()
        if line is not None
    ]


def figures(distance: Mapping[str, Estimate], text: Mapping[str, Any], targets: Targets) -> list[Figure]:
    """Give the lines of the table that are measured on clips."""
    rows = [
        Figure(
            "Fréchet distance: generated over held-out", *distance["generated_ratio"], at_most=targets.frechet_ratio
        ),
        Figure("Fréchet distance: noise over generated", *distance["noise_ratio"], at_least=targets.noise_ratio),
    ]
    if "true_primary" in distance:
        between = {"at_least": distance["held_out"].value, "at_most": distance["generated"].value}
        rows.append(Figure("Fréchet distance: secondary on true primary", *distance["true_primary"], **between))
    return [
        *rows,
        Figure("text is obeyed: mean probe score", **text["mean"], at_least=targets.probe_mean),
        Figure("text is obeyed: least probe score", **text["least"], at_least=targets.probe_least),
        Figure(
            "mean probe score with shuffled labels",
            **text["shuffled"],
            at_least=-targets.shuffled,
            at_most=targets.shuffled,
        ),
    ]


def peak_memory() -> float:
    """Give the most memory this process has held so far, in GB."""
    unit = 1e9 if sys.platform == "darwin" else 1e6  # of ru_maxrss: bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class _Clock:
    """Announces what is being done and remembers how long it took."""

    def __init__(self, announce: Callable[[str], None]):
        self.announce = announce
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.announce(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def evaluate(
    pipeline: Pipeline,
    training_audio: Path,
    *,
    clips: int = 64,
    seconds: float = 5.0,
    seed: int = SEED,
    steps: int | None = None,
    guidance: float | None = None,
    examples: int = 6,
    targets: Targets = DEMO,
    num_workers: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure a model trained on composed music, with `clips` clips of `seconds` in every set.

    The first `examples` captions can be listened to in every rendering; every other one combines parts as training
    never does. `num_workers` processes compose; more than one need a main module that can be imported. `announce` is
    told what is being done. Raises ValueError if clips are too few, or longer than pieces.
    """
    if clips < max(12, examples):
        raise ValueError(f"clips={clips}: compare at least 12, and no fewer than the {examples} examples.")
    if not 1 <= seconds <= 60:
        raise ValueError(f"seconds={seconds}: compare clips of 1 to 60 seconds.")
    if pipeline.sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"The composer plays at {SAMPLE_RATE} Hz; a model at {pipeline.sample_rate} Hz cannot be compared."
        )
    clock = _Clock(announce)
    with clock("composing"), mapping(num_workers) as each:
        compose = partial(compose_pieces, each=each)
        reference, pieces = (compose(clips, seconds, seed + i, unseen=True) for i in (0, 1))
        lessons = compose(clips * LESSONS_PER_CLIP, seconds, seed + 2, unseen=False)
        trained = training_clips(training_audio, clips, seconds, seed + 3)
    with clock("encoding"):
        sources = {
            "reference": reference.audio,
            "held_out": pieces.audio,
            "lessons": lessons.audio,
            "training": trained,
        }
        codes = {name: encode(pipeline, clips) for name, clips in sources.items()}
    with clock("generating"):
        truth = true_latents(pipeline, pieces.audio)
        codes |= generate(pipeline, truth, pieces.prompts, seed=seed, steps=steps, guidance=guidance)
    with clock("decoding"):
        samples = round(seconds * SAMPLE_RATE)
        sets = {name: listen(pipeline, code, samples) for name, code in codes.items()}
        audio = {n: pipeline.decode(codes[n][:examples].split(1), samples).mean(1) for n in COMPARED if n in codes}
    with clock("measuring"):
        distance = distances(sets, seed)
        text = obedience(read_parts(sets, lessons.facts, pieces.facts), seed)
        nearest = memorising(sets, seed)
    details = {
        "composer_version": COMPOSER_VERSION,
        "seed": seed,
        "clips": clips,
        "seconds": seconds,
        "steps": steps,
        "guidance": guidance,
        "frechet_distance": {name: estimate._asdict() for name, estimate in distance.items()},
        "probes": text,
        "memorising": nearest,
        "evaluation_seconds": clock.seconds,
    }
    noise = Example("", "noise", False, audio.pop("noise")[0])
    listened = [
        Example(prompt, kind, i % 2 == 0, clips[i])
        for i, prompt in enumerate(pieces.prompts[:examples])
        for kind, clips in {"composed": pieces.audio[:, 0], **audio}.items()
    ]
    return Evaluation(figures(distance, text, targets), details, [*listened, noise])
