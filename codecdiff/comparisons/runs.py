"""The training of every variant with every seed. Each run is a model folder, and goes on where it stopped.

OUTPUT/codecs/CODEC/store          codes of the music, once for each codec; where settings name a store, that is used
OUTPUT/VARIANT/seed-N/run.json     what it was trained with
OUTPUT/VARIANT/seed-N/model        the model

Several processes may work on one comparison: each takes a run that no other has.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from codecdiff import config
from codecdiff.comparisons.budgets import StageCost, affordable, costs_of, total
from codecdiff.comparisons.settings import Comparison
from codecdiff.config.schema import DiffusionConfig, ExperimentConfig, StageConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.files import POLL_SECONDS, atomic_write_text, lock_folder, try_lock
from codecdiff.pipeline.checkpoint import differences
from codecdiff.pipeline.model_card import write_card
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.training.batch import StageData
from codecdiff.training.experiment import new_pipeline, new_stage, new_trainer, open_data, prepare_prompts
from codecdiff.training.trainer import read_logs

Report = Callable[[str], None]
RESOLVED = {"denoiser", "train", "diffusion", "sampling"}  # what `new_stage` makes of settings and stages' own


@dataclass(frozen=True)
class Variant:
    """One variant: its experiment with the steps that the budget pays for, and what it takes."""

    name: str
    blueprint: ExperimentConfig  # of the first seed
    costs: tuple[StageCost, ...]
    steps: tuple[int, ...]

    @property
    def training(self) -> int:
        """FLOPs of training one model."""
        return total(self.costs, self.steps)

    @property
    def sampling(self) -> int:
        """FLOPs of generating one clip."""
        return sum(cost.sampling for cost in self.costs)


def variants_of(comparison: Comparison) -> list[Variant]:
    """Count what every variant takes and give it the steps that the budget pays for.

    Raises ConfigError for a variant that cannot be made, ValueError for a budget that is too small.
    """
    blueprints = {name: comparison.blueprint(name, comparison.seeds[0]) for name in comparison.variants}
    costs = {}
    for name, blueprint in blueprints.items():
        with _named(name):
            costs[name] = costs_of(blueprint, comparison.evaluation.seconds)
    budget = comparison.budget or total(next(iter(costs.values())))
    made = []
    for name, blueprint in blueprints.items():
        with _named(name):
            steps = affordable(costs[name], budget, comparison.share)
        made.append(Variant(name, _lasting(blueprint, costs[name], steps), tuple(costs[name]), tuple(steps)))
    return made


def _lasting(blueprint: ExperimentConfig, costs: Sequence[StageCost], steps: Sequence[int]) -> ExperimentConfig:
    """Give an experiment whose stages are trained for so many steps: the learning rate has fallen at their end."""
    stages = dict(blueprint.stages)
    for cost, count in zip(costs, steps, strict=True):
        own = stages.get(cost.name, StageConfig())
        stages[cost.name] = own.model_copy(update={"train": own.train.merge(TrainConfig(max_train_steps=count))})
    return blueprint.model_copy(update={"stages": stages})


@contextmanager
def _named(variant: str) -> Iterator[None]:
    """Let errors say which variant they are of."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise config.ConfigError(f"The variant '{variant}' cannot be made: {error}") from error


def require_music(variants: Sequence[Variant]) -> None:
    """Raise FileNotFoundError where the recordings of a variant are not there, before anything is trained."""
    for variant in variants:
        audio = variant.blueprint.data.audio
        if audio is None or not audio.exists():
            raise FileNotFoundError(
                f"The variant '{variant.name}' has no recordings: data.audio is {audio or 'null'}"
                f"{', which is not there' if audio else ''}. Those held out are heard, not only their codes."
            )


def others_in(output: Path, variants: Sequence[Variant]) -> list[str]:
    """Name the variants whose runs a folder holds, and that are not among these."""
    there = {file.parent.parent.name for file in output.glob("*/seed-*/run.json")}
    return sorted(there - {variant.name for variant in variants})


def question_of(variant: Variant) -> str:
    """Tell what the losses of a variant are an answer to: those of two variants are compared if it is the same."""
    blueprint, keys = variant.blueprint, {"codec", "splitter", "target", "normalize_latents", "diffusion"}
    own = {name: _asks(stage.diffusion, stage.train) for name, stage in blueprint.stages.items()}
    told = [blueprint.model_dump(mode="json", include=keys), blueprint.train.loss]
    return json.dumps([told, {name: some for name, some in own.items() if any(some)}], sort_keys=True)


