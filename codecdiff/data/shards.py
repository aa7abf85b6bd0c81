"""The shards of a store: frames of many rows in one array, mapped when they are read, and compared with checksums."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa

from codecdiff.files import DamagedFile, require_file

BLOCK = 4096  # frames of a row that share a checksum
MAX_OPEN = 200  # arrays of one kind that are mapped at once: each takes a file descriptor
# What NumPy raises for a header that is none: it is parsed as Python
HEADER_ERRORS = (ValueError, TypeError, OSError, OverflowError, SyntaxError, TokenError, RecursionError, MemoryError)
FILES = pa.schema([("file", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])  # of shards.parquet
BASE_ROWS = pa.schema(  # of manifest.parquet, as it was before there were checksums
    [
        ("track", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("metadata", pa.string()),  # JSON
        ("license", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("seconds", pa.float64()),
        ("checksum", pa.string()),  # of the file
        ("bytes", pa.int64()),
        ("segment", pa.int32()),  # index in the track, dropped segments included
        ("offset", pa.float64()),  # seconds from the beginning of the track
        ("shard", pa.int32()),
        ("start", pa.int64()),  # first frame in the shard
        ("frames", pa.int64()),
    ]
)
CHECKSUMS = ("crc32", "continuous_crc32")  # of every BLOCK of codes, and of latents before quantization
ROWS = pa.schema([*BASE_ROWS, *((name, pa.list_(pa.uint32())) for name in CHECKSUMS)])


def block_checksums(frames: np.ndarray) -> list[int]:
    """Return the CRC-32 of every BLOCK of the frames (l, ...) of a row."""
    return [zlib.crc32(np.ascontiguousarray(frames[i : i + BLOCK]).data) for i in range(0, len(frames), BLOCK)]


class ShardReader:
    """Reads frames of one kind, codes or latents, from the shards of a store. A block is verified when first read.

    Args:
        folder: Of the shards.
        suffix: Of the names of their files, behind the number of the shard.
        dtype: Type of their numbers.
        shape: Of a frame; None for any length.
        rows: Rows of the manifest.
        column: Which of their columns has the checksums, if the store has them.

    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        dtype: Any,
        shape: tuple[int | None, ...],
        rows: Sequence[Mapping[str, Any]],
        column: str,
    ):
        self.folder, self.suffix, self.dtype, self.shape = folder, suffix, np.dtype(dtype), shape
        self.rows, self.column = rows, column
        self._first = np.cumsum([0, *(len(row.get(column) or ()) for row in rows)])  # block of each row
        self._is_verified = np.zeros(self._first[-1], bool)
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it maps files itself."""
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return frames of row `i`, all or `count` from `start`, mapped. Raises DamagedFile."""
        row = self.rows[i]
        array, first = self._map(row["shard"]), row["start"]
        if first + row["frames"] > len(array):
            held = max(0, len(array) - first)
            raise DamagedFile(f"'{self._file(row['shard'])}' ends after {held} of {row['frames']} frames of a row.")
        frames = array[first : first + row["frames"]]
        stop = len(frames) if count is None else min(start + count, len(frames))
        for block in range(start // BLOCK, -(-stop // BLOCK)) if row.get(self.column) is not None else ():
            self._verify(i, block, frames)
        return frames[start:stop]

    def _verify(self, i: int, block: int, frames: np.ndarray) -> None:
        row, part = self.rows[i], frames[block * BLOCK : (block + 1) * BLOCK]
        sums = row[self.column]
        if block < len(sums) and self._is_verified[self._first[i] + block]:
            return
        if block >= len(sums) or block_checksums(part) != [sums[block]]:
            raise DamagedFile(
                f"'{self._file(row['shard'])}' is damaged: frames {row['start'] + block * BLOCK:,} and following are "
                "not what was written. Restore the file from a copy, or encode the audio again."
            )
        self._is_verified[self._first[i] + block] = True

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}{self.suffix}"

    def _map(self, shard: int) -> np.ndarray:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        file = require_file(self._file(shard))
        try:
            array = np.lib.format.open_memmap(file, mode="r")
        except HEADER_ERRORS as error:
            raise DamagedFile(f"'{file}' is damaged: {error}. Restore it, or encode the audio again.") from error
        is_shape = array.ndim == 1 + len(self.shape)
        is_shape = is_shape and all(n in (None, m) for n, m in zip(self.shape, array.shape[1:], strict=True))
        if array.dtype != self.dtype or not is_shape or not array.flags.c_contiguous:
            raise DamagedFile(f"'{file}' holds {array.dtype} of {array.shape[1:]}, not {self.dtype} of {self.shape}.")
        self._open[shard] = array
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return array
