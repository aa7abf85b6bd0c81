"""The order of training samples, and what is drawn for each: pure functions of a seed and a sample's number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecdiff.config.schema import Target
from codecdiff.data.code_store import CodeStore

HELD_OUT = ("validation", "test")  # splits that are never trained on


@dataclass(frozen=True)
class Batch:
    """Crops of codes with what goes with them.

    codes (b, k, l) int64; their projections (b, k, d, l) float32 where they are the target, or None; real (b, l),
    1 where there is music and 0 where a short track was padded; one prompt per row, as `CodeStore.prompt` gives it,
    its `text` empty where the track has no caption; and the samples' numbers.
    """

    codes: Tensor
    projections: Tensor | None
    real: Tensor
    prompts: list[dict[str, Any]]
    numbers: list[int]


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def split_tracks(store: CodeStore, fraction: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Divide the rows of a store into (training, held out), by their files: the segments of one are on the same side.

    Where the data set names splits, "validation" and "test" are held out and nothing else, whatever the fraction. Else
    a hash of each file's checksum decides, whatever their order and names, and at least one is held out when `fraction`
    is not 0 and there are two or more that differ. Files with the same content fall on the same side.
    """
    named = {row["checksum"] for row in store.rows if row["split"] in HELD_OUT}
    if named:
        held = [i for i, row in enumerate(store.rows) if row["checksum"] in named]
        return sorted(set(range(len(store))) - set(held)), held

    def draw(i: int) -> float:
        digest = hashlib.sha256(f"{seed} {store.rows[i]['checksum']}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64

    draws = [draw(i) for i in range(len(store))]
    others = sorted(draws)[:-1] if fraction else []
    border = others[min(max(1, round(fraction * len(store))), len(others)) - 1] if others else -1.0
    border = border if border < max(draws) else -1.0  # all that is left is the same music
    return [i for i, d in enumerate(draws) if d > border], [i for i, d in enumerate(draws) if d <= border]


class Crops:
    """Random crops of a store's tracks, in an order that depends on the seed alone.

    Sample number n belongs to epoch n // size. Within an epoch the crops are a permutation of places, as
    many per track as the track is crops long, so long tracks are heard in proportion to their length.
    """

    def __init__(
        self, store: CodeStore, tracks: Sequence[int], frames: int, *, target: Target = "codes", seed: int = 0
    ):
        if not tracks:
            raise ValueError(
                "There are no tracks to draw crops from. Those whose split is validation or test are never trained on: "
                "encode others too, or give them another split."
            )
        if frames < 1:
            raise ValueError(f"A crop of {frames} frames holds no music.")
        self.store, self.frames, self.target, self.seed = store, frames, target, seed
        counts = [max(1, round(store.rows[i]["frames"] / frames)) for i in tracks]
        self._places = np.repeat(np.asarray(tracks), counts)
        self._order: tuple[int, np.ndarray] = (-1, self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _track(self, number: int) -> int:
        epoch, place = divmod(number, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, _random(self.seed, 0, epoch).permutation(self._places))
        return int(self._order[1][place])

    def sample(self, number: int) -> tuple[int, int, str]:
        """Give sample `number`: its track, the frame it starts at, and its caption."""
        i, draw = self._track(number), _random(self.seed, 1, number)
        start = int(draw.integers(0, max(1, self.store.rows[i]["frames"] - self.frames + 1)))
        captions = self.store.captions(i)
        return i, start, captions[int(draw.integers(len(captions)))] if captions else ""

    def numbers(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> list[int]:
        """Give the samples of one rank at a step: all ranks together take the next `batch_size * world`."""
        first = (step * world + rank) * batch_size
        return list(range(first, first + batch_size))

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Collect samples into a batch."""
        tracks, starts, captions = zip(*map(self.sample, numbers), strict=True)
        places = list(zip(tracks, starts, strict=True))
        codes = torch.from_numpy(self._crops(self.store.codes, places, np.int64)).transpose(1, 2)
        projections = None
        if self.target == "continuous":
            projections = torch.from_numpy(self._crops(self.store.projections, places, np.float32)).permute(0, 2, 3, 1)
        lengths = torch.tensor([self.store.rows[i]["frames"] - start for i, start in places])
        real = (torch.arange(self.frames) < lengths[:, None]).float()
        rate = self.store.header["frame_rate"]
        told = zip(tracks, captions, starts, strict=True)
        prompts = [self.store.prompt(i, text, start / rate) for i, text, start in told]
        return Batch(codes, projections, real, prompts, list(numbers))

    def _crops(self, read: Callable[[int], np.ndarray], places: Sequence[tuple[int, int]], dtype: Any) -> np.ndarray:
        """Stack crops of what `read` gives of their tracks, (b, frames, ...), padded with zeros."""
        crops = [np.asarray(read(i)[start : start + self.frames], dtype) for i, start in places]
        return np.stack([np.pad(c, ((0, self.frames - len(c)), *[(0, 0)] * (c.ndim - 1))) for c in crops])


def dropped(seed: int, numbers: Sequence[int], names: Sequence[str], probability: float) -> dict[str, Tensor]:
    """Decide which conditions each sample does without, (b,) bool per name, independently of each other."""
    draws = np.stack([_random(seed, 2, number).random(len(names)) for number in numbers])
    return {name: torch.from_numpy(draws[:, i] < probability) for i, name in enumerate(names)}
