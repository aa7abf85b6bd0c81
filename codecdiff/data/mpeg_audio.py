"""What a file of MPEG audio, as MP3, is by its frames: they are counted, whatever tags say of them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from codecdiff.data.audio_bytes import Buffer, Layout, Stream

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


def mpeg_layout(data: Buffer, begin: int, size: int) -> Layout | None:
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


def skip_tags(data: Buffer, offset: int) -> int:
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
            behind = skip_tags(data, offset)
            frame = _find_frame(data, behind, min(size, behind + MAX_JUNK), size)
            offset = size if frame is None else frame
    return runs
