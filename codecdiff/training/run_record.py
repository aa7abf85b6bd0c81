"""What the weights of a stage follow from, recorded as it is trained: settings, data, code and environment."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import codecdiff
from codecdiff import config
from codecdiff.config.schema import ExperimentConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.fingerprint import hash_values
from codecdiff.pipeline.code_version import code_versions
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.run_lock import (
    INERT,
    Hashes,
    RunRecord,
    changed_run_lock,
    data_hashes,
    differences,
    hash_weights,
)
from codecdiff.pipeline.untrusted import leads_outside

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "accelerate", "safetensors", "soundfile", "soxr")


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
    with changed_run_lock(model) as lock:
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


def record_run(model: Path, record: RunRecord, step: int) -> None:
    """Add the record of a stage that is trained from a step on to the run.lock of its folder."""
    (name,) = record.stages
    with changed_run_lock(model) as lock:
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
