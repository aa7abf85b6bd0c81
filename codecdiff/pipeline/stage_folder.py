"""The folder of a stage: what is published of it, and its training, one folder per checkpoint, whole or absent.

STAGE/  stage.json              denoiser, training scheduler, sampling options, facts of its training
        model.safetensors       the averaged weights
        log.jsonl               the log of its training
        training/step-N/        a generation, kept for resuming; the newest two are
          stage.json            the stage after N steps, and the hashes of the other files; written last
          model.safetensors     the averaged weights, published as those of the stage by a link
          state.safetensors     raw weights and optimizer
          log.jsonl             all rows of the log so far

A stage is read while training saves others, and after a save was killed: `published` says which files belong together.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from codecdiff.data.legacy import upgrade_log_row, upgrade_stage
from codecdiff.data.sealed import FILES, SEAL, read_sealed, seal, sealed_text, verify_file, write_sealed
from codecdiff.errors import InvalidValue
from codecdiff.files import (
    DamagedFile,
    atomic_folder,
    atomic_write,
    atomic_write_text,
    check_schema,
    clear_leftovers,
    delete_folder,
    link_or_copy,
    lock_folder,
    read_safetensors,
    save_tensors,
    sha256,
)
from codecdiff.pipeline.untrusted import StageFile, require_short

STAGE_FILE, WEIGHTS_FILE, STATE_FILE, LOG = "stage.json", "model.safetensors", "state.safetensors", "log.jsonl"
STATE = "training"  # folder of what resuming needs
Rows = list[dict[str, Any]]

T = TypeVar("T")


def read_stage_config(folder: Path, digests: dict[str, str] | None = None) -> dict[str, Any]:
    """Read the stage.json of a stage's folder. Raises ValueError if it is not valid."""
    file = folder / STAGE_FILE
    spec = upgrade_stage(read_sealed(file, digests, f"{folder.name}/{STAGE_FILE}"))
    checked = check_schema(spec, str(file), StageFile).model_dump(exclude_unset=True)
    require_short(file, checked)
    return checked


def write_stage_config(home: Path, spec: Mapping[str, Any], hashes: Mapping[str, str] | None = None) -> None:
    """Write the stage.json of a stage's folder, which names the files of the stage by their SHA-256."""
    write_sealed(home / STAGE_FILE, spec, seal(home, hashes or {WEIGHTS_FILE: sha256(home / WEIGHTS_FILE)}))


def load_tensors(file: Path, files: Mapping[str, Any], source: Path) -> tuple[dict[str, Tensor], str]:
    """Load a safetensors file, and return its SHA-256 too, which is that in `files`, of `source`, if it is there.

    Raises DamagedFile if it is missing or not what was written.
    """
    status = file.stat() if file.is_file() else None
    digest, tensors = verify_file(file, files, source), read_safetensors(file)[0]
    if status is None or not os.path.samestat(status, file.stat()) or status.st_mtime_ns != file.stat().st_mtime_ns:
        raise DamagedFile(f"'{file}' was replaced while it was read. Try again.")
    return tensors, digest


def is_trained(home: Path) -> bool:
    """Return whether a stage's folder holds one: anything of it, so that a missing file is noticed."""
    return (home / STAGE_FILE).exists() or (home / WEIGHTS_FILE).exists() or bool(generations(home))


