"""Encoding recordings into a store, so that it can be killed at any moment and goes on where it was.

The work is planned before it begins: a task is a run of tracks, and makes one shard. Until the store is whole it is a
draft beside it,

.store.part/  plan.json            what is encoded, how and by which codec, and the tasks
              codec.safetensors    state of the codec, where it is fitted
              shards/00003.1f0c9a7e.npy  the codes of a try at task 3, `.projections.npy` beside it if asked for
              tasks/00003.parquet  the rows of task 3, and whose shard they are of

A task is done once its file of rows is there, which appears last and whole. A task that is done twice, by a retry or a
machine that was believed dead, leaves the rows and the shard of one of its tries: every segment is in the store once.
An engine decides where tasks run: in this process (here), in processes of this machine (`workers`) or on a cluster
(`clusters`).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codecdiff.config.schema import Target
from codecdiff.data.audio import BadAudio
from codecdiff.data.code_store import FORMAT, SCHEMA, CodeStore
from codecdiff.data.encoding.job import KEEP_WHOLE, SHARD_MINUTES, Engine, Job, _none_readable, begin, draft_of
from codecdiff.data.encoding.progress import Tally
from codecdiff.data.encoding.shards import Shard
from codecdiff.data.encoding.worker import _read_rows, here
from codecdiff.data.metadata import Track, find_tracks
from codecdiff.data.segments import Segmentation
from codecdiff.files import replace_text, replaced
from codecdiff.interfaces import Codec


def encode_tracks(
    tracks: Sequence[Track],
    folder: Path | str,
    codec: Codec,
    spec: Mapping[str, Any],
    *,
    target: Target = "codes",
    rules: Segmentation = KEEP_WHOLE,
    minutes: float = SHARD_MINUTES,
    seed: int = 0,
    engine: Engine = here,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> tuple[CodeStore, list[str]]:
    """Encode tracks into a new store, and give it with a sentence for every file that was skipped.

    `spec` is the codec's configuration, recorded in the header; a codec that needs it is fitted first. The target
    decides whether projections are kept beside the codes, `minutes` how much audio is at most in a shard, the engine
    where tasks are done. `progress` is called whenever a track is done. Nothing stands at `folder` until the store is
    whole; a draft beside it keeps what is done, and the same call goes on from there.

    Raises BadAudio if no file could be read, ValueError if a draft was begun with anything else, and Unfinished if some
    tasks were given up.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists and is no store of codes. Choose another folder for the store.")
    mine = not (draft_of(folder) / "plan.json").is_file()
    job, tasks = begin(tracks, folder, codec, spec, target=target, rules=rules, minutes=minutes, seed=seed)
    done = {task.number for task in tasks if job.rows_file(task.number).is_file()}
    tally = Tally(tasks, done)

    def tell(number: int, count: int) -> None:
        tally.update(number, count)
        progress(tally)

    try:
        for result in engine([task for task in tasks if task.number not in done], job, codec, tell):
            tally.skipped += len(result.skipped)
            tell(result.number, len(tasks[result.number].tracks))
        skipped = publish(job, len(tasks), folder)
    except BaseException as error:  # Ctrl-C too: what is of no use to the next run does not stay
        if isinstance(error, BadAudio) or _is_useless(job, folder, mine):
            shutil.rmtree(job.draft, ignore_errors=True)
        raise
    return CodeStore(folder), list(skipped.values())


def _is_useless(job: Job, folder: Path, mine: bool) -> bool:
    """Tell whether a draft holds nothing done that is not in the store already, by another job that made it too.

    Without anything done it is so for the job that began it alone: another may be at work in it.
    """
    return (folder / "header.json").is_file() or (mine and not any(job.draft.glob("tasks/[0-9]*")))


