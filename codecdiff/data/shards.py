"""The shards of a store: frames of many rows in one array, mapped when they are read, and compared with checksums."""

from __future__ import annotations

import io
import math
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa

from codecdiff.errors import InvalidValue
from codecdiff.files import DamagedFile, require_file

BLOCK = 4096  # frames of a row that share a checksum
MAX_MAPPED = 16_000  # arrays of one kind that are mapped at once, without a file descriptor: Linux allows 65,530 in all
# What NumPy raises for a header that is none: it is parsed as Python
HEADER_ERRORS = (ValueError, TypeError, OSError, OverflowError, SyntaxError, TokenError, RecursionError, MemoryError)
SHARD_FILES = pa.schema([("file", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])  # of shards.parquet
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


def in_memory(schema: pa.Schema) -> pa.Schema:
    """Return a schema of rows as they are read: segments of a track share its texts."""
    text = pa.dictionary(pa.int32(), pa.string())
    types = {pa.string(): text, pa.list_(pa.string()): pa.list_(text)}
    return pa.schema([field.with_type(types.get(field.type, field.type)) for field in schema])


class StoreRows:
    """The rows of a store, as `read_parquet` reads them: in columns. `rows[i]` makes a dict of one.

    Example:
        >>> store.rows[0]["track"], store.rows.array("frames").sum()

    """

    def __init__(self, table: pa.Table):
        self.table = table
        self._columns = {name: table[name].chunk(0) for name in table.column_names}

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: column[i].as_py() for name, column in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=BLOCK):
            yield from batch.to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreRows) and len(self) == len(other) and all(map(dict.__eq__, self, other))

    def value(self, name: str, i: int) -> Any:
        """Return what row `i` has in a column."""
        return self._columns[name][i].as_py()

    def texts(self, name: str, rows: np.ndarray) -> list[str]:
        """Return what some rows have in a column of texts."""
        column = self._columns[name]
        return column.dictionary.take(pa.array(column.indices.to_numpy()[rows])).to_pylist()

    def list_texts(self, name: str, rows: np.ndarray, positions: np.ndarray) -> list[str]:
        """Return, for each of some rows, the text at a position in its list, of a column of lists."""
        column = self._columns[name]
        texts, places = column.values, column.offsets.to_numpy()[rows] + positions
        return texts.dictionary.take(pa.array(texts.indices.to_numpy()[places])).to_pylist()

    def lengths(self, name: str) -> np.ndarray:
        """Return how many values each row has in a column of lists."""
        return self._columns[name].value_lengths().fill_null(0).to_numpy(zero_copy_only=False)

    def array(self, name: str) -> np.ndarray:
        """Return a column of numbers."""
        return self._columns[name].to_numpy(zero_copy_only=False)

    def categories(self, name: str) -> tuple[list[str], np.ndarray]:
        """Return the different values of a column of texts, and the index among them of each row's."""
        column = self._columns[name]
        return column.dictionary.to_pylist(), column.indices.to_numpy()


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
        rows: Rows of the store.
        column: Which of their columns has the checksums, if the store has them.

    """

    def __init__(
        self, folder: Path, suffix: str, dtype: Any, shape: tuple[int | None, ...], rows: StoreRows, column: str
    ):
        self.folder, self.suffix, self.dtype, self.shape = folder, suffix, np.dtype(dtype), shape
        self._shard, self._start, self._frames = map(rows.array, ("shard", "start", "frames"))
        names, missing = rows.table.column_names, pa.nulls(len(rows), ROWS.field(column).type)
        sums = rows.table[column].combine_chunks() if column in names else missing
        self._has_sums = sums.is_valid().to_numpy(zero_copy_only=False)
        self._is_sealed = bool(self._has_sums.any())
        counts = sums.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        # of the blocks of all rows; the first of each is in _first
        self._sums = sums.flatten().to_numpy(zero_copy_only=False)
        self._is_verified = np.zeros(self._first[-1], bool)
        self._is_read = np.zeros(len(rows), bool)  # rows that are verified to the end
        self._mapped: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it maps files itself."""
        return {**self.__dict__, "_mapped": OrderedDict()}

    def read(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return frames of row `i`, all or `count` from `start`, mapped. Raises DamagedFile."""
        shard, first, length = self._shard[i].item(), self._start[i].item(), self._frames[i].item()
        array = self._map(shard)
        if first + length > len(array):
            held = max(0, len(array) - first)
            raise DamagedFile(f"'{self._file(shard)}' ends after {held} of {length} frames of a row.")
        frames = array[first : first + length]
        stop = length if count is None else min(start + count, length)
        if not self._is_read[i]:
            for block in range(start // BLOCK, -(-stop // BLOCK)) if self._has_sums[i] else ():
                self._verify(i, block, frames)
            blocks = self._is_verified[self._first[i] : self._first[i + 1]]
            self._is_read[i] = not self._has_sums[i] or (len(blocks) * BLOCK >= length and blocks.all())
        return frames[start:stop]

    def crops(self, rows: Any, starts: Any, count: int) -> np.ndarray:
        """Return `count` frames of each row from its start, (b, count, ...), copied; zeros after the end of a row."""
        rows, starts = np.asarray(rows), np.asarray(starts)
        arrays = [self._map(shard) for shard in self._shard[rows].tolist()]
        begins, ends = self._start[rows] + starts, self._start[rows] + self._frames[rows]
        for i in np.flatnonzero(~self._is_read[rows] | (ends > [len(array) for array in arrays])):
            self.read(rows[i], starts[i], count)
        lengths = np.minimum(np.maximum(ends - begins, 0), count)
        collected = np.empty((len(arrays), count, *arrays[0].shape[1:]), self.dtype)
        for crop, array, begin, length in zip(collected, arrays, begins.tolist(), lengths.tolist(), strict=True):
            crop[:length] = array[begin : begin + length]
            crop[length:] = 0
        return collected

    def _verify(self, i: int, block: int, frames: np.ndarray) -> None:
        number = self._first[i] + block
        is_stored = number < self._first[i + 1]
        if is_stored and self._is_verified[number]:
            return
        part = frames[block * BLOCK : (block + 1) * BLOCK]
        if not is_stored or block_checksums(part) != [self._sums[number]]:
            raise DamagedFile(
                f"'{self._file(self._shard[i])}' is damaged: frames {self._start[i] + block * BLOCK:,} and following "
                "are not what was written. Restore the file from a copy, or encode the audio again."
            )
        self._is_verified[number] = True

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}{self.suffix}"

    def _map(self, shard: int) -> np.ndarray:
        if shard in self._mapped:
            self._mapped.move_to_end(shard)
            return self._mapped[shard]
        file = require_file(self._file(shard))
        try:
            try:
                array, header = _map_array(file)
            except (OSError, MemoryError):  # where less may be mapped
                self._mapped.clear()
                array, header = _map_array(file)
        except HEADER_ERRORS as error:
            raise DamagedFile(f"'{file}' is damaged: {error}. Restore it, or encode the audio again.") from error
        is_shape = array.ndim == 1 + len(self.shape)
        is_shape = is_shape and all(n in (None, m) for n, m in zip(self.shape, array.shape[1:], strict=True))
        if array.dtype != self.dtype or not is_shape:
            raise DamagedFile(f"'{file}' holds {array.dtype} of {array.shape[1:]}, not {self.dtype} of {self.shape}.")
        if self._is_sealed and header != array_header(array.dtype, array.shape):
            raise DamagedFile(f"'{file}' is damaged: its header is not what was written. Restore it from a copy.")
        self._mapped[shard] = array
        if len(self._mapped) > MAX_MAPPED:
            self._mapped.popitem(last=False)
        return array


def array_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return how a file of an array begins. NumPy reserves room in it, so that the first axis may grow."""
    stream = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def _map_array(file: Path) -> tuple[np.ndarray, bytes]:
    """Map the array in a file, which is closed, and return the file's header too."""
    with file.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise InvalidValue("its header is not of version 1.0")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        size = stream.tell()
    if is_fortran or dtype.hasobject:
        raise InvalidValue(f"it holds {dtype} in an order that is not C's")
    with pa.memory_map(str(file)) as mapped:  # NumPy would keep a file descriptor for each
        buffer = mapped.read_buffer()
    array = np.frombuffer(buffer, dtype, math.prod(shape), size) if math.prod(shape) else np.empty(0, dtype)
    return array.reshape(shape), bytes(buffer[:size])
