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

import hashlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from codecdiff import config
from codecdiff.codecs import in_pieces
from codecdiff.data.audio import BadAudio, read_audio, seconds_of
from codecdiff.data.manifest import split_name
from codecdiff.data.metadata import Track, find_tracks
from codecdiff.data.segments import Segment, Segmentation, segments
from codecdiff.data.store import FORMAT, SCHEMA, CodeStore, Target, fingerprint, load_state
from codecdiff.files import checksum, replace_text, replaced
from codecdiff.interfaces import Codec, device_of

SHARD_FRAMES = 2**20  # about 3.4 hours of 86 frames/s, 19 MB with 9 codebooks
SHARD_MINUTES = 60.0  # of audio; what is lost at most when a worker dies
BATCH = 16  # segments of one length that a GPU encodes at once; a CPU gains nothing by it
READERS = 4  # threads that read ahead of a GPU
KEY = b"codecdiff"  # of a parquet file's own metadata
KEEP_WHOLE = Segmentation()

Item = TypeVar("Item")
Tell = Callable[[int, int], None]  # is called with the number of a task and how many of its tracks are done


class Unfinished(OSError):
    """Some tasks could not be done; what is done is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Task:
    """One shard to make: a run of tracks, and how many seconds of audio will be encoded of them, as far as known."""

    number: int
    tracks: tuple[Track, ...]
    seconds: float


@dataclass(frozen=True)
class Job:
    """What a worker has to know to do any task of a draft, on whatever machine sees the draft's folder."""

    draft: Path
    spec: Mapping[str, Any]  # of the codec
    weights: str  # fingerprint of the codec
    target: Target
    rules: Segmentation

    def codec(self, device: torch.device | str) -> Codec:
        """Build the codec. Raises ValueError if its weights are not those that the draft was begun with."""
        codec = config.build("codecs", self.spec)
        if not codec.is_fitted:
            codec.load_fitted_state(load_state(self.draft / "codec.safetensors"))
        _check_weights(codec, self.weights, self.draft)
        return codec.to(device)

    def rows_file(self, number: int) -> Path:
        """Give the file whose being there means that a task is done."""
        return self.draft / "tasks" / f"{number:05d}.parquet"


@dataclass(frozen=True)
class Done:
    """What became of a task: the stem of its shard's files, why tracks were skipped, how many pieces were dropped."""

    number: int
    shard: str
    skipped: Mapping[str, str]
    dropped: Mapping[str, int]


Engine = Callable[[Sequence[Task], Job, Codec, Tell], Iterator[Done]]


def here(tasks: Sequence[Task], job: Job, codec: Codec, tell: Tell) -> Iterator[Done]:
    """Do tasks one after another in this process, with the codec that is here."""
    for task in tasks:
        yield run_task(task, job, codec, tell)


# planning


def draft_of(folder: Path) -> Path:
    """Give the folder in which a store is made, until it is whole."""
    return folder.with_name(f".{folder.name}.part")


def plan(tracks: Sequence[Track], codec: Codec, rules: Segmentation, minutes: float) -> list[Task]:
    """Divide tracks into tasks of at most so many minutes of audio and SHARD_FRAMES latent frames, or one track."""
    most = min(60 * minutes, SHARD_FRAMES / codec.frame_rate)
    runs: list[list[Track]] = []
    lengths: list[float] = []  # seconds
    for track in tracks:
        length = rules.share * (seconds_of(track.file) if track.seconds is None else track.seconds)
        if not runs or lengths[-1] + length > most:
            runs.append([])
            lengths.append(0.0)
        runs[-1].append(track)
        lengths[-1] += length
    return [Task(i, tuple(run), length) for i, (run, length) in enumerate(zip(runs, lengths, strict=True))]


