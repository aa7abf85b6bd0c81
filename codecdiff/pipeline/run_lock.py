"""What the weights of a model follow from, kept in its folder as `run.lock`, so that they can be trained again.

A lock names no place of the machine it was made on: configuration without absolute paths, data, code and weights by
their hashes. It is sealed JSON, and untrusted input like the rest of a model folder.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save
from torch import Tensor

import codecdiff
from codecdiff import config
from codecdiff.config.schema import ExperimentConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.sealed import read_sealed, write_sealed
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import check_schema, lock_path, read_safetensors
from codecdiff.fingerprint import hash_values
from codecdiff.pipeline.checkpoint import CODEC_WEIGHTS, config_differences
from codecdiff.pipeline.code_version import code_versions
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage_folder import STAGE_FILE, load_weights
from codecdiff.pipeline.untrusted import leads_outside

RUN_LOCK = "run.lock"
FORMAT = 1
PACKAGES = ("torch", "numpy", "diffusers", "transformers", "accelerate", "safetensors", "soundfile", "soxr")
ROW_KEYS = ("track", "checksum", "offset", "frames", "captions", "metadata", "split")  # of a store, beside its codes
INERT = {"output", "prompts", "seconds", "stage", "report_to", "allow_changes", "mixed_precision"}  # of no weight
Hashes = dict[str, str]


class RunRecord(BaseModel):
    """One run of the recipe, and the stages that it trained.

    configuration: all settings, with the last name of every absolute path; those of stages as they were set.
    places: the settings that were absolute paths.
    data: hashes of the codes of the store, and of each column of its rows.
    code: versions of the parts, and hashes of the sources of codecdiff and the recipe.
    environment: versions, processor, device, threads, processes and precision.
    """

    model_config = ConfigDict(extra="forbid")

    stages: list[str]
    commands: list[str]
    seeds: dict[str, int]
    configuration: dict[str, Any]
    places: list[str]
    data: dict[str, Any]
    code: Hashes
    environment: dict[str, Any]


class RunLock(BaseModel):
    """The contents of a run.lock.

    resumed: what was different when a stage was resumed; its weights follow from both.
    weights: hashes of the averaged weights of every stage that is trained to its end, and of the state of the codec.
    """

    model_config = ConfigDict(extra="ignore")  # its own seal

    format: int = FORMAT
    runs: list[RunRecord] = []
    resumed: list[str] = []
    weights: dict[str, Hashes] = {}


def read_run_lock(file: Path) -> RunLock:
    """Read a run.lock. Raises MissingFile, DamagedFile or BadDocument."""
    if not file.is_file():
        raise MissingFile(f"'{file}' is missing: only models that the recipe of this version trained have one.")
    spec = read_sealed(file)
    lock = check_schema(spec, str(file), RunLock)
    if missing := RunLock.model_fields.keys() - spec.keys():
        raise InvalidValue(f"'{file}' is not a {RUN_LOCK}: it lacks {', '.join(sorted(missing))}.")
    if lock.format != FORMAT:
        raise InvalidValue(f"'{file}' has format {lock.format}; this codecdiff reads format {FORMAT}.")
    return lock


@contextmanager
def record_training(
    experiment: ExperimentConfig, pipeline: Pipeline, store: CodeStore, trainer: Any, model: Path, recipe: Path
) -> Iterator[None]:
    """Record the training of a stage, which the block does, and its weights, in the run.lock of a model folder.

    trainer: the prepared `StageTrainer` of the stage, whose facts have a `command`.
    recipe: the script that trains.
    """
    accelerator, stage, step = trainer.accelerator, trainer.stage, trainer.step_count
    if not accelerator.is_main_process:
        yield
        return
    if step < trainer.config.max_train_steps:
        parts = pipeline.codec, pipeline.splitter, pipeline.conditioner, stage.denoiser
        configuration, places = portable_configuration(experiment, pipeline)
        environment = {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}
        environment |= {"sharded": True} if trainer.sharding else {}  # records of before lack it
        record = RunRecord(
            stages=[stage.name],
            commands=[stage.facts["command"]],
            seeds={name: stage.facts[name] for name in ("seed", "split_seed")},
            configuration=configuration,
            places=places,
            data=data_hashes(store),
            code=code_versions(*parts) | source_hashes() | {"recipe": hash_values(recipe.read_text("utf-8"))},
            environment=describe_environment() | environment,
        )
        record_run(model, record, step)
    yield
    with _changed(model) as lock:
        if any(stage.name in run.stages for run in lock.runs):
            lock.weights = dict(sorted((lock.weights | hash_weights(model, ["codec", stage.name])).items()))


def portable_configuration(experiment: ExperimentConfig, pipeline: Pipeline) -> tuple[dict[str, Any], list[str]]:
    """Return all settings, and the names of those that lead to places of this machine: they keep the last name.

    Options of parts have their defaults. Settings of single stages are what was set: the rest is that of all stages.
    """
    settings, places = experiment.model_dump(mode="json"), list[str]()
    settings["stages"] = experiment.model_dump(mode="json", exclude_unset=True).get("stages", {})
    codec, conditioner = pipeline.codec, pipeline.conditioner
    settings["codec"] = config.to_config("codecs", codec.arguments.get("codec", codec))  # not its normalization
    settings["conditioner"] = config.to_config("conditioners", conditioner) if conditioner else None

    def portable(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {key: portable(each, f"{name}.{key}" if name else key) for key, each in value.items()}
        if isinstance(value, list):
            return [portable(each, f"{name}.{i}") for i, each in enumerate(value)]
        if not isinstance(value, str) or name.startswith("prompts.") or not leads_outside(value):
            return value
        places.append(name)
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1].strip(".~")

    return portable(settings, ""), [name for name in places if name.partition(".")[0] not in INERT]


def data_hashes(store: CodeStore) -> dict[str, Any]:
    """Return what a store holds: hashes of its codes, of its codec's weights and of each column of its rows."""
    hashes: dict[str, Any] = {"tracks": store.header["tracks"], "codec": store.header["weights"]}
    for key in (*ROW_KEYS, "crc32", "continuous_crc32"):
        hashes[key] = hash_values(*(repr(row.get(key)) for row in store.rows))
    return hashes


