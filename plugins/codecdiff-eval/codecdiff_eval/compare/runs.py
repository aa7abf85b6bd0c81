"""The training of every variant with every seed. Each run is a model folder, and resumes where it stopped.

A variant that is a trained model has one run, whatever seeds there are, and no model folder.

OUTPUT/codecs/CODEC/store          codes of the music, once for each codec; where settings name a store, that is used
OUTPUT/VARIANT/seed-N/run.json     the experiment that is trained
OUTPUT/VARIANT/seed-N/model        the model
OUTPUT/VARIANT/seed-N/diverged.json  where its numbers stopped being finite, if they did; without it, it is tried again

Several processes may work on one comparison: each trains a run that no other has locked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from codecdiff import config
from codecdiff.config import DataConfig, DiffusionConfig, ExperimentConfig, TrainConfig
from codecdiff.data import CodeStore, find_tracks, open_store
from codecdiff.data.sealed import read_sealed, write_sealed
from codecdiff.errors import InvalidValue, MissingFile, UnknownName, did_you_mean
from codecdiff.files import (
    POLL_SECONDS,
    atomic_write,
    atomic_write_text,
    check_schema,
    lock_folder,
    read_json,
    try_lock,
)
from codecdiff.pipeline import Pipeline, config_differences, read_stage_config, write_model_card
from codecdiff.training import (
    StageData,
    TrainingDiverged,
    new_pipeline,
    new_stage,
    new_trainer,
    open_data,
    prepare_prompts,
    read_logs,
    rows_hash,
)
from codecdiff_eval.compare.budget import Variant
from codecdiff_eval.compare.config import CompareConfig
from codecdiff_eval.results import hash_of

Log = Callable[[str], None]
PER_STAGE = {"denoiser", "train", "diffusion", "sampling"}  # settings that `new_stage` merges with a stage's own
NOT_OF_THE_MODEL = {"model", "adapters", "allow_download", "allow_local_parts", "data_hash", "splits"}
LOSS_SETTINGS = {"codec", "splitter", "target", "normalize_latents", "diffusion"}  # that decide what is predicted


class Divergence(BaseModel):
    """Where the numbers of a run stopped being finite.

    settings: hash of the experiment that did.
    stage, step: of training; None where a trained model generated what is not finite.
    """

    settings: str
    message: str
    stage: str | None = None
    step: int | None = None

    @property
    def place(self) -> str:
        """The stage and step in words."""
        return "in generation" if self.stage is None else f"in {self.stage} at step {self.step:,}"


@dataclass(frozen=True)
class Run:
    """One variant trained with one seed, or a trained model; what belongs to its codec is in `codec_folder`."""

    variant: Variant
    seed: int
    folder: Path
    codec_folder: Path

    @cached_property
    def experiment(self) -> ExperimentConfig:
        """The experiment of this seed."""
        return self.variant.experiment.model_copy(update={"seed": self.seed})

    @property
    def model(self) -> Path:
        """Folder of the model, unless it is trained already."""
        return self.folder / "model"

    def load(self, device: torch.device | str | None = None) -> Pipeline:
        """Load the model, onto a device."""
        if self.variant.trained:
            return self.variant.trained.load(device)
        allowed: Any = {"allow_download": True, "allow_local_parts": True}  # the user named its parts
        return Pipeline.from_pretrained(self.model, device=device, **allowed)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.variant.name if self.variant.trained else f"{self.variant.name}, seed {self.seed}"

    @property
    def store(self) -> Path:
        """Folder of its codes."""
        return self.experiment.data.store or self.codec_folder / "store"

    def is_trained(self, i: int) -> bool:
        """Return whether stage `i` is trained to its end."""
        if self.variant.trained:
            return True
        file = self.model / self.variant.costs[i].name / "stage.json"
        steps = read_stage_config(file.parent)["training"]["steps"] if file.is_file() else 0
        return steps >= self.variant.steps[i]

    @property
    def is_complete(self) -> bool:
        """Whether every stage is trained."""
        return all(self.is_trained(i) for i in range(len(self.variant.steps)))

    @property
    def divergence(self) -> Divergence | None:
        """Where the numbers of this experiment stopped being finite, if they did."""
        file = self.folder / "diverged.json"
        if not file.is_file():
            return None
        result = check_schema(read_sealed(file), str(file), Divergence)
        return result if result.settings == self._settings_hash else None

    def record_divergence(self, message: str, stage: str | None = None, step: int | None = None) -> None:
        """Write that, and where, the numbers of this experiment stopped being finite: it is not tried again."""
        result = Divergence(settings=self._settings_hash, message=message, stage=stage, step=step)
        write_sealed(self.folder / "diverged.json", result.model_dump())

    @cached_property
    def _settings_hash(self) -> str:
        text = json.dumps(self.identity, sort_keys=True)
        return hash_of(text.encode())[:16]

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that what it generates follows from; a trained model is known by its fingerprint."""
        settings = changed_settings(self.experiment)
        if trained := self.variant.trained:
            own = trained.model_dump(mode="json", exclude_unset=True, exclude=NOT_OF_THE_MODEL)
            return own | {name: settings[name] for name in ("data", "seed") if name in settings}
        return settings

    @property
    def logs(self) -> dict[str, list[dict[str, Any]]]:
        """The training log of every stage that has one."""
        return read_logs(self.model, [cost.name for cost in self.variant.costs])

    @cached_property
    def stage_hashes(self) -> list[str]:
        """A hash of each stage, of all that its weights follow from: stages of one hash are trained once."""
        if trained := self.variant.trained:
            return [f"{trained.fingerprint} {cost.name}" for cost in self.variant.costs]
        pipeline = new_pipeline(self.experiment, skeleton=True)
        shape = (1, pipeline.codec.num_codebooks, pipeline.codec.codebook_dim, pipeline.frames(1.0))
        places = pipeline.splitter.split(torch.arange(1.0, torch.Size(shape).numel() + 1).view(shape))
        return [self._hash(pipeline, places, i) for i in range(len(places))]

    def _hash(self, pipeline: Pipeline, places: list[torch.Tensor], i: int) -> str:
        stage, train = new_stage(self.experiment, pipeline, i, "meta")
        context, spec = pipeline.splitter.context(places, i), stage.to_config()
        own = self.experiment.stage_config(stage.name).model_dump(exclude=PER_STAGE)
        settings = {**self.experiment.model_dump(exclude={*PER_STAGE, "splitter", "stages"}), "own": own}
        settings |= {key: spec[key] for key in ("denoiser", "scheduler", "noise_color")}
        settings |= {"name": stage.name, "training": train.model_dump()}
        if own["start_from"] in pipeline.stage_names:
            settings["start"] = self._hash(pipeline, places, pipeline.stage_names.index(own["start_from"]))
        if context is None:  # it sees nothing of other stages
            settings["training"]["context_noise_std"] = settings["snap_context"] = None
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for tensor in (places[i], *([] if context is None else [context])):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def changed_settings(settings: BaseModel, exclude: Set[str] = frozenset()) -> dict[str, Any]:
    """Return the settings that are not at their defaults, so that new ones change no hash, and not where music is."""
    values = settings.model_dump(mode="json", exclude_defaults=True, exclude=set(exclude))
    for name in ("audio", "store"):
        values.get("data", {}).pop(name, None)
    return values


