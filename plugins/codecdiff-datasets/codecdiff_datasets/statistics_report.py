"""Statistics for people: tables, Markdown, and one HTML page that loads nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from codecdiff_datasets.charts import Bar, chart

Figures = Mapping[str, Any]  # as codecdiff_datasets.statistics gives them
NOTHING = "–"
FEW = 10  # frames for each entry of a codebook, below which its entropy is an underestimate worth a word
USE = ("codebook", "entries", "used", "of entries", "most frequent", "repeats", "by chance")
ENTROPY = ("codebook", "bits", "of the most possible", "corrected, bits", "perplexity")
ENTROPY_NOTE = (
    "Corrected after Miller and Madow. The most possible is log2 of the entries; perplexity is 2 to the bits."
)


class Table(NamedTuple):
    """A table of texts with its title, a note and a chart, both possibly empty. Columns but the first are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    svg: str = ""


def write(figures: Figures, folder: Path | str) -> None:
    """Write `stats.json`, `stats.md` and `stats.html` into a new folder, which appears whole or not at all.

    Raises FileExistsError if the folder exists and is not empty.
    """
    folder = Path(folder).absolute()
    require_new(folder)
    found = tables(figures)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    draft.mkdir(parents=True)
    try:
        text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False)
        (draft / "stats.json").write_text(text + "\n", encoding="utf-8")
        (draft / "stats.md").write_text(markdown(figures["name"], found), encoding="utf-8")
        (draft / "stats.html").write_text(page(figures["name"], found), encoding="utf-8")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_new(folder: Path) -> None:
    """Raise FileExistsError unless there is nothing at `folder`, or an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists and is not empty. Choose another folder, or delete it.")


def tables(figures: Figures) -> list[Table]:
    """Give the tables of the statistics of a manifest or a store, leaving out those with nothing in them."""
    shared = [_overview(figures), *_durations(figures), *_groups(figures), *_tags(figures), *_captions(figures)]
    found = [*shared, *_codebooks(figures), *_latents(figures)]
    return [table for table in found if table.rows]


def count(value: int) -> str:
    """Write a whole number."""
    return f"{value:,}"


def decimal(value: float | None, digits: int = 2) -> str:
    """Write a number with so many digits after its point, a dash where there is none."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # never -0


