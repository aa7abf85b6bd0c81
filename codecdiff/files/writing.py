"""Files and folders that are written whole or not at all.

What is written has a temporary name in its folder, `.HOST-PROCESS-NUMBER.partial`, until it is on the disk.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from codecdiff.errors import UnusableFile

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


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


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    """Create a folder, and those above it, on the disk. Raises UnusableFile for a link that leads nowhere."""
    for place in reversed(_missing_folders(folder)):
        place.mkdir(exist_ok=True)
        sync(place.parent)


def _missing_folders(folder: Path) -> list[Path]:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    if link := next((place for place in missing if place.is_symlink()), None):
        raise UnusableFile(f"'{link}' links to '{link.readlink()}', which does not exist. Make it, or choose another.")
    return missing


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


def require_writable(folder: Path | str) -> None:
    """Raise UnusableFile unless files can be created in a folder, or in its nearest existing parent."""
    path = Path(folder).absolute()
    existing = [path, *path.parents][len(_missing_folders(path))]
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UnusableFile(f"'{existing}' cannot be written to ({error.strerror}). Choose another folder.") from error