def begin(
    tracks: Sequence[Track],
    folder: Path,
    codec: Codec,
    spec: Mapping[str, Any],
    *,
    target: Target,
    rules: Segmentation,
    minutes: float,
    seed: int,
) -> tuple[Job, list[Task]]:
    """Begin the draft of a store, or take up one that was begun; fit the codec, if it needs that, or give it its state.

    Raises ValueError if the draft was begun with anything else.
    """
    draft = draft_of(folder)
    asked = {"tracks": _identity(tracks), "codec": spec, "target": target, "rules": rules.model_dump()}
    asked = json.loads(json.dumps({**asked, "minutes": minutes}))
    if not (draft / "plan.json").is_file():
        if not codec.is_fitted:
            codec.fit(clips(tracks, codec), seed=seed)
        _write_plan(draft, asked, codec, plan(tracks, codec, rules, minutes))
    begun = json.loads((draft / "plan.json").read_text(encoding="utf-8"))
    began = begun["asked"]
    began["codec"], asked["codec"] = config.alike("codecs", began["codec"], asked["codec"])
    if differ := [key for key in asked if began[key] != asked[key]]:
        raise ValueError(
            f"'{draft}' is a store that was begun with other {' and '.join(differ)}. "
            "Run the command it was begun with, to go on, or delete it, to begin anew."
        )
    if not codec.is_fitted:
        codec.load_fitted_state(load_state(draft / "codec.safetensors"))
    _check_weights(codec, begun["weights"], draft)
    rest = iter(tracks)
    tasks = [
        Task(number, tuple(next(rest) for _ in range(count)), seconds)
        for number, (count, seconds) in enumerate(begun["tasks"])
    ]
    return Job(draft.absolute(), dict(spec), begun["weights"], target, rules), tasks


def _write_plan(draft: Path, asked: dict[str, Any], codec: Codec, tasks: Sequence[Task]) -> None:
    for name in ("shards", "tasks"):
        (draft / name).mkdir(parents=True, exist_ok=True)
    if state := codec.fitted_state():
        with replaced(draft / "codec.safetensors") as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, temporary)
    made = {
        "num_codebooks": codec.num_codebooks,
        "frame_rate": codec.frame_rate,
        "tasks": [(len(task.tracks), task.seconds) for task in tasks],
    }
    replace_text(draft / "plan.json", json.dumps({"asked": asked, "weights": fingerprint(codec), **made}))


def _check_weights(codec: Codec, weights: str, draft: Path) -> None:
    if (found := fingerprint(codec)) != weights:
        raise ValueError(
            f"'{draft}' was begun by a codec whose weights are {weights}, not {found}. "
            "Use the same weights wherever it is worked on, or delete it, to begin anew."
        )


def _identity(tracks: Iterable[Track]) -> str:
    """Give a hash of which tracks these are: names, files, captions and metadata, in order."""
    digest = hashlib.sha256()
    for track in tracks:
        told = [track.name, str(track.file.absolute()), list(track.captions), dict(track.metadata)]
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


# one task


