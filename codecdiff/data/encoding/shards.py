"""Shards of codes, written frame by frame."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from codecdiff.data.code_store import CONTINUOUS_SUFFIX, FORMAT
from codecdiff.data.shards import array_header

SUFFIXES = (".npy", CONTINUOUS_SUFFIX[FORMAT])


class Shard:
    """The arrays of a shard, which grow on disk and are never in memory as a whole.

    Args:
        stem: Path of the files without their suffix: SUFFIXES, one for each array that is appended.

    """

    def __init__(self, stem: Path):
        self.stem, self.frames = stem, 0
        self._files: list[BinaryIO] = []
        self._frame_types: list[tuple[np.dtype, tuple[int, ...]]] = []  # of a frame of each array

    def append(self, *arrays: np.ndarray) -> None:
        """Append frames: codes (frames, k), and optionally pre-quantization latents (frames, k, d)."""
        if not self._files:
            self._frame_types = [(array.dtype, array.shape[1:]) for array in arrays]
            paths = [self.stem.with_name(self.stem.name + suffix) for suffix in SUFFIXES[: len(arrays)]]
            for path in paths:
                self._files.append(path.open("w+b"))
            self._write_headers()
        for file, array in zip(self._files, arrays, strict=True):
            file.write(np.ascontiguousarray(array).data)
        self.frames += len(arrays[0])

    def truncate(self, frames: int) -> None:
        """Remove all frames but the first `frames`."""
        for file, (dtype, shape) in zip(self._files, self._frame_types, strict=True):
            file.seek(-(self.frames - frames) * int(np.prod(shape)) * dtype.itemsize, os.SEEK_END)
            file.truncate()
        self.frames = frames

    def _write_headers(self) -> None:
        """Write the number of frames over what was there before."""
        for file, (dtype, shape) in zip(self._files, self._frame_types, strict=True):
            file.seek(0)
            file.write(array_header(dtype, (self.frames, *shape)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:  # after an error, such as a full disk, it is of no use
                self._write_headers()
                for file in self._files:
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            for file in self._files:
                with suppress(OSError):
                    file.close()
