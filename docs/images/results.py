"""Draw the figures of docs/results.md from its tables: `python docs/images/results.py`.

A cell of these tables is a value with its 95 % interval, as in "9.27 (1.77 to 17.5)".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "results.md"
NUMBER = r"[+−-]?[\d.]+"
CELL = re.compile(rf"({NUMBER}) \(({NUMBER}) to ({NUMBER})\)")
COLORS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#b07d1a")  # distinct in gray, and at least 3 : 1 on white
STYLE = {"svg.hashsalt": "codecdiff", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}

Row = Sequence[tuple[float, float, float] | None]  # value, low and high of each variant
Table = dict[str, Row]


def read_table(page: str, section: str, title: str) -> tuple[list[str], Table]:
    """Return the variants, and the rows by their metric, of the table under a heading of a section."""
    body = page.split(f"\n## {section}\n")[1].split(f"\n### {title}\n")[1]
    lines = [line for line in body.split("\n\n")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0][1:], {row[0].rstrip(" ↑↓"): [parse(cell) for cell in row[1:]] for row in cells[2:]}


def parse(cell: str) -> tuple[float, float, float] | None:
    """Return the value of a cell and its interval; None for an empty one."""
    match = CELL.match(cell)
    if match is None:
        return None
    value, low, high = (float(number.replace("−", "-")) for number in match.groups())
    return value, low, high


def draw_intervals(axes: pyplot.Axes, variants: Sequence[str], table: Table, metrics: dict[str, str]) -> None:
    """Draw values with their intervals: a row for each metric, called by its label, and a color for each variant."""
    for i, metric in enumerate(metrics):
        for j, interval in enumerate(table[metric]):
            if interval is not None:
                value, low, high = interval
                y = -i - 0.6 * (j - (len(variants) - 1) / 2) / len(variants)
                errors = [[value - low], [high - value]]
                axes.errorbar(value, y, xerr=errors, fmt="o", color=COLORS[j], markersize=5, capsize=3, linewidth=1.5)
    axes.set_yticks([-i for i in range(len(metrics))], list(metrics.values()))
    axes.set_ylim(-len(metrics) + 0.4, 0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def draw(name: str, page: str, section: str) -> None:
    """Draw the distances and the adherence of a comparison beside each other, and save them as SVG."""
    variants, table = read_table(page, section, "Figures")
    distances = {metric: metric.removeprefix("Fréchet distance: ") for metric in table if metric.startswith("Fréchet")}
    adherence = {metric: metric.removeprefix("prompt adherence: ") for metric in table if metric.startswith("prompt")}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    draw_intervals(left, variants, table, distances)
    left.set(title="Distance to validation music (less is better)", xlabel="Fréchet distance")
    left.set_xlim(left=0)
    draw_intervals(right, variants, table, adherence)
    right.axvline(0, color="#555555", linewidth=1)
    right.set(title="Prompt adherence (more is better)", xlabel="0: chance, 1: as in real music through the codec")
    handles = [
        pyplot.Line2D([], [], color=color, marker="o", label=variant)
        for color, variant in zip(COLORS, variants, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(variants), frameon=False)
    save(figure, name)


def draw_differences(name: str, page: str, sections: Sequence[str]) -> None:
    """Draw the differences of the full cascade and of the mean adherence to the first variant, for both comparisons."""
    metrics = {"Fréchet distance: full cascade": "Fréchet distance, full cascade (left is better)"}
    metrics |= {"prompt adherence: mean probe score": "prompt adherence, mean (right is better)"}
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3), layout="constrained")
    for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
        rows = []
        for section in sections:
            variants, table = read_table(page, section, "Differences to the first variant")
            rows += [(variant, interval) for variant, interval in zip(variants, table[metric], strict=True) if interval]
        for i, (_, (value, low, high)) in enumerate(rows):
            color = COLORS[0] if low <= 0 <= high else COLORS[1]
            axes.errorbar(value, -i, xerr=[[value - low], [high - value]], fmt="o", color=color, capsize=3)
        axes.axvline(0, color="#555555", linewidth=1)
        axes.set_yticks([-i for i in range(len(rows))], [variant for variant, _ in rows])
        axes.set(title=title, xlabel="difference to coarse-first, 95 % interval")
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    save(figure, name)


def save(figure: pyplot.Figure, name: str) -> None:
    """Write a figure whose bytes follow from its content alone."""
    figure.savefig(FOLDER / f"{name}.svg", facecolor="white", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def main() -> None:
    """Draw all figures."""
    pyplot.rcParams.update(STYLE)
    page = PAGE.read_text(encoding="utf-8")
    draw("results-patterns", page, "Patterns")
    draw("results-cascade", page, "The cascade gap")
    draw_differences("results-differences", page, ("Patterns", "The cascade gap"))


if __name__ == "__main__":
    main()