def _asks(diffusion: DiffusionConfig, train: TrainConfig) -> tuple[dict[str, Any], str | None]:
    """Give what a stage sets for itself of the process and the loss."""
    told = train.model_dump(include={"loss"}, exclude_unset=True)
    return diffusion.model_dump(mode="json", exclude_unset=True), told.get("loss")


@dataclass(frozen=True)
class Run:
    """One variant trained with one seed."""

    variant: Variant
    seed: int
    folder: Path
    home: Path  # of what belongs to its codec: OUTPUT/codecs/CODEC

    @cached_property
    def blueprint(self) -> ExperimentConfig:
        """What is trained."""
        return self.variant.blueprint.model_copy(update={"seed": self.seed})

    @property
    def model(self) -> Path:
        """Folder of the model."""
        return self.folder / "model"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def store(self) -> Path:
        """Folder of its codes."""
        return self.blueprint.data.store or self.home / "store"

    def steps_done(self, i: int) -> int:
        """Count the steps that stage `i` was trained for."""
        file = self.model / self.variant.costs[i].name / "stage.json"
        return json.loads(file.read_text(encoding="utf-8"))["training"]["steps"] if file.is_file() else 0

    def is_trained(self, i: int) -> bool:
        """Tell whether stage `i` is trained to its end."""
        return self.steps_done(i) >= self.variant.steps[i]

    @property
    def is_whole(self) -> bool:
        """Tell whether every stage is trained."""
        return all(self.is_trained(i) for i in range(len(self.variant.steps)))

    @cached_property
    def stages(self) -> list[str]:
        """Tell by a hash for each stage all that its weights follow from: those of one hash are trained once."""
        pipeline, codec = new_pipeline(self.blueprint, skeleton=True)
        frames = pipeline.frames(1.0)
        shape = (1, codec.num_codebooks, codec.codebook_dim, frames)
        places = pipeline.splitter.split(
            torch.arange(1, codec.num_codebooks * codec.codebook_dim * frames + 1.0).view(shape)
        )
        return [self._hash(pipeline, places, i) for i in range(len(places))]

    def _hash(self, pipeline: Pipeline, places: list[torch.Tensor], i: int) -> str:
        stage, train = new_stage(self.blueprint, pipeline, i, "meta")
        context = pipeline.splitter.context(places, i)
        own = self.blueprint.stages.get(stage.name, StageConfig()).model_dump(exclude=RESOLVED)
        told = {**self.blueprint.model_dump(exclude={*RESOLVED, "splitter", "stages"}), "own": own}
        spec = stage.spec()
        told |= {key: spec[key] for key in ("denoiser", "scheduler", "noise_color")}
        told |= {"name": stage.name, "training": train.model_dump()}
        if own["start_from"] in pipeline.stage_names:
            told["start"] = self._hash(pipeline, places, pipeline.stage_names.index(own["start_from"]))
        if context is None:  # it sees nothing of other stages
            told["training"]["context_noise_std"] = told["snap_context"] = None
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for tensor in (places[i], *([] if context is None else [context])):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def runs_of(comparison: Comparison, variants: Sequence[Variant], output: Path) -> list[Run]:
    """Give all runs, seed by seed, so that a comparison is whole with its first seed already."""
    return [
        Run(variant, seed, output / variant.name / f"seed-{seed}", output / "codecs" / _codec_name(variant.blueprint))
        for seed in comparison.seeds
        for variant in variants
    ]


def _codec_name(blueprint: ExperimentConfig) -> str:
    spec = config.with_defaults("codecs", blueprint.codec)
    told = json.dumps([spec, blueprint.target, str(blueprint.data.store)], sort_keys=True, default=str)
    name = "".join(letter if letter.isalnum() else "-" for letter in spec["name"])
    return f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def in_turn(runs: Sequence[Run], is_done: Callable[[Run], bool]) -> Iterator[Run]:
    """Yield the runs that are left, each held against other processes, until all are done, here or elsewhere.

    A run that has a stage in common with an earlier one waits until that is trained.
    """
    while left := [run for run in runs if not is_done(run)]:
        worked = False
        for run in left:
            if not all(_is_ready(run, i, runs) for i in range(len(run.variant.steps))):
                continue
            if held := try_lock(run.folder):
                with held:
                    if not is_done(run):
                        yield run
                        worked = True
        if not worked:
            time.sleep(POLL_SECONDS)


