"""Files and folders that are written whole or not at all or read within bounds, tensors in them, locks, checksums.

What is written has a temporary name in its folder, `.HOST-PROCESS-NUMBER.partial`, until it is on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import platform
import shutil
import stat
import tempfile
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from codecdiff.errors import InvalidValue, MissingFile, UnusableFile, UserError, did_you_mean, validation_issues

if TYPE_CHECKING:  # the command line imports this module, and must start quickly
    from torch import Tensor


__all__ = [
    "POLL_SECONDS",
    "BadDocument",
    "DamagedFile",
    "FolderLocked",
    "atomic_folder",
    "atomic_write",
    "atomic_write_text",
    "cached_checksum",
    "check_schema",
    "checksum",
    "clear_leftovers",
    "delete_folder",
    "link_or_copy",
    "lock_folder",
    "lock_path",
    "make_folder",
    "missing_file",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_parquet",
    "read_safetensors",
    "read_text",
    "read_yaml",
    "require_file",
    "require_writable",
    "save_tensors",
    "sha256",
    "sync",
    "try_lock",
    "write_parquet",
    "write_safetensors",
]

POLL_SECONDS = 3.0  # between two looks at a lock that another process holds
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
SAFETENSORS_DTYPES = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{"bfloat16": "BF16", "uint8": "U8", "bool": "BOOL"},
}


class FolderLocked(UserError, OSError):
    """Another process holds the lock of a folder."""


class DamagedFile(InvalidValue):
    """A file that is not, or no longer, what was written."""


@contextmanager
def atomic_write(path: Path | str, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path`, on the disk, when the block ends without an error.

    The folder is created if it is missing. On an error the temporary file is deleted and `path` is left as it was. The
    file's permissions follow the umask, even if the writer would make it readable for its owner alone. Raises
    UnusableFile if it cannot be written, as on a full disk, and FileExistsError if it is there and not to be replaced.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise UnusableFile(f"'{path}' cannot be written: it is {kind}. Choose the name of a file.")
    with _describe_disk_errors(path):
        make_folder(path.parent)
        temporary = _temporary_path(path)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            temporary.unlink()
            yield temporary
            temporary.chmod(mode)
            sync(temporary)
            (os.replace if replace else link_or_copy)(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new folder beside `path`, which gets that name, on the disk, when the block ends without an error.

    One that had the name is deleted. What is in it may be written in any way. On an error it is deleted. Raises
    UnusableFile if it cannot be written.
    """
    path = Path(path)
    with _describe_disk_errors(path):
        make_folder(path.parent)
        temporary = _temporary_path(path)
        temporary.mkdir()
        try:
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                sync(file)
            if path.exists():
                delete_folder(path)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(path.parent)


