"""What the weights of a model follow from, kept in its folder as `run.lock`, so that they can be trained again.

A lock names no place of the machine it was made on: configuration without absolute paths, data, code and weights by
their hashes. It is sealed JSON, and untrusted input like the rest of a model folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors.torch import save
from torch import Tensor

from codecdiff.data.code_store import CodeStore
from codecdiff.data.sealed import read_sealed, write_sealed
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import check_schema, lock_path, read_safetensors
from codecdiff.fingerprint import hash_values
from codecdiff.pipeline.checkpoint import CODEC_WEIGHTS, config_differences
from codecdiff.pipeline.stage_folder import STAGE_FILE, load_weights

RUN_LOCK = "run.lock"
FORMAT = 1
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
        raise MissingFile(f"No {RUN_LOCK} at '{file}'. Name a folder that `codecdiff train` wrote, as in runs/mine.")
    spec = read_sealed(file)
    lock = check_schema(spec, str(file), RunLock)
    if missing := RunLock.model_fields.keys() - spec.keys():
        raise InvalidValue(f"'{file}' is not a {RUN_LOCK}: it lacks {', '.join(sorted(missing))}.")
    if lock.format != FORMAT:
        raise InvalidValue(f"'{file}' has format {lock.format}; this codecdiff reads {FORMAT}. Update codecdiff.")
    return lock


def data_hashes(store: CodeStore) -> dict[str, Any]:
    """Return what a store holds: hashes of its codes, of its codec's weights and of each column of its rows."""
    hashes: dict[str, Any] = {"tracks": store.header["tracks"], "codec": store.header["weights"]}
    for key in (*ROW_KEYS, "crc32", "continuous_crc32"):
        hashes[key] = hash_values(*(repr(row.get(key)) for row in store.rows))
    return hashes


def differences(then: RunRecord, now: RunRecord) -> list[str]:
    """Return what differs in two records of what weights follow from."""

    def relevant(record: RunRecord) -> dict[str, Any]:
        settings = {key: value for key, value in record.configuration.items() if key not in INERT}
        return settings | {"data": {k: v for k, v in settings["data"].items() if k not in ("audio", "store")}}

    pairs = {"": (relevant(then), relevant(now))}
    pairs |= {key: (getattr(then, key), getattr(now, key)) for key in ("data", "code", "environment")}
    return [line.lstrip(".") for name, pair in pairs.items() for line in config_differences(*pair, name)]


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
def changed_run_lock(model: Path) -> Iterator[RunLock]:
    """Yield the run.lock of a model folder, which is written again if it is changed; other processes wait."""
    file = model / RUN_LOCK
    with lock_path(file, timeout=-1):
        lock = read_run_lock(file) if file.is_file() else RunLock()
        before = lock.model_copy(deep=True)
        yield lock
        if lock != before:
            write_sealed(file, lock.model_dump())
