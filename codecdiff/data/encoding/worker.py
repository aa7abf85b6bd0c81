"""A worker: encodes the tracks of one task into one shard."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from codecdiff.codecs.chunking import chunked
from codecdiff.config.schema import Target
from codecdiff.data.audio import BadAudio
from codecdiff.data.encoding.job import Job, ReportTracks, Task, TaskResult
from codecdiff.data.encoding.shards import Shard
from codecdiff.data.manifest import split_name
from codecdiff.data.metadata import Track
from codecdiff.data.segments import Segment, SegmentConfig, read_segments
from codecdiff.data.shards import CHECKSUMS, ROWS, block_checksums
from codecdiff.files import checksum, parse_json, read_parquet, sync, write_parquet
from codecdiff.fingerprint import device_of
from codecdiff.interfaces.codec import Codec

__all__ = ["run_in_process", "run_task"]

GPU_BATCH_SIZE = 16  # segments of one length; a CPU gains nothing by batches
GPU_READERS = 4  # threads that read in advance
METADATA_KEY = b"codecdiff"  # of the result in a parquet file's metadata

Item = TypeVar("Item")


def run_in_process(tasks: Sequence[Task], job: Job, codec: Codec, report: ReportTracks) -> Iterator[TaskResult]:
    """Run tasks one after another in this process, with the codec that it has: the simplest engine."""
    for task in tasks:
        yield run_task(task, job, codec, report)


@dataclass
class TrackReader:
    """Reads a track in batches of segments. All but `track` are complete once all batches are read."""

    track: Track
    dropped: Counter[str] = field(default_factory=Counter)
    issues: list[str] = field(default_factory=list)  # of audio that is encoded all the same
    checksum: str = ""

    def batches(self, codec: Codec, config: SegmentConfig, batch_size: int) -> Iterator[list[Segment]]:
        """Yield the track's segments, at most `batch_size` of one length together. Raises BadAudio."""
        batch: list[Segment] = []
        for segment in read_segments(self.track.file, codec, config, self.dropped, self.issues.append):
            if batch and (len(batch) == batch_size or segment.audio.shape != batch[0].audio.shape):
                yield batch
                batch = []
            batch.append(segment)
        if batch:
            yield batch
        try:
            self.checksum = checksum(self.track.file)
        except OSError as error:
            raise BadAudio(f"'{self.track.file}' cannot be read: {error.strerror}.") from error

    def columns(self) -> dict[str, Any]:
        """Return the columns that the rows of all segments of the track have in common."""
        metadata = self.track.metadata
        return {
            "track": self.track.name,
            "captions": list(self.track.captions),
            "metadata": json.dumps(dict(metadata), ensure_ascii=False),
            "license": str(metadata.get("licence") or metadata.get("license") or ""),
            "source": str(metadata.get("source") or ""),
            "split": split_name(str(metadata.get("split") or "")),
            "checksum": self.checksum,
            "bytes": self.track.file.stat().st_size,
        }


def batch_settings(codec: Codec) -> tuple[int, int]:
    """Return the batch size, and the number of threads that read in advance, for the device of a codec."""
    return (1, 0) if device_of(codec).type == "cpu" else (GPU_BATCH_SIZE, GPU_READERS)


@torch.no_grad()
def run_task(task: Task, job: Job, codec: Codec, report: ReportTracks = lambda task, tracks: None) -> TaskResult:
    """Encode the tracks of a task into a shard, unless that is done already. Tracks that cannot be read are skipped."""
    if job.rows_file(task.index).is_file():
        return read_result(job, task.index)[1]
    batch_size, threads = batch_settings(codec)
    readers = [TrackReader(track) for track in task.tracks]
    iterators = [reader.batches(codec, job.config.segments, batch_size) for reader in readers]
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    stem = f"{task.index:05d}.{uuid4().hex[:8]}"
    with Shard(job.draft / "shards" / stem) as shard:
        for count, (reader, batches) in enumerate(zip(readers, prefetch(iterators, threads), strict=True), 1):
            start = shard.frames
            try:
                track_rows = _encode_track(reader, batches, job.config.target, codec, shard)
            except BadAudio as error:
                shard.truncate(start)
                track_rows, skipped[reader.track.name] = [], str(error)
            if not track_rows and reader.track.name not in skipped:
                skipped[reader.track.name] = f"'{reader.track.file}' has no segment that is long and loud enough."
            rows += track_rows
            report(task.index, count)
    dropped = sum((reader.dropped for reader in readers), Counter[str]())
    issues = {reader.track.name: " ".join(reader.issues) for reader in readers if reader.issues}
    result = TaskResult(task.index, stem, skipped, dict(dropped), issues)
    write_result(job, result, rows)
    return result


