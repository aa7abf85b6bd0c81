"""What a model trained on composed music has learned, against music it never saw.

Sets of clips (`codecdiff_eval.eval_sets`), all of one size and duration, are compared with the *reference*: validation
music as the codec reconstructs it, since codes cannot beat their codec. The codec reconstruction of other validation
music is the upper bound. Its captions are the prompts; every other one combines facts as no training track does.
Probes are fitted on reconstructed clips of their own (the probe training set), then read facts off generated clips.
Pulse, tuning, tempo and key are measured as `codecdiff evaluate` does, by estimators that learned from no music.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from codecdiff_eval.audio_features import window_features
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.eval_sets import (
    CODEC_RECONSTRUCTION,
    GENERATED,
    NOISE,
    REFERENCE,
    EvalSets,
    edit_mask_of,
    encode_clips,
    generate_sets,
    oracle,
)
from codecdiff_eval.metric import load_metric
from codecdiff_eval.metrics.bootstrap import Draws, bootstrap, interval_of, permuted
from codecdiff_eval.metrics.neighbors import distance_ratio, nearest_distances
from codecdiff_eval.metrics.probe import Probe, ProbeReading, probe_score
from codecdiff_eval.results import Estimate, MetricResult, TargetResult, corrected_for_chance
from codecdiff_eval.suites import Suite
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.pipeline import Pipeline
from codecdiff_starter.clips import ComposedClips, compose_clips, decode, training_clips
from codecdiff_starter.composer import CLASSES, COMPOSER_VERSION, PARTS, SAMPLE_RATE, Facts, mapping

ORACLE, COMPOSED, TRAINING, PROBE_TRAINING = oracle(), "composed", "training", "probe training"
COMPARED = (CODEC_RECONSTRUCTION, ORACLE, GENERATED, NOISE)
SEED = 20_250_001  # of evaluation; no training track is composed from it
SIGNAL = ("pulse", "tuning-error", "full-scale")
REQUESTED = ("tempo-double", "key")
ESTIMATED = ("pulse", "tuning-error", *REQUESTED)
PROBE_CLIPS = 2  # clips the probes are fitted on, for each clip of a compared set

starter = Suite(
    "What can be measured of music without a download: signals, requested tempo and key, and musicnn where installed.",
    {
        "logmel": ("fad-shrunk", "kad", "density", "coverage", *SIGNAL, *REQUESTED),
        "musicnn": ("fad", "fad-infinity", "kad"),
    },
    seconds=6.0,
    codec_quality=True,
)


@dataclass(frozen=True)
class Targets:
    """What a model must reach; the defaults are the demo's."""

    minutes: float = 15  # from a fresh clone to the page
    memory: float = 4  # GB
    first_loss: float = 0.7  # normalized validation loss of the first stage
    later_loss: float = 0.9  # of every later stage
    frechet_ratio: float = 3  # generated over codec reconstruction
    noise_ratio: float = 10  # noise over generated
    pulse: float = 0.5  # 0.15 of noise, 0.75 of composed music
    tuning_error: float = 15  # cents; 25 where frequencies are arbitrary
    tempo: float = 0.6  # corrected for chance
    probe_score: float = 0.6
    permuted: float = 0.1


DEMO = Targets()
SHIPPED = Targets(frechet_ratio=2, pulse=0.6, tuning_error=10, probe_score=0.85)  # with this package


class DemoExample(NamedTuple):
    """Clips (1, t) of one prompt to listen to, by the name of their set; of noise without a prompt.

    is_unseen: whether training lacks the combination that the prompt requests.
    """

    prompt: str
    is_unseen: bool
    clips: Mapping[str, Tensor]


class DemoResult(NamedTuple):
    """The table, everything else that was measured (for JSON), and some of the clips it was measured on."""

    targets: list[TargetResult]
    details: dict[str, Any]
    examples: list[DemoExample]


