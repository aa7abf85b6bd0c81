"""Files that are never left half-written, and folders that are tried before the work begins."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

WAIT = 3.0  # seconds until what another process holds is looked at again


@contextmanager
def replaced(path: Path | str) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes its place when the block ends without an error.

    On an error the temporary file is removed and whatever stood at `path` stands there still. Others may read it as the
    umask says, even if the writer (safetensors) would keep it for its owner.
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


def claim(descriptor: int, path: Path | str) -> None:
    """Hold an open file or folder against other processes until it is closed; in vain on a file system without locks.

    Raises OSError if another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(f"'{path}' is being written by another run. Wait for it, or name another.") from error
    except OSError:
        return


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, made where there is none, against other processes. Raises OSError as `claim` does."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        claim(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def try_alone(folder: Path) -> ExitStack | None:
    """Hold a folder against other processes until what is given is closed; None if another process holds it."""
    stack = ExitStack()
    try:
        stack.enter_context(alone(folder))
    except OSError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        return None
    return stack


def wait_alone(folder: Path) -> ExitStack:
    """Hold a folder as `try_alone`, once others have let go of it."""
    while (held := try_alone(folder)) is None:
        time.sleep(WAIT)
    return held


def require_writable(folder: Path | str) -> None:
    """Raise OSError unless files can be written in a folder, or in the nearest there is above it."""
    path = Path(folder).absolute()
    home = next(place for place in (path, *path.parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise OSError(f"'{home}' cannot be written to ({error.strerror}). Choose another folder.") from error


def replace_text(path: Path | str, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(file: Path | str) -> str:
    """Give the SHA-256 of a file."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum(file: Path | str) -> str:
    """Give the first 16 hexadecimal digits of a file's SHA-256."""
    return sha256(file)[:16]


def remembered_checksum(file: Path | str) -> str:
    """Give a file's `checksum`, read once in a process as long as its size and date stay."""
    status = Path(file).stat()
    return _remembered(Path(file).absolute(), status.st_size, status.st_mtime_ns)


@cache
def _remembered(file: Path, size: int, modified: int) -> str:
    return checksum(file)
