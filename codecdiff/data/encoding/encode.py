"""Encoding tracks into a store, so that it can be killed at any moment and resumed.

The work is planned before it begins: a task is a sequence of tracks, and makes one shard. Until the store is complete
it is a draft beside it:

.store.part/  plan.json            what is encoded, how and by which codec, and the tasks
              codec.safetensors    state of the codec, if it is fitted
              shards/00003.1f0c9a7e.npy  codes of an attempt at task 3, with `.continuous.npy` beside it if requested
              tasks/00003.parquet  the rows of task 3, and which shard they refer to

A task is done once its file of rows exists, which is written last and as a whole. A task that is done twice, by another
attempt or a machine that was believed dead, leaves the rows and the shard of one attempt: every segment is in the store
once. An engine decides where tasks run: in this process (`run_in_process`), in processes of this machine (`local`) or
elsewhere: others are entries of `codecdiff.engines`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codecdiff.config.schema import Target
from codecdiff.data.audio import BadAudio
from codecdiff.data.code_store import FORMAT, SEALED, CodeStore
from codecdiff.data.encoding.job import (
    EncodeConfig,
    EncodingProgress,
    Engine,
    Job,
    begin_job,
    draft_of,
    none_readable,
    read_plan,
)
from codecdiff.data.encoding.shards import SUFFIXES
from codecdiff.data.encoding.worker import read_result, run_in_process
from codecdiff.data.metadata import Issue, Track, find_tracks
from codecdiff.data.sealed import seal, write_sealed
from codecdiff.data.shards import ROWS, SHARD_FILES
from codecdiff.errors import FileExists, InvalidValue, MissingFile
from codecdiff.files import checksum, clear_leftovers, lock_folder, lock_path, sha256, sync, write_parquet
from codecdiff.interfaces.codec import Codec


def encode_tracks(
    tracks: Sequence[Track],
    folder: Path | str,
    codec: Codec,
    spec: Mapping[str, Any],
    config: EncodeConfig = EncodeConfig(),  # noqa: B008 - it is immutable
    *,
    engine: Engine = run_in_process,
    progress: Callable[[EncodingProgress], None] = lambda progress: None,
) -> tuple[CodeStore, list[str]]:
    """Encode tracks into a new store. A draft beside it holds what is done, and the same call resumes from it.

    Args:
        tracks: The tracks.
        folder: The store, which does not exist until it is complete.
        codec: The codec, which is fitted first if it needs that.
        spec: The codec's configuration, recorded in the header.
        config: How tracks are encoded.
        engine: Where tasks run.
        progress: Called whenever a track is done.

    Returns:
        The store, and a sentence for every file that was skipped.

    Raises:
        BadAudio: None of the files could be read.
        ValueError: A draft was begun with other tracks, codec or options.
        EncodingIncomplete: Some tasks failed.
        FolderLocked: Another process encodes into the same store.

    """
    folder = Path(folder)
    _require_new(folder)
    with lock_folder(draft_of(folder)):
        try:
            _require_new(folder)  # another process may have finished it meanwhile
        except FileExists:
            with suppress(OSError):
                draft_of(folder).rmdir()
            raise
        clear_leftovers(draft_of(folder))
        is_new = not (draft_of(folder) / "plan.json").is_file()
        job, tasks = begin_job(tracks, folder, codec, spec, config)
        done = {task.index for task in tasks if job.rows_file(task.index).is_file()}
        state = EncodingProgress(tasks, done, progress)
        try:
            for result in engine([task for task in tasks if task.index not in done], job, codec, state.update):
                state.skipped += len(result.skipped)
                state.update(result.index, len(tasks[result.index].tracks))
            skipped = publish_store(job, len(tasks), folder)
        except BaseException as error:  # Ctrl-C too: a draft without any use for the next run is deleted
            if isinstance(error, BadAudio) or _is_useless(job, folder, is_new):
                shutil.rmtree(job.draft, ignore_errors=True)
            raise
    tidy_store(folder)
    return CodeStore(folder), list(skipped.values())


def _require_new(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        kind = "is a store already" if (folder / "header.json").is_file() else "is not a store of codes"
        raise FileExists(f"'{folder}' exists and {kind}. Choose another folder for the store.")


def _is_useless(job: Job, folder: Path, is_new: bool) -> bool:
    """Return whether a draft has nothing that is not in the store already, which another job may have made.

    If nothing is done, only the job that began the draft may say so: another may be working in it.
    """
    return (folder / "header.json").is_file() or (is_new and not any(job.draft.glob("tasks/[0-9]*")))


def publish_store(job: Job, num_tasks: int, folder: Path) -> dict[str, str]:
    """Turn a draft whose tasks are all done into the store. Return why tracks were skipped, by name.

    It may be interrupted and called again. Raises BadAudio if no segment was encoded.
    """
    tables: list[pa.Table] = []
    skipped: dict[str, str] = {}
    issues: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    files: set[str] = set()
    for index in range(num_tasks):
        table, result = read_result(job, index)
        skipped, dropped = {**skipped, **result.skipped}, dropped + Counter(result.dropped)
        issues |= {track: issue for track, issue in result.issues.items() if track not in skipped}
        if table.num_rows:
            files |= _rename_shard(job, result.shard, f"{len(tables):05d}")
            shard = pa.array(np.full(table.num_rows, len(tables), np.int32))
            tables.append(table.set_column(ROWS.get_field_index("shard"), ROWS.field("shard"), shard))
    if not tables:
        raise none_readable(list(skipped.values()))
    rows = pa.concat_tables(tables).replace_schema_metadata(None)
    for file in job.draft.glob("shards/*"):  # of attempts that were killed or finished too late
        if file.name not in files:
            file.unlink()
    write_parquet(job.draft / "manifest.parquet", rows)
    write_parquet(job.draft / "shards.parquet", _shard_files([job.draft / "shards" / name for name in sorted(files)]))
    counts = {
        "tracks": len(rows["track"].unique()),
        "segments": rows.num_rows,
        "dropped": dict(dropped),
        "shards": len(tables),
        "skipped": list(skipped),
        "issues": _with_duplicates(issues, rows),
    }
    _write_header(job, counts)
    sync(job.draft / "shards")
    job.draft.rename(folder)
    sync(folder.parent)
    return skipped


def tidy_store(folder: Path) -> None:
    """Delete what a store has kept of its draft, and the draft's lock, if a process was killed here."""
    draft = draft_of(folder)
    if (folder / "plan.json").exists() or draft.with_name(f".{draft.name}.lock").exists():
        with lock_path(draft, timeout=-1):
            shutil.rmtree(folder / "tasks", ignore_errors=True)
            (folder / "plan.json").unlink(missing_ok=True)