@contextmanager
def _describe_disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a disk into a sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UnusableFile(f"'{path}' cannot be written: {error.strerror}. Free space or use another disk.") from error


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Windows and some file systems cannot flush folders."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, on the disk."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync(place.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Link a file to a second name, or copy it where the file system cannot. Raises FileExistsError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with target.open("xb") as stream:
            stream.write(source.read_bytes())
        sync(target)


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _temporary_path(path: Path) -> Path:
    """Return a new name beside `path`, with its suffix, and delete what killed processes left in that folder."""
    status = path.parent.stat()
    _delete_abandoned(path.parent, status.st_dev, status.st_ino, os.getpid())
    return path.with_name(f".{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{path.suffix}")


@cache  # once per process and folder
def _delete_abandoned(folder: Path, device: int, inode: int, process: int) -> None:
    """Delete the leftovers in a folder whose process on this machine has ended, or started after they were written."""
    for path in folder.glob(f".{_host()}-*.partial*"):
        import psutil

        with suppress(OSError, ValueError):
            written, owner = path.stat().st_mtime, int(path.name.split("-")[1])
            try:
                is_alive = owner != process and psutil.Process(owner).create_time() <= written + 1
            except psutil.Error:
                is_alive = False
            if not is_alive:
                _delete(path)


def clear_leftovers(folder: Path) -> None:
    """Delete what killed processes left in a folder and below it, which this process has locked."""
    for path in list(folder.rglob(".*-*.partial*")):
        _delete(path)


def delete_folder(folder: Path) -> None:
    """Delete a folder: whole or, if that is interrupted, as a leftover."""
    temporary = _temporary_path(folder)
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_safetensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors to a safetensors file, whole or not at all, and return its SHA-256.

    They are written one by one, so that no more than one is held twice.
    """
    with atomic_write(path) as temporary:
        return save_tensors(temporary, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file, and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as stream, ThreadPoolExecutor(1) as pool:
        for block in _safetensors_blocks(tensors, metadata):
            hashing = pool.submit(digest.update, block)  # while it is written
            stream.write(block)
            hashing.result()
    return digest.hexdigest()


def _safetensors_blocks(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> Iterator[bytes | memoryview]:
    """Yield the contents of a safetensors file: the length of the header, the header, and each tensor's bytes."""
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name in names:
        tensor, end = tensors[name], start + tensors[name].nbytes
        dtype = SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield from (len(text).to_bytes(8, "little"), text)
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def read_safetensors(path: Path | str, names: Iterable[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of these names, or all, of a safetensors file, and its metadata.

    Raises FileNotFoundError, and DamagedFile for a file that is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(f"'{path}' is damaged: {error}. Delete it, then fetch or make it again.") from error


@contextmanager
def lock_folder(folder: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on a folder, which is created if it is missing, as `lock_path` does."""
    make_folder(folder.absolute())
    with lock_path(folder, timeout=timeout):
        yield


@contextmanager
def lock_path(path: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on a file or folder against other processes.

    The lock is a file beside it, `.NAME.lock`, which says who holds it and is deleted at the end. It is released when
    the process ends, however that happens. Without effect where no lock can be taken: on read-only file systems and on
    those without locks.

    Args:
        path: The file or folder, which need not exist.
        timeout: Seconds to wait for another process; -1 waits as long as it takes.

    Raises:
        FolderLocked: Another process still holds the lock.

    """
    from filelock import FileLock, Timeout

    path = path.absolute()
    file = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(file, thread_local=False).acquire(timeout, POLL_SECONDS))
        except Timeout as error:
            holder = ""
            with suppress(OSError, ValueError, KeyError, TypeError):  # the other may not have written it yet
                by = json.loads(file.read_text(encoding="utf-8"))
                holder = f" (process {by['process']} on {by['host']}, since {by['since']})"
            raise FolderLocked(f"'{path}' is being written by another run{holder}. Wait, or name another.") from error
        except (OSError, NotImplementedError):
            pass
        else:
            holder = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            with suppress(OSError):
                file.write_text(json.dumps(holder), encoding="utf-8")
            stack.callback(_remove, file)  # while it is held: whoever waits for it looks for the file again
        yield


def _remove(file: Path) -> None:
    with suppress(OSError):  # Windows deletes no open file
        file.unlink()


def try_lock(folder: Path) -> ExitStack | None:
    """Lock a folder until the returned stack is closed; return None if another process holds the lock."""
    stack = ExitStack()
    try:
        stack.enter_context(lock_folder(folder))
    except FolderLocked:
        return None
    return stack


def require_writable(folder: Path | str) -> None:
    """Raise UnusableFile unless files can be created in a folder, or in its nearest existing parent."""
    path = Path(folder).absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UnusableFile(f"'{existing}' cannot be written to ({error.strerror}). Choose another folder.") from error


def sha256(file: Path | str) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum(file: Path | str) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    return sha256(file)[:16]


def cached_checksum(file: Path | str) -> str:
    """Return a file's `checksum`, computed once per process as long as size and modification time stay the same."""
    status = Path(file).stat()
    return _cached_checksum(Path(file).absolute(), status.st_size, status.st_mtime_ns)


@cache
def _cached_checksum(file: Path, size: int, modified: int) -> str:
    return checksum(file)


# Tables

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


# Documents that may come from anyone: JSON and YAML, of bounded size and depth, each with a schema

MAX_BYTES, MAX_DEPTH, MAX_BITS = 2**24, 64, 1000  # no number of as many bits is too large for a float
MAX_VALUES = 100_000  # in YAML, which takes 2 kB of memory and 10 us for each


class BadDocument(InvalidValue):
    """JSON or YAML that cannot be used; the message names the file, and where in it what is wrong."""


def missing_file(path: Path | str, what: str = "File") -> MissingFile:
    """Return the error for a file that does not exist, which names the nearest beside it, or where it is looked for."""
    path = Path(path)
    if path.is_dir():
        return MissingFile(f"'{path}' is a folder: name a file.")
    is_readable = path.parent.is_dir() and os.access(path.parent, os.R_OK)
    hint = did_you_mean(path.name, os.listdir(path.parent)[:500] if is_readable else ())
    return MissingFile(f"{what} '{path}' does not exist.{hint or f' It would be in {path.parent.absolute()}.'}")


def require_file(path: Path | str) -> Path:
    """Return the path of a regular file. Raises MissingFile; UnusableFile for a pipe or a device, which may not end."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_file(path) from error
    except (OSError, ValueError) as error:  # ValueError: of a zero byte
        raise UnusableFile(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not stat.S_ISREG(mode):
        raise UnusableFile(f"'{path}' cannot be read: it is a folder, a pipe or a device. Name a file.")
    return path


def read_json(path: Path | str, schema: Any = Any) -> Any:
    """Read a JSON file as `schema`, a type that pydantic knows. Raises BadDocument, MissingFile or UnusableFile."""
    return parse_json(read_bytes(path), str(path), schema)


def read_yaml(path: Path | str, schema: Any = Any) -> Any:
    """Read a YAML file as `schema`, a type that pydantic knows. Raises BadDocument, MissingFile or UnusableFile."""
    return parse_yaml(read_bytes(path), str(path), schema)


def parse_json(text: str | bytes, where: str, schema: Any = Any) -> Any:
    """Parse JSON as `schema`; `where` names it in messages. Raises BadDocument.

    What is too long or too deep for any file of ours is refused, and so is text that no file can hold (surrogates).
    """
    try:
        text = _decode(text)
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"{where} is not valid JSON: {_reason(error)}.") from error
    if "\\ud" in text.lower() and not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise BadDocument(f"{where} holds half of a character, as \\ud83d without its other half.")
    return check_schema(value, where, schema)


def parse_yaml(text: str | bytes, where: str, schema: Any = Any) -> Any:
    """Parse YAML without aliases, which can stand for any amount of text, as `parse_json` does JSON.

    A key that stands twice in a mapping is refused: one of its values would be ignored.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text, depth = _decode(text), 0
        for count, event in enumerate(yaml.parse(text, loader)):
            if count > MAX_VALUES:
                raise ValueError(f"it has more than {MAX_VALUES:,} values")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias, *{event.anchor}; write its value there")
            if depth > MAX_DEPTH:
                raise RecursionError
        document = loader(text)
        node = document.get_single_node()
        if repeated := next(_repeated_keys(node), ""):
            raise ValueError(f"a key stands twice in a mapping, {repeated}")
        value = None if node is None else document.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:  # of its tags
        raise BadDocument(f"{where} is not valid YAML: {_reason(error)}.") from error
    return check_schema(value, where, schema)


def _repeated_keys(node: Any) -> Iterator[str]:
    """Yield the keys that stand twice in a mapping of a document of YAML, with the line of that."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        yield from (f"'{key}', line {node.start_mark.line + 1}" for key, count in counts.items() if count > 1)
    for each in node.value if isinstance(node, yaml.CollectionNode) else ():
        for inner in each if isinstance(each, tuple) else (each,):
            yield from _repeated_keys(inner)


def read_bytes(path: Path | str) -> bytes:
    """Read a regular file, one byte beyond MAX_BYTES at most: parsers refuse as many."""
    try:
        with require_file(path).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except PermissionError as error:
        raise UnusableFile(f"'{path}' cannot be read: {error.strerror}.") from error


def is_unicode(text: str) -> bool:
    """Return whether a text can be written in UTF-8: half of an emoji cannot."""
    return text.isascii() or text.encode(errors="ignore") == text.encode(errors="surrogatepass")


def read_text(path: Path | str) -> str:
    """Read a text in UTF-8, of as many bytes as a document has. Raises BadDocument, MissingFile or UnusableFile."""
    try:
        return _decode(read_bytes(path))
    except ValueError as error:
        raise BadDocument(f"{path} is not a text in UTF-8: {_reason(error)}.") from error


def _decode(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 2**20} MB")
    return text if isinstance(text, str) else text.decode()


def _reason(error: Exception) -> str:
    """Return an error of a parser as the end of a sentence."""
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {MAX_DEPTH} levels"
    if mark := getattr(error, "problem_mark", None):  # of YAML
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def check_schema(value: Any, where: str, schema: Any) -> Any:
    """Return a value that was parsed as `schema`. Raises BadDocument; also if it is too deep, or a number too large."""
    from pydantic import ValidationError

    level, depth = [value], 0
    while level:
        depth += any(isinstance(each, dict | list) for each in level)
        if depth > MAX_DEPTH:
            raise BadDocument(f"{where} is nested deeper than {MAX_DEPTH} levels.")
        if any(isinstance(each, int) and each.bit_length() > MAX_BITS for each in level):
            raise BadDocument(f"{where} holds a number of more than {MAX_BITS} bits.")
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        raise BadDocument(f"{where} cannot be used: {validation_issues(error)[0]}.") from error


@cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)
