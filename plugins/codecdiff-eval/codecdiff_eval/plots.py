"""Plots as SVG for a page, by matplotlib, and spectrograms as PNG. The same input gives the same bytes.

Colors are variables of the page's style sheet, so plots follow its dark mode, and text stays text in the page's font.
"""

from __future__ import annotations

import base64
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from codecdiff_eval.numbers import format_count, format_number, interval_width

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["plot_curves", "plot_intervals", "plot_losses", "spectrogram"]

MEL_BANDS = 80
DYNAMIC_RANGE_DB = 60  # below the loudest point, where black begins
MIN_SPECTROGRAM_S = 0.1  # shorter audio is padded
WIDTH_INCHES = 6.2  # on a phone, text is then 9 pixels high
MAX_LABEL = 32  # characters
MARKED_POINTS = 12  # of a curve, at most
TEMPLATES = files("codecdiff_eval") / "templates"


def plot_losses(stage: str, log: Sequence[Mapping[str, Any]], base: float | None = None) -> str:
    """Plot the losses of a stage by training step: of validation, of training, and of predicting zero.

    A line of the log has `step` and any of `loss`, `validation_loss`, `zero_predictor_loss`. `base` is the validation
    loss before training, of what started from a model; it takes the place of predicting zero. Empty if nothing was
    logged.
    """
    keys = {"validation": "validation_loss", "training": "loss", "predicting zero": "zero_predictor_loss"}
    curves = {
        label: [(line["step"], line[key]) for line in log if line.get(key) is not None] for label, key in keys.items()
    }
    constant = curves.pop("predicting zero")
    before = [(0, base), (log[-1]["step"], base)] if base is not None and log else []
    curves |= {"before": before} if before else {"predicting zero": [(0, z) for _, z in constant[:1]] + constant}
    dotted = {"linestyle": ":", "marker": "", "color": _colors()["--quiet"]}
    styles = {
        "validation": {"linewidth": 2.8, "zorder": 3},
        "training": {"linewidth": 1.4},
        "predicting zero": dotted,
        "before": dotted,
    }
    return plot_curves(f"Losses of the {stage} stage", curves, x_label="step", styles=styles)


