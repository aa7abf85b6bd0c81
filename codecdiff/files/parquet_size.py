"""The size of a parquet file in memory, from what its pages say and before any is unpacked.

A file of some kilobytes may unpack to gigabytes: a page may be compressed, one text stand in any number of rows, and
a row hold any number of values. Pages are what Arrow allocates for; the file's own sums may say something else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from codecdiff.files.documents import require_file
from codecdiff.files.hashes import DamagedFile

MAX_ROWS, FREE_ROWS = 2**25, 2**18  # that a file may have, and whatever its size: names that count up take no bytes
FREE_BYTES, GROWTH = 2**28, 32  # a file may take as many bytes, and as many times its own size
MAX_FOOTER, MAX_COLUMNS, MAX_DEPTH = 2**24, 5000, 32
MAX_HEADER = 2**24  # bytes of a page's, as in Arrow
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 4}
LEVELS = 8  # bytes that the place of a value in lists takes
MAX_RUNS = 2**21  # in a page of indices
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # types of pages
OF_DICTIONARY, DELTA_BYTE_ARRAY = (2, 8), 7  # encodings


def check_parquet_size(path: Path | str, encoded: Collection[str] = ()) -> None:
    """Raise DamagedFile for a parquet file that takes too much memory, or has more rows than one of its size can.

    `encoded` are columns that are read as dictionaries, in which a text that stands in many rows is in memory once.
    Raises MissingFile, UnusableFile, and ValueError or an exception of Arrow for what is not a parquet file.
    """
    import pyarrow.parquet as pq

    size = require_file(path).stat().st_size
    with Path(path).open("rb") as stream:
        footer = _read_footer(stream, path)
        with pq.ParquetFile(stream) as file:
            schema, leaves = file.schema, dictionary_leaves(file, encoded).values()
            num_rows = max(file.metadata.num_rows, sum(group.get(3, 0) for group in footer))
            if num_rows > min(MAX_ROWS, max(FREE_ROWS, size)) or file.metadata.num_rows < 0:
                raise DamagedFile(f"'{path}' states {num_rows:,} rows in {size:,} bytes: it is damaged.")
        limit, total = FREE_BYTES + GROWTH * size, 0
        for group in footer:
            for leaf, chunk in zip(map(schema.column, range(len(schema.names))), group.get(1, []), strict=True):
                try:
                    total += _chunk_bytes(stream, chunk[3], leaf, limit - total, leaf.path in leaves)
                except (AttributeError, LookupError, TypeError, struct.error) as error:  # of a number that is wrong
                    raise ValueError(f"the pages of its column '{leaf.path[:60]}' are damaged") from error
                if total > limit:
                    raise DamagedFile(
                        f"'{path}' unpacks to more than {limit / 2**20:,.0f} MiB from {size:,} bytes, mostly in its "
                        f"column '{leaf.path[:60]}': it is damaged, or made to fill the memory. Write it again."
                    )


def dictionary_leaves(file: Any, columns: Collection[str]) -> dict[str, str]:
    """Map those of these columns that hold texts, or lists of them, to their path in a parquet file.

    Arrow reads them as dictionaries. It cannot in the encodings of differences; lists in them are read one by one.
    """
    import pyarrow as pa

    fields = {field.name: field.type for field in file.schema_arrow if field.name in columns}
    leaves = {leaf.path.partition(".")[0]: leaf.path for leaf in map(file.schema.column, range(len(file.schema.names)))}
    groups = map(file.metadata.row_group, range(file.num_row_groups))
    chunks = (chunk for group in groups for chunk in map(group.column, range(group.num_columns)))
    plain = {chunk.path_in_schema for chunk in chunks if "DELTA" in str(chunk.encodings)} if fields else set()
    kinds = (pa.string(), pa.list_(pa.string()))
    return {name: leaves[name] for name, kind in fields.items() if kind in kinds and name in leaves.keys() - plain}


def _chunk_bytes(stream: BinaryIO, column: dict[int, Any], leaf: Any, limit: int, is_encoded: bool) -> int:
    """Return how many bytes one column of a row group takes, at most; the count ends once it is over the limit."""
    width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else WIDTHS[leaf.physical_type]
    width += LEVELS if leaf.max_repetition_level else 0
    total = dictionary = repeated = 0
    encodings = set()
    for page in _pages(stream, column):
        total += page.size
        if page.kind == DICTIONARY:
            dictionary = page.size  # no text in it is longer
        else:
            total += page.values * width
            encodings.add(page.encoding)
            longest = page.size if page.encoding == DELTA_BYTE_ARRAY else dictionary
            repeated += longest * page.values if page.encoding in (*OF_DICTIONARY, DELTA_BYTE_ARRAY) else 0
        if total > limit:
            return total
    if leaf.physical_type != "BYTE_ARRAY" or total + repeated <= limit:
        return total
    is_encoded &= encodings <= set(OF_DICTIONARY) or not leaf.max_repetition_level
    return total + (0 if is_encoded else _text_bytes(stream, column, leaf, limit - total))


def _text_bytes(stream: BinaryIO, column: dict[int, Any], leaf: Any, limit: int) -> int:
    """Return how many bytes the texts of a column take, each as often as it stands there; over the limit it ends."""
    import numpy as np

    total, lengths = 0, np.zeros(1, np.int64)
    for page in _pages(stream, column):
        if page.kind == DICTIONARY:
            lengths = np.fromiter(_text_lengths(_unpack(stream, column, page)), np.int64)
        elif page.encoding in OF_DICTIONARY:
            for indices, count in _runs(_unpack(stream, column, page), page, leaf):
                total += int(lengths[indices[indices < len(lengths)]].sum()) * count
        elif page.encoding == DELTA_BYTE_ARRAY:  # each begins as the one before
            total += _shared_bytes(_unpack(stream, column, page), page, leaf)
        if total > limit:
            break
    return total


class _Page(NamedTuple):
    kind: int
    encoding: int
    values: int
    size: int  # bytes when it is unpacked
    start: int  # of its data in the file
    packed: int  # bytes there
    levels: int  # bytes of levels in front, which are not packed; -1: they say it themselves
    is_packed: bool


def _pages(stream: BinaryIO, column: dict[int, Any]) -> Iterator[_Page]:
    """Yield every page of a column, as Arrow finds them."""
    position, dictionary = column[9], column.get(11, 0)
    position = dictionary if 0 < dictionary < position else position
    end, remaining = position + column[7], column[5]
    while remaining > 0 and position < end:
        header, length = _page_header(stream, position)
        kind, size, packed = header[1], header[2], header[3]
        own = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 0), {})
        is_v2 = kind == DATA_V2
        levels = own.get(5, 0) + own.get(6, 0) if is_v2 else -1
        is_packed = own.get(7, True) if is_v2 else True
        encoding = own.get(4 if is_v2 else 2, 0)
        page = _Page(kind, encoding, own.get(1, 0), size, position + length, packed, levels, is_packed)
        if min(size, packed, page.values, levels + 1) < 0:
            raise ValueError("a page has a negative size")
        yield page
        remaining -= page.values if kind in (DATA, DATA_V2) else 0
        position += length + packed


def _unpack(stream: BinaryIO, column: dict[int, Any], page: _Page) -> bytes:
    """Return the data of a page, without levels that stand in front of what is packed."""
    import pyarrow as pa

    skipped = max(page.levels, 0)
    stream.seek(page.start + skipped)
    data = stream.read(page.packed - skipped)
    if not column[4] or not page.is_packed or not data:
        return data
    return pa.decompress(data, page.size - skipped, CODECS[column[4]], asbytes=True)


def _text_lengths(data: bytes) -> Iterator[int]:
    """Yield the lengths of the texts of a dictionary: each follows its own length."""
    i = 0
    while i + 4 <= len(data):
        length = int.from_bytes(data[i : i + 4], "little")
        yield length
        i += 4 + length


def _values_start(data: bytes, page: _Page, leaf: Any) -> int:
    """Return where the values of a page begin: levels may stand in front, each after its length."""
    i = 0
    for level in (leaf.max_repetition_level, leaf.max_definition_level) if page.levels < 0 else ():
        i += 4 + int.from_bytes(data[i : i + 4], "little") if level else 0
    return i


def _shared_bytes(data: bytes, page: _Page, leaf: Any) -> int:
    """Return how many bytes the texts of a page share with the texts before them: numbers in DELTA_BINARY_PACKED."""
    import numpy as np

    i = _values_start(data, page, leaf)
    block, i = _varint(data, i)
    parts, i = _varint(data, i)
    count, i = _varint(data, i)
    first, i = _varint(data, i)
    length, count = block // max(parts, 1), min(count, page.values)
    if count and (length < 32 or length % 32):
        raise ValueError("a page has blocks of a length that no writer makes")
    deltas, done = np.zeros(count, np.int64), 1
    deltas[:1] = _signed(first)
    while done < count:
        least, i = _varint(data, i)
        widths, i = data[i : i + parts], i + parts
        for width in widths[: -(-(count - done) // length)]:
            size = length * width // 8
            bits = np.unpackbits(np.frombuffer(data[i : i + size], np.uint8), bitorder="little")
            own = bits.reshape(-1, width) @ (1 << np.arange(width, dtype=np.int64)) if width else np.zeros(1, np.int64)
            deltas[done : done + length] = own[: count - done] + _signed(least)
            done, i = done + length, i + size
    return int(np.maximum(deltas.cumsum().astype(np.int32), 0).sum(dtype=np.int64))  # int32, as Arrow's overflow


def _runs(data: bytes, page: _Page, leaf: Any) -> Iterator[tuple[Any, int]]:
    """Yield the indices of a page into its dictionary, as arrays and how often each is repeated."""
    import numpy as np

    i, runs = _values_start(data, page, leaf), 0
    width, i = (data[i], i + 1) if i < len(data) else (0, i)  # a page without a value has none
    while i < len(data):
        (head, i), runs = _varint(data, i), runs + 1
        if runs > MAX_RUNS or width > 32:
            raise ValueError("a page is longer than any writer makes it")
        if head & 1:  # groups of eight, packed into bits
            end = i + (head >> 1) * width if width else i
            for start in range(i, min(end, len(data)), width * 2**13):
                bits = np.unpackbits(
                    np.frombuffer(data[start : min(start + width * 2**13, end)], np.uint8), bitorder="little"
                )
                whole = bits[: len(bits) // width * width].reshape(-1, width)
                yield whole @ (1 << np.arange(width, dtype=np.int64)), 1
            i = end
        else:
            size = (width + 7) // 8
            yield np.array([int.from_bytes(data[i : i + size], "little")]), min(head >> 1, page.values)
            i += size


# Thrift's compact protocol, in which parquet files describe themselves. Fields have the numbers of parquet.thrift


def _page_header(stream: BinaryIO, position: int) -> tuple[dict[int, Any], int]:
    """Return the header of the page at a position, as fields by number, and its length."""
    length = 2**8
    while True:
        stream.seek(position)
        data = stream.read(length)
        try:
            header, end = _read_struct(data, 0)
            return {1: DATA, 2: 0, 3: 0} | header, end
        except (IndexError, struct.error):
            if len(data) < length or length >= MAX_HEADER:
                raise ValueError("the header of a page is cut short") from None
            length *= 2**4


def _read_footer(stream: BinaryIO, path: Path | str) -> list[dict[int, Any]]:
    """Return what a file says of its row groups, with fields by number.

    Raises DamagedFile if what it says of itself is too large or too deep for Arrow to read.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 8, 0))
    length = int.from_bytes(stream.read(4), "little")
    if size < 12 or stream.read(4) != b"PAR1" or length > size - 8:
        raise ValueError("it does not end as one")
    if length > MAX_FOOTER:
        raise DamagedFile(f"'{path}' says {length:,} bytes of itself: {MAX_FOOTER:,} is the most that is read.")
    stream.seek(size - 8 - length)
    try:
        footer, _ = _read_struct(stream.read(length), 0)
        children = [int(element.get(5, 0)) for element in footer[2]]
        groups = footer[4]
        if any(not isinstance(chunk[3], dict) for group in groups for chunk in group[1]):
            raise TypeError
    except (LookupError, struct.error, AttributeError, TypeError) as error:
        raise ValueError("its footer is damaged") from error
    open_groups: list[int] = []  # how many elements are still to come in each
    deepest = 0
    for count in children:
        while open_groups and not open_groups[-1]:
            open_groups.pop()
        if open_groups:
            open_groups[-1] -= 1
        open_groups.append(count)
        deepest = max(deepest, len(open_groups))
    if len(children) > MAX_COLUMNS or deepest > MAX_DEPTH:
        raise DamagedFile(
            f"'{path}' has {len(children):,} columns and groups of them, {deepest} deep: at most {MAX_COLUMNS:,}, and "
            f"{MAX_DEPTH} deep, are read."
        )
    return groups


