"""Files as people have them: lengths that are unknown or wrong, files that were joined or cut, channels, and levels."""

from __future__ import annotations

import io
import os
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codecdiff import Codec
from codecdiff.codecs import CodecWrapper
from codecdiff.data import EncodeConfig, SegmentConfig, encode_tracks, find_tracks
from codecdiff.data.audio import BadAudio, read_audio, seconds_of, stream_audio, write_audio
from codecdiff.data.audio_bytes import FileBytes
from codecdiff.data.segments import read_segments

RATE = 44_100
SECONDS = 1.5


def music(seconds: float = SECONDS, rate: int = RATE, seed: int = 0) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    hiss = np.random.default_rng(seed).normal(0, 0.02, len(times))
    return (0.4 * np.sin(2 * np.pi * (330 + 110 * seed) * times) + hiss).astype(np.float32)


def encoded(samples: np.ndarray, kind: str, rate: int = RATE, **options: Any) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, **options)
    return stream.getvalue()


def read(folder: Path, contents: bytes, name: str) -> torch.Tensor:
    (folder / name).write_bytes(contents)
    return read_audio(folder / name, RATE, 1)[0]


def refused(folder: Path, contents: bytes, name: str) -> str:
    (folder / name).write_bytes(contents)
    with pytest.raises(BadAudio) as error:
        list(stream_audio(folder / name, RATE, 1))
    return str(error.value)


def replaced(contents: bytes, *patches: tuple[int, bytes]) -> bytes:
    for offset, patch in patches:
        contents = contents[:offset] + patch + contents[offset + len(patch) :]
    return contents


# WAV and AIFF

UNKNOWN = [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFDB, 0x7FFFFFFF, 0x80000000, 0x7F000008]


@pytest.mark.parametrize("size", UNKNOWN)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_wav_of_unknown_size_is_read_whole(tmp_path: Path, size: int, order: str) -> None:
    samples = music()
    wav = encoded(samples, "WAV", endian="BIG" if order == ">" else "LITTLE")
    assert wav[:4] == (b"RIFX" if order == ">" else b"RIFF")
    place = wav.index(b"data") + 4
    for outer in (size, min(size + 36, 0xFFFFFFFF), 0):
        piped = replaced(wav, (4, struct.pack(f"{order}I", outer)), (place, struct.pack(f"{order}I", size)))
        assert np.abs(read(tmp_path, piped, "a.wav").numpy() - samples).max() < 1e-3


def test_a_wav_is_judged_by_its_samples_and_not_by_its_outer_size(tmp_path: Path) -> None:
    wav = encoded(music(), "WAV")
    place = wav.index(b"data") + 4
    for outer in (len(wav), len(wav) + 100, 36):
        assert len(read(tmp_path, replaced(wav, (4, struct.pack("<I", outer))), "a.wav")) == len(music())
    assert len(read(tmp_path, wav + b"LIST" + struct.pack("<I", 5000) + b"INFO", "a.wav")) == len(music())
    odd = encoded(music()[:999], "WAV", subtype="PCM_U8")
    assert len(read(tmp_path, odd[: odd.index(b"data") + 8 + 999], "odd.wav")) == 999  # without the byte that pads it
    assert "cut short: it ends 1,000 bytes before" in refused(tmp_path, wav[:-1000], "a.wav")
    empty = replaced(wav[: place + 4], (place, bytes(4)))
    assert "holds no samples" in refused(tmp_path, empty, "a.wav")
    assert "holds no samples" in refused(tmp_path, empty + b"LIST" + struct.pack("<I", 4) + b"INFO", "a.wav")