@cache  # of the first run: later edits of the files do not change what this process runs
def source_hashes() -> Hashes:
    """Return the hash of every module of the core, by its path."""
    root = Path(codecdiff.__file__).parent
    files = {f"{root.name}/{file.relative_to(root).as_posix()}": file for file in sorted(root.rglob("*.py"))}
    return {name: hash_values(file.read_text("utf-8")) for name, file in files.items()}


def describe_environment() -> dict[str, Any]:
    """Return what the results of the same code may depend on: versions, processor, GPU, threads and precision."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    flags = {name: True for name, value in capabilities.items() if value is True}
    return {
        "python": platform.python_version(),
        "platform": " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip(),
        "cpu": capabilities.get("cpu_name"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": flags,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        **versions,
    }


def differences(then: RunRecord, now: RunRecord) -> list[str]:
    """Return what differs in two records of what weights follow from."""

    def relevant(record: RunRecord) -> dict[str, Any]:
        settings = {key: value for key, value in record.configuration.items() if key not in INERT}
        return settings | {"data": {k: v for k, v in settings["data"].items() if k not in ("audio", "store")}}

    pairs = {"": (relevant(then), relevant(now))}
    pairs |= {key: (getattr(then, key), getattr(now, key)) for key in ("data", "code", "environment")}
    return [line.lstrip(".") for name, pair in pairs.items() for line in config_differences(*pair, name)]


def record_run(model: Path, record: RunRecord, step: int) -> None:
    """Add the record of a stage that is trained from a step on to the run.lock of its folder."""
    (name,) = record.stages
    with _changed(model) as lock:
        before = next((run for run in lock.runs if name in run.stages), None)
        changes = differences(before, record) if before else ["trained before that without a record"]
        if step:
            lock.resumed += [f"{name} at step {step}: {line}" for line in changes]
        if before and changes:
            before.stages.remove(name)
            lock.runs = [run for run in lock.runs if run.stages]
        twin = next((run for run in lock.runs if not differences(run, record)), None)
        if twin is None:
            lock.runs.append(record)
        else:
            twin.stages += [] if name in twin.stages else [name]
            twin.commands += [command for command in record.commands if command not in twin.commands]


def hash_weights(model: Path, names: Iterable[str]) -> dict[str, Hashes]:
    """Return the hashes of the tensors of stages of a model folder, and of its `codec`; without those it has not."""
    weights: dict[str, Hashes] = {}
    for name in names:
        if name == "codec" and (model / CODEC_WEIGHTS).is_file():
            weights[name] = _hashes(read_safetensors(model / CODEC_WEIGHTS)[0])
        elif (model / name / STAGE_FILE).is_file():
            weights[name] = _hashes(load_weights(model / name)[1])
    return weights


def copy_run_lock(source: Path, model: Path) -> None:
    """Copy the run.lock of a model folder to another, which has none, if its weights are those that it records."""
    if (source / RUN_LOCK).is_file() and not (model / RUN_LOCK).exists():
        lock = read_run_lock(source / RUN_LOCK)
        if hash_weights(model, lock.weights) == lock.weights:
            write_sealed(model / RUN_LOCK, lock.model_dump())


def _hashes(tensors: Mapping[str, Tensor]) -> Hashes:
    return {name: hashlib.sha256(save({name: tensor})).hexdigest()[:32] for name, tensor in sorted(tensors.items())}


@contextmanager
def _changed(model: Path) -> Iterator[RunLock]:
    """Yield the run.lock of a model folder, which is written again if it is changed; other processes wait."""
    file = model / RUN_LOCK
    with lock_path(file, timeout=-1):
        lock = read_run_lock(file) if file.is_file() else RunLock()
        before = lock.model_copy(deep=True)
        yield lock
        if lock != before:
            write_sealed(file, lock.model_dump())
