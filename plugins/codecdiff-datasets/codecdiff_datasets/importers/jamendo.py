"""MTG-Jamendo (Bogdanov et al., 2019): ragged tables of tags, a table of titles, and a text of licenses.

Tables of tags (`autotagging*.tsv`, `raw_30s*.tsv`) hold one tag per cell, as many as there are beyond the last column.
Several are merged by track. `raw.meta.tsv` names titles and artists; `audio_licenses.txt` the licenses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Report, TableRow, convert_rows, read_table, unsafe_path
from codecdiff_datasets.licenses import license_name

TAG_COLUMNS = {"TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"}
TITLE_COLUMNS = {"TRACK_ID", "ARTIST_ID", "TRACK_NAME", "ARTIST_NAME"}
SPLIT = re.compile(r"-(train|validation|test)$")  # ends the names of the tables in data/splits
LICENSE_START = re.compile(r"\d+/\d+\.mp3")  # the first of the three lines about a license


class _License(NamedTuple):
    title: str  # of the track
    text: str
    url: str


def is_table(columns: Sequence[str]) -> bool:
    """Return whether a file that begins with these columns is MTG-Jamendo's."""
    names = set(columns)
    return names >= TAG_COLUMNS or names >= TITLE_COLUMNS or bool(columns and LICENSE_START.fullmatch(columns[0]))


def read(files: Sequence[Path], report: Report) -> list[ManifestRow]:
    """Read MTG-Jamendo: every track that a table of tags names, with all its tags, split by the tables' own names."""
    tracks: dict[str, ManifestRow] = {}
    titles: dict[str, TableRow] = {}  # by track
    artists: dict[str, str] = {}  # names, by id
    licenses: dict[str, _License] = {}  # by path
    for file in files:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            first = stream.readline()
        if LICENSE_START.fullmatch(first.strip()):
            licenses |= _read_licenses(file)
        elif "TRACK_NAME" in first:
            for row in read_table(file, report):
                titles[row["TRACK_ID"]] = row
                artists[row["ARTIST_ID"]] = row["ARTIST_NAME"]
        else:
            split = SPLIT.search(file.stem)
            add = partial(_add, tracks, set(), split[1] if split else "")
            for _ in convert_rows(read_table(file, report, ragged=True), add, report):
                pass
    return [
        _complete(row, titles.get(row.track), artists.get(row.artist), licenses.get(row.file))
        for row in tracks.values()
    ]


def _add(tracks: dict[str, ManifestRow], seen: set[str], split: str, row: TableRow) -> None:
    """Merge a row of tags with what other tables say of its track."""
    new = _manifest_row(row, split)
    track = new.track
    if track in seen:
        raise row.error("TRACK_ID", f"'{track}' stands in an earlier row of this file too.", "Leave one of them out.")
    seen.add(track)
    old = tracks.get(track, new)
    if old.file != new.file:
        raise row.error("PATH", f"Another table says that {track} is '{old.file}'.")
    if split and old.split not in ("", split):
        raise row.error("TRACK_ID", f"Another table puts {track} into {old.split}.", "Use the tables of one split.")
    categories = {**old.tags, **new.tags}
    tags = {key: list(dict.fromkeys([*old.tags.get(key, []), *new.tags.get(key, [])])) for key in categories}
    tracks[track] = replace(old, tags=tags, split=split or old.split)


def _manifest_row(row: TableRow, split: str) -> ManifestRow:
    track, path = row.required("TRACK_ID"), row.required("PATH")
    number = re.fullmatch(r"track_(\d{1,18})", track, re.ASCII)
    if not number:
        raise row.error("TRACK_ID", f"'{track[:40]}' is not the id of a track, as in track_0000382.")
    if reason := unsafe_path(path):
        raise row.error("PATH", reason, "Write it relative to the audio folder, as in 82/382.mp3.")
    tags: dict[str, list[str]] = {}
    for tag in filter(None, (cell.strip() for cell in (row["TAGS"], *row.beyond))):
        category, dashes, name = tag.partition("---")
        if not (dashes and category and name):
            raise row.error("TAGS", f"'{tag[:40]}' is not a tag, as in genre---rock.")
        tags.setdefault(category, []).append(name)
    return ManifestRow(
        track,
        file=PurePosixPath(path).as_posix(),
        seconds=row.number("DURATION"),
        tags=tags,
        artist=row["ARTIST_ID"],
        split=split,
        source=f"https://www.jamendo.com/track/{int(number[1])}",
        metadata={"artist_id": row["ARTIST_ID"], "album_id": row["ALBUM_ID"]},
    )


def _read_licenses(file: Path) -> dict[str, _License]:
    """Map each path to its license: three lines, separated by an empty one."""
    licenses = {}
    for block in file.read_text(encoding="utf-8-sig", errors="replace").split("\n\n"):
        lines = [line.strip() for line in block.strip().splitlines()]
        if len(lines) >= 3 and LICENSE_START.fullmatch(lines[0]):
            text, _, url = lines[2].partition(": ")
            licenses[lines[0]] = _License(lines[1].partition(" from Jamendo")[0], text, url)
    return licenses


def _complete(row: ManifestRow, titles: TableRow | None, artist: str | None, published: _License | None) -> ManifestRow:
    """Add what the table of titles and the text of licenses say of a track."""
    metadata, title, license_ = dict(row.metadata), "", ""
    if titles:
        title = titles["TRACK_NAME"]
        metadata |= {key.lower(): titles[key] for key in ("ALBUM_NAME", "RELEASEDATE") if titles[key]}
    if published:
        license_ = license_name(
            published.text.partition("Creative Commons ")[2].removesuffix(" license"), published.url
        )
        title = title or published.title
        metadata |= {"license_text": published.text, "license_url": published.url}
    return replace(row, artist=artist or row.artist, title=title, license=license_, metadata=metadata)
