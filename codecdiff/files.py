"""Files and folders that are written whole or not at all, tensors in files, locks on folders, and checksums.

What is written has a temporary name in its folder, `.HOST-PROCESS-NUMBER.partial`, until it is on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecdiff.errors import InvalidValue, UnusableFile, UserError

if TYPE_CHECKING:  # the command line imports this module, and must start quickly
    from torch import Tensor


__all__ = [
    "POLL_SECONDS",
    "DamagedFile",
    "FolderLocked",
    "atomic_folder",
    "atomic_write",
    "atomic_write_text",
    "cached_checksum",
    "checksum",
    "clear_leftovers",
    "delete_folder",
    "link_or_copy",
    "lock_folder",
    "make_folder",
    "read_safetensors",
    "require_writable",
    "save_tensors",
    "sha256",
    "sync",
    "try_lock",
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
        raise UnusableFile(
            f"'{path}' cannot be written: {error.strerror}. Make room, or choose another disk."
        ) from error


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
    """Give a file a second name, or copy it where the file system cannot. Raises FileExistsError."""
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
    import psutil

    for path in folder.glob(f".{_host()}-*.partial*"):
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
    with path.open("wb") as stream:
        for block in _safetensors_blocks(tensors, metadata):
            digest.update(block)
            stream.write(block)
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

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(f"'{path}' is damaged: {error}. Delete it, then fetch or make it again.") from error


@contextmanager
def lock_folder(folder: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on a folder, which is created if it is missing, against other processes.

    The lock is a file beside the folder, `.NAME.lock`, which says who holds it. It is released when the process ends,
    however that happens.
    Without effect where no lock can be taken: on read-only file systems and on those without locks.

    Args:
        folder: The folder.
        timeout: Seconds to wait for another process; -1 waits as long as it takes.

    Raises:
        FolderLocked: Another process still holds the lock.

    """
    from filelock import FileLock, Timeout

    folder = folder.absolute()
    make_folder(folder)
    file = folder.with_name(f".{folder.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(file).acquire(timeout, POLL_SECONDS))
        except Timeout as error:
            raise FolderLocked(
                f"'{folder}' is being written by another run{_holder(file)}. Wait for it, or name another."
            ) from error
        except (OSError, NotImplementedError):
            pass
        else:
            holder = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            with suppress(OSError):
                file.write_text(json.dumps(holder), encoding="utf-8")
            stack.callback(_empty, file)  # no name of a host stays
        yield


def _empty(file: Path) -> None:
    with suppress(OSError):
        file.write_text("", encoding="utf-8")


def _holder(lock: Path) -> str:
    """Return who holds a lock, as in " (process 12 on host, since ...)", if its file says so."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"
    return ""


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