def _shard_files(files: Sequence[Path]) -> pa.Table:
    """Return names, bytes and SHA-256 of files, as shards.parquet."""
    facts = [(file.name, file.stat().st_size, sha256(file)) for file in files]
    return pa.table([*zip(*facts, strict=True)], schema=SHARD_FILES)


def _with_duplicates(issues: dict[str, str], rows: pa.Table) -> dict[str, str]:
    """Return the issues of tracks, with one for every track whose file has the content of another's."""
    first: dict[str, str] = {}
    for track, content in dict(zip(rows["track"].to_pylist(), rows["checksum"].to_pylist(), strict=True)).items():
        if (other := first.setdefault(content, track)) != track:
            issues[track] = f"{issues.get(track, '')} Its file has the same content as '{other}'.".strip()
    return issues


def _rename_shard(job: Job, stem: str, name: str) -> set[str]:
    """Rename the files of a shard to their final names, unless that is done, and return these names."""
    names = set()
    for suffix in SUFFIXES[: 2 if job.config.target == "continuous" else 1]:
        file = job.draft / "shards" / f"{stem}{suffix}"
        names.add(f"{name}{suffix}")
        if file.is_file():
            file.replace(file.with_name(f"{name}{suffix}"))
    return names


def _write_header(job: Job, counts: dict[str, Any]) -> None:
    plan = read_plan(job.draft)
    header = {
        "format": FORMAT,
        "codec": dict(job.spec),
        "weights": job.weights,
        "num_codebooks": plan["num_codebooks"],
        "frame_rate": plan["frame_rate"],
        "segmentation": job.config.segments.model_dump(),
        "continuous": job.config.target == "continuous",
        "request": job.config.request,
        **counts,
    }
    hashes = {name: sha256(job.draft / name) for name in SEALED if (job.draft / name).is_file()}
    write_sealed(job.draft / "header.json", header, seal(job.draft, hashes))


