"""Clips and their embeddings: how tracks are cut, the vectors of a set of clips, and statistics of a reference."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff import config
from codecdiff.data import CachedEmbedder
from codecdiff.data.audio import BadAudio, seconds_of, stream_audio
from codecdiff.data.metadata import Track
from codecdiff.embedders import BATCH_SIZE, embed_clips
from codecdiff.errors import InvalidValue
from codecdiff.files import missing_file, parse_json, read_safetensors, write_safetensors
from codecdiff.interfaces import Embedder, Prompt
from codecdiff.rng import generator
from codecdiff_eval.metrics.gaussian import GaussianStats
from codecdiff_eval.prompts import prompt_of
from codecdiff_eval.results import UNCHANGED, EmbeddingConfig, from_json, hash_of, set_hash, to_json

__all__ = ["ClipCutter", "ClipEmbedder", "ClipEmbeddings", "ReferenceStats"]

FORMAT = 2
MIN_TRACKS = 4  # so that each half has several
START = re.compile(r"#t=(\d+\.\d+)$")  # of a clip, at the end of its name, as media fragments are written
MISSING = 0.01  # of a clip that its end may lack, as decoders and resamplers cut it: silence follows
LONG = 600.0  # seconds of a track that is decoded once to see that it is whole, and again to be cut
QUIET = 1e-4  # root mean square of a clip under which its loudness is left alone: -80 dBFS


def clip_name(track: str, start: float) -> str:
    """Return the name of a clip: the track's, and where it starts in seconds unless that is its beginning."""
    return f"{track}#t={start:.3f}" if start else track


def track_of(clip: str) -> str:
    """Return the name of the track that a clip was cut from."""
    return START.sub("", clip)


def start_of(clip: str) -> float:
    """Return where in its track a clip starts, in seconds."""
    match = START.search(clip)
    return float(match[1]) if match else 0.0


def by_track(clips: Iterable[str]) -> list[Tensor]:
    """Return the indices of the clips of each track from the names of all clips: tracks in order of first clips."""
    indices: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        indices.setdefault(track_of(clip), []).append(i)
    return [torch.tensor(rows) for rows in indices.values()]


@dataclass(frozen=True)
class ClipCutter:
    """Cuts tracks into clips: whole ones that follow each other, a rest is left out.

    seconds: of a clip.
    loudness: dBFS of root mean square that each clip is scaled to, without a sample over full scale; None leaves it.
    """

    seconds: float
    loudness: float | None = None

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise InvalidValue(f"Invalid clip length {self.seconds:g}: expected 0.1 to 3600 seconds.")
        if self.loudness is not None and not -60 <= self.loudness <= 0:
            raise InvalidValue(f"Invalid loudness {self.loudness:g}: expected -60 to 0 dBFS, e.g. -20.")

    @property
    def loudness_policy(self) -> str:
        """Say what is done to loudness."""
        if self.loudness is None:
            return UNCHANGED
        return f"each clip at {self.loudness:g} dBFS RMS, or as near as full scale lets it"

    def clips(self, track: Track, sample_rate: int) -> Iterable[tuple[float, Tensor]]:
        """Yield the start in seconds and the mono audio (t,) of every clip of a track.

        Raises BadAudio for a file that cannot be read to its end, before any clip of it, or is shorter than a clip.
        """
        if seconds_of(track.file) <= LONG:
            return list(self._cut(track, sample_rate))
        for _ in stream_audio(track.file, sample_rate, 1):
            pass
        return self._cut(track, sample_rate)

    def _cut(self, track: Track, sample_rate: int) -> Iterator[tuple[float, Tensor]]:
        size, held, pending, count = round(self.seconds * sample_rate), torch.zeros(0), [], 0
        for block in stream_audio(track.file, sample_rate, 1):
            pending.append(block[0])
            if len(held) + sum(map(len, pending)) < size:
                continue
            held, pending = torch.cat([held, *pending]), []
            while len(held) >= size:
                yield count * self.seconds, self._scaled(held[:size])
                held, count = held[size:], count + 1
        held = torch.cat([held, *pending])
        if len(held) >= (1 - MISSING) * size:
            yield count * self.seconds, self._scaled(pad(held, (0, size - len(held))))
        elif not count:
            raise BadAudio(f"'{track.file}' lasts {len(held) / sample_rate:.2f} s: no clip of {self.seconds:g} s fits.")

    def _scaled(self, clip: Tensor) -> Tensor:
        level = float(clip.square().mean().sqrt())
        if self.loudness is None or level < QUIET:
            return clip
        return clip * min(10 ** (self.loudness / 20) / level, 1 / float(clip.abs().max()))