def plot_curves(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "",
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Plot curves, by label, through their points (x, y) on a scale that fits them. Empty without points.

    Points that are not finite are left out, and few of them are marked. `styles` are matplotlib's options of a line, by
    label. The title is the text alternative of the plot.
    """
    finite = {label: [p for p in points if all(map(math.isfinite, p))] for label, points in curves.items()}
    if not any(finite.values()):
        return ""

    def draw(axes: Axes) -> None:
        lines = []
        for i, (label, points) in enumerate(finite.items()):
            if points:
                marker = "o" if len(points) <= MARKED_POINTS else ""
                style = {"color": f"C{i}", "marker": marker, "markersize": 5, **(styles or {}).get(label, {})}
                lines += axes.plot(*zip(*points, strict=True), label=_short(label), **style)
        axes.grid(axis="y")
        axes.margins(x=0, y=0.05)
        _include_zero(axes, "y", [y for points in finite.values() for _, y in points])
        if all(x >= 0 for points in finite.values() for x, _ in points):
            axes.set_xlim(left=0)
        axes.set_xlabel(x_label)
        _set_ticks(axes.xaxis, format_count)
        _set_ticks(axes.yaxis, "{:g}".format)
        lines.sort(key=lambda line: -line.get_ydata()[-1])  # as the ends of the curves are
        axes.figure.legend(lines, [line.get_label() for line in lines], loc="outside right center")

    return _svg(title, 3.5, draw)


def plot_intervals(
    title: str, estimates: Mapping[str, tuple[float, float, float]], *, log: bool = False, bounds: Sequence[float] = ()
) -> str:
    """Plot values with their intervals (value, low, high), a row for each label. Empty if nothing is finite.

    log: use a logarithmic scale.
    bounds: values to compare with, as dashed lines.
    """
    finite = [n for values in estimates.values() for n in values if math.isfinite(n) and (n > 0 or not log)]
    if not finite:
        return ""

    def draw(axes: Axes) -> None:
        axes.set_xscale("log" if log else "linear")
        color = _colors()["--accent"]
        for i, (value, *ends) in enumerate(estimates.values()):
            if not math.isfinite(value):
                continue
            value, low, high = (max(n, min(finite)) if math.isfinite(n) else value for n in (value, *ends))
            axes.plot([low, high], [i, i], color=color, alpha=0.35, linewidth=4.5, solid_capstyle="round")
            axes.plot([value], [i], color=color, marker="o", markersize=9, markeredgewidth=0)
        for bound in bounds:
            axes.axvline(bound, color=_colors()["--quiet"], linestyle=(0, (3, 4)), linewidth=1)
        axes.grid(axis="x")
        axes.margins(x=0.05)
        if not log:
            _include_zero(axes, "x", finite)
        _set_ticks(axes.xaxis, "{:g}".format)
        _set_rows(axes, estimates, [format_number(v, interval_width(*ends)) for v, *ends in estimates.values()])

    return _svg(title, 0.62 + 0.44 * len(estimates), draw)


def spectrogram(audio: np.ndarray, sample_rate: int) -> str:
    """(t,) audio -> its mel spectrogram as the data URI of a PNG, low frequencies at the bottom."""
    import numpy as np
    import torch
    from matplotlib import colormaps
    from PIL import Image

    from codecdiff_eval.audio_features import FLOOR, log_mel

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


@cache
def _colors() -> dict[str, str]:
    """Return the colors of the style sheet in light mode, by variable."""
    light, _, _ = (TEMPLATES / "style.css").read_text(encoding="utf-8").partition("}")
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", light))


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"


def _include_zero(axes: Axes, axis: str, values: Sequence[float]) -> None:
    """Let a linear axis begin at zero where values lie near it for their spread, and fit them closely otherwise."""
    low, high = min(values), max(values)
    if min(abs(low), abs(high)) <= max(2 * (high - low), 0):
        axes.update_datalim([(0, 0)], updatex=axis == "x", updatey=axis == "y")
    axes.autoscale_view()


def _set_ticks(axis: Axis, text: Callable[[float], str]) -> None:
    """Choose about four round ticks, at whole numbers for counts."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    decades = axis.get_scale() == "log" and high > 10 * low
    steps, is_count = [1, 2, 2.5, 5, 10], text is format_count
    axis.set_major_locator(LogLocator(subs=(1, 3)) if decades else MaxNLocator(4, steps=steps, integer=is_count))
    axis.set_major_formatter(lambda value, _: text(value))
    axis.set_minor_locator(NullLocator())


def _set_rows(axes: Axes, labels: Iterable[str], values: Sequence[str]) -> None:
    """Write labels on the left and values on the right of rows, the first at the top."""
    axes.set_yticks(range(len(values)), [_short(label) for label in labels], color=_colors()["--ink"])
    axes.set_ylim(len(values) - 0.5, -0.5)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(values)), values, color=_colors()["--ink"])
    right.spines[:].set_visible(False)


def _svg(title: str, height_inches: float, draw: Callable[[Axes], None]) -> str:
    """Draw on new axes and return the SVG."""
    from matplotlib import style
    from matplotlib.figure import Figure

    file = StringIO()
    styles = ["default", str(TEMPLATES / "plots.mplstyle"), {"svg.hashsalt": title}]
    with style.context(styles), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font may have it
        figure = Figure((WIDTH_INCHES, height_inches), layout="constrained", frameon=False)
        draw(figure.add_subplot(frameon=False))
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(file.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Make an SVG file part of a page: its colors, a text alternative, no namespaces, and no ids that could repeat."""
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    elements = r"<(metadata|style)\b.*?</\1>|<clipPath.*?</clipPath>|<!--.*?-->|<g/>"
    attributes = r' (?:xmlns(?::xlink)?|clip-path|version)="[^"]*"| transform="rotate\(-0 [^"]*"|(?<=<g) id="[^"]*"'
    svg = re.sub(rf"{elements}|{attributes}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*\n\s*", "\n", svg).replace("<defs>\n</defs>\n", "")
    for variable, color in _colors().items():
        svg = svg.replace(f": {color}", f": var({variable}, {color})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()
