"""Tables in parquet files, with checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from codecdiff.errors import UserError
from codecdiff.files.documents import require_file
from codecdiff.files.hashes import DamagedFile, sha256
from codecdiff.files.parquet_size import MAX_FOOTER, check_parquet_size, dictionary_leaves
from codecdiff.files.writing import atomic_write

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
    Raises MissingFile, UnusableFile; DamagedFile if it is something else, or takes more memory than a file of its size
    should.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_file(path)
    try:
        _check_seal(path)
        encoded = {each.name for each in schema or () if "dictionary" in str(each.type)}
        check_parquet_size(path, encoded)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            leaves = dictionary_leaves(file, encoded)
            lists = [name for name, leaf in leaves.items() if name != leaf]
            encoded_lists = {name: _encoded_lists(path, file, leaves[name]) for name in lists}
        pa.default_memory_pool().release_unused()  # of the texts that were not encoded
        texts = [name for name in leaves if name not in lists]
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
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
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 8, 0))
    length = int.from_bytes(stream.read(4), "little")
    if length > min(MAX_FOOTER, size - 8):
        return 0
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
        stream.seek(0)
        digest = hashlib.sha256()
        _read_into(digest, stream, place)
        seal = stream.read(len(NO_SEAL))
        digest.update(NO_SEAL)
        _read_into(digest, stream, os.stat(path).st_size)
    if digest.hexdigest().encode() != seal and not _has_copied_seal(path):
        raise DamagedFile(f"'{path}' is damaged: it is not what was written. Make it again, or copy it again.")


def _read_into(digest: Any, stream: BinaryIO, length: int) -> None:
    """Update a digest with as many bytes of a stream, or with those that it has; a mapped file must not be cut."""
    while length > 0 and (data := stream.read(min(length, 2**20))):
        digest.update(data)
        length -= len(data)


def _has_copied_seal(path: Path | str) -> bool:
    """Return whether another program wrote a table with all that it had read: in Arrow's schema too, as we do not."""
    import base64

    import pyarrow.parquet as pq

    schema = (pq.read_metadata(path).metadata or {}).get(b"ARROW:schema", b"")
    return TABLE_SEAL in base64.b64decode(schema)


def _encoded_lists(path: Path | str, file: Any, leaf: str) -> Any:
    """Read a column of lists of texts, each text once, as Arrow can only from a single row group."""
    import numpy as np
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    texts, lengths, missing = [], [], []
    for column in (column for group in range(file.num_row_groups) for column in _lists(path, file, leaf, group)):
        flat = column.flatten()
        texts.append(flat if pa.types.is_dictionary(flat.type) else flat.dictionary_encode())
        lengths.append(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        missing.append(column.is_null())
    offsets = pa.array(np.concatenate([[0], *lengths]).cumsum(), pa.int32())
    values = pa.chunked_array(texts, text).unify_dictionaries().combine_chunks()
    return pa.ListArray.from_arrays(offsets, values, mask=pa.chunked_array(missing, pa.bool_()).combine_chunks())


def _lists(path: Path | str, file: Any, leaf: str, group: int) -> Iterator[Any]:
    """Yield the lists of a row group, with their texts as dictionaries if all are in that of the row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        suppress(pa.ArrowNotImplementedError),  # of texts that are not in the dictionary of the row group
        pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=[leaf]) as encoded,
    ):
        yield from [batch.column(0) for batch in encoded.iter_batches(2**16, row_groups=[group], columns=[leaf])]
        return
    for batch in file.iter_batches(2**16, row_groups=[group], columns=[leaf]):  # one at a time, as they take more
        yield batch.column(0)