def _read_struct(data: bytes, i: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by their numbers, texts as their lengths, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[i]:
        i += 1
        number += head >> 4
        if not head >> 4:
            value, i = _varint(data, i)
            number = _signed(value)
        fields[number], i = _read_value(data, i, head & 15, depth)
    return fields, i + 1


def _read_value(data: bytes, i: int, kind: int, depth: int) -> tuple[Any, int]:
    """Return a value of a kind, and where it ends."""
    if kind in (1, 2):  # in the head of the field
        return kind == 1, i
    if kind == 3:
        return data[i], i + 1
    if kind in (4, 5, 6):
        value, i = _varint(data, i)
        return _signed(value), i
    if kind == 7:
        return struct.unpack_from("<d", data, i)[0], i + 8
    if kind == 8:
        length, i = _varint(data, i)
        struct.unpack_from(f"{length}x", data, i)  # raises struct.error where the data is cut
        return length, i + length
    if kind in (9, 10):
        head, i = data[i], i + 1
        count, i = _varint(data, i) if head >> 4 == 15 else (head >> 4, i)
        if count > MAX_HEADER // 2**8:
            raise ValueError("a list in it is too long")
        values = []
        for _ in range(count):
            value, i = _read_value(data, i, 3 if head & 15 in (1, 2) else head & 15, depth)
            values.append(value)
        return values, i
    if kind == 12 and depth < MAX_DEPTH:
        return _read_struct(data, i, depth + 1)
    raise ValueError("it does not describe a parquet file")


def _varint(data: bytes, i: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[i]
        value |= (byte & 127) << shift
        i, shift = i + 1, shift + 7
        if byte < 128:
            return value, i
        if shift > 70:
            raise ValueError("a number is too long")


def _signed(value: int) -> int:
    """Return the number that is in a varint by zigzag."""
    return value >> 1 ^ -(value & 1)
