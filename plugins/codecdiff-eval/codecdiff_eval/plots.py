"""Plots as SVG for a page, by matplotlib, and spectrograms as PNG.

The same input gives the same bytes. Colors are variables of the page's style sheet, `--ink`, `--series-0` and so on, so
that plots follow its dark mode; `COLORS` are what they are without one. Text stays text, in the font of the page.
"""

from __future__ import annotations

import base64
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

from codecdiff_eval.report.numbers import format_count, format_number

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MEL_BANDS = 80
DYNAMIC_RANGE_DB = 60  # below the loudest point, where black begins
MIN_SPECTROGRAM_S = 0.1  # shorter audio is padded

COLORS = {  # variable of the style sheet -> its color in light mode; no two are the same
    "--ink": "#1c1d22",
    "--quiet": "#6c6e78",
    "--line": "#e5e3de",
    "--accent": "#8c2f8a",
    "--series-0": "#9b3b99",
    "--series-1": "#c9691a",
    "--series-2": "#23845f",
    "--series-3": "#3570bf",
    "--series-4": "#bd4339",
    "--series-5": "#7c8021",
    "--series-6": "#647080",
    "--series-7": "#997518",
}
INK, QUIET, LINE, ACCENT, *SERIES = COLORS.values()
RC = {
    "svg.fonttype": "none",  # text, not outlines
    "text.parse_math": False,  # labels may hold any character, a dollar sign as well
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same everywhere
    "font.size": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "axes.edgecolor": LINE,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 8,
}
WIDTH_INCHES, CURVES_INCHES = 7.4, 3.5
LABEL_GAP = 15  # points between the labels of two curves
MAX_LABEL = 32  # characters


class Interval(NamedTuple):
    """A value with its interval, in one row of a plot."""

    label: str
    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """A line of a plot with its points (x, y). `style` is matplotlib's; `color` is by default the next of `SERIES`."""

    label: str
    points: Sequence[tuple[float, float]]
    color: str = ""
    style: str = "-"
    width: float = 2.2


class Bar(NamedTuple):
    """A bar with its length, and the text at its end."""

    label: str
    value: float
    text: str


def plot_losses(stage: str, log: Sequence[Mapping[str, Any]]) -> str:
    """Plot the losses of a stage by training step: of training, of validation, and of the zero predictor.

    A line of the log has `step` and any of `loss`, `held_out`, `held_out_baseline`. Empty if none was logged.
    """
    styles = {
        "held_out_baseline": Curve("zero predictor", (), QUIET, ":", 1.8),
        "loss": Curve("training", (), SERIES[1], "-", 1.4),
        "held_out": Curve("validation", (), SERIES[0], "-", 2.6),
    }
    curves = [
        curve._replace(points=[(line["step"], line[key]) for line in log if line.get(key) is not None])
        for key, curve in styles.items()
    ]
    return plot_curves(f"Losses of the {stage} stage", curves, x_label="step")


def plot_curves(title: str, curves: Sequence[Curve], *, x_label: str = "", labels: bool = True) -> str:
    """Plot curves on one scale that begins at zero, with their labels at their ends. Empty if they have no points.

    Points that are not finite are left out. The title is the text alternative of the plot.
    """
    colored = [c if c.color else c._replace(color=SERIES[i % len(SERIES)]) for i, c in enumerate(curves)]
    finite = [c._replace(points=[p for p in c.points if math.isfinite(p[1])]) for c in colored]
    drawn = [curve for curve in finite if curve.points]
    if not drawn:
        return ""

    def draw(axes: Axes) -> None:
        last = max(x for curve in drawn for x, _ in curve.points)
        most = max(y for curve in drawn for _, y in curve.points)
        axes.set(xlim=(0, last or 1), ylim=(0, 1.08 * most if most > 0 else 1), xlabel=x_label)
        axes.grid(axis="y")
        _set_ticks(axes.xaxis, format_count)
        _set_ticks(axes.yaxis, "{:g}".format)
        for curve in drawn:
            x, y = zip(*curve.points, strict=True)
            marker = "o" if len(curve.points) == 1 else ""
            axes.plot(x, y, color=curve.color, linestyle=curve.style, linewidth=curve.width, marker=marker)
        if labels:
            _label_ends(axes, drawn)

    return _svg(title, CURVES_INCHES, draw)


def plot_intervals(title: str, rows: Sequence[Interval], *, log: bool = False, bounds: Sequence[float] = ()) -> str:
    """Plot values with their intervals, a row each, on one linear or logarithmic scale. Empty if nothing is finite.

    bounds: values to compare with, as dashed lines.
    """
    ends = [n for row in rows for n in row[1:] if math.isfinite(n) and (n > 0 or not log)]
    if not ends:
        return ""
    low, high = min([*ends, *bounds]), max([*ends, *bounds])
    if log:
        low, high = low / 1.3, high * 1.3
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        margin = 0.03 * (high - low or 1)
        low, high = low - margin, high + margin

    def draw(axes: Axes) -> None:
        axes.set(xscale="log" if log else "linear", xlim=(low, high))
        axes.grid(axis="x")
        _set_ticks(axes.xaxis, "{:g}".format)
        _set_rows(axes, [row.label for row in rows], [format_number(row.value, row.high - row.low) for row in rows])
        for bound in bounds:
            axes.axvline(bound, color=QUIET, linestyle=(0, (3, 4)), linewidth=1)
        for i, (_, *numbers) in enumerate(rows):
            if math.isfinite(numbers[0]):
                value, start, end = (min(max(n, low), high) if math.isfinite(n) else numbers[0] for n in numbers)
                axes.plot([start, end], [i, i], color=ACCENT, alpha=0.35, linewidth=4.5, solid_capstyle="round")
                axes.plot([value], [i], color=ACCENT, marker="o", markersize=9, markeredgewidth=0)

    return _svg(title, 0.62 + 0.44 * len(rows), draw)


