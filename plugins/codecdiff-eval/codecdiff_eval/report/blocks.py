"""What a report consists of.

Everything here is plain text, which is escaped when it is rendered; only `Plot.svg` is markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from codecdiff_eval.report.numbers import format_interval, format_number, interval_width

Status = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    details: smaller lines under the text, such as its interval; in parentheses where lines are not possible.
    status: the color of the text.
    """

    text: str
    details: Sequence[str] = ()
    status: Status = ""


@dataclass(frozen=True)
class Table:
    """A table. A string is a cell without details.

    text_columns: how many columns from the left hold text; the others hold numbers and are aligned to the right.
    compact: share the width of the page with the next block that is compact, or a plot.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    title: str = ""
    text_columns: int = 1
    compact: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, with every string as a cell. Raises ValueError for a row of another length than the columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"The row {row!r} has {len(row)} cells: expected {len(self.columns)}, one per column.")
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


def estimate_cell(estimate: Sequence[float], details: Sequence[str] = (), status: Status = "") -> Cell:
    """Return the cell of (value, low, high): the value with its interval under it, and other lines."""
    value, *ends = estimate
    lines = [interval] if (interval := format_interval(*ends)) else []
    return Cell(format_number(value, interval_width(*ends)), [*lines, *details], status)


def facts_table(title: str, facts: Mapping[str, object]) -> Table:
    """Return a compact table with a row for each name and value."""
    rows = [(name, str(value)) for name, value in facts.items()]
    return Table((title, ""), rows, text_columns=2, compact=True)


@dataclass(frozen=True)
class Plot:
    """A plot with its title above it.

    svg: what a function of `codecdiff_eval.plots` returned; empty if there was nothing to draw.
    empty: what to say then.
    """

    title: str
    svg: str
    caption: str = ""
    empty: str = "Nothing could be measured."


@dataclass(frozen=True)
class Player:
    """An audio file, shown as its mel spectrogram with a player.

    path: relative to the folder of the report, with forward slashes.
    generated: whether to highlight it among what it is compared with.
    """

    path: str
    title: str
    caption: str = ""
    generated: bool = False


@dataclass(frozen=True)
class Players:
    """Players side by side, such as all files of one prompt, with a badge beside their title."""

    title: str
    players: Sequence[Player]
    badge: str = ""


@dataclass(frozen=True)
class Notes:
    """A list of sentences. A warning is highlighted."""

    lines: Sequence[str]
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """A command line, or other text that keeps its line breaks."""

    text: str


Block = Table | Plot | Players | Notes | Code


@dataclass(frozen=True)
class Section:
    """A part of a report under one title, with a paragraph that says how to read it."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    kicker: a short line above the title, such as "codecdiff · evaluate".
    highlights: pairs of a value and what it is, shown large under the introduction.
    files: names of files beside the report to link to.
    """

    title: str
    sections: Sequence[Section]
    kicker: str = ""
    introduction: str = ""
    highlights: Sequence[tuple[str, str]] = ()
    files: Sequence[str] = ()
