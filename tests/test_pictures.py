"""Pictures are what they show: pixels, places and lines, read back from what is drawn."""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch

from codecdiff.pictures import Curve, Row, amount, curves, intervals, loss_curves, palette, png, spectrogram, ticks

RATE = 44_100


def tone(hertz: float) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)


def decoded(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and palette of a PNG with one byte a pixel, by the standard's own words."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    stream = BytesIO(data[8:])
    chunks: dict[bytes, bytes] = {}
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        chunks[kind] = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + chunks[kind])
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest, chunks[b"IEND"]) == (8, 3, [0, 0, 0], b"")
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_a_png_gives_back_its_pixels_and_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    read, colours = decoded(png(pixels, palette()))
    np.testing.assert_array_equal(read, pixels)
    np.testing.assert_array_equal(colours, palette())
    assert colours[0].sum() < 60 < 600 < colours[-1].sum()


def test_a_higher_tone_is_brightest_higher_up_and_silence_is_black() -> None:
    low, high, silence = (
        decoded(base64.b64decode(spectrogram(audio, RATE).split(",")[1]))[0]
        for audio in (tone(220), tone(3520), torch.zeros(RATE))
    )
    assert high.mean(1).argmax() < low.mean(1).argmax()
    assert low.max() >= 254
    assert silence.max() == 0


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0, 2000) == [0, 500, 1000, 1500, 2000]
    assert all(-0.02 <= tick <= 1.34 for tick in ticks(-0.02, 1.34))


def test_a_better_loss_is_drawn_lower_and_nothing_logged_is_said() -> None:
    svg = loss_curves("primary", [{"step": s, "validation_loss": 1 / s, "zero_predictor_loss": 1.0} for s in (1, 2, 4)])
    (points,) = re.findall(r'class="held" points="([^"]*)"', svg)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights == sorted(heights)
    assert 'class="train"' not in svg
    assert "No losses" in loss_curves("primary", [])
    assert "No losses" in loss_curves("primary", [{"step": 1, "loss": math.nan}])


@pytest.mark.parametrize("log", [False, True])
def test_greater_values_are_drawn_further_right_inside_their_intervals(log: bool) -> None:
    svg = intervals("t", [Row("a", 0.2, 0.1, 0.3), Row("b", 20, 10, 30), Row("none", math.nan, 0, 1)], log=log)
    marks = [float(x) for x in re.findall(r'class="mark" cx="([^"]*)"', svg)]
    ranges = [tuple(map(float, ends)) for ends in re.findall(r'class="range" x1="([^"]*)" x2="([^"]*)"', svg)]
    assert marks[0] < marks[1]
    assert all(low <= mark <= high for (low, high), mark in zip(ranges[:2], marks, strict=False))


def test_curves_are_labelled_at_their_ends_without_overlap_and_share_a_scale() -> None:
    lines = [Curve("<a>", "series-0", [(0, 1.0), (2e12, 0.5)]), Curve("b", "series-1", [(0, 1.0), (2e12, 0.49)])]
    svg = curves("t", [*lines, Curve("none", "series-2", [(0, math.nan)])])
    assert "&lt;a&gt;" in svg
    assert "series-2" not in svg
    places = [float(y) for y in re.findall(r'class="label [^"]*" x="[^"]*" y="([^"]*)"', svg)]
    assert abs(places[0] - places[1]) >= 15
    assert ">2 T</text>" in svg
    assert curves("t", [Curve("none", "train", [])]) == ""


def test_flops_are_written_by_powers_of_a_thousand() -> None:
    assert [amount(n) for n in (0, 1500, 932_832, 4.65e9, 1.2e12, 2e15)] == [
        "0",
        "1,500",
        "932,832",
        "4.65 G",
        "1.2 T",
        "2 P",
    ]