class Shard:
    """The arrays of a shard, `STEM.npy` and `STEM.projections.npy`, that grow on disk: none is ever whole in memory."""

    ENDINGS = (".npy", ".projections.npy")

    def __init__(self, stem: Path):
        self.stem, self.frames = stem, 0
        self._files: list[BinaryIO] = []
        self._kinds: list[tuple[np.dtype, tuple[int, ...]]] = []  # of a frame of each array
        self._begin = 0  # bytes before the first frame

    def append(self, *arrays: np.ndarray) -> None:
        """Add frames: codes (frames, k), and projections (frames, k, d) if the shard has them."""
        if not self._files:
            self._kinds = [(array.dtype, array.shape[1:]) for array in arrays]
            paths = [self.stem.with_name(self.stem.name + ending) for ending in self.ENDINGS[: len(arrays)]]
            self._files = [path.open("w+b") for path in paths]
            self._write_headers()
        for file, array in zip(self._files, arrays, strict=True):
            file.write(np.ascontiguousarray(array).data)
        self.frames += len(arrays[0])

    def rewind(self, frames: int) -> None:
        """Forget all but the first so many frames."""
        for file, (dtype, shape) in zip(self._files, self._kinds, strict=True):
            file.seek(-(self.frames - frames) * int(np.prod(shape)) * dtype.itemsize, os.SEEK_END)
            file.truncate()
        self.frames = frames

    def _write_headers(self) -> None:
        """Say how many frames there are. NumPy leaves room in a header for that to be written over."""
        for file, (dtype, shape) in zip(self._files, self._kinds, strict=True):
            file.seek(0)
            described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, {**described, "shape": (self.frames, *shape)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_headers()
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
            file.close()


@dataclass
class Source:
    """A track that is being read: what is known of it once its batches have been taken."""

    track: Track
    dropped: Counter[str] = field(default_factory=Counter)
    checksum: str = ""

    def batches(self, codec: Codec, rules: Segmentation, most: int) -> Iterator[list[Segment]]:
        """Yield the track's segments, at most so many of one length together. Raises BadAudio."""
        held: list[Segment] = []
        for segment in segments(self.track.file, codec, rules, self.dropped):
            if held and (len(held) == most or segment.audio.shape != held[0].audio.shape):
                yield held
                held = []
            held.append(segment)
        if held:
            yield held
        try:
            self.checksum = checksum(self.track.file)
        except OSError as error:
            raise BadAudio(f"'{self.track.file}' cannot be read: {error.strerror}.") from error

    def facts(self) -> dict[str, Any]:
        """Give what the rows of all of the track's segments say."""
        metadata = self.track.metadata
        return {
            "track": self.track.name,
            "captions": list(self.track.captions),
            "metadata": json.dumps(dict(metadata), ensure_ascii=False),
            "licence": str(metadata.get("licence") or metadata.get("license") or ""),
            "source": str(metadata.get("source") or ""),
            "split": split_name(str(metadata.get("split") or "")),
            "checksum": self.checksum,
            "bytes": self.track.file.stat().st_size,
        }


def pace(codec: Codec) -> tuple[int, int]:
    """Give how many segments to encode at once, and how many threads read ahead, for the device that a codec is on."""
    return (1, 0) if device_of(codec).type == "cpu" else (BATCH, READERS)


@torch.no_grad()
def run_task(task: Task, job: Job, codec: Codec, tell: Tell = lambda number, tracks: None) -> Done:
    """Encode the tracks of a task into a shard, unless that was done before; what cannot be read is skipped by name."""
    if job.rows_file(task.number).is_file():
        return _read_rows(job, task.number)[1]
    batch, readers = pace(codec)
    sources = [Source(track) for track in task.tracks]
    reading = [source.batches(codec, job.rules, batch) for source in sources]
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    stem = f"{task.number:05d}.{uuid4().hex[:8]}"
    with Shard(job.draft / "shards" / stem) as shard:
        for count, (source, batches) in enumerate(zip(sources, ahead(reading, readers), strict=True)):
            start = shard.frames
            try:
                made = _encode_track(source, batches, job, codec, shard)
            except BadAudio as error:
                shard.rewind(start)
                made, skipped[source.track.name] = [], str(error)
            if not made and source.track.name not in skipped:
                skipped[source.track.name] = f"'{source.track.file}' has no piece that is long and loud enough."
            rows += made
            tell(task.number, count + 1)
    dropped = sum((source.dropped for source in sources), Counter[str]())
    done = Done(task.number, stem, skipped, dict(dropped))
    _write_rows(job, done, rows)
    return done


def _encode_track(
    source: Source, batches: Iterable[list[Segment]], job: Job, codec: Codec, shard: Shard
) -> list[dict[str, Any]]:
    """Append the codes of a track to the shard, and give its rows; which shard that is follows once all are done."""
    places: list[dict[str, Any]] = []
    for batch in batches:
        audio = torch.stack([segment.audio for segment in batch]).to(device_of(codec))
        seconds = audio.shape[-1] / codec.sample_rate
        for segment, arrays in zip(batch, _encoded(audio, codec, job.target), strict=True):
            begin, frames = {"segment": segment.number, "offset": segment.offset}, len(arrays[0])
            places.append({**begin, "seconds": seconds, "start": shard.frames, "frames": frames})
            shard.append(*arrays)
    return [{**source.facts(), **place} for place in places]


def _encoded(audio: Tensor, codec: Codec, target: Target) -> Iterator[tuple[np.ndarray, ...]]:
    """(b, ch, t) audio -> of each row codes (frames, k), and projections (frames, k, d) if they are the target."""
    pieces = in_pieces(codec)
    codes, projections = pieces.encode_and_project(audio) if target == "projections" else (pieces.encode(audio), None)
    entries = codes.mT.cpu().numpy().astype(np.uint16)
    if projections is None:
        return iter((row,) for row in entries)
    return zip(entries, projections.permute(0, 3, 1, 2).cpu().numpy().astype(np.float16), strict=True)


def ahead(iterators: Iterable[Iterator[Item]], threads: int) -> Iterator[Iterator[Item]]:
    """Give the iterators, in order, while threads take the next item of as many of them; none if `threads` is 0.

    Each has to be used up, or to have failed, before the next is asked for. At most `threads` + 1 items wait at a time.
    """
    if not threads:
        yield from iterators
        return
    end: Any = object()

    def used(iterator: Iterator[Item], item: Future[Item]) -> Iterator[Item]:
        while (value := item.result()) is not end:
            item = pool.submit(next, iterator, end)
            yield value

    rest, begun = iter(iterators), deque[tuple[Iterator[Item], Future[Item]]]()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(begun) < threads and (iterator := next(rest, None)) is not None:
                begun.append((iterator, pool.submit(next, iterator, end)))
            if not begun:
                return
            yield used(*begun.popleft())


def _write_rows(job: Job, done: Done, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({KEY: json.dumps(asdict(done)).encode()})
    file = job.rows_file(done.number)
    temporary = file.with_name(f".{done.shard}.parquet")  # no other try has this name
    with temporary.open("wb") as stream:
        pq.write_table(table, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def _read_rows(job: Job, number: int) -> tuple[pa.Table, Done]:
    table = pq.read_table(job.rows_file(number))
    return table, Done(**json.loads((table.schema.metadata or {})[KEY]))


# all tasks


class Tally:
    """How far the encoding of a draft is: hours done of all, how many times faster than real time, time left."""

    def __init__(self, tasks: Sequence[Task], done: Collection[int]):
        self.total = sum(task.seconds for task in tasks)  # seconds of audio
        self.before = sum(task.seconds for task in tasks if task.number in done)  # in earlier runs
        self.seconds, self.tracks, self.skipped = 0.0, 0, 0  # of this run
        self._each = {task.number: task.seconds / len(task.tracks) for task in tasks}  # seconds of a track, on average
        self._made: Counter[int] = Counter()  # task -> tracks done
        self._began = time.monotonic()

    def update(self, number: int, tracks: int) -> None:
        """Take note that so many tracks of a task are done."""
        more, self._made[number] = tracks - self._made[number], tracks
        self.tracks += more
        self.seconds += more * self._each[number]

    @property
    def speed(self) -> float:
        """Seconds of audio per second of this run."""
        return self.seconds / max(1e-9, time.monotonic() - self._began)

    def __str__(self) -> str:
        left = (self.total - self.before - self.seconds) / self.speed if self.speed else 0.0
        speed = f"{self.speed:.0f}" if self.speed >= 10 else f"{self.speed:.1f}"
        told = f"{(self.before + self.seconds) / 3600:.2f} of {self.total / 3600:.2f} h, {speed} x real time"
        return f"{told}, {_duration(left)} left" + f", {self.skipped} skipped" * bool(self.skipped)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


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
        "projections": job.target == "projections",
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
    for ending in Shard.ENDINGS[: 2 if job.target == "projections" else 1]:
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


def clips(tracks: Sequence[Track], codec: Codec, *, seconds: float = 12.0, most: int = 200) -> Iterator[Tensor]:
    """Yield (ch, t) clips for fitting a codec: at most `most`, spread over the tracks and within each of them.

    Raises BadAudio, naming the files, if none of them can be read.
    """
    chosen = tracks[:: max(1, len(tracks) // most)][:most]
    each, samples = most // len(chosen), round(seconds * codec.sample_rate)
    faults: list[str] = []
    for track in chosen:
        try:
            audio = read_audio(track.file, codec.sample_rate, codec.channels)
        except BadAudio as error:
            faults.append(str(error))
            continue
        count = min(each, max(1, audio.shape[-1] // samples))
        slack = max(0, audio.shape[-1] - samples)
        for i in range(count):
            start = round(slack * (i + 0.5) / count)
            yield audio[:, start : start + samples]
    if len(faults) == len(chosen):
        raise _none_readable(faults)


def _none_readable(faults: Sequence[str]) -> BadAudio:
    return BadAudio("None of the audio files could be read:\n" + "\n".join(faults))


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
