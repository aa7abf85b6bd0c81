"""Files that are written whole or not at all, bounded reading, tensors in files, locks on folders, and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecdiff.errors import InvalidValue, MissingFile, UnusableFile, UserError

if TYPE_CHECKING:  # the command line imports this module, and must start quickly
    from torch import Tensor


__all__ = [
    "POLL_SECONDS",
    "BadDocument",
    "DamagedFile",
    "FolderLocked",
    "atomic_write",
    "atomic_write_text",
    "cached_checksum",
    "checksum",
    "lock_folder",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_safetensors",
    "read_shapes",
    "read_yaml",
    "require_file",
    "require_writable",
    "sha256",
    "try_lock",
    "validate",
    "write_safetensors",
]

POLL_SECONDS = 3.0  # between two looks at a lock that another process holds


class FolderLocked(UserError, OSError):
    """Another process holds the lock of a folder."""


class DamagedFile(InvalidValue):
    """A file that is not, or no longer, what was written."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` when the block ends without an error.

    On an error the temporary file is deleted and `path` is left as it was. The file's permissions follow the umask,
    even if the writer (safetensors) would make it readable for its owner alone.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    temporary.touch()
    mode = temporary.stat().st_mode
    temporary.unlink()
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_safetensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, which must not share memory, to a safetensors file, whole or not at all, in a new folder too."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(whole, temporary, metadata=metadata)


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


def read_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Read the shapes of all tensors of a safetensors file, by name, and not the tensors. Raises as the above does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(require_file(path), "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFile(f"'{path}' is damaged: {error}. Delete it, then fetch or make it again.") from error


@contextmanager
def lock_folder(folder: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on a folder, which is created if it is missing, against other processes.

    The lock is a file beside the folder, `.NAME.lock`. It is released when the process ends, however that happens.
    Without effect where no lock can be taken: on read-only file systems and on those without locks.

    Args:
        folder: The folder.
        timeout: Seconds to wait for another process; -1 waits as long as it takes.

    Raises:
        FolderLocked: Another process still holds the lock.

    """
    from filelock import FileLock, Timeout

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder.with_name(f".{folder.name}.lock")).acquire(timeout, POLL_SECONDS))
        except Timeout as error:
            raise FolderLocked(f"'{folder}' is being written by another run. Wait for it, or name another.") from error
        except (OSError, NotImplementedError):
            pass
        yield


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


# Documents that may come from anyone: JSON and YAML, of bounded size and depth, each with a schema

MAX_BYTES, MAX_DEPTH, MAX_BITS = 2**24, 64, 1000  # no number of as many bits is too large for a float


class BadDocument(InvalidValue):
    """JSON or YAML that cannot be used; the message names the file, and where in it what is wrong."""


def require_file(path: Path | str) -> Path:
    """Return the path of a regular file. Raises MissingFile; UnusableFile for a pipe or a device, which may not end."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"File '{path}' does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError: of a zero byte
        raise UnusableFile(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not stat.S_ISREG(mode):
        raise UnusableFile(f"'{path}' cannot be read: it is not a file, but a folder, a pipe or a device.")
    return path


def read_json(path: Path | str, schema: Any = Any) -> Any:
    """Read a JSON file as `schema`, a type that pydantic knows. Raises BadDocument, MissingFile or UnusableFile."""
    return parse_json(_read_bytes(path), str(path), schema)


def read_yaml(path: Path | str, schema: Any = Any) -> Any:
    """Read a YAML file as `schema`, a type that pydantic knows. Raises BadDocument, MissingFile or UnusableFile."""
    return parse_yaml(_read_bytes(path), str(path), schema)


def parse_json(text: str | bytes, where: str, schema: Any = Any) -> Any:
    """Parse JSON as `schema`; `where` names it in messages. Raises BadDocument.

    What is too long or too deep for any file of ours is refused, and so is text that no file can hold (surrogates).
    """
    try:
        text = _decode(text)
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"{where} is not valid JSON: {_reason(error)}.") from error
    return validate(value, where, schema)


def parse_yaml(text: str | bytes, where: str, schema: Any = Any) -> Any:
    """Parse YAML without aliases, which can stand for any amount of text, as `parse_json` does JSON."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text, depth = _decode(text), 0
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias, *{event.anchor}; write its value there")
            if depth > MAX_DEPTH:
                raise RecursionError
        value = yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:  # of its tags
        raise BadDocument(f"{where} is not valid YAML: {_reason(error)}.") from error
    return validate(value, where, schema)


def _read_bytes(path: Path | str) -> bytes:
    """Read a regular file, one byte beyond MAX_BYTES at most."""
    try:
        with require_file(path).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except PermissionError as error:
        raise UnusableFile(f"'{path}' cannot be read: {error.strerror}.") from error


def _decode(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 2**20} MB")
    return text if isinstance(text, str) else text.decode()


def _reason(error: Exception) -> str:
    """Return an error of a parser as the end of a sentence."""
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {MAX_DEPTH} levels"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def validate(value: Any, where: str, schema: Any) -> Any:
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
        issue = error.errors()[0]
        place = "".join(f"{name}: " for name in issue["loc"])
        shown = textwrap.shorten(repr(issue["input"]), 80, placeholder="...")
        raise BadDocument(f"{where} cannot be used: {place}{issue['msg']}, got {shown}.") from error


@cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)
