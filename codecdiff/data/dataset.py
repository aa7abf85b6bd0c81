"""The order of training samples and what is drawn for each: pure functions of a seed and the index of a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecdiff import rng
from codecdiff.config.schema import Target
from codecdiff.data.code_store import CodeStore
from codecdiff.errors import InvalidValue

VALIDATION_SPLITS = ("validation", "test")  # never trained on
DRAWN_AT_ONCE = 1024  # samples, which takes a third of the time


@dataclass(frozen=True)
class CropBatch:
    """Crops of a store, with their prompts."""

    codes: Tensor  # (b, k, l) uint16
    continuous: Tensor | None  # (b, k, d, l) float32 pre-quantization latents, if they are the target
    valid_mask: Tensor  # (b, l), 1 where there is music and 0 where a short row was padded
    prompts: list[dict[str, Any]]  # `CodeStore.prompt`; `text` is empty if the track has no caption
    sample_indices: list[int]


def split_tracks(store: CodeStore, fraction: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Divide the rows of a store into (training, validation). Segments of a file are on the same side.

    If the data set has named splits, its "validation" and "test" are the validation rows, whatever the fraction.
    Otherwise a hash of each file's checksum decides, independently of order and names, so that files with the same
    content are on the same side. Unless `fraction` is 0, at least one file is for validation if there are two or more.
    """
    splits, split = store.rows.categories("split")
    checksums, content = store.rows.categories("checksum")
    is_named = np.isin(content, content[np.isin(split, np.flatnonzero(np.isin(splits, VALIDATION_SPLITS)))])
    if is_named.any():
        return np.flatnonzero(~is_named).tolist(), np.flatnonzero(is_named).tolist()

    digests = [hashlib.sha256(f"{seed} {checksum}".encode()).digest() for checksum in checksums]
    draws = np.array([int.from_bytes(digest[:8]) / 2**64 for digest in digests])[content]
    candidates = np.sort(draws)[:-1] if fraction else []
    threshold = candidates[min(max(1, round(fraction * len(store))), len(candidates)) - 1] if len(candidates) else -1.0
    threshold = threshold if threshold < draws.max() else -1.0  # all rows have the same content
    return np.flatnonzero(draws > threshold).tolist(), np.flatnonzero(draws <= threshold).tolist()