@pytest.mark.parametrize("kind", ["RF64", "W64"])
def test_large_formats_are_cut_where_they_end_early_and_whole_where_they_do_not_say(tmp_path: Path, kind: str) -> None:
    samples = music()
    contents = encoded(samples, kind)
    assert len(read(tmp_path, contents, "a.wav")) == len(samples)
    assert "cut short: it ends" in refused(tmp_path, contents[: len(contents) // 2], "a.wav")
    if kind == "RF64":
        place = contents.index(b"ds64") + 16
        unknown = [replaced(contents, (place, value)) for value in (bytes(8), b"\xff" * 8)]
        unknown.append(b"BW64" + contents[4:])
    else:
        place = contents.index(b"data\xf3\xac\xd3\x11") + 16
        unknown = [replaced(contents, (place, value)) for value in (bytes(8), b"\xff" * 7 + b"\x7f")]
    for variant in unknown:
        assert np.abs(read(tmp_path, variant, "a.wav").numpy() - samples).max() < 1e-3


def chunk(name: bytes, contents: bytes, *, padded: bool = True) -> bytes:
    return name + struct.pack("<I", len(contents)) + contents + bytes(padded and len(contents) % 2)


@pytest.mark.parametrize("name", [b"JUNK", b"bext", b"LIST", b"PEAK", b"acid", b"fact", b"id3 ", b"smpl", bytes(4)])
@pytest.mark.parametrize("size", [0, 1, 27, 4096, 70_001])
@pytest.mark.parametrize("padded", [True, False])
def test_a_wav_is_read_whatever_its_other_chunks_hold(tmp_path: Path, name: bytes, size: int, padded: bool) -> None:
    samples = music(0.1)
    wav, other = encoded(samples, "WAV"), chunk(name, bytes(size), padded=padded)
    for place in (12, wav.index(b"data"), len(wav)):
        assert np.abs(read(tmp_path, wav[:place] + other + wav[place:], "a.wav").numpy() - samples).max() < 1e-3


def test_a_tag_before_a_file_hides_nothing(tmp_path: Path) -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
    for kind in ("WAV", "AIFF", "RF64", "W64", "OGG"):
        contents = tag + encoded(music(), kind)
        assert len(read(tmp_path, contents, "a")) == len(music())
        assert "is cut short" in refused(tmp_path, contents[: len(contents) // 2], "a")


@pytest.mark.parametrize(("form", "dtype"), [(1, "i4"), (3, "f4"), (3, "f8")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_extensible_wav_is_read_in_either_byte_order(tmp_path: Path, form: int, dtype: str, order: str) -> None:
    samples, size = music(0.1), int(dtype[1])
    data = (samples * (2**31 - 1 if form == 1 else 1)).astype(order + dtype).tobytes()
    head = struct.pack(f"{order}HHIIHHHHIH", 0xFFFE, 1, RATE, size * RATE, size, 8 * size, 22, 8 * size, 4, form)
    head += bytes.fromhex("000000001000800000aa00389b71")
    wav = b"WAVEfmt " + struct.pack(f"{order}I", 40) + head + b"data" + struct.pack(f"{order}I", len(data)) + data
    wav = (b"RIFX" if order == ">" else b"RIFF") + struct.pack(f"{order}I", len(wav)) + wav
    assert np.abs(read(tmp_path, wav, "a.wav").numpy() - samples).max() < 1e-3


def test_files_of_more_than_4_gib_are_read_whole_and_known_to_be_cut(tmp_path: Path) -> None:
    block, count = 8 * 4, 150_000_000  # bytes of a frame, and frames
    wav, size = encoded(np.zeros((1, 8), np.float32), "WAV", subtype="FLOAT"), block * count
    place = wav.index(b"data")

    def seconds(head: bytes, missing: int = 0) -> float:
        with (tmp_path / "a.wav").open("wb") as stream:
            stream.write(head)
            stream.truncate(len(head) + size - missing)
        return seconds_of(tmp_path / "a.wav")

    for stated in (0, 2**32 - 1, 2**32 - 8, size % 2**32):  # of no use, for 32 bits are too few
        head = replaced(wav[: place + 8], (4, struct.pack("<I", stated)), (place + 4, struct.pack("<I", stated)))
        assert seconds(head) == count / RATE
    sizes = chunk(b"ds64", struct.pack("<QQQI", size + 100, size, count, 0))
    head = b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + wav[12:place] + b"data" + b"\xff" * 4
    assert seconds(head) == count / RATE
    assert seconds(head, missing=1000) == 0
    with pytest.raises(BadAudio, match="cut short: it ends 1,000 bytes before its last sample"):
        read_audio(tmp_path / "a.wav", RATE, 1, seconds=0.1)


def test_an_aiff_from_a_pipe_is_read_whole(tmp_path: Path) -> None:
    samples = music()
    aiff = encoded(samples, "AIFF")
    frames, size = aiff.index(b"COMM") + 10, aiff.index(b"SSND") + 4
    sox = replaced(aiff, (4, b"\x7f\x00\x00\x50"), (frames, struct.pack(">I", 0x3F800000)), (size, b"\x7f\x00\x00\x08"))
    blank = replaced(aiff, (4, bytes(4)), (frames, bytes(4)), (size, bytes(4)))
    for variant in (aiff, sox, blank, replaced(aiff, (4, struct.pack(">I", len(aiff))))):
        assert np.abs(read(tmp_path, variant, "a.aiff").numpy() - samples).max() < 1e-3
    assert "cut short: it ends 500 bytes before" in refused(tmp_path, aiff[:-500], "a.aiff")


# FLAC and Ogg


def test_a_flac_from_a_pipe_is_read_whole(tmp_path: Path) -> None:
    samples = music()
    flac = encoded(samples, "FLAC")
    piped = replaced(flac, (21, bytes([flac[21] & 0xF0]) + bytes(4)))
    assert np.abs(read(tmp_path, piped, "a.flac").numpy() - samples).max() < 1e-3
    assert seconds_of(tmp_path / "a.flac") == SECONDS  # by the header of its last frame
    assert "lost sync" in refused(tmp_path, piped[:-1000], "cut.flac")
    tagged = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) + flac
    assert len(read(tmp_path, tagged, "a.flac")) == len(read(tmp_path, tagged, "a.mp3")) == len(samples)
    assert read_audio(tmp_path / "a.flac", RATE, 1, start=1.0, seconds=0.1).shape == (1, RATE // 10)
    (tmp_path / "a.flac").write_bytes(piped)
    part = read_audio(tmp_path / "a.flac", RATE, 1, start=1.0, seconds=0.1)
    assert np.abs(part[0].numpy() - samples[RATE : RATE + RATE // 10]).max() < 1e-3


def test_every_link_of_a_chain_is_read(tmp_path: Path) -> None:
    one, other = encoded(music(), "OGG"), encoded(music(1.0, 22_050, seed=1), "OGG", 22_050)
    alone = [read(tmp_path, link, "a.ogg") for link in (one, other)]
    chain = read(tmp_path, one + other + one, "chain.ogg")
    assert torch.equal(chain, torch.cat([alone[0], alone[1], alone[0]]))
    start, size = SECONDS + 0.2, round(0.5 * RATE)
    part = read_audio(tmp_path / "chain.ogg", RATE, 1, start=start, seconds=0.5)[0]
    assert (part - chain[round(start * RATE) :][:size])[200:-200].abs().max() < 1e-3  # resampled from there on
    last = one.rindex(b"OggS")
    assert 0 < len(read(tmp_path, one[:last], "open.ogg")) < len(alone[0])  # without the page that ends the stream
    assert "cut short: it ends within a page" in refused(tmp_path, one[: last - 10], "cut.ogg")


@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125), bytes(5000)])
def test_a_flac_is_as_long_as_its_frames_say(tmp_path: Path, behind: bytes) -> None:
    samples = music()
    flac = encoded(samples, "FLAC")
    for count in (0, 1, len(samples) - 1, len(samples) // 2):
        stated = replaced(flac, (21, bytes([flac[21] & 0xF0]) + count.to_bytes(4, "big")))
        assert np.abs(read(tmp_path, stated + behind, "a.flac").numpy() - samples).max() < 1e-3
    more = replaced(flac, (21, bytes([flac[21] & 0xF0]) + (len(samples) + 7).to_bytes(4, "big")))
    assert "cut short: it ends 7 samples before its last" in refused(tmp_path, more + behind, "a.flac")
    other = encoded(music(1.0, 22_050, seed=1), "FLAC", 22_050)
    parts = [read(tmp_path, part, "a.flac") for part in (flac, other)]
    assert torch.equal(read(tmp_path, flac + behind + other + behind, "a.flac"), torch.cat(parts))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_damage_inside_of_an_ogg_is_noticed(tmp_path: Path, subtype: str) -> None:
    ogg = encoded(music(4.0, 48_000), "OGG", 48_000, subtype=subtype)
    pages = [match.start() for match in re.finditer(b"OggS", ogg)]
    middle = pages[len(pages) // 2]
    flipped = replaced(ogg, (middle + 200, bytes([ogg[middle + 200] ^ 1])))
    assert f"damaged: its page at byte {middle:,} is not what was written" in refused(tmp_path, flipped, "a.ogg")
    last = pages[-1]
    assert f"pages before byte {middle:,} are missing" in refused(tmp_path, ogg[:middle] + ogg[last:], "a.ogg")
    foreign = replaced(ogg, (28, b"\x7fFLAC\x01\x00"))
    assert "Ogg with something else than Vorbis or Opus. Convert it" in refused(tmp_path, foreign, "a.ogg")


# MPEG audio

VERSIONS = {3: (144_000, (44_100, 48_000, 32_000)), 2: (72_000, (22_050, 24_000, 16_000))}  # of layer III
KBITS = {3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}
KBITS[2] = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def frame_size(contents: bytes, offset: int) -> int:
    version, byte = contents[offset + 1] >> 3 & 3, contents[offset + 2]
    factor, rates = VERSIONS[version]
    return factor * KBITS[version][byte >> 4] // rates[byte >> 2 & 3] + (byte >> 1 & 1)


def without_header(mp3: bytes) -> bytes:
    """Leave out the first frame, which holds the number of frames."""
    assert mp3[0] == 0xFF
    size = frame_size(mp3, 0)
    assert b"Xing" in mp3[:size] or b"Info" in mp3[:size]
    return mp3[size:]


def mp3_of(mode: str, seconds: float = SECONDS, rate: int = RATE, seed: int = 0) -> bytes:
    quiet = np.zeros(round(0.7 * rate), np.float32)  # which takes few bytes, so that the first says little of the rest
    return encoded(np.concatenate([quiet, music(seconds, rate, seed)]), "MP3", rate, bitrate_mode=mode)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_an_mp3_without_a_header_is_read_whole(tmp_path: Path, mode: str, rate: int) -> None:
    mp3 = mp3_of(mode, rate=rate)
    (tmp_path / "a.mp3").write_bytes(mp3)
    (tmp_path / "bare.mp3").write_bytes(without_header(mp3))
    whole, bare = (read_audio(tmp_path / name, rate, 1)[0].numpy() for name in ("a.mp3", "bare.mp3"))
    assert abs(len(whole) - 2.2 * rate) < 5
    assert 0 <= len(bare) - len(whole) < 3000  # what the encoder added before and behind
    lag = int(np.argmax(np.correlate(bare[rate : rate + 9000], whole[rate : rate + 4000])))
    assert np.abs(bare[rate + lag :][:20_000] - whole[rate:][:20_000]).max() < 0.02
    whole = read(tmp_path, mp3, "a.mp3")
    assert len(read(tmp_path, b"TAG" + bytes(125) + b"\x00" * 300 + mp3, "junk.mp3")) == len(whole)
    assert len(read(tmp_path, mp3 + b"TAG" + bytes(125), "tagged.mp3")) == len(whole)


def test_mp3_files_that_were_joined_are_all_read(tmp_path: Path) -> None:
    one, other = mp3_of("VARIABLE"), mp3_of("CONSTANT", 1.0, 22_050, 1)
    tag = b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)
    bare = without_header(mp3_of("CONSTANT", seed=2))
    for parts in ((one, one), (one, other), (tag + one, tag + other, one), (bare, one), (one, bare), (bare, other)):
        lengths = [len(read(tmp_path, part, "part.mp3")) for part in parts]
        joined = len(read(tmp_path, b"".join(parts), "joined.mp3"))
        assert abs(joined - sum(lengths)) < 2400, (joined, lengths)


def test_tags_that_state_wrong_lengths_hide_no_music(tmp_path: Path) -> None:
    image = b"APIC" + np.random.default_rng(0).bytes(400_000)
    mp3 = mp3_of("VARIABLE")
    whole = read(tmp_path, mp3, "a.mp3")
    for size in (b"\x00\x06\x1a\x84", bytes(4), b"\x7f" * 4):  # without the gaps between its bits, too short, too long
        assert torch.equal(read(tmp_path, b"ID3\x03\x00\x00" + size + image + mp3, "a.mp3"), whole)
    tag = b"ID3\x03\x00\x00\x00\x18\x35\x04" + image
    assert torch.equal(read(tmp_path, mp3 + b"TAG" + bytes(125) + tag + mp3, "a.mp3"), torch.cat([whole, whole]))


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_as_long_as_its_frames_say(tmp_path: Path, mode: str) -> None:
    mp3 = mp3_of(mode)
    whole, place = read(tmp_path, mp3, "a.mp3"), max(mp3.find(b"Info"), mp3.find(b"Xing")) + 8
    count = int.from_bytes(mp3[place : place + 4], "big")
    for stated in (0, 1, count // 2, count - 1, count + 1, 2**32 - 1):
        assert torch.equal(read(tmp_path, replaced(mp3, (place, struct.pack(">I", stated))), "a.mp3"), whole)
    protected = replaced(mp3, (1, bytes([mp3[1] & 0xFE])))  # the tag's frame says that it has a checksum
    assert torch.equal(read(tmp_path, protected, "a.mp3"), whole)
    bare = without_header(mp3)
    length = len(read(tmp_path, bare, "bare.mp3"))
    assert abs(seconds_of(tmp_path / "bare.mp3") - length / RATE) < 0.1
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 2, 417, 1, 1393)
    wav = b"WAVE" + chunk(b"fmt ", form) + chunk(b"data", bare) + chunk(b"LIST", b"INFO")
    assert len(read(tmp_path, b"RIFF" + struct.pack("<I", len(wav)) + wav, "a.wav")) == length


def test_only_an_mp3_that_counts_its_frames_is_known_to_be_cut_short(tmp_path: Path) -> None:
    mp3 = mp3_of("CONSTANT")
    half = len(mp3) // 2
    assert "cut short: it ends" in refused(tmp_path, mp3[:half], "a.mp3")
    bare = without_header(mp3)
    assert len(read(tmp_path, bare[: len(bare) // 2], "bare.mp3")) > RATE


# What is not audio


def test_a_file_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match=r"none\.wav' cannot be read as audio: it does not exist\. Check its name\.$"):
        read_audio(tmp_path / "none.wav", RATE, 1)


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        (b"\x00\x00\x00\x1cftypisom" + bytes(100), r"it is MPEG-4 .*Convert it with ffmpeg -i 'a.mp3' 'a.flac'"),
        (b"\xff\xf1\x50\x80" + bytes(100), "it is AAC"),
        (b"<html>404 Not found</html>", "it is a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x89PNG\r\n\x1a\n", "it is a PNG image"),
        ("no music \N{EIGHTH NOTE}\n".encode() * 1000, "it contains text, not audio. Fetch it again"),
        (b"no\x01music", "its contents are in none of the formats .wav, .flac"),
        (b"", "it is empty, 0 bytes"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, contents: bytes, what: str) -> None:
    assert re.search(what, refused(tmp_path, contents, "a.mp3"))


def test_rates_and_places_that_are_no_music_are_refused(tmp_path: Path) -> None:
    for rate in (1, 7_999, 800_000):
        assert f"sample rate of {rate:,} Hz: expected 8,000 to 768,000" in refused(
            tmp_path, encoded(music(0.1), "WAV", rate), "a.wav"
        )
    with pytest.raises(BadAudio, match="it is not a file, but a folder"):
        read_audio(tmp_path, RATE, 1)
    assert len(read(tmp_path, encoded(music(), "WAV", subtype="GSM610"), "gsm.wav")) >= len(music())


# Channels and levels

HALF = 0.5**0.5
LAYOUTS = {  # the weights of every channel in left and right: Recommendation ITU-R BS.775-3, table 2
    ("WAV", 3): [(1, 0), (0, 1), (HALF, HALF)],
    ("WAV", 4): [(1, 0), (0, 1), (HALF, 0), (0, HALF)],
    ("FLAC", 5): [(1, 0), (0, 1), (HALF, HALF), (HALF, 0), (0, HALF)],
    ("WAV", 6): [(1, 0), (0, 1), (HALF, HALF), (0, 0), (HALF, 0), (0, HALF)],
    ("WAV", 8): [(1, 0), (0, 1), (HALF, HALF), (0, 0), (HALF, 0), (0, HALF), (HALF, 0), (0, HALF)],
    ("OGG", 6): [(1, 0), (HALF, HALF), (0, 1), (HALF, 0), (0, HALF), (0, 0)],
}


@pytest.mark.parametrize(("kind", "count"), LAYOUTS)
def test_surround_is_mixed_by_the_weights_of_the_itu(tmp_path: Path, kind: str, count: int) -> None:
    weights = np.array(LAYOUTS[kind, count])
    samples = np.stack([0.5 * music(seed=seed) for seed in range(count)], 1)
    (tmp_path / "a").write_bytes(encoded(samples, kind))
    expected = samples @ (weights / weights.sum(0).max())
    tolerance = 0.05 if kind == "OGG" else 1e-3
    both = read_audio(tmp_path / "a", RATE, 2).numpy().T
    assert np.abs(both - expected).max() < tolerance
    assert np.abs(both[:, 0] - both[:, 1]).max() > 0.05
    mono = read_audio(tmp_path / "a", RATE, 1).numpy()[0]
    assert np.abs(mono - expected.mean(1)).max() < tolerance


def issues_of(folder: Path, samples: np.ndarray, channels: int = 1) -> list[str]:
    soundfile.write(folder / "a.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
    issues: list[str] = []
    list(stream_audio(folder / "a.wav", RATE, channels, report=issues.append))
    return issues


def test_floats_that_are_clipped_are_reported(tmp_path: Path) -> None:
    loud = music()
    assert issues_of(tmp_path, loud) == []
    loud[100:110] = 1.2  # as a decoded MP3 has it now and then
    assert issues_of(tmp_path, loud) == []
    (issue,) = issues_of(tmp_path, 4 * music())
    assert "of its samples are over full scale, up to" in issue
    (issue,) = issues_of(tmp_path, 20_000 * music())
    assert "as integers do" in issue
    assert "Divide them by 32,768" in issue


def test_channels_that_cancel_out_are_reported(tmp_path: Path) -> None:
    one, other = music(), music(seed=1)
    assert issues_of(tmp_path, np.stack([one, other], 1)) == []
    assert issues_of(tmp_path, np.stack([one, 0 * one], 1)) == []
    assert issues_of(tmp_path, np.zeros((1000, 2))) == []
    inverted = np.stack([one, -one + 0.01 * other], 1)
    assert issues_of(tmp_path, inverted, channels=2) == []
    (issue,) = issues_of(tmp_path, inverted)
    assert "out of phase: mixed to one," in issue


# Stores


class Gained(CodecWrapper):
    """A codec whose latents overflow where audio is loud."""

    def encode_with_continuous(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, latents = self.codec.encode_with_continuous(audio)
        return codes, latents * (1e38 if audio.abs().max() > 0.9 else 1.0)


def written(folder: Path, **tracks: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, samples in tracks.items():
        soundfile.write(folder / f"{name}.wav", samples.astype(np.float32), 8000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("of", ["track", "segment"])
def test_silence_is_not_made_loud(tmp_path: Path, dac: Codec, of: Any) -> None:
    tone = music(1.0, 8000)
    music_folder = written(
        tmp_path / "music", denormal=1e-39 * tone, quiet=1e-4 * tone, silent=0 * tone, tiny=1e-6 * tone, tone=tone
    )
    config = SegmentConfig(loudness=-20, loudness_of=of)
    peaks = {
        track.name: float(segment.audio.abs().max()) / float(read_audio(track.file, 8000, 1).abs().max() or 1)
        for track in find_tracks(music_folder)
        for segment in read_segments(track.file, dac, config, Counter())
    }
    gain = 0.1 / float(np.sqrt(np.mean(tone**2)))
    expected = {"denormal": 1.0, "quiet": 100.0, "silent": 0.0, "tiny": 1.0, "tone": gain}
    assert peaks == pytest.approx({f"{name}.wav": value for name, value in expected.items()}, rel=1e-3)


def test_what_is_not_finite_never_enters_a_store(tmp_path: Path, dac: Codec) -> None:
    folder = written(tmp_path / "music", loud=2.5 * music(1.0, 8000), soft=0.5 * music(1.0, 8000))
    config = EncodeConfig(target="continuous")
    store, skipped = encode_tracks(find_tracks(folder), tmp_path / "store", Gained(dac), {}, config)
    assert [row["track"] for row in store.rows] == ["soft.wav"]
    assert np.isfinite(store.continuous(0)).all()
    assert len(skipped) == 1
    assert "loud.wav' has latents that are NaN or infinite, 0 s in" in skipped[0]
    assert store.header["issues"] == {}


def test_what_is_wrong_with_audio_that_is_encoded_is_in_the_store(tmp_path: Path, dac: Codec) -> None:
    folder = written(tmp_path / "music", loud=4 * music(1.0, 8000), soft=0.5 * music(1.0, 8000))
    store, skipped = encode_tracks(find_tracks(folder), tmp_path / "store", dac, {})
    assert not skipped
    assert list(store.header["issues"]) == ["loud.wav"]
    assert "over full scale" in store.header["issues"]["loud.wav"]


def test_files_of_the_same_content_are_named(tmp_path: Path, dac: Codec) -> None:
    tone = music(1.0, 8000)
    folder = written(tmp_path / "music", a=tone, b=tone, c=music(1.0, 8000, 1))
    config = EncodeConfig(segments=SegmentConfig(segment=0.4))
    store, _ = encode_tracks(find_tracks(folder), tmp_path / "store", dac, {}, config)
    assert store.header["issues"] == {"b.wav": "Its file has the same content as 'a.wav'."}


def test_files_of_16_bits_hold_the_same_samples_rounded_in_every_format(tmp_path: Path) -> None:
    audio = torch.from_numpy(np.random.default_rng(0).uniform(-1.1, 1.1, (2, 5000)).astype(np.float32))
    expected = (audio.clamp(-1, 1) * 2**15).round().clamp(-(2**15), 2**15 - 1).numpy().T
    for suffix in (".wav", ".flac", ".aiff"):
        write_audio(tmp_path / f"a{suffix}", audio, 44_100)
        samples, _ = soundfile.read(tmp_path / f"a{suffix}", dtype="int16")
        assert np.array_equal(samples, expected), suffix


# Files that another program writes, or that are a little wrong

CHANGED = r"'.*a\.\w+' changed while it was read\. Wait until it is written, then run the command again\."


@pytest.mark.parametrize("kind", ["OGG", "WAV", "FLAC", "MP3", "AIFF"])
@pytest.mark.parametrize("change", ["shorter", "longer", "rewritten"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, kind: str, change: str) -> None:
    file = tmp_path / f"a.{kind.lower()}"
    file.write_bytes(contents := encoded(music(20), kind))
    blocks = stream_audio(file, RATE, 1)
    for _ in range(3):
        next(blocks)
    if change == "shorter":
        os.truncate(file, len(contents) // 3)
    elif change == "longer":
        file.write_bytes(contents + bytes(100))
    else:
        file.write_bytes(contents)
        os.utime(file, ns=(0, 0))
    with pytest.raises(BadAudio, match=CHANGED):
        list(blocks)


@pytest.mark.parametrize("kind", ["OGG", "FLAC", "MP3"])
def test_a_file_that_gets_shorter_while_its_layout_is_read_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, load, loads = tmp_path / f"a.{kind.lower()}", FileBytes._load, list[int]()
    file.write_bytes(encoded(music(20), kind))

    def shortening(data: FileBytes, start: int, stop: int) -> None:
        if loads:
            os.truncate(file, 8192)
        loads.append(start)
        load(data, start, stop)

    monkeypatch.setattr(FileBytes, "_load", shortening)
    with pytest.raises(BadAudio, match=CHANGED):
        list(stream_audio(file, RATE, 1))
    assert len(loads) == 2


def said_of(folder: Path, contents: bytes, name: str) -> list[str]:
    (folder / name).write_bytes(contents)
    issues = list[str]()
    for _ in stream_audio(folder / name, RATE, 1, report=issues.append):
        pass
    return issues


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_ends_without_its_last_page_is_read_and_said(tmp_path: Path, subtype: str) -> None:
    whole = encoded(music(5, 48_000), "OGG", 48_000, subtype=subtype)
    cut = whole[: whole.rindex(b"OggS")]
    issue = "ends without its last page: it may be cut short. Compare its length."
    assert said_of(tmp_path, whole, "a.ogg") == []
    assert said_of(tmp_path, whole + whole, "a.ogg") == []
    assert said_of(tmp_path, cut, "a.ogg") == [f"It {issue}"]
    assert said_of(tmp_path, cut + whole, "a.ogg") == [f"It {issue}"]
    assert said_of(tmp_path, whole + cut + whole, "a.ogg") == [f"Link 2 of its chain {issue}"]
    assert said_of(tmp_path, whole + cut, "a.ogg") == [f"Link 2 of its chain {issue}"]


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF"])
def test_a_size_that_is_less_than_a_sample_too_large_is_no_cut(tmp_path: Path, channels: int, kind: str) -> None:
    samples = np.stack([music(0.1)] * channels, 1)
    contents = encoded(samples, kind)
    for missing in range(1, 2 * channels + 1):
        expected = len(samples) - 1  # whose last sample is not whole
        assert len(read(tmp_path, contents[:-missing], "a.wav")) == expected
    assert "cut short: it ends" in refused(tmp_path, contents[: -2 * channels - 1], "a.wav")
    if kind == "WAV":
        place = contents.index(b"data") + 4
        size = len(contents) - place - 4
        for more in (1, 2 * channels):
            wrong = replaced(contents, (place, struct.pack("<I", size + more)))
            assert len(read(tmp_path, wrong, "a.wav")) == len(samples)


def test_a_block_of_compressed_samples_that_is_missing_is_a_cut(tmp_path: Path) -> None:
    wav = encoded(music(), "WAV", subtype="IMA_ADPCM")
    assert "cut short: it ends 2 bytes" in refused(tmp_path, wav[:-2], "a.wav")


def test_an_empty_chunk_of_samples_before_the_real_one_is_left_out(tmp_path: Path) -> None:
    wav = encoded(music(), "WAV")
    place = wav.index(b"data")
    for empty in (chunk(b"data", b""), chunk(b"data", b"") + chunk(b"LIST", b"INFO") + chunk(b"data", b"")):
        assert len(read(tmp_path, wav[:place] + empty + wav[place:], "a.wav")) == len(music())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.flac", "ffmpeg -i 'a.flac' 'a.wav'"),
        ("A.FLAC", "ffmpeg -i 'A.FLAC' 'A.wav'"),
        ("-a b.flac", "ffmpeg -i './-a b.flac' './-a b.wav'"),
        ("it's.m4a", r"ffmpeg -i 'it'\''s.m4a' 'it'\''s.flac'"),
    ],
)
def test_a_remedy_can_be_run(tmp_path: Path, name: str, remedy: str) -> None:
    flac = bytearray(encoded(music(), "FLAC"))
    flac[len(flac) // 2 : len(flac) // 2 + 5000] = bytes(5000)
    is_flac = name.lower().endswith(".flac")
    assert remedy in refused(tmp_path, bytes(flac) if is_flac else b"\0\0\0\x1cftypisom" + bytes(100), name)


@pytest.mark.parametrize("channels", [(1, 2), (2, 1), (1, 2, 1)])
def test_mp3_of_one_channel_joined_with_two_is_read_whole(tmp_path: Path, channels: tuple[int, ...]) -> None:
    parts = [encoded(np.stack([music()] * count, 1), "MP3") for count in channels]
    assert len(read(tmp_path, b"".join(parts), "a.mp3")) == len(channels) * len(music())