def publish(job: Job, count: int, folder: Path) -> dict[str, str]:
    """Make the store of a draft whose tasks are all done; give why tracks were skipped, by name.

    It may be interrupted and called again. Raises BadAudio if there is nothing to put into the store.
    """
    tables: list[pa.Table] = []
    skipped: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    names: set[str] = set()
    for number in range(count):
        table, done = _read_rows(job, number)
        skipped, dropped = {**skipped, **done.skipped}, dropped + Counter(done.dropped)
        if table.num_rows:
            names |= _name_shard(job, done.shard, f"{len(tables):05d}")
            shard = pa.array(np.full(table.num_rows, len(tables), np.int32))
            tables.append(table.set_column(SCHEMA.get_field_index("shard"), SCHEMA.field("shard"), shard))
    if not tables:
        raise _none_readable(list(skipped.values()))
    rows = pa.concat_tables(tables).replace_schema_metadata(None)
    with replaced(job.draft / "manifest.parquet") as temporary:
        pq.write_table(rows, temporary)
    begun = json.loads((job.draft / "plan.json").read_text(encoding="utf-8"))
    header = {
        "format": FORMAT,
        "codec": dict(job.spec),
        "weights": job.weights,
        "num_codebooks": begun["num_codebooks"],
        "frame_rate": begun["frame_rate"],
        "segmentation": job.rules.model_dump(),
        "tracks": len(rows["track"].unique()),
        "segments": rows.num_rows,
        "dropped": dict(dropped),
        "shards": len(tables),
        "projections": job.target == "continuous",
        "skipped": list(skipped),
    }
    replace_text(job.draft / "header.json", json.dumps(header, indent=2) + "\n")
    for file in job.draft.glob("shards/*"):  # of tries that were killed or came late
        if file.name not in names:
            file.unlink()
    job.draft.rename(folder)
    shutil.rmtree(folder / "tasks")
    (folder / "plan.json").unlink()
    return skipped


def _name_shard(job: Job, stem: str, name: str) -> set[str]:
    """Give the files of a shard their last name, unless they have it, and say which they are."""
    names = set()
    for ending in Shard.ENDINGS[: 2 if job.target == "continuous" else 1]:
        file = job.draft / "shards" / f"{stem}{ending}"
        names.add(f"{name}{ending}")
        if file.is_file():
            file.replace(file.with_name(f"{name}{ending}"))
    return names


def hours_to_encode(hours: float, speed: float, devices: int = 1, *, reading: float = 0.0, cores: int = 1) -> float:
    """Estimate how many hours it takes to encode so many hours of audio, on devices of one speed (x real time).

    Decoding and resampling at `reading` x real time per core goes on meanwhile, and whatever takes longer decides;
    at 0 it is not counted.
    """
    return max(hours / (speed * devices), hours / (reading * cores) if reading else 0.0)


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
    """Open the store at `folder`, or make it from the audio of a folder, fitting a codec that needs it first.

    `spec` is the codec's configuration; `report` is called with a sentence for every file that is skipped
    and every hundred that are encoded. Raises ValueError if the store was made by another codec or of other files.
    """
    tracks = find_tracks(audio) if audio else []
    if (Path(folder) / "header.json").is_file():
        store = CodeStore(folder)
        if not codec.is_fitted:
            codec.load_fitted_state(store.fitted_state())
        store.check(codec, spec, target)
        if tracks:
            store.check_tracks(tracks)
        store.audio = Path(audio) if audio else None
        return store
    if not tracks:
        raise FileNotFoundError(f"There is no store at '{folder}', and no data.audio to make one from.")

    def progress(tally: Tally) -> None:
        if tally.tracks % 100 == 0:
            report(f"{tally.tracks} of {len(tracks)} tracks encoded")

    try:
        store, skipped = encode_tracks(tracks, folder, codec, spec, target=target, seed=seed, progress=progress)
    except OSError:
        if not (Path(folder) / "header.json").is_file():
            raise
        return open_store(folder, audio, codec, spec, target=target)  # another job made it meanwhile
    store.audio = Path(audio) if audio else None
    for line in skipped:
        report(f"Skipped: {line}")
    if uncaptioned := sum(not row["captions"] for row in store.rows):
        report(f"{uncaptioned} of {len(store)} tracks have no caption: they are trained on without text.")
    if skipped:
        report(f"Skipped {len(skipped)} of {len(tracks)} files; {len(store)} are in the store.")
    return store
