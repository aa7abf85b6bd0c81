"""What a file of audio is, by its own headers: where its streams lie, and whether it is cut short or damaged.

How long a stream is may be a count, an estimate or unknown, and only a count can prove that something is missing. The
sizes of WAV and AIFF are those of the chunk that holds the samples, not the file's outer size; what writers put
there for "unknown" is replaced by what there is. MP3 is counted frame by frame, FLAC by its last frame, and Ogg page by
page: several files that were joined are several streams, which libsndfile would read the first of.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload

Order = Literal["little", "big"]
BLOCK = 2**16  # bytes of a file that are read at once
BEHIND = 2**12  # of them, bytes on the other side of where a file is read from
MAX_TEXT = 4096  # bytes that say whether a file is text: a header of NIST SPHERE is, and has 1024
MAX_HEADER = 2**16  # bytes of a chunk that says what samples are

# How files begin that are often named as audio, and what they are
OTHER_AUDIO = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"\x30\x26\xb2\x75": "Windows Media",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
    b"TTA1": "True Audio",
    b"#!AMR": "AMR",
    b"\x0b\x77": "Dolby Digital",
    b"\x7f\xfe\x80\x01": "DTS",
    **{bytes([0xFF, second]): "AAC" for second in (0xF0, 0xF1, 0xF8, 0xF9)},
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

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
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


def layout_of(file: Path) -> Layout:
    """Return the layout of a file.

    Raises OSError, ChangedFile, and OtherFormat if it is empty or is known to be something else.
    """
    with file.open("rb", buffering=0) as stream:
        size = stream.seek(0, io.SEEK_END)
        if not size:
            raise OtherFormat("it is empty, 0 bytes")
        try:
            return _layout(FileBytes(stream, size), size)
        except (struct.error, IndexError) as error:
            raise OtherFormat("its headers are damaged") from error


def _layout(data: Buffer, size: int) -> Layout:
    begin = _skip_tags(data, 0)
    head = bytes(data[begin : begin + 32])
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wave(data, begin, size)
    if head[:4] == b"riff" and head[4:16] == b"\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00":
        return _wave64(data, begin, size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(data, begin, size)
    if head[:4] == b"OggS":
        return _ogg(data, begin, size)
    if head[4:8] == b"ftyp":
        raise OtherFormat("it is MPEG-4 (AAC, ALAC or video)", is_audio=True)
    for start, what in {**OTHER_AUDIO, **OTHER_FILES}.items():
        if head.startswith(start):
            raise OtherFormat(f"it is {what}", is_audio=start in OTHER_AUDIO)
    is_flac = head[:4] == b"fLaC"
    layout = None if is_flac else _mp3(data, begin, size)
    layout = layout or _flac(data, begin if is_flac else 0, size)  # a tag before it may state a wrong length
    if layout is None and _is_text(bytes(data[:MAX_TEXT])):
        raise OtherFormat("it contains text, not audio")
    return layout or Layout((Stream(0, size),))  # libsndfile may know it


def _is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are letters and white space in UTF-8; they may end within a letter."""
    text = head.decode(errors="replace")
    return "\ufffd" not in text[:-1] and all(letter.isprintable() or letter.isspace() for letter in text)


# WAV and AIFF consist of chunks, with sizes. What libsndfile reads is a header of ours and their samples: it would
# stumble over the other chunks that some programs write, and over wrong sizes.

MPEG_FORMATS = (0x50, 0x55)  # WAVE_FORMAT_MPEG and WAVE_FORMAT_MPEGLAYER3
WAVE_FORMAT_EXTENSIBLE = 0xFFFE
KSDATAFORMAT = bytes.fromhex("000000001000800000aa00389b71")  # how the subformat of one ends that stands for a format