def frechet_distances(sets: EvalSets[Tensor], seed: int) -> dict[str, Estimate]:
    """Return Fréchet distances to the reference, and the two ratios that have targets, with paired intervals."""
    reference, compared = sets.get_set(REFERENCE), {name: [sets.get_set(name)] for name in COMPARED if name in sets}
    clips = (torch.arange(len(each)).split(1) for each in (compared[GENERATED][0], reference))
    measured = Draws.of(*clips, seed=seed).distances(compared, reference)
    generated = measured[GENERATED]
    measured["generated ratio"] = generated / measured[CODEC_RECONSTRUCTION].clamp(min=1e-9)
    measured["noise ratio"] = measured[NOISE] / generated.clamp(min=1e-9)
    return {name: interval_of(values[:, 0]) for name, values in measured.items()}


def read_parts(sets: EvalSets[Tensor], training: Sequence[Facts], facts: Sequence[Facts]) -> dict[str, ProbeReading]:
    """Fit a probe of each part to the probe training set, and read the clips that `facts` describe."""

    def classes(part: str, clips: Sequence[Facts]) -> Tensor:
        return torch.tensor([CLASSES[part].index(getattr(each, part)) for each in clips])

    def read(part: str) -> ProbeReading:
        probe = Probe.fit(sets.get_set(PROBE_TRAINING), classes(part, training))
        generated, reconstructed = (sets.get_set(name) for name in (GENERATED, CODEC_RECONSTRUCTION))
        return ProbeReading.of(probe, generated, reconstructed, classes(part, facts))

    return {part: read(part) for part in PARTS}


def adherence(readings: Mapping[str, ProbeReading], seed: int) -> dict[str, Any]:
    """Return probe scores: of every part, of all parts, of combinations unseen and seen, and permuted.

    That of all parts divides sums of what is read above chance, so that parts which a probe hardly reads off real music
    count less. Clips are resampled with all their parts, and with the reconstructed clip of the same caption.
    """
    clips = torch.arange(len(next(iter(readings.values())).truth))
    chances = torch.tensor([reading.chance for reading in readings.values()])

    def score_of_all(drawn: Tensor, order: Tensor | None = None) -> float:
        each = [reading.accuracies(drawn, order) for reading in readings.values()]
        accuracy, upper_bound = torch.tensor(each).T
        return probe_score(float(accuracy.sum()), float(upper_bound.sum()), float(chances.sum()))

    def part(reading: ProbeReading) -> dict[str, Any]:
        accuracy, upper_bound = reading.accuracies(clips)
        score = bootstrap(reading.score, clips, seed=seed)
        return {"chance": reading.chance, "accuracy": accuracy, "upper bound": upper_bound, "score": score}

    return {
        "parts": {name: part(reading) for name, reading in readings.items()},
        "all": bootstrap(score_of_all, clips, seed=seed),
        "unseen combinations": bootstrap(score_of_all, clips[::2], seed=seed),
        "seen combinations": bootstrap(score_of_all, clips[1::2], seed=seed),
        "permuted": permuted(partial(score_of_all, clips), clips, seed=seed),
    }


def estimate(audio: EvalSets[Tensor], prompts: Sequence[str], sample_rate: int, seed: int) -> dict[str, MetricResult]:
    """Measure pulse and tuning of generated clips (n, 1, t), and whether they have the requested tempo and key.

    The upper bound is the same of the codec reconstruction. What fewer than two prompts request is left out.
    """
    results = {}
    for name in ESTIMATED:
        metric = load_metric(name)
        rows = [
            i for i, prompt in enumerate(prompts) if metric.compares == "clips" or metric.requested(prompt) is not None
        ]
        if metric.embedder and len(rows) > 1:
            requests, embedder = [prompts[i] for i in rows], metric.embedder()
            clips, reconstructed = (
                ClipEmbeddings.of_audio(embedder, audio.get_set(each)[rows], sample_rate, requests)
                for each in (GENERATED, CODEC_RECONSTRUCTION)
            )
            results[name] = metric(clips, reconstructed, seed=seed)
    return results


