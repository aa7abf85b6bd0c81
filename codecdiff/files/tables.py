"""Tables in parquet files, with checksums."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from codecdiff.errors import UserError
from codecdiff.files.documents import require_file
from codecdiff.files.hashes import DamagedFile, sha256
from codecdiff.files.writing import atomic_write

MAX_ROWS = 2**25
# In the footer of a table: its SHA-256, computed with zeros in its place, and that it has one. Others drop both
TABLE_SEAL, IS_SEALED = b"codecdiff.sha256", b"codecdiff.sealed"
NO_SEAL = b"0" * 64


def write_parquet(path: Path | str, table: Any) -> None:
    """Write a table of pyarrow to a parquet file with checksums of each page and of all, whole or not at all."""
    import pyarrow.parquet as pq

    with atomic_write(path) as temporary:
        with pq.ParquetWriter(temporary, table.schema, write_page_checksum=True) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({TABLE_SEAL: NO_SEAL, IS_SEALED: b"1"})
        digest = sha256(temporary)
        with temporary.open("r+b") as stream:
            stream.seek(_place_of_seal(stream))
            stream.write(digest.encode())


def read_parquet(path: Path | str, schema: Any = None, upgrade: Callable[[Any], Any] = lambda table: table) -> Any:
    """Read a parquet file as a table, upgraded, with the columns and types of `schema` if there is one.

    Each is one array. Columns that are dictionaries in the schema, or lists of them, are not decoded: each value
    is in memory once.
    Raises MissingFile, UnusableFile; DamagedFile if it is something else, or has more rows than a file of its size can.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = require_file(path).stat().st_size
    try:
        _check_seal(path)
        encoded = {each.name for each in schema or () if "dictionary" in str(each.type)}
        types = {each.name: each.type for each in pq.read_schema(path) if each.name in encoded}
        texts = [name for name, kind in types.items() if pa.types.is_string(kind)]
        lists = [name for name, kind in types.items() if kind == pa.list_(pa.string())]
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
            if file.metadata.num_rows > min(MAX_ROWS, size):
                raise DamagedFile(f"'{path}' states {file.metadata.num_rows:,} rows in {size:,} bytes: it is damaged.")
            encoded_lists = {name: _encoded_lists(file, name) for name in lists}
            pa.default_memory_pool().release_unused()  # of the texts that were not encoded
            table = file.read([name for name in file.schema_arrow.names if name not in lists])
            for name, column in encoded_lists.items():
                table = table.append_column(name, column)
        table.validate(full=True)  # its texts are UTF-8
        keys = {
            key: value for key, value in (table.schema.metadata or {}).items() if key not in (TABLE_SEAL, IS_SEALED)
        }
        table = table.replace_schema_metadata(keys)
        table = upgrade(table)
        if schema is None:
            return table
        if missing := [name for name in schema.names if name not in table.column_names]:
            raise DamagedFile(f"'{path}' lacks the columns {', '.join(missing)}. Make it again.")
        table = table.select(schema.names).cast(schema).replace_schema_metadata(table.schema.metadata)
        for i, each in enumerate(schema):  # one at a time, as its chunks are in memory until it is whole
            table = table.set_column(i, each, table[i].unify_dictionaries().combine_chunks())
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise DamagedFile(f"'{path}' is not a parquet file that can be read: {reason}.") from error


def _place_of_seal(stream: BinaryIO) -> int:
    """Return where in a parquet file its seal is, 0 if it has none. Raises ValueError if only its name is left."""
    stream.seek(-8, os.SEEK_END)
    length = int.from_bytes(stream.read(4), "little")
    start = stream.seek(-8 - length, os.SEEK_END)
    footer = stream.read(length)  # as it is: damage may hide the names from those who parse it
    if TABLE_SEAL not in footer and IS_SEALED not in footer:
        return 0
    return start + footer.index(TABLE_SEAL) + len(TABLE_SEAL) + 2  # type and length of a text


def _check_seal(path: Path | str) -> None:
    """Raise DamagedFile or ValueError unless a parquet file is what was written, if `write_parquet` did."""
    with Path(path).open("rb") as stream:
        if not (place := _place_of_seal(stream)):
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            end = place + len(NO_SEAL)
            digest = hashlib.sha256(data[:place])
            digest.update(NO_SEAL)
            digest.update(data[end:])
            seal = bytes(data[place:end])
    if digest.hexdigest().encode() != seal and not _has_copied_seal(path):
        raise DamagedFile(f"'{path}' is damaged: it is not what was written. Make it again, or copy it again.")


def _has_copied_seal(path: Path | str) -> bool:
    """Return whether another program wrote a table with all that it had read: in Arrow's schema too, as we do not."""
    import base64

    import pyarrow.parquet as pq

    schema = (pq.read_metadata(path).metadata or {}).get(b"ARROW:schema", b"")
    return TABLE_SEAL in base64.b64decode(schema)


def _encoded_lists(file: Any, name: str) -> Any:
    """Read a column of lists of texts, each text once, as Arrow can only from a single row group."""
    import numpy as np
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    texts, lengths, missing = [], [], []
    for batch in file.iter_batches(2**16, columns=[name]):  # one at a time, as their texts take more than what is kept
        (column,) = batch.columns
        texts.append(column.flatten().dictionary_encode())
        lengths.append(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        missing.append(column.is_null())
    offsets = pa.array(np.concatenate([[0], *lengths]).cumsum(), pa.int32())
    values = pa.chunked_array(texts, text).unify_dictionaries().combine_chunks()
    return pa.ListArray.from_arrays(offsets, values, mask=pa.chunked_array(missing, pa.bool_()).combine_chunks())