def _is_unknown(size: int) -> bool:
    """Return whether a size of 32 bits is one that means unknown: about 2 GiB by sox and ALSA, about 4 by others."""
    return 0x7F000000 <= size <= 0x80000000 or 0xFFFF0000 <= size < 2**32


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _chunks(data: Buffer, start: int, size: int, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of every chunk, where its contents begin, and its size."""
    while start + 8 <= size:
        length = int.from_bytes(data[start + 4 : start + 8], order)
        yield bytes(data[start : start + 4]), start + 8, length
        start += 8 + length
        if length % 2 and not (data[start : start + 1] > b" " and _is_name(bytes(data[start : start + 4]))):
            start += 1  # the byte that pads it, which some programs leave out


def _is_chunks(data: Buffer, start: int, size: int, order: Order) -> bool:
    """Return whether chunks with printable names fill the file from an offset to its end."""
    for name, begin, length in _chunks(data, start + start % 2, size, order):
        if not _is_name(name):
            return False
        start = begin + length
    return start >= size


def _samples(
    start: int, size: int, length: int | None, block: int, slack: int, header: Callable[[int], bytes]
) -> Layout:
    """Return the layout of a file whose samples begin at `start` and take `length` bytes; None if that is unknown.

    block: bytes of the samples of all channels at one time.
    slack: bytes that `length` may exceed what there is by: some programs count a byte that pads, or a sample too many.
    header: what is read before so many bytes of samples.
    """
    available = max(0, size - start)
    missing = 0 if length is None else length - available
    is_inexact = length is None or 0 < missing <= slack
    count = available // block * block if is_inexact else min(length or 0, available)
    text = f"cut short: it ends {missing:,} bytes before its last sample" if missing > slack else ""
    return Layout((Stream(start, start + count, prefix=header(count)),), text)


def _slack(block: int, channels: int, bits: int) -> int:
    """Return the slack of samples: one of all channels, which is inaudible, but not a block of compressed ones."""
    return max(2, block) if 8 * block == channels * (bits + -bits % 8) else 1


def _wave_header(order: Order, formats: bytes, fact: bytes, count: int) -> bytes:
    """Return a header of WAV for so many bytes of samples, whose chunks `fmt ` and `fact` have these contents."""
    if int.from_bytes(formats[:2], order) == WAVE_FORMAT_EXTENSIBLE and formats[26:40] == KSDATAFORMAT:
        formats = formats[24:26] + formats[2:16]
    pack = ">4sI" if order == "big" else "<4sI"
    chunks = b"WAVE" + struct.pack(pack, b"fmt ", len(formats)) + formats + bytes(len(formats) % 2)
    chunks += struct.pack(pack, b"fact", 4) + fact[:4] if len(fact) >= 4 else b""
    name, size = b"RIFX" if order == "big" else b"RIFF", len(chunks) + 8 + count
    if size >= 2**32:
        chunks = b"WAVE" + struct.pack("<4sIQQQI", b"ds64", 28, size + 36, count, 0, 0) + chunks[4:]
        name, size, count = b"RF64", 2**32 - 1, 2**32 - 1
    return struct.pack(pack, name, size) + chunks + struct.pack(pack, b"data", count)


def _wave(data: Buffer, begin: int, size: int) -> Layout:
    """RIFF, its big-endian RIFX, and RF64 and BW64 with sizes of 64 bits in a chunk of their own."""
    order: Order = "big" if data[begin : begin + 4] == b"RIFX" else "little"
    chunks: dict[bytes, bytes] = {}
    start = length = 0
    for name, first, count in _chunks(data, begin + 12, size, order):
        if name != b"data":
            chunks.setdefault(name, bytes(data[first : first + min(count, MAX_HEADER)]))
            continue
        start, length = first, count
        if length or not _is_chunks(data, start, size, order):  # an empty one may be before that with samples
            break
    if not start or len(formats := chunks.get(b"fmt ", b"")) < 16:
        return Layout((Stream(begin, size),))
    block = max(1, int.from_bytes(formats[12:14], order))
    slack = _slack(block, int.from_bytes(formats[2:4], order), int.from_bytes(formats[14:16], order))
    long = int.from_bytes(chunks[b"ds64"][8:16], "little") if b"ds64" in chunks and length in (0, 2**32 - 1) else None
    if long is not None:
        is_unknown = long == 0 or _is_unknown(long) or long >= 2**63 - 1
        length = long
    else:  # of a file of 4 GiB, what is left of its size may be any
        is_unsure = length == 0 or _is_unknown(length) or size >= 2**32
        is_unknown = is_unsure and (start + length > size or not _is_chunks(data, start + length, size, order))
    if int.from_bytes(formats[:2], order) in MPEG_FORMATS:
        stop = size if is_unknown else min(size, start + length)
        return _mp3(data, start, stop) or Layout((Stream(begin, size),))
    header = partial(_wave_header, order, formats, chunks.get(b"fact", b""))
    return _samples(start, size, None if is_unknown else length, block, slack, header)


def _wave64(data: Buffer, begin: int, size: int) -> Layout:
    """Sony's Wave64: chunks named by 16 bytes, sizes of 64 bits that include their headers, in steps of 8 bytes."""
    start, formats = begin + 40, b""
    while start + 24 <= size:
        length = int.from_bytes(data[start + 16 : start + 24], "little")
        if data[start : start + 4] == b"fmt ":
            formats = bytes(data[start + 24 : start + min(length, MAX_HEADER)])
        if data[start : start + 4] == b"data" and len(formats) >= 16:
            is_unknown = size > start + 24 and (length <= 24 or length >= 2**63 - 1)
            block = max(1, int.from_bytes(formats[12:14], "little"))
            slack = _slack(block, int.from_bytes(formats[2:4], "little"), int.from_bytes(formats[14:16], "little"))
            header = partial(_wave_header, "little", formats, b"")
            return _samples(start + 24, size, None if is_unknown else length - 24, block, slack, header)
        start += max(24, length + -length % 8)
    return Layout((Stream(begin, size),))


def _aiff(data: Buffer, begin: int, size: int) -> Layout:
    chunks: dict[bytes, tuple[int, int]] = {}
    for name, start, length in _chunks(data, begin + 12, size, "big"):
        chunks.setdefault(name, (start, length))
        if b"COMM" in chunks and b"SSND" in chunks:
            break
    else:
        return Layout((Stream(begin, size),))
    start, length = chunks[b"COMM"]
    common = bytes(data[start : start + min(length, MAX_HEADER)])
    channels, _, bits = struct.unpack_from(">hIh", common)
    start, length = chunks[b"SSND"]
    first = start + 8 + int.from_bytes(data[start : start + 4], "big")
    is_unknown = first < size and (length in (0, 8) or (_is_unknown(length) and start + length > size))

    def header(count: int) -> bytes:
        frames = struct.pack(">I", min(count // block, 2**32 - 1)) if length in (0, 8) else common[2:6]
        chunks = bytes(data[begin + 8 : begin + 12]) + struct.pack(">4sI", b"COMM", len(common)) + common[:2] + frames
        chunks += common[6:] + bytes(len(common) % 2)
        chunks += struct.pack(">4sIII", b"SSND", min(count + 8, 2**32 - 1), 0, 0)
        return struct.pack(">4sI", b"FORM", min(len(chunks) + count, 2**32 - 1)) + chunks

    block = max(1, channels) * max(1, -(-bits // 8))
    slack = max(2, block) if data[begin + 8 : begin + 12] == b"AIFF" else 1
    return _samples(first, size, None if is_unknown else start + length - first, block, slack, header)


def wave_comment(head: bytes) -> str:
    """Return the comment in the first bytes of a WAV, "" without one: libsndfile writes long ones, and reads 2 kB."""
    parts = _chunks(head, 12, len(head), "little") if head[:4] == b"RIFF" else ()
    for name, start, length in parts:
        if name == b"LIST" and head[start : start + 4] == b"INFO":
            for field, first, count in _chunks(head, start + 4, min(start + length, len(head)), "little"):
                if field == b"ICMT":
                    return head[first : first + count].rstrip(b"\0").decode(errors="replace")
    return ""


# FLAC consists of a header, which may count its samples, and of frames, and each counts those before it.

FLAC_HEADER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
UNCOUNTED = 0xF0 << 32  # bits beside the count of samples, in the 40 that hold it


def _flac(data: Buffer, begin: int, size: int) -> Layout | None:
    """Every header begins one of the files that were joined. None if there is none."""
    starts, place = list[int](), begin
    while (place := data.find(b"fLaC", place)) >= 0:
        if FLAC_HEADER.match(data[place : place + 8]):
            starts.append(place)
        place += 4
    streams, damage = [], ""
    for start, stop in itertools.pairwise([*starts, size]):
        header = bytes(data[start : start + 26])
        bits = int.from_bytes(header[21:], "big")
        declared, count = bits & ~UNCOUNTED, _flac_samples(data, start, stop)
        if 0 < count < declared:
            damage = f"cut short: it ends {declared - count:,} samples before its last"
        counted = header[:21] + (bits & UNCOUNTED | (count or declared)).to_bytes(5, "big")
        streams.append(Stream(start + 26, stop, prefix=counted, has_length=count > 0 or declared > 0))
    return Layout(tuple(streams), damage) if streams else None


def _flac_samples(data: Buffer, start: int, stop: int) -> int:
    """Return how many samples a FLAC has by the header of its last frame, 0 if that is not found (RFC 9639, 9.1)."""
    first, is_last = start + 4, False
    while not is_last and first + 4 <= stop:  # blocks of metadata
        is_last = data[first] >= 0x80
        first += 4 + int.from_bytes(data[first + 1 : first + 4], "big")
    model, offset = bytes(data[first : first + 4]), stop
    while len(model) == 4 and (offset := data.rfind(model[:2], max(first, stop - MAX_JUNK), offset)) >= 0:
        header = bytes(data[offset : min(stop, offset + 16)])
        if len(header) < 6 or (header[2] ^ model[2] | header[3] ^ model[3]) & 0x0F:
            continue
        leading = 8 - (header[4] ^ 0xFF).bit_length()  # ones: a number as in UTF-8
        place = 4 + max(1, leading)
        number = header[4] & (0x7F >> leading)
        for byte in header[5:place]:
            number = number << 6 | byte & 0x3F
        code = header[2] >> 4  # of the samples in this frame
        samples = 192 if code == 1 else 576 << code - 2 if 2 <= code <= 5 else 256 << code - 8 if code >= 8 else 0
        if code in (6, 7):
            samples = int.from_bytes(header[place : place + code - 5], "big") + 1
            place += code - 5
        place += {12: 1, 13: 2, 14: 2}.get(header[2] & 0x0F, 0)  # the sample rate
        if samples and place < len(header) and _crc8(header[:place]) == header[place]:
            is_fixed = header[1] & 1 == 0  # all frames have as many samples, which are counted by the frame
            return samples + number * (int.from_bytes(data[start + 8 : start + 10], "big") if is_fixed else 1)
    return 0


def _crc8(contents: bytes) -> int:
    value = 0
    for byte in contents:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x107 if value & 0x80 else 0)) & 0xFF
    return value


# Ogg consists of pages.

OGG_AUDIO = (b"\x01vorbis", b"OpusHead")
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg(data: Buffer, begin: int, size: int) -> Layout:
    """Every group of pages that begin a stream begins a link of a chain; a page that the file ends in is cut.

    A link without a page that says it is the last may be cut, or be what a radio station sent.
    """
    starts, offset, in_header, damage, sequence = [begin], begin, True, "", dict[bytes, int]()
    issue, unfinished = "", set[bytes]()
    while 0 <= offset < size:
        head = data[offset : offset + 27 + 255]
        if head[:4] != b"OggS":
            offset = data.find(b"OggS", offset)
            continue
        count = head[26] if len(head) >= 27 else 0
        first = offset + 27 + count
        end = first + sum(head[27 : 27 + count])
        if first > size or end > size:
            return Layout((Stream(begin, size),), "cut short: it ends within a page of Ogg")
        begins, contents = bool(head[5] & 2), bytes(data[offset:end])
        if begins and not in_header:
            starts.append(offset)
            issue, unfinished = issue or _unfinished(unfinished, len(starts) - 1), set()
        if begins and not contents[27 + count :].startswith(OGG_AUDIO):
            raise OtherFormat("it is Ogg with something else than Vorbis or Opus", is_audio=True)
        serial, number = contents[14:18], int.from_bytes(contents[18:22], "little")
        if _ogg_checksum(contents) != contents[22:26]:
            damage = damage or f"damaged: its page at byte {offset:,} is not what was written"
        elif serial in sequence and number != sequence[serial] + 1 and not begins:
            damage = damage or f"damaged: pages before byte {offset:,} are missing"
        (unfinished.discard if contents[5] & 4 else unfinished.add)(serial)
        sequence.pop(serial, None)
        if contents[6:14] not in (bytes(8), b"\xff" * 8):  # of samples: taggers may not count the pages before
            sequence[serial] = number
        in_header, offset = begins, end
    issue = issue or _unfinished(unfinished, len(starts))
    return Layout(tuple(Stream(*pair) for pair in itertools.pairwise([*starts, size])), damage, issue)


def _unfinished(serials: set[bytes], link: int) -> str:
    where = f"Link {link} of its chain" if link > 1 else "It"
    return f"{where} ends without its last page: it may be cut short. Compare its length." if serials else ""


def _ogg_checksum(contents: bytes) -> bytes:
    """Return the checksum of a page: the CRC-32 of ZIP, but with the bits of each byte in the other order."""
    reversed_bits = (contents[:22] + bytes(4) + contents[26:]).translate(REVERSED)
    return (zlib.crc32(reversed_bits, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(REVERSED)


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
TAGS = (b"Xing", b"Info")
MAX_JUNK = 2**24  # bytes before a frame, as of images in tags, beyond which none is looked for


@dataclass
class FrameRun:
    """Frames that follow each other, with the tag in the first of them that counts them, if there is one."""

    start: int
    stop: int
    header: bytes
    declared: int | None = None  # frames, by the tag
    tag: bytes = b""  # and what follows it in its frame
    frames: int = 0  # without the tag's
    is_cut: bool = False  # inside of its last frame

    @property
    def stream(self) -> Stream:
        """What to read: where its tag counts other frames than there are, or is not understood, with one that is right.

        libsndfile knows no tag of a frame with a checksum, and not every VBRI. Frames of layers I and II have no tags.
        """
        is_understood = self.header[1] & 1 and self.tag.startswith(TAGS)
        if self.header[1] & 6 != 2 or (is_understood and self.declared == self.frames):
            return Stream(self.start, self.stop)
        start = self.start + (0 if self.declared is None else SIZES[_key(self.header)])
        return Stream(start, self.stop, prefix=_tag_frame(self.header, self.frames, self.stop - start, self.tag))


def _key(data: Buffer, offset: int = 0) -> int:
    """Return the bytes of a frame's header that say its size; 0 if there is none at this offset."""
    head = data[offset : offset + 4]
    return head[1] << 8 | head[2] if len(head) == 4 and head[0] == 0xFF else 0


def _tag_place(header: Buffer) -> int:
    """Return where in a frame without a checksum the tag that counts frames is."""
    is_first, is_mono = header[1] & 0x18 == 0x18, header[3] & 0xC0 == 0xC0
    return 4 + ((17 if is_mono else 32) if is_first else (9 if is_mono else 17))


def _tag(data: Buffer, offset: int) -> tuple[int | None, bytes]:
    """Return the frames that the tag in a frame counts, and the tag and what follows it; None if it has none."""
    frame = bytes(data[offset : offset + SIZES[_key(data, offset)]])
    place, vbri = _tag_place(frame), frame[36:]
    if frame[1] & 6 != 2:  # not of layer III
        return None, b""
    for tag in (frame[place:], frame[place + 2 :]):  # behind a checksum, but not by all encoders
        if tag.startswith(TAGS):
            counts = len(tag) >= 12 and tag[7] & 1 and tag[8] < 0x80  # rather than all bits set, for unknown
            return int.from_bytes(tag[8:12], "big") if counts else 0, tag
    return (int.from_bytes(vbri[14:18], "big"), vbri) if vbri.startswith(b"VBRI") else (None, b"")


def _tag_frame(header: bytes, frames: int, size: int, tag: bytes) -> bytes:
    """Return a silent frame with a tag that counts frames and bytes, for a stream whose frames begin like this.

    If there is a `tag` that counts frames, that is corrected: it may say how many samples the encoder has added.
    """
    head = bytearray(header)
    head[1] |= 1  # without a checksum
    place = _tag_place(head)
    for kbits in range(1, 15):
        head[2] = kbits << 4 | head[2] & 0x0D  # without padding
        if SIZES[_key(head)] >= place + max(128, len(tag)):
            break
    length = SIZES[_key(head)]
    if not tag.startswith(TAGS) or len(tag) < 12 or not tag[7] & 1:
        tag = b"Info" + struct.pack(">III", 3, frames, size + length)
    frame = bytes(head) + bytes(place - 4) + tag[:8] + struct.pack(">I", frames) + tag[12:]
    return frame[:length] + bytes(length - len(frame))


def _mp3(data: Buffer, begin: int, size: int) -> Layout | None:
    """Return the layout of MPEG audio; None if it is something else."""
    begin = begin if begin < size else 0  # behind a tag that states a wrong length
    first = _find_frame(data, begin, min(size, begin + MAX_JUNK), size)
    if first is None:
        return None
    runs = _runs(data, first, size)
    return Layout(tuple(run.stream for run in runs), _missing_frames(runs))


def _missing_frames(runs: Sequence[FrameRun]) -> str:
    """Return the proof that a file is cut short: a tag counts more frames than it has and those behind it."""
    missing = 0
    for i, run in enumerate(runs):
        if run.declared:
            behind = itertools.takewhile(lambda other: other.declared is None, runs[i + 1 :])
            missing = run.declared - run.frames - sum(other.frames for other in behind)
    if missing > 1 or (missing == 1 and runs[-1].is_cut):
        return f"cut short: it ends {missing:,} frames before its last"
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
            if place == size or (place > size and count > 1):
                count = 3
        if count == 3:
            return offset
        offset += 1
    return None


def _runs(data: Buffer, offset: int, size: int) -> list[FrameRun]:
    """Walk through all frames.

    A tag that counts frames begins a run, and so do another rate, one channel rather than two, and junk between them.
    """
    runs: list[FrameRun] = []
    while offset < size:
        header, (declared, tag) = bytes(data[offset : offset + 4]), _tag(data, offset)
        kind, place, is_mono = _key(header), _tag_place(header), header[3] >= 0xC0
        start, offset = offset, offset + (0 if declared is None else SIZES[kind])
        run = FrameRun(start, min(offset, size), header, declared, tag)
        runs.append(run)
        while length := SIZES.get(key := _key(frame := data[offset : offset + place + 6])):
            if (key ^ kind) & SAME or (frame[3] >= 0xC0) != is_mono:
                break
            behind = frame[place:]  # a checksum
            if run.frames and (TAGS[0] in behind or TAGS[1] in behind):
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