def _encode_track(
    reader: TrackReader, batches: Iterable[list[Segment]], target: Target, codec: Codec, shard: Shard
) -> list[dict[str, Any]]:
    """Append the codes of a track to the shard, and return its rows, without the number of the shard.

    Raises BadAudio as `read_segments` does, and if the codec makes latents of it that are not finite.
    """
    rows: list[dict[str, Any]] = []
    for batch in batches:
        audio = torch.stack([segment.audio for segment in batch]).to(device_of(codec))
        seconds = audio.shape[-1] / codec.sample_rate
        for segment, arrays in zip(batch, _encode(audio, codec, target), strict=True):
            row = {"segment": segment.index, "offset": segment.offset, "seconds": seconds}
            if not all(np.isfinite(array).all() for array in arrays):
                raise BadAudio(f"'{reader.track.file}' has latents that are NaN or infinite, {segment.offset:g} s in.")
            row |= dict(zip(CHECKSUMS, map(block_checksums, arrays), strict=False))
            rows.append({**row, "start": shard.frames, "frames": len(arrays[0])})
            shard.append(*arrays)
    return [{**reader.columns(), **row} for row in rows]


def _encode(audio: Tensor, codec: Codec, target: Target) -> Iterator[tuple[np.ndarray, ...]]:
    """Encode audio (b, ch, t) to codes (frames, k) of each row, with latents (frames, k, d) if they are the target."""
    codec = chunked(codec)
    if target == "codes":
        codes, latents = codec.encode(audio), None
    else:
        codes, latents = codec.encode_with_continuous(audio)
    arrays = codes.mT.cpu().numpy().astype(np.uint16)
    if latents is None:
        return iter((row,) for row in arrays)
    return zip(arrays, latents.permute(0, 3, 1, 2).cpu().half().numpy(), strict=True)


def prefetch(iterators: Iterable[Iterator[Item]], threads: int) -> Iterator[Iterator[Item]]:
    """Yield the iterators in order, while threads compute the next item of as many of them; none if `threads` is 0.

    Each has to be exhausted, or have failed, before the next is requested. At most `threads` + 1 items wait at a time.
    """
    if not threads:
        yield from iterators
        return
    end: Any = object()

    def items(iterator: Iterator[Item], item: Future[Item]) -> Iterator[Item]:
        while (value := item.result()) is not end:
            item = pool.submit(next, iterator, end)
            yield value

    remaining, waiting = iter(iterators), deque[tuple[Iterator[Item], Future[Item]]]()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(waiting) < threads and (iterator := next(remaining, None)) is not None:
                waiting.append((iterator, pool.submit(next, iterator, end)))
            if not waiting:
                return
            yield items(*waiting.popleft())


def write_result(job: Job, result: TaskResult, rows: list[dict[str, Any]]) -> None:
    """Write the rows of a task with its result: from then on, the task is done."""
    metadata = {METADATA_KEY: json.dumps(asdict(result)).encode()}
    sync(job.draft / "shards")
    write_parquet(job.rows_file(result.index), pa.Table.from_pylist(rows, ROWS).replace_schema_metadata(metadata))


def read_result(job: Job, index: int) -> tuple[pa.Table, TaskResult]:
    """Read the rows and the result of a task."""
    file = job.rows_file(index)
    table = read_parquet(file, ROWS)
    return table, parse_json((table.schema.metadata or {}).get(METADATA_KEY, b""), str(file), TaskResult)
