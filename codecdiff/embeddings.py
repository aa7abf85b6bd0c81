"""Embeddings of audio files: streamed in bounded memory, and kept on disk so that nothing is heard twice.

embeddings/  header.json           the embedder, its options and a hash of its weights; how audio is read for it
             shards/00000.parquet  track, checksum, bytes, modified, seconds, windows, vectors: a row per track

Audio is mixed to one channel, the mean of all, and resampled by soxr in high quality to the embedder's rate. A folder
grows by whole shards, so a run that is killed loses what it heard since the last one; one process writes at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from codecdiff.data.audio import BadAudio, Track, stream_audio
from codecdiff.embedders import embed_blocks
from codecdiff.files import atomic_write, atomic_write_text, checksum, lock_folder
from codecdiff.fingerprint import module_fingerprint
from codecdiff.interfaces import Embedder

FORMAT = 1
RESAMPLER = "soxr HQ"
MONO = "mean of channels"
SHARD_TRACKS = 1000
SHARD_SECONDS = 30.0  # of work, after which a shard is written in any case
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("checksum", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),  # ns
        ("seconds", pa.float64()),
        ("windows", pa.int64()),
        ("vectors", pa.list_(pa.float32())),  # (windows, width), window by window
    ]
)
_KNOWN = [name for name in SCHEMA.names if name != "vectors"]


def described(embedder: Embedder, spec: dict[str, Any]) -> dict[str, Any]:
    """Say what vectors follow from beside the audio; `spec` is the embedder's configuration (`config.to_config`)."""
    return {
        "format": FORMAT,
        "embedder": json.loads(json.dumps(spec)),
        "weights": module_fingerprint(embedder),
        "sample_rate": embedder.sample_rate,
        "window_seconds": embedder.window_seconds,
        "hop_seconds": embedder.hop_seconds,
        "width": embedder.width,
        "resampler": RESAMPLER,
        "mono": MONO,
    }


class Embeddings:
    """The vectors of many tracks on disk. `rows` has what is known of each, by name; `vectors` yields them."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        file = self.folder / "header.json"
        if not file.is_file():
            raise FileNotFoundError(f"'{self.folder}' holds no embeddings. They are made by codecdiff data rank.")
        self.header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        self.rows: dict[str, dict[str, Any]] = {}
        for number, shard in enumerate(self._shards()):
            rows = pq.read_table(shard, columns=_KNOWN).to_pylist()
            self.rows |= {row["track"]: {**row, "shard": number} for row in rows}  # a file that changed is heard again

    def __len__(self) -> int:
        return len(self.rows)

    def _shards(self) -> list[Path]:
        return sorted((self.folder / "shards").glob("[0-9]*.parquet"))

    def vectors(self, tracks: Container[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the vectors (w, e) of every track, or of these, in the order they were embedded in."""
        for number, shard in enumerate(self._shards()):
            for batch in pq.ParquetFile(shard).iter_batches(batch_size=64, columns=["track", "windows", "vectors"]):
                for name, windows, numbers in zip(*batch.columns, strict=True):
                    track = name.as_py()
                    if self.rows[track]["shard"] == number and (tracks is None or track in tracks):
                        vectors = torch.from_numpy(numbers.values.to_numpy().copy())
                        yield track, vectors.view(windows.as_py(), -1)

    def holds(self, track: Track) -> bool:
        """Tell whether a track's file is the one that was embedded: of that size and date, or that checksum."""
        row = self.rows.get(track.name)
        if row is None or not track.file.is_file():
            return False
        stat = track.file.stat()
        same_date = stat.st_mtime_ns == row["modified"]
        return stat.st_size == row["bytes"] and (same_date or checksum(track.file) == row["checksum"])

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows of the schema as one more shard, whole or not at all."""
        shards = self._shards()
        number = int(shards[-1].stem) + 1 if shards else 0
        with atomic_write(self.folder / "shards" / f"{number:05d}.parquet") as temporary:
            pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), temporary, use_dictionary=False)
        known = [{name: row[name] for name in _KNOWN} for row in rows]
        self.rows |= {row["track"]: {**row, "shard": len(shards)} for row in known}


def open_embeddings(folder: Path | str, embedder: Embedder, spec: dict[str, Any]) -> Embeddings:
    """Open the embeddings at `folder`, or begin them, anew where there is none yet.

    Raises ValueError if another embedder made what is there, and FileExistsError if something else is there.
    """
    folder, header = Path(folder), described(embedder, spec)
    begun = (folder / "header.json").is_file()
    if folder.exists() and not begun and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists and holds no embeddings. Choose another folder for them.")
    if not begun or not Embeddings(folder).rows:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / "header.json", json.dumps(header, indent=2) + "\n")
    embeddings = Embeddings(folder)
    differ = [key for key in header if embeddings.header.get(key) != header[key]]
    if differ:
        key = differ[0]
        raise ValueError(
            f"'{folder}' was made otherwise: its {key} is {embeddings.header.get(key)}, not {header[key]}. "
            "Choose another folder, or delete it to embed again."
        )
    return embeddings


def embed_tracks(
    tracks: Sequence[Track],
    folder: Path | str,
    embedder: Embedder,
    spec: dict[str, Any],
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Embeddings, list[str]]:
    """Embed the tracks that are not yet in the folder, and give it with a sentence for every file that was skipped.

    `spec` is the embedder's configuration; `progress` is called with the number of tracks done. What was heard is
    kept when the run ends early: calling it again goes on. Raises ValueError if another embedder made the folder, and
    OSError while another process writes there.
    """
    with lock_folder(Path(folder)):
        embeddings = open_embeddings(folder, embedder, spec)
        return embeddings, _embed_rest(tracks, embeddings, embedder, progress)


def _embed_rest(
    tracks: Sequence[Track], embeddings: Embeddings, embedder: Embedder, progress: Callable[[int], None]
) -> list[str]:
    """Embed what is not yet there; give a sentence for every file that was skipped."""
    skipped: list[str] = []
    held: list[dict[str, Any]] = []
    saved = time.monotonic()
    try:
        for count, track in enumerate(tracks, 1):
            if not embeddings.holds(track):
                try:
                    held.append(_row(track, embedder))
                except BadAudio as error:
                    skipped.append(str(error))
            if held and (len(held) >= SHARD_TRACKS or time.monotonic() - saved >= SHARD_SECONDS):
                embeddings.append(held)
                held, saved = [], time.monotonic()
            progress(count)
    finally:
        if held:
            embeddings.append(held)
    return skipped


def _row(track: Track, embedder: Embedder) -> dict[str, Any]:
    """Embed a track: its row of the schema."""
    samples = 0

    def counted() -> Iterator[Tensor]:
        nonlocal samples
        for block in stream_audio(track.file, embedder.sample_rate, 1):
            samples += block.shape[-1]
            yield block[0]

    vectors = embed_blocks(counted(), embedder)
    stat = track.file.stat()
    return {
        "track": track.name,
        "checksum": checksum(track.file),
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
        "seconds": samples / embedder.sample_rate,
        "windows": len(vectors),
        "vectors": vectors.numpy().astype(np.float32).reshape(-1),
    }