def plot_bars(title: str, bars: Sequence[Bar], full: float = 0) -> str:
    """Plot horizontal bars. One of the value `full` has the whole length; 0 stands for the greatest value."""
    if not bars:
        return ""
    longest = full or max(bar.value for bar in bars) or 1

    def draw(axes: Axes) -> None:
        axes.set(xlim=(0, longest), xticks=[])
        _set_rows(axes, [bar.label for bar in bars], [bar.text for bar in bars])
        axes.barh(range(len(bars)), [longest] * len(bars), height=0.62, color=LINE)
        axes.barh(range(len(bars)), [min(max(bar.value, 0), longest) for bar in bars], height=0.62, color=SERIES[3])

    return _svg(title, 0.2 + 0.32 * len(bars), draw)


def spectrogram(audio: np.ndarray, sample_rate: int) -> str:
    """(t,) audio -> its mel spectrogram as the data URI of a PNG, low frequencies at the bottom."""
    import numpy as np
    import torch
    from matplotlib import colormaps
    from PIL import Image

    from codecdiff.metrics import FLOOR, log_mel

    padding = max(0, round(MIN_SPECTROGRAM_S * sample_rate) - len(audio))
    samples = torch.from_numpy(np.pad(np.asarray(audio, np.float32), (0, padding)))
    levels = log_mel(samples[None], sample_rate, num_bands=MEL_BANDS)[0].flip(0)
    loudest = float(levels.amax())
    black = max(loudest - DYNAMIC_RANGE_DB * math.log(10) / 10, math.log(FLOOR))
    pixels = (255 * ((levels - black) / max(loudest - black, 1.0)).clamp(0, 1)).byte().numpy()
    image = Image.fromarray(pixels).convert("P")
    image.putpalette(colormaps["magma"](np.arange(256), bytes=True)[:, :3].tobytes())
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _set_ticks(axis: Axis, text: Callable[[float], str]) -> None:
    """Set about four round ticks."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    places = []
    if axis.get_scale() == "log":
        wide = high / low > 100
        places = _inside(LogLocator(subs=(1, 3) if wide else (1, 2, 5)).tick_values(low, high), low, high)
        axis.set_minor_locator(NullLocator())
    if len(places) < 3:
        places = _inside(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), low, high)
    axis.set_ticks(places, [text(place) for place in places])


def _inside(places: Iterable[float], low: float, high: float) -> list[float]:
    return [float(place) for place in places if low <= place <= high]


def _set_rows(axes: Axes, labels: Sequence[str], values: Sequence[str]) -> None:
    """Write labels on the left and values on the right of rows, the first at the top."""
    short = [label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…" for label in labels]
    axes.set_yticks(range(len(labels)), short, color=INK)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    for i, value in enumerate(values):
        axes.annotate(
            value, (1, i), (12, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
        )


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write the label of every curve at its end, moved up or down where two would overlap."""
    height = 0.8 * 72 * CURVES_INCHES  # points, without the ticks below
    scale = height / axes.get_ylim()[1]
    ordered = sorted(curves, key=lambda curve: curve.points[-1][1])
    ends = [curve.points[-1][1] * scale for curve in ordered]
    for curve, end, place in zip(ordered, ends, _spread(ends, LABEL_GAP, height), strict=True):
        label = curve.label if len(curve.label) <= MAX_LABEL else f"{curve.label[: MAX_LABEL - 1]}…"
        axes.annotate(
            label,
            (1, curve.points[-1][1]),
            (10, place - end),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=curve.color,
        )


def _spread(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Move rising places apart until they are `gap` from each other, and down again from `top`."""
    apart: list[float] = []
    for place in places:
        apart.append(max(place, apart[-1] + gap) if apart else place)
    for i in reversed(range(len(apart))):
        apart[i] = min(apart[i], top - gap * (len(apart) - 1 - i))
    return apart


def _svg(title: str, height_inches: float, draw: Callable[[Axes], None]) -> str:
    """Draw on new axes and return the SVG for a page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    file = StringIO()
    with style.context([RC | {"svg.hashsalt": title}], after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font may have it
        figure = Figure((WIDTH_INCHES, height_inches), layout="constrained", frameon=False)
        axes = figure.add_subplot(frameon=False)
        draw(axes)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(file.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Make an SVG file part of a page: in the page's colors, with a text alternative, without namespaces and ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|<clipPath.*?</clipPath>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r' (xmlns(:xlink)?|clip-path|version)="[^"]*"|(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"', "", svg
    )
    svg = (
        re.sub(r"\s*\n\s*", "\n", svg.replace("<g/>", ""))
        .replace("<defs>\n</defs>\n", "")
        .replace("xlink:href", "href")
    )
    for variable, color in COLORS.items():
        svg = svg.replace(f": {color}", f": var({variable}, {color})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()