@dataclass(frozen=True)
class ClipEmbeddings:
    """The vectors of a set of clips, and how they were embedded. Clips may have different numbers of windows.

    names: of the clips, unique.
    hashes: of each clip's audio, which identify the set.
    vectors: (m, e) of the windows of all clips, in order.
    lengths: (n,) windows of each clip.
    prompts: that the clips were generated from, or what is known of them: one each, or none.
    seeds, sampling: of their generation: seeds by name, steps and guidance of each stage.
    """

    config: EmbeddingConfig
    names: Sequence[str]
    hashes: Sequence[str]
    vectors: Tensor
    lengths: Tensor
    prompts: Sequence[Prompt] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.names)
        if not (len(self.hashes) == len(self.lengths) == n and int(self.lengths.sum()) == len(self.vectors)):
            raise ValueError("Clips need one name, hash and number of windows each, and the vectors of all windows.")
        if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
            raise InvalidValue(f"{len(repeated)} names, such as '{repeated[0]}', belong to several clips: rename.")
        if self.prompts and len(self.prompts) != n:
            raise ValueError(f"{n} clips have {len(self.prompts)} prompts: expected one prompt each, or none.")
        if bad := [name for name, v in zip(self.names, self.by_clip(), strict=True) if not v.isfinite().all()]:
            raise InvalidValue(f"The vectors of {', '.join(bad[:3])} are not finite: listen to these clips.")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def identity(self) -> str:
        """One hash of the set of clips, in any order."""
        return set_hash(self.hashes)

    def by_clip(self) -> tuple[Tensor, ...]:
        """Return the vectors (w, e) of each clip."""
        return self.vectors.split(self.lengths.tolist())

    def tracks(self) -> list[Tensor]:
        """Return the indices of the clips of each track: what is resampled, for clips of one are not independent."""
        return by_track(self.names)

    def means(self) -> Tensor:
        """Return the mean vector of each clip, (n, e) float64."""
        return torch.stack([vectors.double().mean(0) for vectors in self.by_clip()])

    def grid(self) -> Tensor:
        """Return the vectors as (n, w, e). Raises ValueError for clips of different numbers of windows."""
        if len(self.lengths.unique()) != 1:
            raise InvalidValue("Clips of different numbers of windows have no common grid: take clips of one length.")
        return self.vectors.unflatten(0, (len(self), -1))

    def drawn(self, clips: Tensor) -> Tensor:
        """Return the vectors (m, e) of the clips with these indices (n,), a clip as often as it was drawn."""
        parts = self.by_clip()
        return torch.cat([parts[i] for i in clips.tolist()])

    def select(self, clips: Sequence[int]) -> Self:
        """Return the set of the clips with these indices."""
        return replace(
            self,
            names=[self.names[i] for i in clips],
            hashes=[self.hashes[i] for i in clips],
            vectors=self.drawn(torch.tensor(clips)) if len(clips) else self.vectors[:0],
            lengths=self.lengths[list(clips)],
            prompts=[self.prompts[i] for i in clips] if self.prompts else (),
        )

    def sample(self, count: int, seed: int) -> list[tuple[str, float]]:
        """Draw at most `count` clips at random: the track of each and its start in seconds.

        A smaller count draws a subset of a larger one.
        """
        names = [self.names[i] for i in self._draw(count, seed)]
        return [(track_of(name), start_of(name)) for name in names]

    def _draw(self, count: int | None, seed: int) -> list[int]:
        order = torch.randperm(len(self), generator=generator("codecdiff_eval.sample", seed)).tolist()
        return order[:count]

    def halves(self, seed: int = 0, *, num_clips: int | None = None) -> tuple[Self, Self]:
        """Divide the tracks at random in two sets of about as many clips; no track is in both.

        num_clips: to draw at random from the first half, which is used whole if it does not have more.

        Raises ValueError for fewer than 4 tracks.
        """
        tracks = self.tracks()
        if len(tracks) < MIN_TRACKS:
            raise InvalidValue(f"Halves of {len(tracks)} tracks say nothing: take at least {MIN_TRACKS}.")
        sides: tuple[list[int], list[int]] = ([], [])
        for i in torch.randperm(len(tracks), generator=generator("codecdiff_eval.halves", seed)).tolist():
            min(sides, key=len).extend(tracks[i].tolist())
        one, other = (self.select(sorted(side)) for side in sides)
        return one.select(sorted(one._draw(num_clips, seed))), other

    @classmethod
    def embed(
        cls,
        embedder: Embedder,
        config: EmbeddingConfig,
        clips: Iterable[tuple[str, Tensor]],
        *,
        batch_size: int = BATCH_SIZE,
        **facts: Any,
    ) -> Self:
        """Embed clips in memory: each a name and mono audio (t,) at the embedder's rate; `facts`: prompts and seeds.

        Raises ValueError for a clip without samples, or without any clip.
        """
        rows = list(embed_clips(embedder, clips, batch_size=batch_size))
        if not rows:
            raise InvalidValue("Expected clips to embed, but got none.")
        names, hashes, vectors = zip(*rows, strict=True)
        return cls(config, names, hashes, torch.cat(vectors), torch.tensor([len(v) for v in vectors]), **facts)

    @classmethod
    def of_audio(cls, embedder: Embedder, audio: Tensor, sample_rate: int, prompts: Sequence[Prompt] = ()) -> Self:
        """Embed the mono mixes of clips of one length in memory, (n, ch, t), that are named by their number."""
        embedding = EmbeddingConfig.of(embedder, _embedder_config(embedder), clip_seconds=audio.shape[-1] / sample_rate)
        mono = audio.float().mean(1)
        if sample_rate != embedder.sample_rate:
            rows = [soxr.resample(row.numpy(), sample_rate, embedder.sample_rate) for row in mono.cpu()]
            mono = torch.from_numpy(np.stack(rows).astype(np.float32))
        return cls.embed(embedder, embedding, ((str(i), clip) for i, clip in enumerate(mono)), prompts=prompts)


