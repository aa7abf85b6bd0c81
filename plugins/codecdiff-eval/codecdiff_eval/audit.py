"""Whether a model plays its training music from memory: the nearest place in it of every generated clip.

Clips are cut into windows of codes. Moments of a window's coarse codebook vectors find the training windows that are
most like it; its codes are then laid over each of these at every offset. A near copy has the codes of one place in the
training music in a large part of a window (Carlini et al., 2023, "Extracting training data from diffusion models", for
images). Music that was never trained on says how often that happens by chance, and copies of training music that are
planted on purpose whether they would have been found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from codecdiff import config
from codecdiff.data import CodeStore, split_tracks
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec
from codecdiff.pipeline import Pipeline
from codecdiff.rng import numpy_generator
from codecdiff.training import rows_hash
from codecdiff_eval.eval_sets import GENERATED
from codecdiff_eval.metrics.bootstrap import rate_interval
from codecdiff_eval.results import Estimate

__all__ = [
    "CUT",
    "FRESH",
    "PLAYED",
    "AuditConfig",
    "AuditResult",
    "Match",
    "SetMatches",
    "WindowIndex",
    "audit_memorization",
]

COARSE = 3  # codebooks whose vectors describe a window
FRESH, CUT, PLAYED = "fresh music", "planted: the codes", "planted: decoded and encoded again"
CHUNK = 1 << 16  # windows whose distances are computed at once
PART = 1 << 13  # hops of music that are described at once


@dataclass(frozen=True)
class AuditConfig:
    """How much is compared, and what counts as a copy.

    clips: that are generated, and as many of fresh music; planted ones are a quarter.
    seconds, window: of a clip, and of the windows it is cut into, half overlapped.
    threshold: part of a window whose coarsest codes are those of one place in the training music.
    candidates: windows of training music that are compared code by code with each window.
    """

    clips: int = 64
    seconds: float = 6.0
    window: float = 3.0
    threshold: float = 0.5
    candidates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 4:
            raise InvalidValue(f"Invalid number of clips {self.clips}: expected at least 4.")
        if not 0.5 <= self.window <= self.seconds:
            raise InvalidValue(
                f"Invalid window of {self.window:g} s: expected 0.5 to the {self.seconds:g} s of a clip."
            )
        if not 0 < self.threshold <= 1:
            raise InvalidValue(f"Invalid threshold {self.threshold:g}: expected a part of a window, e.g. 0.5.")


class Match(NamedTuple):
    """Where in the training music a clip has its most equal codes.

    row, start: of the store, and the first latent frame there. position: first latent frame in the clip.
    levels: part of the window whose codes are equal, by codebook.
    distance: of the clip's nearest window by moments of its vectors, wherever that is; 1 is about the usual deviation.
    """

    row: int
    start: int
    position: int
    levels: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class SetMatches:
    """The matches of a set of clips, which of them are near copies, and their rate with its interval."""

    matches: Sequence[Match]
    is_copy: Sequence[bool]

    @property
    def rate(self) -> Estimate:
        """Fraction of the clips that are near copies with its interval for independent clips."""
        return rate_interval(sum(self.is_copy), len(self.is_copy))


@dataclass(frozen=True)
class AuditResult:
    """The matches of every set by its name, and the codes (n, k, l) and captions of the generated clips."""

    config: AuditConfig
    sets: dict[str, SetMatches]
    windows: int
    codes: Tensor
    prompts: Sequence[dict[str, Any]]

    @property
    def closer_than_fresh(self) -> float:
        """Fraction of generated clips that are closer to training music than any fresh clip, by moments of vectors."""
        nearest = min(match.distance for match in self.sets[FRESH].matches)
        return float(np.mean([match.distance < nearest for match in self.sets[GENERATED].matches]))

    @property
    def sentence(self) -> str:
        """The result in a sentence, for a model card."""
        generated, fresh = (_percent(self.sets[name].rate) for name in (GENERATED, FRESH))
        recall = ", ".join(
            f"{sum(self.sets[name].is_copy)} of {len(self.sets[name].is_copy)}" for name in (CUT, PLAYED)
        )
        return (
            f"Of {len(self.sets[GENERATED].is_copy)} clips generated from captions of the training music, {generated} "
            f"repeat at least {100 * self.config.threshold:.0f} % of the coarsest codes of one of its passages for "
            f"{self.config.window:g} s. Of music that it was not trained on, {fresh} do. Planted copies found: "
            f"{recall}."
        )


def _percent(rate: Estimate) -> str:
    value, low, high = (100 * each for each in rate)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


@dataclass
class WindowIndex:
    """All windows of some rows of a store, to be searched by moments of their coarse codebook vectors.

    Windows are half overlapped: each is two hops of the music, and what describes it follows from sums over these.

    places: (n, 2) row and first frame of every window. moments: (n, 2 COARSE d) float16, normalized.
    """

    store: CodeStore
    tables: Tensor  # (COARSE, codebook size, 2 d): the coarse vectors, and their squares
    frames: int
    places: np.ndarray
    moments: Tensor
    center: Tensor = field(default_factory=lambda: torch.zeros(1))
    scale: Tensor = field(default_factory=lambda: torch.ones(1))

    @classmethod
    def of(cls, store: CodeStore, rows: Sequence[int], codec: Codec, frames: int) -> Self:
        """Describe the windows of these rows, of an even number of frames. Raises InvalidValue if all are shorter."""
        every = torch.arange(codec.codebook_size, device=device_of(codec))
        vectors = codec.embed(every.expand(1, codec.num_codebooks, -1))[0, :COARSE].transpose(1, 2).float().cpu()
        index = cls(store, torch.cat([vectors, vectors**2], 2), frames, np.zeros((0, 2)), torch.zeros(0))
        counts = store.rows.array("frames")[rows] // index.hop
        number = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)  # of a hop in its row
        hops = np.stack([np.repeat(rows, counts), index.hop * number], 1)
        index.places = hops[:-1][number[1:] > 0]
        if not len(index.places):
            raise InvalidValue(f"No track of '{store.folder}' fills a window of {frames} frames: shorten --window.")
        moments = torch.empty(len(index.places), 2 * COARSE * vectors.shape[2])
        count = 0
        for start in range(0, len(hops) - 1, PART):
            part = hops[start : start + PART + 1]
            sums = index.sums(store.crops(part[:, 0], part[:, 1], index.hop))
            described = index.described((sums[:-1] + sums[1:])[torch.from_numpy(part[1:, 1] > 0)])
            moments[count : count + len(described)] = described
            count += len(described)
        index.center, index.scale = moments.mean(0), moments.std(0) * moments.shape[1] ** 0.5 + 1e-6
        index.moments = index.normalized_(moments).half()
        return index

    @property
    def hop(self) -> int:
        """Frames from one window to the next: they are half overlapped."""
        return self.frames // 2

    def sums(self, codes: np.ndarray) -> Tensor:
        """(n, l, k) codes -> (n, COARSE, 2 d) sums over time of the coarse vectors and their squares."""
        coarse = torch.from_numpy(codes[..., :COARSE].astype(np.int32))
        return torch.stack([embedding_bag(coarse[..., i], table, mode="sum") for i, table in enumerate(self.tables)], 1)

    def described(self, sums: Tensor) -> Tensor:
        """(n, COARSE, 2 d) sums over windows -> (n, 2 COARSE d) mean and deviation of the coarse vectors."""
        mean, square = (sums / self.frames).chunk(2, 2)
        return torch.cat([mean, (square - mean**2).clamp_min(0).sqrt()], 1).flatten(1)

    def normalized_(self, moments: Tensor) -> Tensor:
        """Normalize moments in place, so that the usual distance of two windows is about 1."""
        return moments.sub_(self.center).div_(self.scale)

    def nearest(self, moments: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(n, p) normalized moments -> (n, count) distances of the nearest windows in order, and their indices."""
        distances, indices = torch.zeros(len(moments), 0), torch.zeros(len(moments), 0, dtype=torch.long)
        for start in range(0, len(self.moments), CHUNK):
            chunk = torch.cdist(moments, self.moments[start : start + CHUNK].float())
            best, order = chunk.topk(min(count, chunk.shape[1]), largest=False)
            distances, indices = torch.cat([distances, best], 1), torch.cat([indices, start + order], 1)
            distances, order = distances.topk(min(count, distances.shape[1]), largest=False)
            indices = indices.gather(1, order)
        return distances, indices

    def matches(self, clips: np.ndarray, candidates: int) -> list[Match]:
        """(n, l, k) codes of clips -> the best match of each."""
        count = clips.shape[1] // self.hop
        hops = clips[:, : count * self.hop].reshape(-1, self.hop, clips.shape[2])
        sums = self.sums(hops).unflatten(0, (-1, count))
        moments = self.normalized_(self.described((sums[:, :-1] + sums[:, 1:]).flatten(0, 1)))
        distances, indices = self.nearest(moments, candidates)
        starts = range(0, self.hop * (count - 1), self.hop)
        windows = [clip[start : start + self.frames] for clip in clips for start in starts]
        best = [self._laid_over(*pair) for pair in zip(windows, indices, strict=True)]
        matches = []
        for first in range(0, len(best), len(starts)):  # window of each clip
            window = max(range(len(starts)), key=lambda i: best[first + i][2][0])
            row, start, levels = best[first + window]
            distance = float(distances[first : first + len(starts)].min())
            matches.append(Match(row, start, starts[window], levels, distance))
        return matches

    def _laid_over(self, window: np.ndarray, indices: Tensor) -> tuple[int, int, tuple[float, ...]]:
        """Lay a window (w, k) over those with these indices, at every offset up to half a window."""
        places, half = self.places[indices.numpy()], self.hop
        rows, starts = places[:, 0], np.maximum(0, places[:, 1] - half)
        around = self.store.crops(rows, starts, self.frames + 2 * half)  # (c, w + 2 half, k)
        equal = _num_equal(around[:, :, 0], window[:, 0])  # (c, offsets)
        ends = starts[:, None] + np.arange(equal.shape[1]) + self.frames
        equal[ends > self.store.rows.array("frames")[rows][:, None]] = 0  # nothing is played behind the end of a track
        candidate, offset = np.unravel_index(int(equal.argmax()), equal.shape)
        levels = (around[candidate, offset : offset + self.frames] == window).mean(0)
        return int(rows[candidate]), int(starts[candidate] + offset), tuple(levels.tolist())


