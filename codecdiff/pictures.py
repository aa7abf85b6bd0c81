"""Pictures for a page that loads nothing: mel spectrograms as PNG, loss curves and intervals as SVG.

SVG takes its colours from the page: the classes `train`, `held`, `zero`, `grid`, `mark`, `range`, `bound`, and
`series-0` to `series-7` for what is compared.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from codecdiff.metrics import FLOOR, log_mel

PICTURE_BANDS = 80
DYNAMIC_RANGE = math.log(1e6)  # of power: 60 dB under the loudest point is black, if that is not under the floor
COLOURS = ("08090f", "241a52", "5b2a86", "a8327d", "e4515c", "fb9b5d", "fcf3b0")  # from silent to loud


class Row(NamedTuple):
    """A value with its interval, as one line of a picture."""

    label: str
    value: float
    low: float
    high: float


def png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """(h, w) uint8 palette indices, (256, 3) uint8 colours -> a PNG file (W3C PNG, third edition, section 5)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape
    lines = np.pad(pixels, ((0, 0), (1, 0)))  # every line begins with its filter, 0 for none
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.tobytes()),
            chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )


def palette() -> np.ndarray:
    """Give 256 colours (256, 3) uint8, between those of `COLOURS`."""
    stops = np.array([list(bytes.fromhex(colour)) for colour in COLOURS])
    places = np.linspace(0, len(stops) - 1, 256)
    return np.stack([np.interp(places, range(len(stops)), column) for column in stops.T], 1).round().astype(np.uint8)


def spectrogram(audio: Tensor, sample_rate: int) -> str:
    """(t,) audio -> the data address of a picture of its mel spectrogram, low notes at the bottom."""
    levels = log_mel(audio[None], sample_rate, num_bands=PICTURE_BANDS)[0].flip(0)
    loudest = float(levels.amax())
    black = max(loudest - DYNAMIC_RANGE, math.log(FLOOR))
    shade = (levels - black) / max(loudest - black, 1.0)
    pixels = (255 * shade.clamp(0, 1)).byte().numpy()
    return "data:image/png;base64," + base64.b64encode(png(pixels, palette())).decode()


def number(value: float | None) -> str:
    """Write a number with about three digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"
    return "0.00" if digits == "-0.00" else digits.replace("-", "−")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Give about `count` round numbers that span from `low` to `high`."""
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= rough * 0.99)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class Curve(NamedTuple):
    """A line of a picture: its name, its class, and its points."""

    label: str
    css: str
    points: Sequence[tuple[float, float]]


def loss_curves(stage: str, log: Sequence[Mapping[str, Any]]) -> str:
    """Draw the losses of a stage over its steps as SVG: in training, held out, and held out when answering zero.

    A line of the log has `step` and any of `loss`, `held_out`, `held_out_baseline`.
    """
    names = {
        "loss": ("train", "training"),
        "validation_loss": ("held", "held out"),
        "zero_predictor_loss": ("zero", "zero"),
    }
    lines = [
        Curve(name, css, [(line["step"], line[key]) for line in log if line.get(key) is not None])
        for key, (css, name) in names.items()
    ]
    last = max((line["step"] for line in log), default=0)
    return (
        curves(f"Losses of the {stage} stage over {last} steps", lines) or '<p class="quiet">No losses were logged.</p>'
    )


def curves(title: str, lines: Sequence[Curve], *, labels: bool = True) -> str:
    """Draw lines over one scale from zero as SVG, with their names at their ends; nothing if there is no point.

    What is not finite is left out. Without `labels` the page has to say which line is which.
    """
    width, height, left, right, top, bottom = 560, 270, 44, 84 if labels else 20, 14, 30
    finite = [line._replace(points=[p for p in line.points if math.isfinite(p[1])]) for line in lines]
    points = [point for line in finite for point in line.points]
    if not points:
        return ""
    last, most = max(x for x, _ in points), 1.08 * max(y for _, y in points)

    def x(place: float) -> float:
        return left + (width - left - right) * place / max(last, 1)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - value / most)

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in ticks(0, most)
    ]
    parts += [
        f'<text class="tick" x="{x(v):.1f}" y="{height - 8}" text-anchor="middle">{amount(v)}</text>'
        for v in ticks(0, last)
    ]
    ends = []
    for line in finite:
        if line.points:
            path = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in line.points)
            parts.append(f'<polyline class="{line.css}" points="{path}"/>')
            ends.append((y(line.points[-1][1]), line.css, line.label))
    if labels:
        for place, (_, css, name) in zip(_spread([end[0] for end in sorted(ends)], 15), sorted(ends), strict=True):
            text = f'<text class="label {css}" x="{width - right + 8}" y="{place + 4:.1f}">{escape(name)}</text>'
            parts.append(text)
    return _svg(width, height, title, parts)


def amount(value: float) -> str:
    """Write a count; from a billion on with its power of a thousand, as FLOPs are: 1.5 T."""
    for scale, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:,.0f}"


def intervals(title: str, rows: Sequence[Row], *, log: bool = False, bounds: Sequence[float] = ()) -> str:
    """Draw values with their intervals as SVG, a row each, on one linear or logarithmic scale; `bounds` are dashed."""
    width, left, right, pitch, top = 560, 158, 64, 34, 10
    height = top + pitch * len(rows) + 26
    numbers = [n for row in rows for n in (row.value, row.low, row.high) if math.isfinite(n) and (n > 0 or not log)]
    if not numbers:
        return '<p class="quiet">Nothing could be measured.</p>'
    low, high = min([*numbers, *bounds]), max([*numbers, *bounds])
    if log:
        low, high = low / 1.3, high * 1.3
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        marks = [m for n in decades for m in (10.0**n, 3 * 10.0**n) if low <= m <= high]
    else:
        low, high = min(low, 0.0) - 0.02, max(high, 1.0) + 0.02
        marks = ticks(low, high)

    def x(value: float) -> float:
        scale = math.log if log else float
        value = min(max(value, low), high) if math.isfinite(value) else low
        return left + (width - left - right) * (scale(value) - scale(low)) / (scale(high) - scale(low))

    foot = top + pitch * len(rows)
    parts = [
        f'<line class="grid" x1="{x(m):.1f}" x2="{x(m):.1f}" y1="{top}" y2="{foot}"/>'
        f'<text class="tick" x="{x(m):.1f}" y="{foot + 18}" text-anchor="middle">{m:g}</text>'
        for m in marks
    ]
    parts += [f'<line class="bound" x1="{x(b):.1f}" x2="{x(b):.1f}" y1="{top}" y2="{foot}"/>' for b in bounds]
    for i, row in enumerate(rows):
        y = top + pitch * (i + 0.5)
        parts.append(
            f'<text class="label" x="{left - 14}" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>'
            f'<line class="range" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="mark" cx="{x(row.value):.1f}" cy="{y}" r="5.5"/>'
            f'<text class="number" x="{width - right + 14}" y="{y + 4}">{number(row.value)}</text>'
        )
    return _svg(width, height, title, parts)


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Move rising places apart until they are `gap` from each other, so that labels do not overlap."""
    spread: list[float] = []
    for place in places:
        spread.append(max(place, spread[-1] + gap) if spread else place)
    return spread


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return "".join([head, *parts, "</svg>"])