def memorization(sets: EvalSets[Tensor], seed: int) -> dict[str, Any]:
    """Return mean distances to the nearest training clip and to the nearest of as many fresh ones, and their ratio.

    The fresh clips are of the probe training set, composed as training tracks are. The codec reconstruction of
    validation music shows what is usual.
    """
    measured = {}
    for name in (GENERATED, CODEC_RECONSTRUCTION):
        nearest = nearest_distances(sets.get_set(name), sets.get_set(TRAINING), sets.get_set(PROBE_TRAINING))
        training, fresh = nearest.mean(0).tolist()
        ratio = bootstrap(distance_ratio, nearest, seed=seed)
        measured[name] = {"to training clips": training, "to fresh clips": fresh, "ratio": ratio}
    return measured


def loss_targets(logs: Mapping[str, Sequence[Mapping[str, Any]]], targets: Targets) -> list[TargetResult]:
    """Return the last normalized validation loss of each stage."""
    results = []
    for i, (stage, log) in enumerate(logs.items()):
        lines = [line for line in log if line.get("validation_loss") is not None]
        if lines:
            loss = lines[-1]["validation_loss"] / lines[-1]["zero_predictor_loss"]
            bound = targets.later_loss if i else targets.first_loss
            results.append(TargetResult(f"normalized validation loss: {stage}", loss, at_most=bound))
    return results


def clip_targets(
    distance: Mapping[str, Estimate], probes: Mapping[str, Any], estimated: Mapping[str, MetricResult], targets: Targets
) -> list[TargetResult]:
    """Return the lines of the table that are measured on clips."""
    far, generated, noise = "Fréchet distance: ", distance["generated ratio"], distance["noise ratio"]
    bounds = {  # none of the key: in minutes, a model hardly learns it
        "pulse": {"at_least": targets.pulse},
        "tuning-error": {"at_most": targets.tuning_error},
        "tempo-double": {"at_least": targets.tempo},
    }
    rows = [
        TargetResult(f"{far}generated over codec reconstruction", *generated, at_most=targets.frechet_ratio),
        TargetResult(f"{far}noise over generated", *noise, at_least=targets.noise_ratio),
    ]
    if ORACLE in distance:
        low, high = distance[CODEC_RECONSTRUCTION].value, distance[GENERATED].value
        rows.append(TargetResult(f"{far}{ORACLE}", *distance[ORACLE], at_least=low, at_most=high))
    for name, result in estimated.items():
        corrected = corrected_for_chance(result, result.upper_bound and result.upper_bound.value)
        label = f"{result.name}, corrected for chance" if corrected else result.name
        rows.append(TargetResult(label, *(corrected or result.estimate), **bounds.get(name, {})))
    score, chance, most = probes["all"], probes["permuted"], targets.permuted
    return [
        *rows,
        TargetResult("prompt adherence: probe score", *score, at_least=targets.probe_score),
        TargetResult("probe score with permuted labels", *chance, at_least=-most, at_most=most),
    ]


def memory_in_use() -> float:
    """Return the memory that this process takes now, in GB."""
    return psutil.Process().memory_info().rss / 1e9


