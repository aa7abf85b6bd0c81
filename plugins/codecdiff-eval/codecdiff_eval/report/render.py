"""A report as a web page, as Markdown, as JSON, and a table on the console.

The page loads nothing from elsewhere: style, script, plots and spectrograms are inside it, audio files beside it.
Jinja2 escapes everything except the plots. A page is a pure function of the report and its audio files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from rich.text import Text

from codecdiff.cli.console import folded_table
from codecdiff.files import atomic_write_text
from codecdiff_eval.report.blocks import Cell, Player, Report, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def write_report(report: Report, folder: Path | str, data: Mapping[str, Any] | None = None) -> Path:
    """Write `index.html`, `report.md` and, of `data`, `report.json`, each whole or not at all. Return the page's path.

    The folder holds the audio files of the report. What `data` holds that JSON cannot write becomes null.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None:
        atomic_write_text(folder / "report.json", json.dumps(finite_json(data), indent=1, ensure_ascii=False) + "\n")
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


def finite_json(value: Any) -> Any:
    """Replace every NaN and infinity, which JSON cannot write, with None."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("codecdiff_eval.report"),
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
