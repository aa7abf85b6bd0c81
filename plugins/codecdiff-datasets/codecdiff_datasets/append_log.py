"""Append-only logs: JSON lines that a long command writes, so that it can be killed and resumed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any, Self

from codecdiff.errors import InvalidValue
from codecdiff.files import lock_path, make_folder, require_file


class AppendLog:
    """A file of JSON objects, one per line, that one process at a time appends to, from any of its threads.

    A last line that a kill left unfinished is cut off when the file is opened again. Lines are with the operating
    system when `add` returns, and on the disk at most `sync_seconds` later or with the next line: a kill loses none,
    a power cut those of that time.

    Raises InvalidValue for a file that holds something else, naming the line, FolderLocked if another process has it
    open, and UnusableFile for a pipe or a device.
    """

    def __init__(self, file: Path | str, *, sync_seconds: float = 1.0):
        self.file = Path(file)
        self.sync_seconds = sync_seconds
        self._lock, self._synced = Lock(), 0.0
        with ExitStack() as stack:  # of what nobody else would close after an error, or Ctrl-C
            make_folder(self.file.parent)
            stack.enter_context(lock_path(self.file))
            if self.file.exists():
                require_file(self.file)  # a pipe would wait for a reader
            self._stream = stack.enter_context(self.file.open("a+b", buffering=0))
            self._repair()
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what the file holds, in order."""
        return read_rows(self.file)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line, whole or not at all. Raises OSError if the disk is full."""
        # a lone surrogate has no UTF-8, but written with a backslash it is what JSON calls it
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            end = self._stream.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[self._stream.write(line) :]
            except OSError:
                self._stream.truncate(end)
                raise
            if time.monotonic() - self._synced >= self.sync_seconds:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Bring everything to the disk, and let other processes open the file. A file without a line is removed."""
        with self._lock:
            if self._stream.closed:
                return
            os.fsync(self._stream.fileno())
            if not self._stream.seek(0, os.SEEK_END):
                self.file.unlink(missing_ok=True)
            self._open.close()

    def _repair(self) -> None:
        """Check every line; cut off an unfinished last line, and add the line end if only that is missing."""
        end = max((end for end, _ in _lines(self.file)), default=0)
        self._stream.truncate(end)
        if end:
            self._stream.seek(end - 1)
            if self._stream.read(1) != b"\n":
                self._stream.write(b"\n")


def read_rows(file: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a log, in order, without a last line that is unfinished or being written.

    Raises InvalidValue for a line that is not an object, naming it.
    """
    return (row for _, row in _lines(Path(file)))


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield where each line ends, in bytes, and what it holds."""
    end = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)  # not `parse_json`: half of a character may stand in an answer
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                # the beginning of a line, or the zeros that a power cut leaves
                if not line.endswith(b"\n") and (line.startswith(b"{") or not line.strip(b"\0")):
                    return
                raise InvalidValue(f"'{file}' line {number} is not a JSON object. Name another file, or fix that line.")
            end += len(line)
            yield end, row