def _num_equal(codes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(c, l) codes and (w,) of a window -> (c, l - w + 1) how many are equal at each offset.

    One code of the window is compared with all places at a time, which lie one behind the other.
    """
    codes = np.ascontiguousarray(codes.T)
    total = np.zeros((len(codes) - len(window) + 1, codes.shape[1]), np.uint16)
    for first in range(0, len(window), 255):  # as many as fit into a byte
        count = np.zeros(total.shape, np.uint8)
        for i, code in enumerate(window[first : first + 255], first):
            count += (codes[i : i + len(total)] == code).view(np.uint8)
        total += count
    return total.T.copy()


def audit_memorization(
    pipeline: Pipeline,
    store: CodeStore,
    settings: AuditConfig | None = None,
    *,
    fresh: CodeStore | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> AuditResult:
    """Compare clips that a model generates from captions of its training music with that music.

    `fresh` holds music it was not trained on; by default, the validation tracks of `store`. `announce` is called with
    the name of each phase. Raises InvalidValue for a store of another codec, or without fresh music.
    """
    settings = settings or AuditConfig()
    _check_stores(pipeline, store, fresh)
    facts = pipeline.stages[pipeline.stage_names[0]].facts
    trained, validation = split_tracks(store, facts.get("validation_fraction", 0.0), facts.get("split_seed", 0))
    frames = round(settings.seconds * pipeline.codec.frame_rate)
    window = min(frames // 2 * 2, 2 * round(settings.window * pipeline.codec.frame_rate / 2))
    announce("describing the training music")
    index = WindowIndex.of(store, trained, pipeline.codec, window)
    other = (fresh or store), (range(len(fresh)) if fresh else validation)
    unseen = "track that the model was not trained on, to compare with: name a store of such music with --fresh"
    clips = {FRESH: _crops(*other, frames, settings.clips, settings.seed, unseen)}
    planted = _crops(store, trained, frames, max(4, settings.clips // 4), settings.seed + 1, "training track")
    announce(f"generating {settings.clips} clips")
    prompts = _prompts(store, trained, settings.clips, settings.seed)
    codes = torch.cat(list(pipeline.generate_codes(prompts, frames, seed=settings.seed)))
    audio = (pipeline.decode([clip[None]]) for clip in planted)
    played = torch.cat(
        [pipeline.codec.encode(each.to(device_of(pipeline.codec)))[..., :frames].cpu() for each in audio]
    )
    clips = {GENERATED: codes.cpu(), **clips, CUT: planted, PLAYED: played}
    sets = {}
    for name, each in clips.items():
        announce(f"comparing: {name}")
        matches = index.matches(each.transpose(1, 2).numpy(), settings.candidates)
        sets[name] = SetMatches(matches, [match.levels[0] >= settings.threshold for match in matches])
    return AuditResult(settings, sets, len(index.places), codes, prompts)


def _check_stores(pipeline: Pipeline, store: CodeStore, fresh: CodeStore | None) -> None:
    """Raise InvalidValue for stores of another codec, and unless `store` is what the model was trained on."""
    for each in (store, *([fresh] if fresh else [])):
        each.check_codec(pipeline.codec, config.to_config("codecs", pipeline.codec))
    if pipeline.data.get("hash", trained_on := rows_hash(store)) != trained_on:
        raise InvalidValue(
            f"'{store.folder}' is not the store that the model was trained on: name that one, as in --store RUN/store."
        )


def _prompts(store: CodeStore, rows: Sequence[int], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw prompts of rows, each with one of its captions."""
    random = numpy_generator("codecdiff_eval.audit.prompts", seed)
    drawn = [rows[i] for i in random.permutation(len(rows))[:count]]
    drawn += [rows[int(i)] for i in random.integers(len(rows), size=count - len(drawn))]
    captions = [store.captions(i) or [""] for i in drawn]
    return [store.prompt(i, texts[int(random.integers(len(texts)))]) for i, texts in zip(drawn, captions, strict=True)]


def _crops(store: CodeStore, rows: Sequence[int], frames: int, count: int, seed: int, what: str) -> Tensor:
    """Cut clips of codes (n, k, l) out of rows at random. Raises InvalidValue, naming `what`, without a long one."""
    lengths = store.rows.array("frames")
    usable = [i for i in rows if lengths[i] >= frames]
    if not usable:
        raise InvalidValue(
            f"'{store.folder}' has no clip of {frames} latent frames of a {what}. Or ask for shorter clips: --seconds."
        )
    random = numpy_generator("codecdiff_eval.audit.crops", seed)
    drawn = [usable[i % len(usable)] for i in random.permutation(max(count, len(usable)))[:count]]
    starts = [int(random.integers(lengths[i] - frames + 1)) for i in drawn]
    return torch.from_numpy(store.crops(drawn, starts, frames).astype(np.int64)).transpose(1, 2)
