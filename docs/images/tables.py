"""Draw figures of docs/scores.md and docs/configuration.md from their tables: `python docs/images/tables.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

FOLDER = Path(__file__).parent
COLORS = ("#1b6ca8", "#d1495b", "#3a8f5c")  # distinct in gray, and at least 3 : 1 on white
STYLE = {"svg.hashsalt": "codecdiff", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def read_table(page: str, corner: str) -> list[list[str]]:
    """Return the cells of the table of a page whose first cell is `corner`, without the line under its head."""
    lines = (FOLDER.parent / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {corner} |"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[start:end]]
    return [rows[0], *rows[2:]]


def draw_numbers_of_clips() -> None:
    """Draw FAD and KAD between halves of the same music, as fractions of those of white noise, by number of clips."""
    (_, *counts), *rows = read_table("scores.md", "clips in each")
    noise = {"FAD": 667.0, "KAD-across-clips": 117.0}  # said beside the table
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for color, (name, *values) in zip(COLORS, rows, strict=False):
        percents = [100 * float(value) / noise[name] for value in values]
        axes.plot([int(count) for count in counts], percents, "o-", color=color, label=name, markersize=4)
    axes.axhline(0, color="#555555", linewidth=1)
    axes.set(xlabel="clips in each set", ylabel="% of white noise", title="Two sets of the same music (the truth is 0)")
    axes.legend(frameon=False)
    save(figure, "scores-clips")


def draw_schedulers() -> None:
    """Draw the error of each scheduler in 20 steps, on two noise schedules, least first."""
    _, *rows = read_table("configuration.md", "scheduler")
    errors = {row[0].strip("`"): (float(row[3]), float(row[4])) for row in rows}
    names = sorted(errors, key=lambda name: -errors[name][0])
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for j, (schedule, color) in enumerate(zip(("cosine", "linear"), COLORS, strict=False)):
        axes.plot([errors[name][j] for name in names], range(len(names)), "os"[j], color=color, label=schedule)
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlabel="error in 20 steps (less is better)")
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.legend(frameon=False)
    save(figure, "configuration-schedulers")


def save(figure: pyplot.Figure, name: str) -> None:
    """Write a figure whose bytes follow from its content alone."""
    figure.savefig(FOLDER / f"{name}.svg", facecolor="white", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def main() -> None:
    """Draw all figures."""
    pyplot.rcParams.update(STYLE)
    draw_numbers_of_clips()
    draw_schedulers()


if __name__ == "__main__":
    main()