class _Clock:
    """Announces what is being done, and measures its time and the memory at its end."""

    def __init__(self, announce: Callable[[str], None]):
        self.announce = announce
        self.seconds: dict[str, float] = {}
        self.memory = 0.0  # GB

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.announce(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self.memory = max(self.memory, memory_in_use())


@dataclass(frozen=True)
class EvalOptions:
    """How many clips of what length are evaluated, and how they are sampled; None for the model's own.

    num_examples: captions whose clips can be listened to. Raises ValueError for too few clips, or too long ones.
    """

    clips: int = 64
    seconds: float = 5.0
    seed: int = SEED
    steps: int | None = None
    guidance: float | None = None
    num_examples: int = 6

    def __post_init__(self) -> None:
        if self.clips < max(12, self.num_examples):
            least = f"at least 12, and no fewer than the {self.num_examples} examples"
            raise InvalidValue(f"Invalid number of clips {self.clips}: expected {least}.")
        if not 1 <= self.seconds <= 60:
            raise InvalidValue(f"Invalid clip length {self.seconds}: expected 1 to 60 seconds.")


def evaluate_model(
    pipeline: Pipeline,
    training_audio: Path,
    options: EvalOptions,
    *,
    targets: Targets = DEMO,
    num_workers: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> DemoResult:
    """Measure a model trained on composed music.

    `num_workers` processes compose; more than one need a main module that can be imported. `announce` is called with
    the name of each phase. Raises ValueError for clips longer than tracks, and a model of another sample rate.
    """
    if pipeline.sample_rate != SAMPLE_RATE:
        raise InvalidValue(f"The model generates at {pipeline.sample_rate} Hz, and the composer at {SAMPLE_RATE} Hz.")
    seed, samples, clock = options.seed, round(options.seconds * SAMPLE_RATE), _Clock(announce)
    with clock("composing"):
        composed = _compose(options, num_workers)
        training = training_clips(training_audio, options.clips, options.seconds, seed + 3)
    evaluated = composed[COMPOSED]
    with clock("encoding"):
        sources = {name: composed[name].audio for name in (REFERENCE, PROBE_TRAINING)} | {TRAINING: training}
        codes = EvalSets({name: encode_clips(pipeline.codec, audio) for name, audio in sources.items()})
        source = edit_mask_of(pipeline, evaluated.audio)
    with clock("generating"):
        sampling = {"seed": seed, "num_inference_steps": options.steps, "guidance_scale": options.guidance}
        codes |= generate_sets(pipeline, [{"text": prompt} for prompt in evaluated.prompts], source, **sampling)
    with clock("decoding"):
        audio = codes.map(lambda _, each: decode(pipeline, each, samples))
        sets = audio.map(lambda _, each: window_features(each[:, 0], pipeline.sample_rate))
    with clock("measuring"):
        estimated = estimate(audio, evaluated.prompts, pipeline.sample_rate, seed)
        measured = {
            "frechet distance": frechet_distances(sets, seed),
            "probes": adherence(read_parts(sets, composed[PROBE_TRAINING].facts, evaluated.facts), seed),
            "memorization": memorization(sets, seed),
            "estimated": estimated,
        }
    facts = {"composer version": COMPOSER_VERSION, "options": vars(options)}
    details = {**facts, **measured, "evaluation_seconds": clock.seconds, "memory": clock.memory}
    results = clip_targets(measured["frechet distance"], measured["probes"], estimated, targets)
    sets_to_play = {COMPOSED: evaluated.audio, **{name: audio.get_set(name) for name in COMPARED if name in audio}}
    return DemoResult(results, details, _examples(evaluated.prompts[: options.num_examples], sets_to_play))


def _examples(prompts: Sequence[str], audio: dict[str, Tensor]) -> list[DemoExample]:
    """Return the clips of every set (n, 1, t) for each of the first prompts, and one of noise."""
    noise = DemoExample("", False, {NOISE: audio.pop(NOISE)[0]})
    clips = [{name: each[i] for name, each in audio.items()} for i in range(len(prompts))]
    return [*(DemoExample(prompt, i % 2 == 0, clips[i]) for i, prompt in enumerate(prompts)), noise]


def _compose(options: EvalOptions, num_workers: int) -> dict[str, ComposedClips]:
    """Compose the clips of the reference, those that are evaluated, and the probe training set."""
    with mapping(num_workers) as each:
        compose = partial(compose_clips, seconds=options.seconds, each=each)
        return {
            REFERENCE: compose(options.clips, seed=options.seed, unseen=True),
            COMPOSED: compose(options.clips, seed=options.seed + 1, unseen=True),
            PROBE_TRAINING: compose(options.clips * PROBE_CLIPS, seed=options.seed + 2, unseen=False),
        }
