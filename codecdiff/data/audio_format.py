"""What a file of audio is, by its own headers: where its streams lie, and whether it was cut short.

How long a stream is may be a count, an estimate or unknown, and only a count can prove that something is missing. The
sizes of WAV and AIFF are those of the chunk that holds the samples, not the file's outer size; what writers put
there for "unknown" is replaced by what there is. MP3 is counted frame by frame, and Ogg page by page: several files
that were joined are several streams, which libsndfile would read the first of.
"""

from __future__ import annotations

import io
import itertools
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

Buffer = mmap.mmap | bytes | bytearray

# How files begin that are often named as audio, and what they are
OTHER_AUDIO = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"\x30\x26\xb2\x75": "Windows Media",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
    b"TTA1": "True Audio",
    b"#!AMR": "AMR",
    b"\xff\xf1": "AAC",
    b"\xff\xf9": "AAC",
}
OTHER_FILES = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"version https://git-lfs": "a pointer of Git LFS to a file that was not fetched",
    b"<": "a web page or XML",
    b"{": "JSON",
}


class OtherFormat(ValueError):
    """A file that is something else. The message says what; `is_audio` whether it may be converted."""

    def __init__(self, what: str, *, is_audio: bool = False):
        super().__init__(what)
        self.is_audio = is_audio


@dataclass(frozen=True)
class Stream:
    """A part of a file that can be read as a file of its own.

    start, stop: in bytes.
    prefix: bytes to read before it.
    patches: bytes to read in place of those in the file, by offset in it.
    has_length: whether its header counts its samples.
    """

    start: int
    stop: int
    prefix: bytes = b""
    patches: Mapping[int, bytes] = field(default_factory=dict)
    has_length: bool = True


@dataclass(frozen=True)
class Layout:
    """What a file is: its format, its streams, and the proof that it was cut short, "" if there is none."""

    format: str
    streams: tuple[Stream, ...]
    truncation: str = ""
    is_whole: bool = False  # whether its only stream is the file as it is


class View:
    """A stream of a file, as a file of its own: what libsndfile reads in place of the whole."""

    def __init__(self, file: BinaryIO, stream: Stream):
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
            contents += self._file.read(min(len(view) - len(ahead), self._stream.stop - start))
        for offset, patch in self._stream.patches.items():
            for i, byte in enumerate(patch, offset - start + len(ahead)):
                if 0 <= i < len(contents):
                    contents[i] = byte
        view[: len(contents)] = contents
        self._position += len(contents)
        return len(contents)


def layout_of(file: Path) -> Layout:
    """Return the layout of a file. Raises OSError, and OtherFormat if it is empty or is known to be something else."""
    with file.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        if not size:
            raise OtherFormat("it is empty, 0 bytes")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _layout(data, size)
            except (struct.error, IndexError) as error:
                raise OtherFormat("its headers are damaged") from error