def open_store(
    folder: Path | str,
    audio: Path | str | None,
    codec: Codec,
    spec: dict[str, Any],
    *,
    target: Target = "codes",
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> CodeStore:
    """Open the store at `folder`, or make it from a folder of audio.

    Args:
        folder: The store.
        audio: Folder of the tracks. An existing store must have been made from them; it is used alone if the folder
            does not exist, as on another machine.
        codec: The codec. If it is not fitted, it loads the state in the store, or is fitted to the tracks.
        spec: The codec's configuration.
        target: What the store must hold.
        seed: Seed for fitting the codec.
        report: Called with a sentence for every issue and every file that is skipped, and every hundred encoded.

    Raises:
        ValueError: The store was made by another codec or from other files.

    """
    issues: list[Issue] = []
    if exists := (Path(folder) / "header.json").is_file():
        tidy_store(Path(folder))  # a command that trained may have been killed as it had just made it
    if audio and exists and not Path(audio).exists():
        report(f"'{audio}' does not exist: '{folder}' is used without comparing it with its music.")
        audio = None
    tracks = find_tracks(audio, issues.append) if audio else []
    if not exists:
        if not tracks:
            raise MissingFile(f"The store '{folder}' does not exist, and data.audio is not set to make it from.")
        for issue in issues:
            report(str(issue))
        try:
            _make_store(tracks, folder, codec, spec, EncodeConfig(target=target, seed=seed), report)
        except OSError:
            if not (Path(folder) / "header.json").is_file():  # else another job made it meanwhile
                raise
    store = CodeStore(folder)
    if not codec.is_fitted:
        codec.load_fitted_state(store.fitted_state())
    store.check_codec(codec, spec, target)
    if tracks:
        _check_tracks(store, tracks, report)
    store.audio = Path(audio) if audio else None
    return store


def _make_store(
    tracks: Sequence[Track],
    folder: Path | str,
    codec: Codec,
    spec: dict[str, Any],
    config: EncodeConfig,
    report: Callable[[str], None],
) -> None:
    def progress(state: EncodingProgress) -> None:
        if state.tracks % 100 == 0:
            report(f"{state.tracks} of {len(tracks)} tracks encoded")

    report(f"Tracks to encode into {folder}: {len(tracks)}")
    store, skipped = encode_tracks(tracks, folder, codec, spec, config, progress=progress)
    for line in skipped:
        report(f"Skipped: {line}")
    for track, issue in store.header["issues"].items():
        report(f"'{track}': {issue}")
    if uncaptioned := sum(not row["captions"] for row in store.rows):
        report(f"Tracks without a caption, trained on without text: {uncaptioned} of {len(store)}")
    if skipped:
        report(f"Skipped {len(skipped)} of {len(tracks)} files; {len(store)} are in the store.")


def _check_tracks(store: CodeStore, tracks: Sequence[Track], report: Callable[[str], None]) -> None:
    """Raise ValueError unless the store was made from these tracks."""
    stored = {row["track"]: (row["bytes"], row["captions"]) for row in store.rows}
    requested = {track.name: (track.file.stat().st_size, list(track.captions)) for track in tracks}
    names = {*stored, *requested} - set(store.header["skipped"])
    differ = sorted(name for name in names if stored.get(name) != requested.get(name))
    if differ := differ or changed_tracks(store, tracks, report):
        raise InvalidValue(
            f"'{store.folder}' was made from other files or captions: {differ[0]} and {len(differ) - 1} more differ. "
            "Choose another output=FOLDER or data.store=FOLDER, or delete it to encode again."
        )


def changed_tracks(store: CodeStore, tracks: Sequence[Track], report: Callable[[str], None]) -> list[str]:
    """Return the names of tracks whose files have other contents than when they were encoded.

    Only files that were written, copied or renamed since the first shard was are read; `report` says how many.
    """
    contents = {row["track"]: row["checksum"] for row in store.rows}
    first = min(file.stat().st_mtime_ns for file in (store.folder / "shards").iterdir())
    times = ((track, track.file.stat()) for track in tracks if contents.get(track.name))
    newer = [track for track, status in times if max(status.st_mtime_ns, status.st_ctime_ns) >= first]
    if newer:
        report(f"Files that are newer than '{store.folder}' and compared with what was encoded: {len(newer)}")
    return sorted(track.name for track in newer if checksum(track.file) != contents[track.name])