def share(value: float | None) -> str:
    """Write a share as a percentage, a dash where there is none."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Write seconds as a clock does: 0:29, 3:05, 1:02:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _overview(figures: Figures) -> Table:
    rows = [
        ("recordings", count(figures["recordings"])),
        ("audio present", count(figures["present"])),
        ("audio missing", count(figures["missing"])),
        ("hours", decimal(figures["hours"])),
        ("audio present, hours", decimal(figures["hours_present"])),
        ("recordings of unknown duration", count(figures["without_seconds"])),
        ("recordings without a caption", count(_uncaptioned(figures))),
        ("recordings without a tag", count(figures["without_tags"])),
        ("artists", count(figures["artists"]["distinct"])),
        ("artists in several splits", count(figures["artists"]["in_several_splits"])),
    ]
    if figures["kind"] == "store":
        codec = figures["codec"]
        rows = [
            *(row for row in rows if not row[0].startswith("audio")),
            ("files skipped when it was made", count(figures["skipped"])),
            ("codec", codec["name"] if isinstance(codec, Mapping) else str(codec)),
            ("segments", count(figures["segments"])),
            ("latent frames", count(figures["frames"])),
            ("latent frames per second", decimal(figures["frame_rate"])),
        ]
    return Table("Overview", ("", figures["kind"]), rows)


def _uncaptioned(figures: Figures) -> int:
    return sum(row["recordings"] for row in figures["captions"]["per_recording"] if not row["captions"])


def _groups(figures: Figures) -> Iterator[Table]:
    yield _grouped("Splits", "split", figures["splits"])
    yield _grouped("Licences", "licence", figures["licences"])
    artists = figures["artists"]
    left = artists["distinct"] - len(artists["most"])
    yield _grouped("Artists", "artist", artists["most"], f"And {left:,} more." if left else "")


def _tags(figures: Figures) -> Iterator[Table]:
    for tags in figures["tags"]:
        note = f"{tags['distinct']:,} different, in {tags['recordings']:,} recordings."
        yield _grouped(f"Tags: {tags['category']}", "tag", tags["most"], note)


def _grouped(title: str, what: str, groups: Sequence[Figures], note: str = "") -> Table:
    """A table of what `grouped` gave; empty if no recording has a name."""
    named = [(group["name"] or "not known", group) for group in groups] if any(g["name"] for g in groups) else []
    rows = [(name, count(group["recordings"]), decimal(group["hours"])) for name, group in named]
    bars = [Bar(name, group["recordings"], count(group["recordings"])) for name, group in named]
    return Table(title, (what, "recordings", "hours"), rows, note, chart(title, bars))


def _durations(figures: Figures) -> Iterator[Table]:
    if spread := figures["seconds"]:
        yield _spread("Durations", "recordings", spread, duration)
    if figures.get("segments", 0) > figures["recordings"]:
        yield _spread("Durations of the segments", "segments", figures["segment_seconds"], duration)


def _captions(figures: Figures) -> Iterator[Table]:
    captions = figures["captions"]
    if not captions["captions"]:
        return
    rows = [(count(row["captions"]), count(row["recordings"])) for row in captions["per_recording"]]
    yield Table("Captions per recording", ("captions", "recordings"), rows)
    yield _spread("Words per caption", "captions", captions["words"], lambda value: f"{value:.0f}")


def _spread(title: str, what: str, spread: Figures, write: Any) -> Table:
    """A table of what `statistics.spread` gave: quantiles, and the histogram less its empty ends, also as a chart."""
    filled = [i for i, part in enumerate(spread["histogram"]) if part["count"]]
    bins = spread["histogram"][filled[0] : filled[-1] + 1]
    names = [f"{write(b['from'])} to {write(b['to'])}" if b["to"] else f"{write(b['from'])} and more" for b in bins]
    bars = [Bar(name, b["count"], count(b["count"])) for name, b in zip(names, bins, strict=True)]
    quantiles = ", ".join(f"{below} {write(value)}" for below, value in spread["quantiles"].items())
    note = f"Mean {write(spread['mean'])}; quantiles {quantiles}. Bins leave out their end."
    rows = [(bar.label, bar.text) for bar in bars]
    return Table(title, ("", what), rows, note, chart(title, bars))


def _codebooks(figures: Figures) -> Iterator[Table]:
    books = figures.get("codebooks", [])
    yield Table("Use of the codebooks", USE, [_use(book) for book in books], _caution(figures))
    bars = [Bar(_named(b), b["entropy_share"] or 0, f"{decimal(b['entropy'])} bits") for b in books]
    known = any(book["entropy_share"] is not None for book in books)
    svg = chart("Entropy, of the most possible", bars, full=1) if known else ""
    yield Table("Entropy of the codebooks", ENTROPY, [_entropy(book) for book in books], ENTROPY_NOTE, svg)


def _use(book: Figures) -> Sequence[str]:
    return (
        _named(book),
        NOTHING if book["size"] is None else count(book["size"]),
        count(book["used"]),
        share(book["used_share"]),
        share(book["most_frequent"] and book["most_frequent"]["share"]),
        share(book["repeats"]),
        share(book["repeats_by_chance"]),
    )


def _entropy(book: Figures) -> Sequence[str]:
    bits = (decimal(book["entropy"]), share(book["entropy_share"]), decimal(book["corrected_entropy"]))
    return (_named(book), *bits, decimal(book["perplexity"], 0))


def _named(book: Figures) -> str:
    same = book["level"] in (None, book["codebook"])
    return str(book["codebook"]) if same else f"{book['codebook']} (level {book['level']})"


def _caution(figures: Figures) -> str:
    frames, most = figures.get("frames", 0), max((book["used"] for book in figures.get("codebooks", [])), default=0)
    if not frames:
        return "The store holds no frames."
    few = f" Only {frames:,} frames for {most:,} entries: the entropies are underestimates." * (frames < FEW * most)
    return f"Counted in {frames:,} frames. A frame repeats the one before it if it has the same code.{few}"


def _latents(figures: Figures) -> Iterator[Table]:
    if reason := figures.get("latents_left_out"):
        yield Table("Latents", ("left out",), [(reason,)])
    for title, key in (("Latents of the codes", "latents"), ("Projections", "projections")):
        books = figures.get(key) or []
        rows = [(str(b["codebook"]), decimal(b["mean"], 4), decimal(b["std"], 4)) for b in books]
        bars = [Bar(f"codebook {b['codebook']}", b["std"] or 0, decimal(b["std"], 4)) for b in books]
        yield Table(title, ("codebook", "mean", "standard deviation"), rows, "", chart("Standard deviation", bars))


def markdown(name: str, found: Sequence[Table]) -> str:
    """Write tables as Markdown."""
    parts = [f"# Statistics of {_cell(name)}\n"]
    for table in found:
        rule = ["---", *["---:"] * (len(table.columns) - 1)]
        lines = [f"| {' | '.join(map(_cell, row))} |" for row in (table.columns, rule, *table.rows)]
        parts.append("\n".join([f"## {_cell(table.title)}", "", *[table.note, ""] * bool(table.note), *lines, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def page(name: str, found: Sequence[Table]) -> str:
    """Write tables and charts as one HTML page. Whatever came from the data is escaped."""
    title = f"Statistics of {escape(name)}"
    return PAGE.format(title=title, style=STYLE, body="\n".join(map(_section, found)))


def _section(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<section><h2>{escape(table.title)}</h2>{note}{table.svg}"
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{style}</style></head>
<body><h1>{title}</h1>
{body}
</body>
</html>
"""
STYLE = """
:root { color-scheme: light dark; --quiet: #888; --line: #8883; --bar: #4a7fb5 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem }
p { color: var(--quiet) }
svg { display: block; max-width: 580px; margin: 1rem 0; font-size: 12px }
text { fill: currentColor }
.value { fill: var(--quiet) }
.track { fill: var(--line) }
.bar { fill: var(--bar) }
div { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child { text-align: left }
"""