@dataclass(frozen=True)
class ReferenceStats:
    """The Gaussian statistics of a set of clips: all that a Fréchet distance needs of a reference, and small.

    `+` merges those of two sets, gathered by one process or several.
    """

    config: EmbeddingConfig
    gaussian: GaussianStats
    clips: int
    identity: str = set_hash([])

    @classmethod
    def of(cls, clips: ClipEmbeddings) -> Self:
        """Gather the statistics of a set."""
        return cls(clips.config, GaussianStats.of(clips.vectors), len(clips), clips.identity)

    def __len__(self) -> int:
        return self.clips

    def __add__(self, other: ReferenceStats) -> ReferenceStats:
        self.config.require_same(other.config)
        both = set_hash([self.identity, other.identity])
        return ReferenceStats(self.config, self.gaussian + other.gaussian, self.clips + other.clips, both)

    def save(self, file: Path | str) -> None:
        """Write the statistics as one safetensors file, whole or not at all."""
        facts = {"config": self.config, "count": self.gaussian.count, "clips": self.clips, "identity": self.identity}
        write_vectors(file, "statistics", {"mean": self.gaussian.mean, "scatter": self.gaussian.scatter}, facts)

    @classmethod
    def load(cls, file: Path | str) -> Self:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if it is something else or damaged."""
        tensors, facts = read_vectors(file, "statistics")
        facts["config"] = from_json(EmbeddingConfig, facts["config"])
        return cls(gaussian=GaussianStats(facts.pop("count"), **tensors), **facts)


@dataclass(frozen=True)
class ClipEmbedder:
    """An embedder with the cache of what it embedded, and how it cuts tracks into clips."""

    cache: CachedEmbedder
    config: EmbeddingConfig

    @classmethod
    def of(cls, embedder: Embedder, cutter: ClipCutter, folder: Path) -> Self:
        """Let an embedder embed clips, and keep them in a folder.

        Its `description` says what vectors follow from, where it is not an installed part.
        """
        spec, seconds, loudness = _embedder_config(embedder), cutter.seconds, cutter.loudness_policy
        embedding = EmbeddingConfig.of(embedder, spec, clip_seconds=seconds, loudness=loudness)
        return cls(CachedEmbedder(embedder, spec, folder, cutter), embedding)

    @property
    def name(self) -> str:
        """Name of the embedder."""
        return self.config.name

    @property
    def embedder(self) -> Embedder:
        """The embedder itself."""
        return self.cache.embedder

    def embed(
        self, tracks: Sequence[Track], progress: Callable[[int], None] = lambda count: None
    ) -> tuple[ClipEmbeddings, list[str]]:
        """Embed the clips of tracks, and return them with a sentence for every track that has none.

        What is known of the tracks becomes the prompts of the clips. Raises ValueError where no clip is left.
        """
        skipped = self.cache.fill(tracks, progress)
        embedded = list(self.cache.read(tracks))
        if not embedded:
            raise InvalidValue(" ".join(["No clip to evaluate: shorten --seconds, or take other music.", *skipped[:3]]))
        rows = [(track, i) for track, each in embedded for i in range(len(each.starts))]
        starts, lengths, hashes = (
            [value for _, each in embedded for value in getattr(each, name)] for name in ("starts", "lengths", "hashes")
        )
        clips = ClipEmbeddings(
            self.config,
            [clip_name(track.name, start) for (track, _), start in zip(rows, starts, strict=True)],
            hashes,
            torch.cat([each.vectors for _, each in embedded]),
            torch.tensor(lengths),
            [prompt_of(track) for track, _ in rows],
        )
        return clips, skipped


def _embedder_config(embedder: Embedder) -> Mapping[str, Any]:
    """Return what vectors follow from, where an embedder is not an installed part, or else its configuration."""
    return getattr(embedder, "description", None) or config.to_config("embedders", embedder)


def config_hash(config: EmbeddingConfig, identity: str) -> str:
    """Return a hash of a set of clips and how it was embedded, 8 digits."""
    return hash_of(json.dumps([to_json(config), identity], sort_keys=True).encode())[:8]


def write_vectors(file: Path | str, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors with facts about them as one safetensors file, whole or not at all."""
    header = json.dumps({"format": FORMAT, "kind": kind, **to_json(facts)}, ensure_ascii=False)
    write_safetensors(file, tensors, {"codecdiff": header})


def read_vectors(file: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_vectors` wrote. Raises FileNotFoundError, or InvalidValue for something else or damaged."""
    if not Path(file).exists():
        raise missing_file(file)
    tensors, metadata = read_safetensors(file)
    facts = parse_json(metadata.get("codecdiff", "{}"), f"The header of '{file}'", dict[str, Any])
    if (facts.pop("kind", None), facts.pop("format", None)) != (kind, FORMAT):
        raise InvalidValue(f"'{file}' does not hold {kind} of format {FORMAT}. Make it again.")
    return tensors, facts
