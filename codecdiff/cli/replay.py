"""`codecdiff replay`: train a model again from its run.lock, and compare the weights bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import err, out
from codecdiff.cli.generate import AllowLocalParts
from codecdiff.errors import InvalidValue, MissingFile

if TYPE_CHECKING:
    from codecdiff.data.code_store import CodeStore
    from codecdiff.pipeline.run_lock import Hashes, RunLock, RunRecord

SHOWN = 10  # names of tensors that differ
MAX_THREADS = 1024


def replay(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN.LOCK", help="Folder of a model, or its run.lock.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, as in data.store=STORE.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Music to encode again, if the store is gone.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to keep the new run in.")
    ] = None,
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Train a model again from its run.lock, and compare the weights.

    If weights differ, it lists them and what else has changed: data, code or machine. The exit status is 1 then.
    """
    from codecdiff.files import require_writable
    from codecdiff.pipeline.run_lock import RUN_LOCK, read_run_lock

    home = model / "model" if (model / "model" / RUN_LOCK).is_file() else model  # the folder of a model, or of its run
    file = home / RUN_LOCK if home.is_dir() else home
    lock = read_run_lock(file)
    expected = expected_weights(file, lock)
    with nullcontext(output) if output else TemporaryDirectory() as folder:
        folder = Path(folder)
        if (folder / "model").resolve() == file.parent.resolve():
            raise InvalidValue(f"'{folder}' holds the model that is replayed. Choose another folder with -o.")
        require_writable(folder)
        changes = [*(overrides or []), *([f"data.audio={audio}", "data.store=null"] if audio else [])]
        for record in lock.runs:
            train_again(record, file, folder, changes, allow_local_parts=allow_local_parts)
        again = read_run_lock(folder / "model" / RUN_LOCK)
    lines = compare_weights(expected, again.weights)
    lines += causes(lock, again) if lines[1:] else []
    out.print("\n".join(lines), soft_wrap=True, markup=False)
    raise typer.Exit(int(len(lines) > 1))


def expected_weights(file: Path, lock: RunLock) -> dict[str, Hashes]:
    """Return the hashes of the weights of the model beside a run.lock, or those in it.

    Raises InvalidValue for a stage that is not trained to its end, or whose weights are not those of the lock.
    """
    from codecdiff.pipeline.run_lock import hash_weights

    names = [name for record in lock.runs for name in record.stages]
    if missing := [name for name in names if name not in lock.weights]:
        raise InvalidValue(f"'{file}' has no weights of {' and '.join(missing)}: train to the end first.")
    present = hash_weights(file.parent, lock.weights)
    if other := [name for name in present if present[name] != lock.weights[name]]:
        raise InvalidValue(
            f"The weights of {' and '.join(other)} in '{file.parent}' are not those that {file.name} records: they "
            "were changed after the training, so no training would yield them."
        )
    return lock.weights


def train_again(
    record: RunRecord, file: Path, folder: Path, overrides: Sequence[str], *, allow_local_parts: bool
) -> None:
    """Train the stages of one run into a folder. Raises UserError if its music or parts are missing, or others."""
    from accelerate.state import AcceleratorState

    from codecdiff.recipes import discodiff  # pyright: ignore[reportMissingImports]  # ../../recipes, as installed

    experiment = replayed_experiment(record, file, folder, overrides, allow_local_parts=allow_local_parts)
    with _threads(record.environment.get("threads")):
        pipeline = discodiff.training.new_pipeline(experiment)
        store = discodiff.training.open_data(experiment, pipeline, experiment.store, experiment.model, err.print)
        require_same_music(record, store, file)
        AcceleratorState._reset_state(reset_partial_state=True)  # the run before may have had another precision
        selected = [i for i, name in enumerate(pipeline.stage_names) if name in record.stages]
        discodiff.train_stages(experiment, discodiff.new_accelerator(experiment), pipeline, selected)