def _layout(data: Buffer, size: int) -> Layout:
    head = bytes(data[:16])
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wave(data, size)
    if head[:4] == b"riff" and head[4:16] == b"\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00":
        return _wave64(data, size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(data, size)
    if head[:4] == b"OggS":
        return _ogg(data, size)
    if head[4:8] == b"ftyp":
        raise OtherFormat("it is MPEG-4 (AAC, ALAC or video)", is_audio=True)
    for start, what in {**OTHER_AUDIO, **OTHER_FILES}.items():
        if bytes(data[: len(start)]) == start:
            raise OtherFormat(f"it is {what}", is_audio=start in OTHER_AUDIO)
    behind = _skip_tags(data, 0)
    if bytes(data[behind : behind + 4]) == b"fLaC":
        # of the samples in the block that has to come first: one that is written to a pipe counts none
        count = int.from_bytes(data[behind + 18 : behind + 26], "big") & (2**36 - 1)
        return Layout("FLAC", (Stream(behind, size, has_length=count > 0),), is_whole=behind == 0)
    return _mp3(data, size) or Layout("", (Stream(0, size),), is_whole=True)  # libsndfile may know it


# WAV and AIFF consist of chunks, with sizes.


def _is_unknown(size: int) -> bool:
    """Return whether a size of 32 bits is one that means unknown: about 2 GiB by sox and ALSA, about 4 by others."""
    return 0x7F000000 <= size <= 0x80000000 or size >= 0xFFFF0000


def _chunks(data: Buffer, start: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of every chunk, where its contents begin, and its size."""
    while start + 8 <= size:
        length = int.from_bytes(data[start + 4 : start + 8], order)  # pyright: ignore[reportArgumentType]
        yield bytes(data[start : start + 4]), start + 8, length
        start += 8 + length + length % 2


def _is_chunks(data: Buffer, start: int, size: int, order: str) -> bool:
    """Return whether chunks with printable names fill the file from an offset to its end."""
    for name, begin, length in _chunks(data, start, size, order):
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False
        start = begin + length + length % 2
    return start >= size


def _sized(kind: str, size: int, start: int, declared: int, unknown: bool, patches: dict[int, bytes]) -> Layout:
    """Return the layout of a file whose samples begin at `start` and take `declared` bytes, unless that is unknown."""
    missing = 0 if unknown else declared - (size - start)
    text = f"it ends {missing:,} bytes before its last sample" if missing > 0 else ""
    return Layout(kind, (Stream(0, size, patches=patches),), text, is_whole=not patches)


def _wave(data: Buffer, size: int) -> Layout:
    """RIFF, its big-endian RIFX, and RF64 and BW64 with sizes of 64 bits in a chunk of their own."""
    kind = bytes(data[:4])
    order = "big" if kind == b"RIFX" else "little"
    patches = {0: b"RF64"} if kind == b"BW64" else {}  # the same under the name that libsndfile knows
    long, block, place, start, length = None, 1, 0, size, 0
    for name, start, length in _chunks(data, 12, size, order):  # noqa: B007
        if name == b"ds64":
            place, long = start + 8, int.from_bytes(data[start + 8 : start + 16], "little")
        elif name == b"fmt ":
            block = max(1, int.from_bytes(data[start + 12 : start + 14], order))  # pyright: ignore[reportArgumentType]
        elif name == b"data":
            break
    else:
        return Layout("WAV", (Stream(0, size, patches=patches),), is_whole=not patches)
    available = size - start
    if length == 0 and long is None and _is_chunks(data, start, size, order):
        return _sized("WAV", size, start, 0, False, patches)  # it holds no samples
    if long is not None and length == 0xFFFFFFFF:
        unknown = available > 0 and (long == 0 or _is_unknown(long) or long >= 2**63 - 1)
        if unknown:
            patches |= {place: struct.pack("<Q", available // block * block)}
        return _sized("RF64", size, start, long, unknown, patches)
    unknown = available > 0 and (length == 0 or (_is_unknown(length) and length > available))
    if unknown:
        whole = min(available // block * block, 0xFFFFFFFF)
        pack = ">I" if order == "big" else "<I"
        patches |= {4: struct.pack(pack, min(size - 8, 0xFFFFFFFF)), start - 4: struct.pack(pack, whole)}
    return _sized("WAV", size, start, length, unknown, patches)


def _wave64(data: Buffer, size: int) -> Layout:
    """Sony's Wave64: chunks named by 16 bytes, sizes of 64 bits that include their headers, in steps of 8 bytes."""
    start = 40
    while start + 24 <= size:
        length = int.from_bytes(data[start + 16 : start + 24], "little")
        if bytes(data[start : start + 4]) == b"data":
            unknown = size > start + 24 and (length <= 24 or length >= 2**63 - 1)
            whole = {start + 16: struct.pack("<Q", size - start)} if unknown else {}
            return _sized("W64", size, start + 24, length - 24, unknown, whole)
        start += max(24, length + -length % 8)
    return Layout("W64", (Stream(0, size),), is_whole=True)


def _aiff(data: Buffer, size: int) -> Layout:
    channels, bits, place, start, length = 1, 16, 0, size, 0
    for name, start, length in _chunks(data, 12, size, "big"):  # noqa: B007
        if name == b"COMM":
            place = start + 2  # of the number of frames
            channels, _, bits = struct.unpack(">hIh", data[start : start + 8])
        elif name == b"SSND":
            break
    else:
        return Layout("AIFF", (Stream(0, size),), is_whole=True)
    available = size - start - 8
    empty = available > 0 and length in (0, 8)
    unknown = empty or (_is_unknown(length) and length > available)
    patches = {}
    if empty and place:
        frames = available // max(1, channels * -(-bits // 8))
        sizes = {4: size - 8, start - 4: available + 8, place: frames}
        patches = {offset: struct.pack(">I", min(value, 0xFFFFFFFF)) for offset, value in sizes.items()}
    return _sized("AIFF", size, start + 8, length - 8, unknown, patches)


# Ogg consists of pages.


def _ogg(data: Buffer, size: int) -> Layout:
    """Every group of pages that begin a stream begins a link of a chain; a page that the file ends in is cut."""
    starts, offset, in_header, truncation = [0], 0, True, ""
    while 0 <= offset < size:
        if bytes(data[offset : offset + 4]) != b"OggS":
            offset = data.find(b"OggS", offset)
            continue
        count = data[offset + 26] if offset + 27 <= size else 0
        lacing = data[offset + 27 : offset + 27 + count]
        end = offset + 27 + count + sum(lacing)
        if offset + 27 + count > size or end > size:
            truncation = "it ends inside of a page of Ogg"
            break
        begins = bool(data[offset + 5] & 2)
        if begins and not in_header:
            starts.append(offset)
        in_header, offset = begins, end
    streams = tuple(Stream(*pair) for pair in zip(starts, [*starts[1:], size], strict=True))
    return Layout("OGG", streams, truncation, is_whole=len(streams) == 1)


# MPEG audio consists of frames.

RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version
KBITS = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),  # MPEG 1, layers I to III
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),  # MPEG 2 and 2.5
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SEARCH = 2**16  # bytes in which the first frame has to be, behind tags