def twin_of(run: Run, i: int, runs: Sequence[Run]) -> Run | None:
    """Give the first run that trains the same stage, if that is an earlier one."""
    key = run.stages[i]
    first = next(each for each in runs if key in each.stages)
    return None if first is run else first


def _is_ready(run: Run, i: int, runs: Sequence[Run]) -> bool:
    twin = twin_of(run, i, runs)
    return run.is_trained(i) or twin is None or twin.is_trained(i)


def note(run: Run) -> None:
    """Write down what a run is trained with. Raises ValueError if its folder holds another."""
    file = run.folder / "run.json"
    told = run.blueprint.model_dump(mode="json")
    if file.is_file():
        there = ExperimentConfig.model_validate_json(file.read_text(encoding="utf-8")).model_dump(mode="json")
        differ = [line for key in told for line in differences(there[key], told[key], key)]
        differ = [line for line in differ if not _may_change(line)]
        if differ:
            raise ValueError(
                f"'{run.folder}' was trained otherwise: {'; '.join(differ)}. Choose another output, or delete it."
            )
    atomic_write_text(file, json.dumps(told, indent=1) + "\n")


def _may_change(line: str) -> bool:
    """Tell whether a difference is in how a model is sampled, or where its music lies: the store knows its contents."""
    key = line.partition(" is ")[0]
    return key.startswith("sampling.") or ".sampling." in key or key in ("data.audio", "data.store")


def train(run: Run, comparison: Comparison, runs: Sequence[Run], device: torch.device, report: Report) -> None:
    """Train a run that is held, or what is left of it."""
    note(run)
    pipeline, codec = new_pipeline(run.blueprint)
    pipeline.to(device)
    with lock_folder(run.home, timeout=-1):
        if not (run.store / "header.json").is_file():
            report(f"{run.name}: encoding the music")
        first = run.blueprint.model_copy(update={"seed": comparison.seeds[0]})  # whose seed a codec is fitted with
        store = open_data(first, pipeline, codec, run.store, run.model, report)
        prepare_prompts(pipeline, store, report=report)
    for i in range(len(run.variant.steps)):
        twin = twin_of(run, i, runs)
        if twin is not None and not run.is_trained(i):
            _copy_stage(twin, run, i, report)
        _train_stage(run, comparison, pipeline, store, i, report)
    write_card(run.model)


def _copy_stage(twin: Run, run: Run, i: int, report: Report) -> None:
    """Take over a stage that another run trained; `stage.json`, which says that it is there, comes last."""
    name = run.variant.costs[i].name
    source, target = twin.model / name, run.model / name
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted((f for f in source.rglob("*") if f.is_file()), key=lambda f: f.name == "stage.json"):
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copyfile(file, temporary)
        os.replace(temporary, place)
    report(f"{run.name}: {name} is that of {twin.name}")


def _train_stage(
    run: Run, comparison: Comparison, pipeline: Pipeline, store: CodeStore, i: int, report: Report
) -> None:
    trainer = new_trainer(run.blueprint, pipeline, i, run.model, report=lambda line: report(f"{run.name}: {line}"))
    stage, options = trainer.stage, trainer.config
    if trainer.step_count >= options.max_train_steps:  # how it is sampled may have changed
        return trainer.save(run.model)
    split = run.blueprint.data.model_copy(update={"split_seed": comparison.seeds[0]})
    data = StageData(store, pipeline, i, options, split, seed=run.seed)
    checked = {max(1, round(options.max_train_steps * (k + 1) / comparison.checks)) for k in range(comparison.checks)}
    start, losses = time.monotonic(), []
    for step in range(trainer.step_count, options.max_train_steps):
        try:
            losses.append(trainer.step(data.step(step)))
        except FloatingPointError as error:
            raise ValueError(f"{run.name}: {error}") from error
        if step + 1 in checked:
            row = trainer.validate(data.validation(), losses, time.monotonic() - start)
            trainer.save(run.model, row)
            loss = row["normalized_validation_loss"]
            report(f"{run.name}: {stage.name} {step + 1} of {options.max_train_steps}, normalized loss {loss:.3f}")
            losses = []


def logs_of(run: Run) -> Mapping[str, list[dict[str, Any]]]:
    """Give the log of every stage, a mapping for each check."""
    return read_logs(run.model, [cost.name for cost in run.variant.costs])