def load_weights(home: Path, digests: dict[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a stage's stage.json and the weights it names, even while training saves others.

    Raises DamagedFile if they are not what was written.
    """

    def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
        hashes = dict[str, str]()
        spec = read_stage_config(folder, hashes)
        tensors, digest = load_tensors(folder / WEIGHTS_FILE, spec.get(FILES, {}), folder / STAGE_FILE)
        return spec, tensors, {STAGE_FILE: hashes[f"{folder.name}/{STAGE_FILE}"], WEIGHTS_FILE: digest}

    before = _status(home / STAGE_FILE)
    folder, (spec, tensors, hashes) = _read_published(home, WEIGHTS_FILE, read)
    is_of_checkpoint = folder == home and STATE_FILE in spec.get(FILES, {})
    if is_of_checkpoint or (folder != home and before == _status(home / STAGE_FILE)):
        what = "that of a checkpoint" if is_of_checkpoint else "of an earlier step" if before else "missing"
        warnings.warn(f"'{home / STAGE_FILE}' is {what}: the stage of '{folder}' is read.", stacklevel=2)
    if digests is not None:
        digests |= {f"{home.name}/{name}": digest for name, digest in hashes.items()}
    return spec, tensors


def _read_published(home: Path, name: str, read: Callable[[Path], T]) -> tuple[Path, T]:
    """Read a file of a stage from its `published` folder, again where a save replaced it; return the folder too."""
    while True:
        before, folder = _status(home / STAGE_FILE), home
        try:
            folder = published(home, name)
            return folder, read(folder)
        except (InvalidValue, FileNotFoundError):
            if before == _status(home / STAGE_FILE) and published(home, name) == folder:
                raise


def _status(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced; nothing if it is missing."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def published(home: Path, name: str) -> Path:
    """Return the folder to read a file of a stage from: the stage's, or that of its newest generation.

    The latter where a save has replaced the file and not yet stage.json, or was killed then; before the first save
    has written stage.json, too.
    """

    def entry(folder: Path) -> Any:
        with suppress(InvalidValue, FileNotFoundError):
            return read_stage_config(folder).get(FILES, {}).get(name, {}).get(SEAL)

    newest, *older = generations(home) or [home]
    if not (home / STAGE_FILE).exists():
        return newest
    is_file, own = (home / name).is_file(), entry(home)
    is_behind = is_file and own and own != entry(newest) and own in [entry(path) for path in older]
    return newest if is_behind and sha256(home / name) == entry(newest) else home


def generations(home: Path) -> list[Path]:
    """Return the folders of the steps of a stage's training that are kept, newest first."""
    paths = [path for path in (home / STATE).glob("step-*") if path.name[5:].isdecimal()]
    return sorted(paths, key=lambda path: int(path.name[5:]), reverse=True)


@contextmanager
def lock_stage(model: Path, name: str, *, is_main_process: bool = True) -> Iterator[None]:
    """Hold a stage of a model folder against other runs, and delete what killed ones left in it.

    Raises FolderLocked, which says who trains it. Without effect on other processes than the main one of a run.
    """
    if not is_main_process:
        yield
        return
    with lock_folder(model / name):
        clear_leftovers(model / name)
        yield


def write_generation(
    home: Path, spec: Mapping[str, Any], weights: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: Rows
) -> Path:
    """Write what a stage is after some steps of training, publish it, and delete all but the newest two generations.

    `spec` is its stage.json, `weights` are the averaged ones, `state` is what else resuming needs.
    """
    path = home / STATE / f"step-{spec['training']['steps']:06d}"
    log = "".join(json.dumps(row) + "\n" for row in rows)
    with atomic_folder(path) as folder:
        hashes = {
            WEIGHTS_FILE: save_tensors(folder / WEIGHTS_FILE, weights),
            STATE_FILE: save_tensors(folder / STATE_FILE, state),
            LOG: hashlib.sha256(log.encode()).hexdigest(),
        }
        (folder / LOG).write_bytes(log.encode())
        (folder / STAGE_FILE).write_bytes(sealed_text(spec, seal(folder, hashes)).encode())
    publish(home, path, spec)
    return path


def publish(home: Path, generation: Path, spec: Mapping[str, Any]) -> None:
    """Make weights and log of a generation those of the stage, and delete all but it and the newest before it."""
    files = {name: entry for name, entry in read_stage_config(generation)[FILES].items() if name != STATE_FILE}
    with atomic_write(home / WEIGHTS_FILE) as temporary:
        link_or_copy(generation / WEIGHTS_FILE, temporary)
    atomic_write_text(home / LOG, (generation / LOG).read_text(encoding="utf-8"))
    write_sealed(home / STAGE_FILE, spec, files)  # last: until then `published` finds the generation
    paths = generations(home)
    index = paths.index(generation)
    for path in [*paths[:index], *paths[index + 2 :]]:  # those before it in this list are damaged
        delete_folder(path)
    (home / STATE / STATE_FILE).unlink(missing_ok=True)  # of version 0.1


def find_state(home: Path, report: Callable[[str], None] = lambda line: None) -> Path | None:
    """Return the newest state of a stage's training that is intact: a generation, or the folder of version 0.1's.

    None if there is nothing yet. What is passed over is reported. Raises DamagedFile if none is intact, and
    InvalidValue for a trained stage without a state: both would be overwritten.
    """
    problems: list[str] = []
    for path in generations(home):
        try:
            verify_generation(path)
        except InvalidValue as error:
            problems.append(str(error))
            continue
        for line in problems:
            report(f"Skipped a damaged checkpoint. {line}")
        return path
    if (home / STATE / STATE_FILE).is_file():
        return home / STATE
    if problems:
        raise DamagedFile(
            f"{home} cannot be resumed: no state of its training is intact. {' '.join(problems)} To start over, "
            "delete that folder or choose another output."
        )
    if (home / STAGE_FILE).exists():
        raise InvalidValue(
            f"{home} holds a trained stage without {STATE}/, which resuming needs. Choose another output folder, "
            f"and start there from its weights by stages.{home.name}.start_from={home}; or delete it."
        )
    return None


def verify_generation(path: Path) -> None:
    """Raise InvalidValue, naming the file, unless all files of a generation are what was written."""
    if not (path / STAGE_FILE).is_file():
        raise DamagedFile(f"'{path / STAGE_FILE}' is missing.")
    files = read_stage_config(path).get(FILES, {})
    for name in (WEIGHTS_FILE, STATE_FILE, LOG):
        if name not in files:
            raise DamagedFile(f"'{path / STAGE_FILE}' is damaged: it does not name {name}.")
        verify_file(path / name, files, path / STAGE_FILE)


def read_state(path: Path) -> tuple[int, dict[str, Tensor], Rows]:
    """Return the steps of what `find_state` found, its tensors by `raw.`, `averaged.` and `optimizer.`, and its log."""
    tensors, metadata = read_safetensors(path / STATE_FILE)
    if path.name == STATE:  # of version 0.1: the log is beside it, and may be ahead of it, or torn
        step = int(metadata["step"])
        rows = _rows((path.parent / LOG).read_text(encoding="utf-8")) if (path.parent / LOG).is_file() else []
        return step, tensors, [row for row in rows if row["step"] <= step]
    tensors |= {f"averaged.{name}": tensor for name, tensor in read_safetensors(path / WEIGHTS_FILE)[0].items()}
    rows = _rows((path / LOG).read_text(encoding="utf-8"))
    return read_stage_config(path)["training"]["steps"], tensors, rows


def _rows(text: str) -> Rows:
    """Parse the lines of a log, except for a last one that is torn."""
    lines = text.splitlines() if text.endswith(("\n", "}")) else text.splitlines()[:-1]
    return [upgrade_log_row(json.loads(line)) for line in lines]


def read_logs(model: Path, stages: Sequence[str]) -> dict[str, Rows]:
    """Return the training log of every stage of a model folder, one mapping per line; stages without one are left out.

    While training saves others, each is that of one step. Keys of version 0.1 are renamed. Raises DamagedFile.
    """
    logs = {stage: _read_published(model / stage, LOG, _read_log)[1] for stage in stages}
    return {stage: rows for stage, rows in logs.items() if rows is not None}


def _read_log(source: Path) -> Rows | None:
    """Return the log in a folder, None if there is none. Raises DamagedFile if it is not the one of stage.json."""
    files = read_stage_config(source).get(FILES, {}) if (source / STAGE_FILE).is_file() else {}
    if not (source / LOG).is_file():
        if LOG in files:
            raise DamagedFile(f"'{source / LOG}' is missing. Train again to restore it.")
        return None
    text = (source / LOG).read_text(encoding="utf-8", errors="replace")
    try:
        rows = _rows(text)
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedFile(f"'{source / LOG}' is damaged: a line is not JSON. Train again to restore it.") from error
    if LOG in files and hashlib.sha256(text.encode()).hexdigest() != files[LOG][SEAL]:
        raise DamagedFile(
            f"'{source / LOG}' is damaged: it is not what '{source / STAGE_FILE}' names. Train again to restore it."
        )
    return rows
