"""The bytes of a file of audio, and the parts of it that can be read as files of their own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

BLOCK = 2**16  # bytes of a file that are read at once
BEHIND = 2**12  # of them, bytes on the other side of where a file is read from


class ChangedFile(ValueError):
    """A file that holds less than when it was opened: another program writes it."""


class FileBytes:
    """The bytes of an open file, read block by block: a map of one that gets shorter would end the process.

    Raises ChangedFile where it has become shorter.
    """

    def __init__(self, file: io.RawIOBase | BinaryIO, size: int):
        self._file, self._size = file, size
        self._start, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int | slice) -> Any:  # a number or bytes, as of bytes
        start, stop = (place.start or 0, place.stop) if isinstance(place, slice) else (place, place + 1)
        offset = start - self._start
        if stop is None or offset < 0 or stop - self._start > len(self._block):
            stop = self._size if stop is None else min(stop, self._size)
            self._load(start, max(start, stop))
            offset = start - self._start
        return self._block[offset : stop - self._start] if isinstance(place, slice) else self._block[offset]

    def _load(self, start: int, stop: int) -> None:
        """Read the block that holds these bytes: it goes on in the direction of what was read before."""
        first = max(0, start - BEHIND if start >= self._start else stop + BEHIND - BLOCK)
        first = min(first, start)
        last = min(self._size, max(stop, first + BLOCK))
        self._file.seek(first)
        block = self._file.read(max(0, last - first))
        if len(block) < last - first:
            raise ChangedFile
        self._start, self._block = first, block

    def find(self, part: bytes, start: int, stop: int | None = None) -> int:
        """Return where a part begins at or after `start` and ends by `stop`, -1 if it does nowhere."""
        stop = self._size if stop is None else min(stop, self._size)
        while start + len(part) <= stop:
            if start < self._start or start + len(part) > self._start + len(self._block):
                self._load(start, start + len(part))
            if (place := self._block.find(part, start - self._start, stop - self._start)) >= 0:
                return self._start + place
            start = self._start + len(self._block) - len(part) + 1
        return -1

    def rfind(self, part: bytes, start: int, stop: int) -> int:
        """Return where the last part begins that does so at or after `start` and ends by `stop`, -1 if none does."""
        while start + len(part) <= stop:
            if stop - len(part) < self._start or stop > self._start + len(self._block):
                self._load(stop - len(part), stop)
            first = max(start, self._start)
            if (place := self._block.rfind(part, first - self._start, stop - self._start)) >= 0:
                return self._start + place
            stop = first + len(part) - 1
        return -1


Buffer = FileBytes | bytes | bytearray


@dataclass(frozen=True)
class Stream:
    """A part of a file that can be read as a file of its own.

    start, stop: in bytes.
    prefix: bytes to read before it.
    has_length: whether its header counts its samples.
    """

    start: int
    stop: int
    prefix: bytes = b""
    has_length: bool = True


@dataclass(frozen=True)
class Layout:
    """What a file is.

    streams: What to read, one after another.
    damage: The proof that it was cut short or is damaged, "" if there is none.
    issue: A sentence on what may be wrong with a file that can be used, "" if nothing is.
    """

    streams: tuple[Stream, ...]
    damage: str = ""
    issue: str = ""


class View:
    """A stream of a file, as a file of its own: what libsndfile reads in place of the whole.

    is_short: Whether the file held less than the stream, which libsndfile takes for its end.
    """

    def __init__(self, file: BinaryIO, stream: Stream):
        self.is_short = False
        self._file, self._stream, self._position = file, stream, 0
        self._size = len(stream.prefix) + stream.stop - stream.start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and return how many bytes were read."""
        view = memoryview(buffer).cast("B")
        ahead = self._stream.prefix[self._position : self._position + len(view)]
        start = self._stream.start + self._position + len(ahead) - len(self._stream.prefix)
        contents = bytearray(ahead)
        if 0 <= start < self._stream.stop and len(ahead) < len(view):
            self._file.seek(start)
            count = min(len(view) - len(ahead), self._stream.stop - start)
            contents += self._file.read(count)
            self.is_short = self.is_short or len(contents) < len(ahead) + count
        view[: len(contents)] = contents
        self._position += len(contents)
        return len(contents)
