"""Shards of codes, written frame by frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

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