def make_runs(comparison: CompareConfig, variants: Sequence[Variant], output: Path) -> list[Run]:
    """Return all runs, seed by seed, so that the first seed of every variant comes first."""
    codecs = {variant.name: output / "codecs" / _codec_name(variant) for variant in variants}
    return [
        Run(variant, seed, output / variant.name / f"seed-{seed}", codecs[variant.name])
        for seed in comparison.seeds
        for variant in variants
        if seed == comparison.seeds[0] or not variant.trained
    ]


def _codec_name(variant: Variant) -> str:
    experiment, trained = variant.experiment, variant.trained
    spec = config.with_defaults("codecs", experiment.codec)
    values = [spec, experiment.target, str(experiment.data.store), *([trained.codec_fingerprint] if trained else [])]
    text = json.dumps(values, sort_keys=True, default=str)
    name = "".join(letter if letter.isalnum() else "-" for letter in spec["name"])
    return f"{name}-{hash_of(text.encode())[:8]}"


def require_music(variants: Sequence[Variant], columns: Sequence[str] = ()) -> None:
    """Raise FileNotFoundError where the music of a variant is missing, before anything is trained.

    columns: of probes. Raises UnknownName for one that no track has.
    """
    for variant in variants:
        audio = variant.experiment.data.audio
        if audio is None or not audio.exists():
            raise MissingFile(
                f"The variant '{variant.name}' has no music: data.audio is {audio or 'null'}"
                f"{', which does not exist' if audio else ''}. Validation tracks are read as audio, not only as codes. "
                "Name a folder: experiment.data.audio=FOLDER."
            )
    if columns:
        _require_columns(variants[0].experiment.data, columns)


