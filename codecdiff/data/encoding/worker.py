"""A worker: encodes the tracks of one task into one shard."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from codecdiff.codecs import chunked
from codecdiff.config.schema import Target
from codecdiff.data.audio import BadAudio
from codecdiff.data.code_store import SCHEMA
from codecdiff.data.encoding.job import KEY, Done, Job, Task, Tell
from codecdiff.data.encoding.shards import Shard
from codecdiff.data.manifest import split_name
from codecdiff.data.metadata import Track
from codecdiff.data.segments import Segment, Segmentation, segments
from codecdiff.files import checksum
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec

BATCH = 16  # segments of one length that a GPU encodes at once; a CPU gains nothing by it
READERS = 4  # threads that read ahead of a GPU

Item = TypeVar("Item")


def here(tasks: Sequence[Task], job: Job, codec: Codec, tell: Tell) -> Iterator[Done]:
    """Do tasks one after another in this process, with the codec that is here."""
    for task in tasks:
        yield run_task(task, job, codec, tell)


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
    pieces = chunked(codec)
    codes, projections = (
        pieces.encode_with_continuous(audio) if target == "continuous" else (pieces.encode(audio), None)
    )
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
