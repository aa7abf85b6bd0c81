"""Embeddings of audio files, and their cache on disk.

    cache = CachedEmbedder(embedder, spec, "runs/embeddings")
    skipped = cache.fill(tracks)                    # embeds what is missing; killed and called again, it resumes
    for track, embedding in cache.read(tracks):     # embedding.vectors: (w, e), w windows
        ...

runs/embeddings/logmel-1f0c.../ config.json          all that vectors follow from except the audio
                                shards/*.safetensors  the vectors of some files each, by the files' checksums
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from codecdiff import __version__
from codecdiff.data.audio import BadAudio, stream_audio
from codecdiff.data.metadata import Track
from codecdiff.embedders import embed_blocks, embed_clips
from codecdiff.files import (
    DamagedFile,
    atomic_write_text,
    cached_checksum,
    parse_json,
    read_safetensors,
    write_safetensors,
)
from codecdiff.fingerprint import module_fingerprint
from codecdiff.interfaces import Embedder

__all__ = ["CachedEmbedder", "TrackEmbedding", "embed_file"]

FORMAT = 1  # of the cache
GROUP_SIZE = 32  # tracks whose clips share batches
SHARD_TRACKS = 1000
SHARD_SECONDS = 30.0  # of work, after which a shard is written in any case


def embed_file(file: Path | str, embedder: Embedder) -> Tensor:
    """Embed an audio file of any length, rate and number of channels: (w, e) vectors. Raises BadAudio."""
    return embed_blocks((block[0] for block in stream_audio(file, embedder.sample_rate, 1)), embedder)


class Cutter(Protocol):
    """A way to cut tracks into clips before they are embedded. Its `repr` says all that clips follow from."""

    def clips(self, track: Track, sample_rate: int) -> Iterable[tuple[float, Tensor]]:
        """Yield the start in seconds and the mono audio (t,) of every clip of a track. Raises BadAudio."""
        ...


@dataclass(frozen=True)
class TrackEmbedding:
    """The vectors of one audio file.

    vectors: (w, e) of its windows, or of the windows of all its clips, in order.
    starts: of its clips, in seconds; a file that is embedded whole is one clip.
    lengths: windows of each clip.
    hashes: of the audio of each clip; of the file, where it is embedded whole.
    """

    vectors: Tensor
    starts: Sequence[float]
    lengths: Sequence[int]
    hashes: Sequence[str]


Rows = dict[str, tuple[Tensor, dict[str, Any]]]  # by checksum of a file: its vectors (w, e), and what is known of them


class FileFacts(BaseModel):
    """What a shard says of a file, beside the vectors."""

    track: str
    bytes: int
    modified: int
    starts: list[float]
    lengths: list[int]
    hashes: list[str]
    sha256: str = ""  # of the vectors


def _digest(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


class CachedEmbedder:
    """An embedder that keeps what it embeds on disk, by the checksums of the audio files.

    Files are mixed to mono, the mean of all channels, and resampled by soxr in high quality to the embedder's rate.
    Every embedder and way of cutting has a folder of its own, which grows by whole shards: a run that is killed loses
    at most the last half minute, and several processes may write at once.

    Args:
        embedder: Any embedder.
        spec: Its configuration (`config.to_config`).
        folder: Of all caches.
        cutter: How tracks are cut into clips; None embeds them whole, in bounded memory.

    """

    def __init__(self, embedder: Embedder, spec: Mapping[str, Any], folder: Path | str, cutter: Cutter | None = None):
        self.embedder, self.cutter = embedder, cutter
        self.config: dict[str, Any] = {
            "format": FORMAT,
            "codecdiff": __version__,
            "embedder": json.loads(json.dumps(dict(spec), default=str)),
            "weights": module_fingerprint(embedder) if embedder.state_dict() else "",
            "sample_rate": embedder.sample_rate,
            "window_seconds": embedder.window_seconds,
            "hop_seconds": embedder.hop_seconds,
            "width": embedder.width,
            "resampler": "soxr HQ",
            "mono": "mean of channels",
            "clips": repr(cutter) if cutter else "whole tracks",
        }
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        self.folder = Path(folder) / f"{re.sub(r'[^A-Za-z0-9-]', '-', spec['name'])}-{digest[:16]}"
        self._shards: set[Path] = set()
        self._places: dict[str, tuple[Path, FileFacts]] = {}  # checksum -> shard, and what is known of the file
        self._checksums: dict[tuple[str, int, int], str] = {}  # track, bytes and date -> checksum

    def fill(self, tracks: Sequence[Track], progress: Callable[[int], None] = lambda count: None) -> list[str]:
        """Embed the tracks that are not there yet, and return a sentence for every file that was skipped.

        `progress` is called with the number of tracks done. What was embedded is kept when the run ends early.
        """
        self._refresh()
        if self._shards:
            self._write_config()
        skipped: list[str] = []
        rows: Rows = {}
        written, size = time.monotonic(), GROUP_SIZE if self.cutter else 1
        try:
            for start in range(0, len(tracks), size):
                group = tracks[start : start + size]
                missing = {key: track for track in group if (key := self._key(track, skipped)) not in self._places}
                rows |= self._embed({key: t for key, t in missing.items() if key and key not in rows}, skipped)
                if rows and (len(rows) >= SHARD_TRACKS or time.monotonic() - written >= SHARD_SECONDS):
                    self._write(rows)
                    rows, written = {}, time.monotonic()
                progress(start + len(group))
        finally:
            if rows:
                self._write(rows)
        return skipped

    def read(self, tracks: Sequence[Track]) -> Iterator[tuple[Track, TrackEmbedding]]:
        """Yield the tracks that were embedded, in order, each with its embedding."""
        for track in tracks:
            if (key := self._key(track, [])) in self._places:
                path, facts = self._places[key]
                vectors = read_safetensors(path, [key])[0][key]
                if facts.sha256 not in ("", _digest(vectors)):
                    raise DamagedFile(f"'{path}' is damaged: it is not what was written. Delete it, and run again.")
                yield track, TrackEmbedding(vectors, facts.starts, facts.lengths, facts.hashes)

    def _key(self, track: Track, skipped: list[str]) -> str:
        """Return the checksum of a track's file, known by its size and date or computed; empty if there is none."""
        try:
            status = track.file.stat()
            cached = self._checksums.get((track.name, status.st_size, status.st_mtime_ns))
            return cached or cached_checksum(track.file)
        except OSError as error:
            skipped.append(f"'{track.file}' cannot be read as audio: {error.strerror}.")
            return ""

    def _embed(self, tracks: Mapping[str, Track], skipped: list[str]) -> Rows:
        """Embed files by their checksums: the clips of each, with start, hash and vectors, or each as one clip."""
        clips: dict[str, list[tuple[float, str, Tensor]]] = {}
        if self.cutter:
            for (key, start), digest, vectors in embed_clips(self.embedder, self._cut(self.cutter, tracks, skipped)):
                clips.setdefault(key, []).append((start, digest, vectors))
        else:
            for key, track in tracks.items():
                try:
                    clips[key] = [(0.0, key, embed_file(track.file, self.embedder))]
                except BadAudio as error:
                    skipped.append(str(error))
        rows: Rows = {}
        for key, embedded in clips.items():
            starts, hashes, vectors = zip(*embedded, strict=True)
            status = tracks[key].file.stat()
            facts = {"track": tracks[key].name, "bytes": status.st_size, "modified": status.st_mtime_ns}
            facts |= {"starts": starts, "lengths": [len(v) for v in vectors], "hashes": hashes}
            rows[key] = (joined := torch.cat(vectors)), {**facts, "sha256": _digest(joined)}
        return rows

    def _cut(
        self, cutter: Cutter, tracks: Mapping[str, Track], skipped: list[str]
    ) -> Iterator[tuple[tuple[str, float], Tensor]]:
        """Yield the key, start and audio of every clip of every track that can be read."""
        for key, track in tracks.items():
            try:
                for start, audio in cutter.clips(track, self.embedder.sample_rate):
                    yield (key, start), audio
            except BadAudio as error:
                skipped.append(str(error))

    def _write(self, rows: Rows) -> None:
        """Add a shard, whole or not at all; its name is its own, so that other processes may write beside."""
        path = self.folder / "shards" / f"{time.time_ns():x}-{os.getpid()}.safetensors"
        facts = json.dumps({key: facts for key, (_, facts) in rows.items()}, ensure_ascii=False)
        metadata = {"codecdiff": facts, "sha256": hashlib.sha256(facts.encode()).hexdigest()}
        self._write_config()
        write_safetensors(path, {key: vectors for key, (vectors, _) in rows.items()}, metadata)  # last: then it is done
        self._refresh()

    def _write_config(self) -> None:
        """Write what the folder is of, for readers, unless that is there."""
        file, text = self.folder / "config.json", json.dumps(self.config, indent=2) + "\n"
        if not file.is_file() or file.read_bytes() != text.encode():
            atomic_write_text(file, text)

    def _refresh(self) -> None:
        """Read what shards there are that were not known yet. Raises DamagedFile."""
        for path in sorted({*(self.folder / "shards").glob("[0-9a-f]*.safetensors")} - self._shards):
            metadata = read_safetensors(path, ())[1]
            text = metadata.get("codecdiff", "")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if metadata.keys() - {"codecdiff"} and metadata.get("sha256") != digest:  # earlier versions had none
                raise DamagedFile(f"'{path}' is damaged: it is not what was written. Delete it, and run again.")
            for key, facts in parse_json(text, f"The header of '{path}'", dict[str, FileFacts]).items():
                self._places[key] = path, facts
                self._checksums[(facts.track, facts.bytes, facts.modified)] = key
            self._shards.add(path)
