"""Statistics for people: tables, Markdown, and one HTML page that loads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from codecdiff.errors import FileExists
from codecdiff.files import atomic_folder
from codecdiff_datasets.templates import render

StatsDict = Mapping[str, Any]  # as codecdiff_datasets.statistics returns them
NOTHING = "–"
FILES = ("stats.json", "stats.md", "stats.html")
FEW = 10  # frames per used code, below which the entropy is a notable underestimate
ENTROPY_NOTE = "Corrected after Miller and Madow. The maximum is log2 of the codes; perplexity is 2 to the bits."


class StatsTable(NamedTuple):
    """A table of texts with its title and a note. Columns but the first are numbers.

    `bars` has the length of a bar for each row, from 0 to 1, if the rows are shown as a bar plot too.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    bars: Sequence[float] = ()


def write_statistics(statistics: StatsDict, folder: Path | str, *, force: bool = False) -> None:
    """Write `stats.json`, `stats.md` and `stats.html` into a new folder, which appears whole or not at all.

    Raises FileExists if the folder holds anything else, and unless `force` is set, if it holds other statistics.
    """
    folder, text = Path(folder).absolute(), statistics_json(statistics)
    require_new(folder)
    former = folder / "stats.json"
    if former.is_file() and not force and former.read_text(encoding="utf-8") != text:
        raise FileExists(f"'{folder}' holds other statistics. Choose another folder, or replace them with --force.")
    contents = tables(statistics)
    with atomic_folder(folder) as draft:
        (draft / "stats.json").write_text(text, encoding="utf-8")
        (draft / "stats.md").write_text(markdown(statistics["name"], contents), encoding="utf-8")
        (draft / "stats.html").write_text(html_report(statistics["name"], contents), encoding="utf-8")


