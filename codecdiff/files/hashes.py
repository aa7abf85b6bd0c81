"""Checksums of files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from codecdiff.errors import InvalidValue


class DamagedFile(InvalidValue):
    """A file that is not, or no longer, what was written."""


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