@contextmanager
def _threads(count: Any) -> Iterator[None]:
    """Compute with so many threads, on which the last bits of sums depend."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count if isinstance(count, int) and 0 < count <= MAX_THREADS else before)
        yield
    finally:
        torch.set_num_threads(before)


def replayed_experiment(
    record: RunRecord, file: Path, folder: Path, overrides: Sequence[str], *, allow_local_parts: bool
) -> Any:
    """Return the settings of a run with another output folder, music that is here, and changes.

    Raises MissingFile for places that are not said, and ConfigError for settings that are not valid, or name places.
    """
    from codecdiff import config
    from codecdiff.recipes import discodiff  # pyright: ignore[reportMissingImports]  # ../../recipes, as installed

    experiment = config.validate_config(discodiff.Experiment, record.configuration, file)
    if not allow_local_parts:
        require_confined(experiment, file)
    precision = record.environment.get("mixed_precision")
    changes: Any = {"output": str(folder), "report_to": [], "mixed_precision": precision}
    changes["data"] = record.configuration.get("data", {}) | music_of(record, experiment, file, overrides)
    return config.validate_config(discodiff.Experiment, record.configuration | changes, file, overrides)


def require_confined(experiment: Any, file: Path) -> None:
    """Raise ConfigError if the settings of a run.lock name places of this machine: its author chose them."""
    from codecdiff.config import merge_spec
    from codecdiff.pipeline.untrusted import confine, leads_outside

    denoisers = [merge_spec(experiment.denoiser, stage.denoiser) for stage in experiment.stages.values()]
    parts = [(f"{kind}s", getattr(experiment, kind)) for kind in ("codec", "splitter", "conditioner", "denoiser")]
    for kind, spec in (*parts, *(("denoisers", spec) for spec in denoisers)):
        if spec:
            confine(kind, spec, file)
    sources = [stage.start_from for stage in experiment.stages.values()]
    for place in (experiment.data.audio, experiment.data.store, *sources):
        if place and leads_outside(str(place)):
            raise InvalidValue(f"'{file}' names a place of this machine, '{place}'. Allow that by --allow-local-parts.")


def music_of(record: RunRecord, experiment: Any, file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return `audio` and `store` of a run: the store beside its model, or what it named by a relative path.

    Nothing, if the overrides name one. Raises MissingFile if nothing is there, or another place is not said.
    """
    keys = {assignment.partition("=")[0] for assignment in overrides}
    places = {name for name in record.places if not any(f"{name}.".startswith(f"{key}.") for key in keys)}
    if unsaid := sorted(places - {"data.audio", "data.store"}):
        raise MissingFile(
            f"'{file}' does not record where {' and '.join(unsaid)} was. Say where it is here: "
            f"{' '.join(f'{name}=PATH' for name in unsaid)}."
        )
    if keys & {"data.audio", "data.store"}:
        return {"audio": None, "store": None}
    audio, store = (None if f"data.{key}" in places else getattr(experiment.data, key) for key in ("audio", "store"))
    for folder in (file.parent.parent / "store", store):
        if folder and (folder / "header.json").is_file():
            return {"audio": None, "store": str(folder)}
    if audio and audio.exists():
        return {"audio": str(audio), "store": None}
    raise MissingFile(
        f"The music of '{file}' is missing, {record.data.get('tracks')} tracks: no store is beside the model. Name it: "
        "--audio FOLDER, or data.store=STORE."
    )


def require_same_music(record: RunRecord, store: CodeStore, file: Path) -> None:
    """Raise InvalidValue, naming what differs, unless a store has the tracks, captions and splits of a run."""
    from codecdiff.pipeline.run_lock import ROW_KEYS, data_hashes

    hashes = data_hashes(store)
    if other := [key for key in ("tracks", *ROW_KEYS) if hashes[key] != record.data.get(key)]:
        raise InvalidValue(
            f"'{store.folder}' is other music than '{file}' records. Different are: {', '.join(other)}; it has "
            f"{hashes['tracks']} tracks, not {record.data.get('tracks')}. Name that music: --audio FOLDER, or "
            "data.store=STORE."
        )


def compare_weights(expected: Mapping[str, Hashes], again: Mapping[str, Hashes]) -> list[str]:
    """Return a sentence that says that all weights are equal, or one that counts those that differ, and their names."""
    pairs = [(stage, name) for stage in expected for name in {**expected[stage], **again.get(stage, {})}]
    names = [f"{s}.{name}" for s, name in pairs if expected[s].get(name) != again.get(s, {}).get(name)]
    of = f"{len(pairs)} tensors of {', '.join(expected)}"
    if not names:
        return [f"All {of} are bit-equal."]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} of {of} differ.", f"Different: {', '.join(names[:SHOWN])}{more}."]


def causes(lock: RunLock, again: RunLock) -> list[str]:
    """Return what differs between the runs of two locks, in sentences."""
    from codecdiff.pipeline.run_lock import differences

    pairs = [(then, now) for then in lock.runs for now in again.runs if any(name in now.stages for name in then.stages)]
    lines = list(dict.fromkeys(line for then, now in pairs for line in differences(then, now)))
    lines = [*(f"Not as it was: {line}." for line in lines), *(f"It was resumed: {line}." for line in lock.resumed)]
    return lines or ["Nothing that is recorded differs: configuration, data, code and environment are as they were."]