def _require_columns(data: DataConfig, columns: Sequence[str]) -> None:
    """Raise UnknownName for a column that no track has."""
    if data.store and (data.store / "header.json").is_file():
        store = CodeStore(data.store)
        metadata = [store.metadata(i) for i in range(len(store.rows))]
    else:
        metadata = [track.metadata for track in find_tracks(data.audio or Path())]
    names = sorted({name for fields in metadata for name in fields})
    for column in columns:
        if column not in names:
            hint, listed = did_you_mean(column, names), ", ".join(names) or "none"
            raise UnknownName(f"No track has '{column}', which evaluation.probes names. Columns: {listed}.{hint}")


def other_variants(output: Path, variants: Sequence[Variant]) -> list[str]:
    """Return the names of variants that a folder has runs of, and that are not among these."""
    names = {file.parent.parent.name for file in output.glob("*/seed-*/run.json")}
    return sorted(names - {variant.name for variant in variants})


def loss_key(variant: Variant) -> str:
    """Return what the losses of a variant depend on: those of two variants are comparable if it is equal."""
    experiment = variant.experiment
    own = {name: _loss_settings(stage.diffusion, stage.train) for name, stage in experiment.stages.items()}
    own = {name: settings for name, settings in own.items() if any(settings)}
    common = [experiment.model_dump(mode="json", include=LOSS_SETTINGS), experiment.train.loss]
    return json.dumps([common, own], sort_keys=True)


def _loss_settings(diffusion: DiffusionConfig, train: TrainConfig) -> tuple[dict[str, Any], str | None]:
    """Return what a stage sets for itself of the diffusion process and the loss."""
    loss = train.model_dump(include={"loss"}, exclude_unset=True).get("loss")
    return diffusion.model_dump(mode="json", exclude_unset=True), loss


def trained_on(run: Run, comparison: CompareConfig) -> bool:
    """Return whether a trained model has seen validation tracks of a comparison: the music is that of its training."""
    trained, data = run.variant.trained, run.experiment.data
    if not trained or not trained.data_hash or trained.data_hash != rows_hash(CodeStore(run.store)):
        return False
    return any(split != (data.validation_fraction, comparison.seeds[0]) for split in trained.splits)


def take_turns(runs: Sequence[Run], is_done: Callable[[Run], bool]) -> Iterator[Run]:
    """Yield the remaining runs, each locked against other processes, until all are done, here or elsewhere.

    A run that has a stage in common with an earlier one waits until that is trained. Locks that a killed process left
    on runs that were done are removed.
    """
    for run in runs:
        if is_done(run) and (lock := try_lock(run.folder)):
            lock.close()
    while remaining := [run for run in runs if not is_done(run)]:
        progressed = False
        for run in remaining:
            twins = [shared_run(run, i, runs) for i in range(len(run.variant.steps))]
            if not all(run.is_trained(i) or twin is None or twin.is_trained(i) for i, twin in enumerate(twins)):
                continue
            if lock := try_lock(run.folder):
                with lock:
                    if not is_done(run):
                        yield run
                        progressed = True
        if not progressed:
            time.sleep(POLL_SECONDS)


def shared_run(run: Run, i: int, runs: Sequence[Run]) -> Run | None:
    """Return the first run that trains the same stage, if that is an earlier one and did not diverge before it."""
    key = run.stage_hashes[i]
    twins = [each for each in runs if key in each.stage_hashes]
    first = next(each for each in twins if each is run or each.is_trained(i) or not each.divergence)
    return None if first is run else first


def shared_divergence(run: Run, runs: Sequence[Run]) -> Divergence | None:
    """Return where another run diverged in the training of a stage that this one has too, and is yet to train."""
    for i, cost in enumerate(run.variant.costs):
        if not run.is_trained(i):
            for twin in (each for each in runs if run.stage_hashes[i] in each.stage_hashes):
                if (result := twin.divergence) and result.stage == cost.name:
                    return result
    return None


def divergences(runs: Sequence[Run]) -> dict[str, dict[int, Divergence]]:
    """Return by variant and seed which runs diverged, and where."""
    result: dict[str, dict[int, Divergence]] = {}
    for run in runs:
        if each := run.divergence:
            result.setdefault(run.variant.name, {})[run.seed] = each
    return result


