"""What a file of a data set would take in memory, found before a library reads it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from codecdiff.data.audio import SUFFIXES
from codecdiff.errors import InvalidValue
from codecdiff.files import check_parquet_size, require_file

FREE_BYTES, GROWTH = 2**26, 100  # of packed texts, which are rarely a tenth of their size
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
ZSTD, LZ4, ZIP, PARQUET, ARROW = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK\x03\x04", b"PAR1", b"ARROW1"
TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")
MAX_LINE = 2**26  # bytes
UTF16 = (b"\xff\xfe", b"\xfe\xff")
DAMAGED = (pa.ArrowException, OSError, ValueError, EOFError, LookupError)
DAMAGED += (struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
CAUSE = "it is damaged, or made to fill the memory"


def check_content(file: Path) -> None:
    """Raise InvalidValue for a file that unpacks to far more than its size, or that is not a text as its name says.

    Raises MissingFile, and UnusableFile for a pipe or a device.
    """
    if file.suffix.lower() in SUFFIXES and file.is_file():
        return
    with require_file(file).open("rb") as stream:
        start = stream.read(2**12)
    try:
        if start.startswith(PARQUET):
            check_parquet_size(file)
        elif file.suffix == ".arrow":
            _check_arrow(file, 8 if start.startswith(ARROW) else 0)
        elif any(start.startswith(each) for each in (ZIP, ZSTD, LZ4, *PACKED)):
            _check_packed(file, start)
        elif file.suffix.lower() in TEXTS and not start.startswith(UTF16):
            _check_text(file)
    except InvalidValue:
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InvalidValue(f"'{file}' cannot be read: {reason}. Fetch it again.") from error


def _check_text(file: Path) -> None:
    """Raise InvalidValue for a file that is not a text, or whose lines are longer than any text."""
    line = 0  # bytes since it began
    with file.open("rb") as stream:
        while data := stream.read(2**20):
            line = len(data) - data.rfind(b"\n") if b"\n" in data else line + len(data)
            if b"\0" in data:
                raise InvalidValue(f"'{file}' is not a text: it has zero bytes. Fetch it again.")
            if line > MAX_LINE and file.suffix.lower() != ".json":  # which may be one line
                raise InvalidValue(f"'{file}' has a line of more than {MAX_LINE // 2**20} MiB: {CAUSE}.")


def _check_packed(file: Path, start: bytes) -> None:
    """Raise InvalidValue for a packed file that unpacks to too much."""
    limit = FREE_BYTES + GROWTH * file.stat().st_size
    if start.startswith(ZIP):
        with zipfile.ZipFile(file) as archive:
            sizes: Iterator[int] = iter([each.file_size for each in archive.infolist()])
    else:
        sizes = _unpacked(file, start)
    total = 0
    for size in sizes:
        total += size
        if total > limit:
            raise InvalidValue(f"'{file}' unpacks to more than {limit / 2**20:,.0f} MiB: {CAUSE}.")


def _unpacked(file: Path, start: bytes) -> Iterator[int]:
    """Yield how many bytes each part of a packed file has."""
    unpack: Any = next((each for magic, each in PACKED.items() if start.startswith(magic)), None)
    codec = "zstd" if start.startswith(ZSTD) else "lz4"
    with unpack(file) if unpack else pa.CompressedInputStream(str(file), codec) as stream:
        while data := stream.read(2**20):
            yield len(data)


# Arrow's own files


def _check_arrow(file: Path, skipped: int) -> None:
    """Raise InvalidValue for a file whose columns take more memory than they have bytes, as `datasets` writes none."""
    with pa.memory_map(str(file)) as source:
        source.seek(skipped)
        for field in pa.ipc.open_stream(source).schema:
            if kind := _repeating(field.type):
                raise InvalidValue(f"'{file}' has a column '{field.name[:60]}' of type {kind}, which is not read.")
        source.seek(skipped)
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type != "schema" and _is_compressed(message.metadata.to_pybytes()):
                raise InvalidValue(f"'{file}' is compressed, as `datasets` writes none: save it again without.")
        source.seek(skipped)
        rows, size = sum(batch.num_rows for batch in pa.ipc.open_stream(source)), file.stat().st_size
        if rows > size:
            raise InvalidValue(f"'{file}' states {rows:,} rows in {size:,} bytes: {CAUSE}.")


def _repeating(kind: Any, *, is_inner: bool = False) -> str:
    """Return the type, in a type, in which few bytes may stand for many values, "" if there is none."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    views = (types.is_string_view, types.is_binary_view, types.is_list_view, types.is_large_list_view)
    if any(test(kind) for test in (types.is_dictionary, types.is_run_end_encoded, types.is_union, *views)):
        return str(kind)[:60]
    if types.is_null(kind) and is_inner:
        return "lists of null"
    inner = [kind.field(i).type for i in range(kind.num_fields)] if types.is_nested(kind) else []
    is_list = is_inner or not types.is_struct(kind)
    return next(filter(None, (_repeating(each, is_inner=is_list) for each in inner)), "")


def _is_compressed(metadata: bytes) -> bool:
    """Return whether the buffers of a message of Arrow, a flatbuffer, are compressed."""

    def field(table: int, number: int) -> int:  # where it is, 0 if the table has none
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, fields)[0]:
            return 0
        offset = struct.unpack_from("<H", metadata, fields + 4 + 2 * number)[0]
        return table + offset if offset else 0

    def inner(place: int) -> int:
        return place + struct.unpack_from("<I", metadata, place)[0]

    message = inner(0)
    batch = inner(field(message, 2))
    is_dictionary = metadata[field(message, 1)] == 2
    return bool(field(inner(field(batch, 1)) if is_dictionary else batch, 3))