def statistics_json(statistics: StatsDict) -> str:
    """Format statistics as JSON."""
    return json.dumps(statistics, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def require_new(folder: Path) -> None:
    """Raise FileExists unless there is nothing at `folder`, or a folder that holds nothing but statistics."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name} if folder.exists() else set()
    if names - set(FILES):
        raise FileExists(f"'{folder}' exists and is not empty. Choose another folder, or delete it.")


def markdown(name: str, contents: Sequence[StatsTable]) -> str:
    """Format tables as Markdown."""
    return render("statistics.md", name=name, tables=contents, filters={"cell": _cell})


def html_report(name: str, contents: Sequence[StatsTable]) -> str:
    """Format tables and bar plots as one HTML page. Whatever came from the data is escaped."""
    return render("statistics.html", title=f"Statistics of {name}", tables=contents)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def tables(statistics: StatsDict) -> list[StatsTable]:
    """Return the tables of the statistics of a manifest or a store, without those that are empty."""
    sections = (_overview, _durations, _groups, _tags, _captions, _codebooks, _latents)
    return [table for section in sections for table in section(statistics) if table.rows]


def count(value: int | None) -> str:
    """Format a whole number, None as a dash."""
    return NOTHING if value is None else f"{value:,}"


def decimal(value: float | None, digits: int = 2) -> str:
    """Format a number with so many decimals, None as a dash."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # never -0


def percentage(value: float | None) -> str:
    """Format a fraction as a percentage, None as a dash."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Format seconds as a clock does: 0:29, 3:05, 1:02:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _relative(values: Sequence[float]) -> list[float]:
    """Scale values to the lengths of bars; the longest has length 1."""
    longest = max(values, default=0) or 1
    return [max(0.0, value) / longest for value in values]


def _overview(statistics: StatsDict) -> Iterator[StatsTable]:
    captions, artists = statistics["captions"]["per_track"], statistics["artists"]
    audio = [
        ("audio present", count(statistics["present"])),
        ("audio missing", count(statistics["missing"])),
        ("audio present, hours", decimal(statistics["hours_present"])),
    ]
    rows = [
        ("tracks", count(statistics["tracks"])),
        ("hours", decimal(statistics["hours"])),
        *(audio if statistics["kind"] == "manifest" else ()),
        ("tracks of unknown duration", count(statistics["without_seconds"])),
        ("tracks without a caption", count(sum(row["tracks"] for row in captions if not row["captions"]))),
        ("tracks without a tag", count(statistics["without_tags"])),
        ("artists", count(artists["distinct"])),
        ("artists in several splits", count(artists["in_several_splits"])),
    ]
    if statistics["kind"] == "store":
        codec = statistics["codec"]
        rows += [
            ("files skipped when it was made", count(statistics["skipped"])),
            ("codec", codec["name"] if isinstance(codec, Mapping) else str(codec)),
            ("segments", count(statistics["segments"])),
            ("latent frames", count(statistics["frames"])),
            ("latent frames per second", decimal(statistics["frame_rate"])),
        ]
    yield StatsTable("Overview", ("", statistics["kind"]), rows)


def _groups(statistics: StatsDict) -> Iterator[StatsTable]:
    yield _grouped("Splits", "split", statistics["splits"])
    yield _grouped("Licenses", "license", statistics["licenses"])
    artists = statistics["artists"]
    others = artists["distinct"] - len(artists["most"])
    yield _grouped("Artists", "artist", artists["most"], f"And {others:,} more." if others else "")


def _tags(statistics: StatsDict) -> Iterator[StatsTable]:
    for tags in statistics["tags"]:
        note = f"{tags['distinct']:,} different, in {tags['tracks']:,} tracks."
        yield _grouped(f"Tags: {tags['category']}", "tag", tags["most"], note)


def _grouped(title: str, what: str, groups: Sequence[StatsDict], note: str = "") -> StatsTable:
    """Return a table of `statistics.grouped`; empty if no track has a name."""
    named = groups if any(group["name"] for group in groups) else ()
    rows = [(group["name"] or "unknown", count(group["tracks"]), decimal(group["hours"])) for group in named]
    return StatsTable(title, (what, "tracks", "hours"), rows, note, _relative([group["tracks"] for group in named]))


def _durations(statistics: StatsDict) -> Iterator[StatsTable]:
    if seconds := statistics["seconds"]:
        yield _spread("Durations", "tracks", seconds, duration)
    if statistics.get("segments", 0) > statistics["tracks"]:
        yield _spread("Durations of the segments", "segments", statistics["segment_seconds"], duration)


def _captions(statistics: StatsDict) -> Iterator[StatsTable]:
    captions = statistics["captions"]
    if captions["captions"]:
        rows = [(count(row["captions"]), count(row["tracks"])) for row in captions["per_track"]]
        yield StatsTable("Captions per track", ("captions", "tracks"), rows)
        yield _spread("Words per caption", "captions", captions["words"], partial(decimal, digits=0))


def _spread(title: str, what: str, spread: StatsDict, write: Callable[[float], str]) -> StatsTable:
    """Return a table of `statistics.spread`: quantiles, and the histogram without its empty ends."""
    filled = [i for i, part in enumerate(spread["histogram"]) if part["count"]]
    bins = spread["histogram"][filled[0] : filled[-1] + 1]
    names = [f"{write(b['from'])} to {write(b['to'])}" if b["to"] else f"{write(b['from'])} and more" for b in bins]
    quantiles = ", ".join(f"{below} {write(value)}" for below, value in spread["quantiles"].items())
    note = f"Mean {write(spread['mean'])}; quantiles {quantiles}. Bins leave out their end."
    counts = [part["count"] for part in bins]
    return StatsTable(title, ("", what), list(zip(names, map(count, counts), strict=True)), note, _relative(counts))


USAGE = {  # of a codebook
    "codes": lambda book: count(book["size"]),
    "used": lambda book: count(book["used"]),
    "fraction used": lambda book: percentage(book["used_fraction"]),
    "most frequent": lambda book: percentage(book["most_frequent"] and book["most_frequent"]["fraction"]),
    "repeats": lambda book: percentage(book["repeats"]),
    "by chance": lambda book: percentage(book["repeats_by_chance"]),
}
ENTROPY = {
    "bits": lambda book: decimal(book["entropy"]),
    "of the maximum": lambda book: percentage(book["entropy_fraction"]),
    "corrected, bits": lambda book: decimal(book["corrected_entropy"]),
    "perplexity": lambda book: decimal(book["perplexity"], 0),
}


def _codebooks(statistics: StatsDict) -> Iterator[StatsTable]:
    books = statistics.get("codebooks", [])
    has_size = any(book["entropy_fraction"] is not None for book in books)
    bars = [book["entropy_fraction"] or 0 for book in books] if has_size else ()
    levels = [f" (level {book['level']})" * (book["level"] not in (None, book["codebook"])) for book in books]
    names = [f"{book['codebook']}{level}" for book, level in zip(books, levels, strict=True)]
    for title, columns, note, lengths in (
        ("Use of the codebooks", USAGE, _usage_note(statistics), ()),
        ("Entropy of the codebooks", ENTROPY, ENTROPY_NOTE, bars),
    ):
        texts = ([text(book) for text in columns.values()] for book in books)
        rows = [(name, *row) for name, row in zip(names, texts, strict=True)]
        yield StatsTable(title, ("codebook", *columns), rows, note, lengths)


def _usage_note(statistics: StatsDict) -> str:
    frames = statistics.get("frames", 0)
    most = max((book["used"] for book in statistics.get("codebooks", [])), default=0)
    if not frames:
        return "The store holds no frames."
    few = f" Only {frames:,} frames for {most:,} codes: the entropies are underestimates." * (frames < FEW * most)
    return f"Counted in {frames:,} frames. A frame repeats the one before it if it has the same code.{few}"


def _latents(statistics: StatsDict) -> Iterator[StatsTable]:
    if reason := statistics.get("latents_left_out"):
        yield StatsTable("Latents", ("left out",), [(reason,)])
    for title, key in (("Latents of the codes", "latents"), ("Pre-quantization latents", "continuous")):
        books = statistics.get(key) or []
        rows = [(str(b["codebook"]), decimal(b["mean"], 4), decimal(b["std"], 4)) for b in books]
        columns = ("codebook", "mean", "standard deviation")
        yield StatsTable(title, columns, rows, "", _relative([b["std"] or 0 for b in books]))