def train_run(run: Run, runs: Sequence[Run], comparison: CompareConfig, device: torch.device, log: Log) -> None:
    """Train a locked run, or what remains of it; without effect if it has diverged, which is recorded.

    Of a trained model, only the music is encoded. Raises ValueError if its folder has another experiment or model.
    """
    _record(run)
    if run.variant.trained:
        return _encode_music(run, run.load(device), comparison, log)
    if result := shared_divergence(run, runs):
        return run.record_divergence(result.message, result.stage, result.step)
    pipeline = new_pipeline(run.experiment)
    pipeline.to(device)
    with lock_folder(run.codec_folder, timeout=-1):
        if not (run.store / "header.json").is_file():
            log(f"{run.name}: encoding the music")
        first = run.experiment.model_copy(update={"seed": comparison.seeds[0]})  # with which a codec is fitted
        store = open_data(first, pipeline, run.store, run.model, log)
        prepare_prompts(pipeline, store, report=log)
    for i in range(len(run.variant.steps)):
        twin = shared_run(run, i, runs)
        if twin is not None and not run.is_trained(i):
            _copy_stage(twin, run, i)
            log(f"{run.name}: {run.variant.costs[i].name} is that of {twin.name}")
        _train_stage(run, comparison, pipeline, store, i, log)
        if run.divergence:
            return
    write_model_card(run.model)


def _encode_music(run: Run, pipeline: Pipeline, comparison: CompareConfig, log: Log) -> None:
    """Encode the music by the codec of a trained model, unless that is done."""
    with lock_folder(run.codec_folder, timeout=-1):
        if not (run.store / "header.json").is_file():
            log(f"{run.name}: encoding the music")
        codec = getattr(pipeline.codec, "codec", pipeline.codec)  # without the normalization of latents
        spec, seed = config.to_config("codecs", codec), comparison.seeds[0]
        open_store(run.store, run.experiment.data.audio, codec, spec, target=pipeline.target, seed=seed, report=log)


def _record(run: Run) -> None:
    file, new = run.folder / "run.json", (run.variant.trained or run.experiment).model_dump(mode="json")
    if file.is_file() and (lines := _differences(read_json(file, dict[str, Any]), new, str(file))):
        raise InvalidValue(
            f"'{run.folder}' was trained differently: {'; '.join(lines)}. Choose another output, or delete it."
        )
    atomic_write_text(file, json.dumps(new, indent=1) + "\n")


def _differences(old: dict[str, Any], new: dict[str, Any], where: str) -> list[str]:
    """Return what else a run was that is recorded: another experiment, or another trained model."""
    if "fingerprint" in old or "fingerprint" in new:
        return config_differences(
            old.get("fingerprint"), new.get("fingerprint"), "the fingerprint of the trained model"
        )
    old = check_schema(old, where, ExperimentConfig).model_dump(mode="json")
    return [line for key in new for line in config_differences(old[key], new[key], key) if not _may_differ(line)]


def _may_differ(line: str) -> bool:
    """Return whether a difference is in sampling, or in where the music is: the store knows its contents."""
    key = line.partition(" is ")[0]
    return "sampling" in key.split(".")[:-1] or key in ("data.audio", "data.store")


def _copy_stage(source: Run, run: Run, i: int) -> None:
    """Copy a stage that another run trained; `stage.json`, by which it is result, is copied last."""
    stage = source.model / run.variant.costs[i].name
    for file in sorted((f for f in stage.rglob("*") if f.is_file()), key=lambda f: f == stage / "stage.json"):
        with atomic_write(run.model / file.relative_to(source.model)) as temporary:
            shutil.copyfile(file, temporary)


def _train_stage(run: Run, comparison: CompareConfig, pipeline: Pipeline, store: CodeStore, i: int, log: Log) -> None:
    trainer = new_trainer(run.experiment, pipeline, i, run.model, report=lambda line: log(f"{run.name}: {line}"))
    train, count = trainer.config, comparison.checkpoints
    split = run.experiment.data.model_copy(update={"split_seed": comparison.seeds[0]})
    data = StageData(store, pipeline, i, train, split, seed=run.seed)
    checkpoints = {max(1, round(train.max_train_steps * (k + 1) / count)) for k in range(count)}
    try:
        trainer.train(data, run.model, checkpoints, log=lambda row, line: log(f"{run.name}: {line}"))
    except TrainingDiverged as error:
        run.record_divergence(str(error), trainer.stage.name, trainer.step_count)
