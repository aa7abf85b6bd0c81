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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from codecdiff.data.audio_bytes import Buffer, FileBytes, Layout, Stream
from codecdiff.data.mpeg_audio import MAX_JUNK, mpeg_layout, skip_tags

Order = Literal["little", "big"]
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
    begin = skip_tags(data, 0)
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
    layout = None if is_flac else mpeg_layout(data, begin, size)
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
        return mpeg_layout(data, start, stop) or Layout((Stream(begin, size),))
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