def _frame_sizes() -> dict[int, int]:
    """Map the second and third byte of every header that a frame can have to its size in bytes."""
    sizes = {}
    for version, layer, kbits, rate in itertools.product(RATES, (1, 2, 3), range(1, 15), range(3)):
        bitrate, hertz = 1000 * KBITS[version == 3, layer][kbits], RATES[version][rate]
        for protection, padding, private in itertools.product((0, 1), repeat=3):
            if layer == 3:
                size = 4 * (12 * bitrate // hertz + padding)
            else:
                size = (72 if layer == 1 and version != 3 else 144) * bitrate // hertz + padding
            second = 0xE0 | version << 3 | layer << 1 | protection
            sizes[second << 8 | kbits << 4 | rate << 2 | padding << 1 | private] = size
    return sizes


SIZES = _frame_sizes()
SAME = 0x1E0C  # bits of version, layer and rate, which the frames of a stream have in common
MAX_JUNK = 2**18  # bytes between two frames, beyond which none is looked for


@dataclass
class FrameRun:
    """Frames that follow each other, with the tag in the first of them that counts them, if there is one."""

    start: int
    stop: int
    header: bytes
    declared: int | None = None  # frames, by the tag
    frames: int = 0  # without the tag's
    is_cut: bool = False  # inside of its last frame

    @property
    def stream(self) -> Stream:
        """What to read: where its tag counts other frames than there are, or there is none, with one that is right."""
        is_layer_3 = self.header[1] & 6 == 2  # others have no such tags
        if not is_layer_3 or (self.declared is not None and abs(self.declared - self.frames) <= 1):
            return Stream(self.start, self.stop)
        start = self.start + (0 if self.declared is None else SIZES[_key(self.header)])
        return Stream(start, self.stop, prefix=_tag_frame(self.header, self.frames, self.stop - start))


def _key(data: Buffer, offset: int = 0) -> int:
    """Return the bytes of a frame's header that say its size; 0 if there is none at this offset."""
    if offset + 4 > len(data) or data[offset] != 0xFF:
        return 0
    return data[offset + 1] << 8 | data[offset + 2]


def _tag_place(header: Buffer) -> int:
    """Return where in a frame the tag that counts frames is."""
    is_first, is_mono = header[1] & 0x18 == 0x18, header[3] & 0xC0 == 0xC0
    return 4 + ((17 if is_mono else 32) if is_first else (9 if is_mono else 17)) + 2 * (not header[1] & 1)


def _declared(data: Buffer, offset: int) -> int | None:
    """Return the frames that the tag in a frame counts, None if it has none."""
    start = offset + _tag_place(data[offset : offset + 4])
    if data[offset + 1] & 6 != 2:  # not of layer III
        return None
    if bytes(data[start : start + 4]) in (b"Xing", b"Info"):
        return int.from_bytes(data[start + 8 : start + 12], "big") if data[start + 7] & 1 else 0
    if bytes(data[offset + 36 : offset + 40]) == b"VBRI":
        return int.from_bytes(data[offset + 50 : offset + 54], "big")
    return None


def _tag_frame(header: bytes, frames: int, size: int) -> bytes:
    """Return a silent frame with a tag that counts frames and bytes, for a stream whose frames begin like this."""
    head = bytearray(header)
    head[1] |= 1  # without a checksum
    place = _tag_place(head)
    for kbits in range(1, 15):
        head[2] = kbits << 4 | head[2] & 0x0D  # without padding
        if SIZES[_key(head)] >= place + 128:
            break
    length = SIZES[_key(head)]
    frame = bytes(head) + bytes(place - 4) + b"Info" + struct.pack(">III", 3, frames, size + length)
    return frame + bytes(length - len(frame))


def _mp3(data: Buffer, size: int) -> Layout | None:
    """Return the layout of MPEG audio; None if it is something else."""
    start = _skip_tags(data, 0)
    first = _find_frame(data, start, min(size, start + SEARCH), size)
    if first is None:
        return None
    runs = _runs(data, first, size)
    streams, truncation = tuple(run.stream for run in runs), _missing_frames(runs)
    if len(runs) == 1 and not streams[0].prefix:
        return Layout("MP3", (Stream(0, size),), truncation, is_whole=True)
    return Layout("MP3", streams, truncation)


def _missing_frames(runs: Sequence[FrameRun]) -> str:
    """Return the proof that a file is cut short: a tag counts more frames than it has and those behind it."""
    missing = 0
    for i, run in enumerate(runs):
        if run.declared:
            behind = itertools.takewhile(lambda other: other.declared is None, runs[i + 1 :])
            missing = run.declared - run.frames - sum(other.frames for other in behind)
    if missing > 1 or (missing == 1 and runs[-1].is_cut):
        return f"it ends {missing:,} frames before its last"
    return ""


def _skip_tags(data: Buffer, offset: int) -> int:
    """Return where the tags of ID3 at an offset end."""
    while bytes(data[offset : offset + 3]) == b"ID3" and len(data) >= offset + 10:
        length = 0
        for byte in data[offset + 6 : offset + 10]:
            length = length << 7 | byte & 0x7F
        offset += 10 + length + 10 * bool(data[offset + 5] & 0x10)
    return offset


def _find_frame(data: Buffer, offset: int, stop: int, size: int) -> int | None:
    """Return where the next of three frames of a kind that follow each other is, up to the end of the file."""
    while (offset := data.find(b"\xff", offset, stop)) >= 0:
        key = _key(data, offset)
        place, count = offset, 0
        while count < 3 and (length := SIZES.get(other := _key(data, place))) and not (key ^ other) & SAME:
            place, count = place + length, count + 1
            if place >= size:
                count = 3
        if count == 3:
            return offset
        offset += 1
    return None


def _runs(data: Buffer, offset: int, size: int) -> list[FrameRun]:
    """Walk through all frames. A tag that counts frames begins a run, and so does another rate or junk between them."""
    runs: list[FrameRun] = []
    while offset < size:
        header, declared = bytes(data[offset : offset + 4]), _declared(data, offset)
        kind, place = _key(header), _tag_place(header)
        start, offset = offset, offset + (0 if declared is None else SIZES[kind])
        run = FrameRun(start, min(offset, size), header, declared)
        runs.append(run)
        while length := SIZES.get(key := _key(data, offset)):
            if (key ^ kind) & SAME or (data[offset + place : offset + place + 4] in (b"Xing", b"Info") and run.frames):
                break
            if offset + length > size:
                run.stop, run.is_cut = size, True
                return runs
            run.frames, offset = run.frames + 1, offset + length
            run.stop = offset
        else:
            behind = _skip_tags(data, offset)
            frame = _find_frame(data, behind, min(size, behind + MAX_JUNK), size)
            offset = size if frame is None else frame
    return runs
