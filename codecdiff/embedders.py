"""Embedders: the base class of those that embed windows one by one, audio of any length, and the cache on disk.

Shapes here: w window, e embedding; b and t as everywhere.

    cache = CachedEmbedder(embedder, spec, "runs/embeddings")
    skipped = cache.fill(tracks)                    # embeds what is missing; killed and called again, it resumes
    for track, embedding in cache.read(tracks):     # embedding.vectors: (w, e)
        ...

runs/embeddings/logmel-1f0c.../ config.json          all that vectors follow from except the audio
                                shards/*.safetensors  the vectors of some files each, by the files' checksums
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from codecdiff import __version__
from codecdiff.data.audio import BadAudio, stream_audio
from codecdiff.data.metadata import Track
from codecdiff.files import atomic_write, atomic_write_text, cached_checksum
from codecdiff.fingerprint import device_of, module_fingerprint
from codecdiff.interfaces import Embedder
from codecdiff.precision import exactly

__all__ = [
    "BATCH_SIZE",
    "CachedEmbedder",
    "TrackEmbedding",
    "Windowed",
    "check_clips",
    "embed_blocks",
    "embed_clips",
    "embed_file",
]

FORMAT = 1  # of the cache
BLOCK_SECONDS = 60.0  # of audio that is embedded at once
BATCH_SIZE = 8  # clips that are embedded at once
GROUP_SIZE = 32  # tracks whose clips share batches
SHARD_TRACKS = 1000
SHARD_SECONDS = 30.0  # of work, after which a shard is written in any case
Label = TypeVar("Label")


def check_clips(audio: Tensor) -> None:
    """Raise ValueError unless audio is mono clips, (b, t), of at least one sample."""
    if audio.ndim != 2 or audio.shape[1] < 1:
        raise ValueError(
            f"An embedder takes mono clips, (b, t) with t >= 1, but got shape {tuple(audio.shape)}. "
            "Mix channels down (`audio.mean(1)`)."
        )


class Windowed(Embedder):
    """An embedder that embeds every window alone: cut, padded where it is too short, and embedded without the others.

    A subclass defines the attributes and `embed_windows`. What is left after the last whole window is embedded, padded,
    where `keeps_rest` is True, and ignored otherwise; a clip shorter than a window is always padded. A subclass that
    changes this says so in its `policy`.
    """

    keeps_rest: bool = False
    windows_at_once: int = 16  # bounds memory
    policy = "a clip shorter than a window is followed by silence, the rest after the last whole window is ignored"

    @abstractmethod
    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows, each of `window_seconds` -> (n, e) vectors, each of its window alone."""

    def pad(self, audio: Tensor, samples: int) -> Tensor:
        """(b, t) audio shorter than a window -> (b, samples): followed by silence, unless overridden."""
        return functional.pad(audio, (0, samples - audio.shape[1]))

    def cut(self, audio: Tensor) -> Tensor:
        """(b, t) audio -> (b, w, t') its windows."""
        samples, hop = round(self.window_seconds * self.sample_rate), round(self.hop_seconds * self.sample_rate)
        windows = [audio.unfold(1, samples, hop)] if audio.shape[1] >= samples else []
        count = windows[0].shape[1] if windows else 0
        covered = (count - 1) * hop + samples if count else 0
        if not count or (self.keeps_rest and covered < audio.shape[1]):
            windows.append(self.pad(audio[:, count * hop :], samples)[:, None])
        return torch.cat(windows, dim=1)

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, e) vectors of its windows, some at once, whatever autocast the caller is in."""
        check_clips(audio)
        windows = self.cut(audio.detach().float())
        with exactly(audio.device):
            rows = [self.embed_windows(rows) for rows in windows.flatten(0, 1).split(self.windows_at_once)]
        return torch.cat(rows).float().unflatten(0, windows.shape[:2])


def embed_blocks(blocks: Iterable[Tensor], embedder: Embedder, *, seconds: float = BLOCK_SECONDS) -> Tensor:
    """Blocks (t,) of one clip -> (w, e) vectors on the CPU: what `embedder.embed` returns for the whole.

    About `seconds` of audio are in memory at once. Each block is embedded with the windows before it that lie
    within its context, and with audio for one more window behind it, so that its ends are never those of the clip.
    """
    hop = round(embedder.hop_seconds * embedder.sample_rate)
    before = math.ceil(embedder.context_seconds / embedder.hop_seconds)  # windows
    behind = math.ceil((embedder.window_seconds + embedder.context_seconds) * embedder.sample_rate)  # samples
    fresh = max(1, before, round(seconds / embedder.hop_seconds))  # windows of a block
    held, pending, repeated = torch.zeros(0), [], 0
    vectors: list[Tensor] = []
    for block in blocks:
        pending.append(block)
        needed = (repeated + fresh) * hop + behind
        if len(held) + sum(map(len, pending)) < needed:
            continue
        held, pending = torch.cat([held, *pending]), []
        while len(held) >= (needed := (repeated + fresh) * hop + behind):
            vectors.append(_embed(held[:needed], embedder)[repeated : repeated + fresh])
            held, repeated = held[(repeated + fresh - before) * hop :], before
    return torch.cat([*vectors, _embed(torch.cat([held, *pending]), embedder)[repeated:]])


def _embed(audio: Tensor, embedder: Embedder) -> Tensor:
    """(t,) audio -> (w, e) vectors on the CPU."""
    return embedder.embed(audio[None].to(device_of(embedder)))[0].cpu()


def embed_file(file: Path | str, embedder: Embedder) -> Tensor:
    """Embed an audio file of any length, rate and number of channels: (w, e) vectors. Raises BadAudio."""
    return embed_blocks((block[0] for block in stream_audio(file, embedder.sample_rate, 1)), embedder)


def embed_clips(
    embedder: Embedder, clips: Iterable[tuple[Label, Tensor]], *, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Label, str, Tensor]]:
    """Embed clips: each a label and mono audio (t,) at the embedder's rate -> its label, hash and vectors (w, e).

    Clips of one length that follow each other share a batch. Raises ValueError for a clip without samples.
    """
    for batch in _batches(clips, batch_size):
        audio = torch.stack([samples for _, samples in batch])
        with torch.no_grad():
            vectors = embedder.embed(audio.to(device_of(embedder))).cpu()
        for (label, samples), rows in zip(batch, vectors, strict=True):
            yield label, hashlib.sha256(samples.float().cpu().numpy().tobytes()).hexdigest()[:32], rows


def _batches(clips: Iterable[tuple[Label, Tensor]], size: int) -> Iterator[list[tuple[Label, Tensor]]]:
    batch: list[tuple[Label, Tensor]] = []
    for label, audio in clips:
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"Clip '{label}' has shape {tuple(audio.shape)}: it must be mono audio (t,) with samples.")
        if batch and (len(batch) == size or len(batch[0][1]) != len(audio)):
            yield batch
            batch = []
        batch.append((label, audio))
    if batch:
        yield batch


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
        self._shards: dict[Path, dict[str, dict[str, Any]]] = {}  # facts of every file, by checksum
        self._places: dict[str, Path] = {}  # checksum -> shard
        self._checksums: dict[tuple[str, int, int], str] = {}  # track, bytes and date -> checksum

    def fill(self, tracks: Sequence[Track], progress: Callable[[int], None] = lambda count: None) -> list[str]:
        """Embed the tracks that are not there yet, and return a sentence for every file that was skipped.

        `progress` is called with the number of tracks done. What was embedded is kept when the run ends early.
        """
        self._refresh()
        skipped: list[str] = []
        rows: dict[str, tuple[TrackEmbedding, dict[str, Any]]] = {}
        written = time.monotonic()
        try:
            for start in range(0, len(tracks), GROUP_SIZE if self.cutter else 1):
                group = tracks[start : start + (GROUP_SIZE if self.cutter else 1)]
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
            path = self._places.get(key := self._key(track, []))
            if path is not None:
                with safe_open(path, "pt") as shard:
                    vectors = shard.get_tensor(key)
                facts = self._shards[path][key]
                yield track, TrackEmbedding(vectors, *(facts[name] for name in ("starts", "lengths", "hashes")))

    def _key(self, track: Track, skipped: list[str]) -> str:
        """Return the checksum of a track's file, known by its size and date or computed; empty if there is none."""
        try:
            status = track.file.stat()
            cached = self._checksums.get((track.name, status.st_size, status.st_mtime_ns))
            return cached or cached_checksum(track.file)
        except OSError as error:
            skipped.append(f"'{track.file}' cannot be read as audio: {error.strerror}.")
            return ""

    def _embed(
        self, tracks: Mapping[str, Track], skipped: list[str]
    ) -> dict[str, tuple[TrackEmbedding, dict[str, Any]]]:
        """Embed files by their checksums, with the facts by which they are found again."""
        clips: dict[str, list[tuple[float, str, Tensor]]] = {}
        if self.cutter is None:
            for key, track in tracks.items():
                try:
                    clips[key] = [(0.0, key, embed_file(track.file, self.embedder))]
                except BadAudio as error:
                    skipped.append(str(error))
        else:
            for (key, start), digest, vectors in embed_clips(self.embedder, self._cut(tracks, self.cutter, skipped)):
                clips.setdefault(key, []).append((start, digest, vectors))
        embeddings = {}
        for key, rows in clips.items():
            starts, hashes, vectors = zip(*rows, strict=True)
            status = tracks[key].file.stat()
            file = {"track": tracks[key].name, "bytes": status.st_size, "modified": status.st_mtime_ns}
            embeddings[key] = TrackEmbedding(torch.cat(vectors), starts, [len(v) for v in vectors], hashes), file
        return embeddings

    def _cut(
        self, tracks: Mapping[str, Track], cutter: Cutter, skipped: list[str]
    ) -> Iterator[tuple[tuple[str, float], Tensor]]:
        for key, track in tracks.items():
            try:
                for start, audio in cutter.clips(track, self.embedder.sample_rate):
                    yield (key, start), audio
            except BadAudio as error:
                skipped.append(str(error))

    def _write(self, rows: Mapping[str, tuple[TrackEmbedding, dict[str, Any]]]) -> None:
        """Add a shard, whole or not at all; its name is its own, so that other processes may write beside."""
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.folder / "config.json", json.dumps(self.config, indent=2) + "\n")
        facts = {
            key: {**file, "starts": each.starts, "lengths": each.lengths, "hashes": each.hashes}
            for key, (each, file) in rows.items()
        }
        path = self.folder / "shards" / f"{time.time_ns():x}-{os.getpid()}.safetensors"
        with atomic_write(path) as temporary:
            vectors = {key: each.vectors.contiguous() for key, (each, _) in rows.items()}
            save_file(vectors, temporary, metadata={"codecdiff": json.dumps(facts, ensure_ascii=False)})
        self._refresh()

    def _refresh(self) -> None:
        """Read what shards there are that were not known yet. Raises ValueError for a damaged one."""
        for path in sorted((self.folder / "shards").glob("[0-9a-f]*.safetensors")):
            if path in self._shards:
                continue
            try:
                with safe_open(path, "pt") as shard:
                    self._shards[path] = json.loads(shard.metadata()["codecdiff"])
            except SafetensorError as error:
                raise ValueError(f"'{path}' is damaged: {error}. Delete it to embed again.") from error
            for key, facts in self._shards[path].items():
                self._places[key] = path
                self._checksums[(facts["track"], facts["bytes"], facts["modified"])] = key
