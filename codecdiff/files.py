"""Files that are written whole or not at all, tensors in files, locks on folders, and checksums."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from codecdiff.errors import InvalidValue, UnusableFile, UserError

if TYPE_CHECKING:  # the command line imports this module, and must start quickly
    from torch import Tensor


__all__ = [
    "POLL_SECONDS",
    "DamagedFile",
    "FolderLocked",
    "atomic_write",
    "atomic_write_text",
    "cached_checksum",
    "checksum",
    "lock_folder",
    "read_safetensors",
    "require_writable",
    "sha256",
    "try_lock",
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

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            return tensors, file.metadata() or {}
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