class TrainingCrops:
    """Random crops of a store's rows, in an order that depends on the seed alone.

    Sample n belongs to epoch n // len(crops). An epoch is a permutation of the rows, each repeated as many times as it
    is crops long: long tracks are sampled in proportion to their length.

    Args:
        store: The store.
        rows: Indices of the rows to draw from.
        frames: Latent frames of a crop. A shorter row is padded with zeros.
        target: Whether batches hold pre-quantization latents beside the codes.
        seed: Seed of order, positions and captions.
        subset: Name of these rows; other subsets are drawn from independently.

    """

    def __init__(
        self,
        store: CodeStore,
        rows: Sequence[int],
        frames: int,
        *,
        target: Target = "codes",
        seed: int = 0,
        subset: str = "train",
    ):
        if not rows:
            raise InvalidValue(
                "No tracks to draw crops from: those whose split is validation or test are never trained "
                "on: encode others too, or change their split."
            )
        if frames < 1:
            raise InvalidValue(f"A crop of {frames} frames holds no music: raise train.crop_seconds.")
        self.store, self.frames, self.target, self.seed, self.subset = store, frames, target, seed, subset
        self._row_frames, self._num_captions = store.rows.array("frames"), store.rows.lengths("captions")
        counts = np.maximum(1, np.rint(self._row_frames[np.asarray(rows)] / frames)).astype(np.int64)
        self._epoch_rows = np.repeat(np.asarray(rows), counts)
        self._order: tuple[int, np.ndarray] = (-1, self._epoch_rows)  # of the epoch of the last sample
        self._stride = 0  # from one batch to the next, if they are those of steps
        self._drawn: dict[tuple[int, ...], np.ndarray] = {}  # `_samples` of batches that were drawn at once

    def __len__(self) -> int:
        return len(self._epoch_rows)

    def _rows(self, sample_indices: Sequence[int]) -> np.ndarray:
        epochs, positions = np.divmod(sample_indices, len(self))
        rows = np.empty_like(positions)
        for epoch in sorted({*epochs.tolist()}):
            if self._order[0] != epoch:
                random = rng.numpy_generator("codecdiff.data.order", self.subset, self.seed, epoch)
                self._order = epoch, random.permutation(self._epoch_rows)
            rows[epochs == epoch] = self._order[1][positions[epochs == epoch]]
        return rows

    def sample(self, sample_index: int) -> tuple[int, int, str]:
        """Return the row, the first frame in it, and the caption of a sample."""
        rows, starts, captions = self._samples([sample_index])
        return rows.item(), starts.item(), self._captions(rows, captions)[0]

    def _captions(self, rows: np.ndarray, positions: np.ndarray) -> list[str]:
        texts = np.full(len(rows), "", object)
        has_caption = self._num_captions[rows] > 0
        texts[has_caption] = self.store.rows.list_texts("captions", rows[has_caption], positions[has_caption])
        return texts.tolist()

    def _samples(self, sample_indices: Sequence[int]) -> np.ndarray:
        """Return the row, the first frame in it and the position of the caption of every sample, (3, n).

        Those of the following steps are drawn too.
        """
        key = tuple(sample_indices)
        if key not in self._drawn:
            count = max(1, DRAWN_AT_ONCE // len(key)) if self._stride else 1
            batches = [[index + self._stride * step for index in key] for step in range(count)]
            indices = [index for batch in batches for index in batch]
            rows = self._rows(indices)
            num_starts = np.maximum(1, self._row_frames[rows] - self.frames + 1)
            counts = np.stack([num_starts, np.maximum(1, self._num_captions[rows])], 1)
            keys = [(self.subset, self.seed, index) for index in indices]
            samples = np.stack([rows, *rng.numpy_integers("codecdiff.data.crop", keys, counts).T])
            self._drawn = dict(zip(map(tuple, batches), np.split(samples, count, 1), strict=True))
        return self._drawn[key]

    def sample_indices(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """Return the samples of one rank at a step: all ranks together read the next `batch_size * world_size`."""
        first, self._stride = (step * world_size + rank) * batch_size, batch_size * world_size
        return list(range(first, first + batch_size))

    def batch(self, sample_indices: Sequence[int]) -> CropBatch:
        """Collect samples into a batch."""
        rows, starts, captions = self._samples(sample_indices)
        codes = torch.from_numpy(self.store.crops(rows, starts, self.frames)).transpose(1, 2)
        continuous = None
        if self.target == "continuous":
            latents = self.store.crops(rows, starts, self.frames, "continuous").astype(np.float32)
            continuous = torch.from_numpy(latents).permute(0, 2, 3, 1)
        lengths = torch.from_numpy(self._row_frames[rows] - starts)
        valid_mask = (torch.arange(self.frames) < lengths[:, None]).float()
        texts = self._captions(rows, captions)
        prompts = self.store.crop_prompts(rows, texts, starts / self.store.header["frame_rate"])
        return CropBatch(codes, continuous, valid_mask, prompts, list(sample_indices))


def dropped_conditions(
    seed: int, sample_indices: Sequence[int], names: Sequence[str], probability: float | Mapping[str, float]
) -> dict[str, Tensor]:
    """Draw which conditions each sample is trained without: a bool mask (b,) per name, independent of each other.

    `probability` is that of all names, or of each; a name that it lacks is never left out.
    """
    of_name = probability if isinstance(probability, Mapping) else dict.fromkeys(names, probability)
    words = rng.numpy_words("codecdiff.train.dropout", [(seed, index) for index in sample_indices], len(names))
    draws = (words >> np.uint64(11)) * 2.0**-53  # as NumPy's `Generator.random`
    return {name: torch.from_numpy(draws[:, i] < of_name.get(name, 0.0)) for i, name in enumerate(names)}
