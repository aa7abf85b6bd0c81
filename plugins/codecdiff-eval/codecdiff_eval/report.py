"""Reports: sections of tables, plots, players and notes, written as a web page, as Markdown and as JSON.

A section is written by one function that returns a `Section`; `write_report` writes a `Report` of any of them.
`codecdiff_eval.numbers` writes values with their intervals, `codecdiff_eval.plots` draws.

Everything in a report is plain text, which Jinja2 escapes; only `Plot.svg` is markup. The page loads nothing from
elsewhere: style, script, plots and spectrograms are inside it, audio files beside it. It is a pure function of the
report and its audio files.

Example:
    losses = Section("Learning", "Losses by step.", [Plot("primary", plot_losses("primary", log))])
    listen = Section("Listen", "", [Players("a slow waltz", [Player("samples/00.wav", "Generated")])])
    write_report(Report("My model", [listen, losses]), folder, data={"log": log})

"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from rich.text import Text

from codecdiff.cli.console import folded_table
from codecdiff.errors import FileExists
from codecdiff.files import atomic_write_text, require_writable
from codecdiff_eval.numbers import format_interval, format_number, format_value, interval_width, to_json

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = [
    "Cell",
    "Code",
    "NoteList",
    "Player",
    "Players",
    "Plot",
    "Report",
    "Section",
    "Table",
    "console_table",
    "definitions",
    "estimate_cell",
    "facts_table",
    "render_html",
    "render_markdown",
    "require_own_report",
    "write_report",
]

Status = Literal["", "good", "bad", "quiet"]
HEAD_BYTES = 100_000  # bytes, after which no page of ours has its kicker: the style before it is shorter


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
    rows = [(name, format_value(value)) for name, value in facts.items()]
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
class NoteList:
    """A list of sentences. A warning is highlighted."""

    lines: Sequence[str]
    warning: bool = False


def definitions(metrics: Iterable[tuple[str, str]]) -> NoteList:
    """Return what metrics mean, of pairs of a name and its meaning: a line for each meaning, with all its names."""
    names: dict[str, list[str]] = {}
    for name, meaning in dict.fromkeys(metrics):
        names.setdefault(meaning, []).append(name)
    return NoteList([f"{', '.join(each)}: {meaning}." for meaning, each in names.items() if meaning])


@dataclass(frozen=True)
class Code:
    """A command line, or other text that keeps its line breaks."""

    text: str


Block = Table | Plot | Players | NoteList | Code


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
    files: Sequence[str] = ("report.json", "report.md")


def require_own_report(file: Path, kicker: str, force: bool) -> None:
    """Raise FileExists for a page that another command wrote: the line above its title is another. Not with `force`.

    Raises UnusableFile if its folder cannot be written to. Commands call it before they begin to measure.
    """
    require_writable(file.parent)
    is_run = file.name == "index.html" and (file.parent / "model" / "codecdiff.json").is_file()  # its page comes last
    if force or not (file.is_file() or is_run):
        return
    held, own = "training run" if is_run else "", kicker.removeprefix("codecdiff · ")
    if file.is_file():
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES).decode(errors="replace")
        match = re.search(r'<p class="kicker">codecdiff · (.*?)</p>', head)
        held = match[1] if match else ""
    if held != own:
        what = f"a page of '{held}'" if held else "a page"
        raise FileExists(
            f"'{file}' is {what} that '{own}' would replace. "
            "Choose another folder with -o, or overwrite it with --force."
        )


def write_report(report: Report, folder: Path | str, data: Mapping[str, Any] | None = None) -> Path:
    """Write `index.html`, `report.md` and, of `data`, `report.json`, each whole or not at all. Return the page's path.

    The folder holds the audio files of the report. `data` becomes JSON by `to_json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None:
        atomic_write_text(folder / "report.json", json.dumps(to_json(data), indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(folder / "report.md", render_markdown(report))
    atomic_write_text(folder / "index.html", render_html(report, folder))
    return folder / "index.html"


def render_html(report: Report, folder: Path | str) -> str:
    """Return the report as a page. Audio files are read from the folder, to draw their spectrograms."""
    return render_template("report.html", report=report, folder=Path(folder))


def render_markdown(report: Report) -> str:
    """Return the report as Markdown, without its plots."""
    text = render_template("report.md", report=report)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_template(name: str, **values: Any) -> str:
    """Return a template of this package with values in it, which are escaped."""
    return _environment().get_template(name).render(**values)


def console_table(table: Table) -> RichTable:
    """Return a table that rich prints; square brackets in it are not markup.

    Where all rows say the same in one of the leading columns of text, the title says it instead.
    """
    rows = [[_one_line(cell) for cell in row] for row in table.cells]
    names = [{row[i] for row in rows} for i in range(table.text_columns)]
    same = [i for i, cells in enumerate(names[:-1]) if len(cells) == 1 < len(rows)]
    title = ", ".join([table.title] * bool(table.title) + [f"{table.columns[i]}: {rows[0][i]}" for i in same])
    shown = folded_table(*(column for i, column in enumerate(table.columns) if i not in same), title=title or None)
    for row in rows:
        shown.add_row(*(Text(cell) for i, cell in enumerate(row) if i not in same))
    return shown


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("codecdiff_eval"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"url": quote, "md": _markdown_text, "cell": _one_line, "spectrogram": _spectrogram}
    return environment


def _one_line(cell: Cell) -> str:
    """Return the text of a cell with its details in parentheses."""
    return cell.text + (f" ({'; '.join(cell.details)})" if cell.details else "")


def _markdown_text(text: str) -> str:
    """Escape what would begin a table cell, a link or HTML, and join the lines."""
    return re.sub(r"([\\|]|(?<=\])\()", r"\\\1", re.sub(r"\s+", " ", text)).replace("<", "&lt;")


def _spectrogram(player: Player, folder: Path) -> str:
    import soundfile

    from codecdiff_eval.plots import spectrogram

    audio, sample_rate = soundfile.read(folder / player.path, dtype="float32", always_2d=True)
    return spectrogram(audio.mean(1), sample_rate)
