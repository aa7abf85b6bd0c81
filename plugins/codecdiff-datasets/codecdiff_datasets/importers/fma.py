"""FMA (Defferrard et al., 2017): `tracks.csv` with three header rows, `raw_tracks.csv`, and `genres.csv` for names.

They are merged by track: each fills in what the others leave empty. The audio of track 2 is `000/000002.mp3`. Texts
about albums, artists and tracks are left out; everything else without a column of its own is kept in `metadata`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Report, TableRow, column_names, convert_rows, read_table
from codecdiff_datasets.licenses import license_name

TRACKS_HEADER = {"", "album", "artist", "set", "track"}  # the first of three header rows
RAW_COLUMNS = {"track_id", "track_title", "artist_name", "license_title"}
GENRE_COLUMNS = {"genre_id", "title", "parent"}
SPLITS = {"training": "train", "validation": "validation", "test": "test", "": ""}
TEXTS = {"album.information", "artist.bio", "track.information", "track_information", "artist.associated_labels"}


def is_table(columns: Sequence[str]) -> bool:
    """Return whether a table that begins with these columns is one of FMA's."""
    return any(set(columns) >= names for names in (TRACKS_HEADER, RAW_COLUMNS, GENRE_COLUMNS))


def read(files: Sequence[Path], report: Report) -> list[ManifestRow]:
    """Read FMA: every track of `tracks.csv` and of `raw_tracks.csv`, with genres named if `genres.csv` is there."""
    tracks: dict[int, dict[str, Any]] = {}
    genres: dict[str, str] = {}
    for file in files:
        columns = set(column_names(file))
        if columns >= GENRE_COLUMNS:
            genres |= {row["genre_id"]: row["title"] for row in read_table(file, report)}
            continue
        header_rows, fields = (3, _tracks_fields) if columns >= TRACKS_HEADER else (1, _raw_fields)
        rows = read_table(file, report, header_rows=header_rows)
        for number, new in convert_rows(rows, partial(_numbered, set(), fields), report):
            old = tracks.setdefault(number, {})
            more = {**new["more"], **old.get("more", {})}
            old |= {key: value for key, value in new.items() if not old.get(key)}
            old["more"] = more
    return [_manifest_row(number, values, genres) for number, values in tracks.items()]


def _numbered(seen: set[int], fields: Any, row: TableRow) -> tuple[int, dict[str, Any]]:
    text = row.required("track_id")
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise row.error("track_id", f"'{text[:40]}' is not the id of a track, as in 2.")
    if int(text) in seen:
        raise row.error("track_id", f"{text} stands in an earlier row of this file too.", "Leave one of them out.")
    values = fields(row)
    seen.add(int(text))
    return int(text), values


def _tracks_fields(row: TableRow) -> dict[str, Any]:
    """Return a row of `tracks.csv` by our names."""
    if row["set.split"] not in SPLITS:
        raise row.error("set.split", f"Unknown split '{row['set.split']}': expected training, validation or test.")
    mapped = {"track_id", "track.title", "artist.name", "artist.id", "track.duration", "track.license", "set.split"}
    mapped |= {"track.tags", "track.genre_top", "track.genres", "track.genres_all"}
    return {
        "title": row["track.title"],
        "artist": row["artist.name"],
        "artist_id": row["artist.id"],
        "seconds": row.number("track.duration"),
        "license": row["track.license"],
        "split": SPLITS[row["set.split"]],
        "tags": [str(tag) for tag in row.items("track.tags")],
        "genre_top": row["track.genre_top"],
        "genres": [str(genre) for genre in row.items("track.genres_all") or row.items("track.genres")],
        "more": _more(row, mapped),
    }


def _raw_fields(row: TableRow) -> dict[str, Any]:
    """Return a row of `raw_tracks.csv` by our names. Its genres are mappings, as published, or ids."""
    listed = row.items("track_genres")
    named = [genre for genre in listed if isinstance(genre, Mapping)]
    mapped = {"track_id", "track_title", "artist_name", "artist_id", "track_duration", "license_title", "license_url"}
    mapped |= {"track_url", "tags", "track_genres"}
    return {
        "title": row["track_title"],
        "artist": row["artist_name"],
        "artist_id": row["artist_id"],
        "seconds": _clock(row, "track_duration"),
        "license_title": row["license_title"],
        "license_url": row["license_url"],
        "source": row["track_url"],
        "tags": [str(tag) for tag in row.items("tags")],
        "genres": [str(genre.get("genre_id")) if isinstance(genre, Mapping) else str(genre) for genre in listed],
        "names": {str(genre.get("genre_id")): str(genre.get("genre_title")) for genre in named},
        "more": _more(row, mapped),
    }


def _more(row: TableRow, mapped: set[str]) -> dict[str, str]:
    return {key: row[key] for key in row.values if key not in mapped | TEXTS and row[key]}


def _clock(row: TableRow, column: str) -> float | None:
    """Read `MM:SS` or `HH:MM:SS` as seconds."""
    if not row[column]:
        return None
    if not re.fullmatch(r"(\d+:)?\d+:\d\d", row[column], re.ASCII):
        raise row.error(column, f"'{row[column][:40]}' is not a duration, as in 03:27.")
    seconds = 0
    for part in row[column].split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _manifest_row(number: int, values: Mapping[str, Any], genres: Mapping[str, str]) -> ManifestRow:
    named = {**genres, **values.get("names", {})}
    ids = values.get("genres", [])
    top = [values["genre_top"]] if values.get("genre_top") else []
    tags = {"genre": list(dict.fromkeys([*top, *(named[i] for i in ids if i in named)])), "tag": values.get("tags", [])}
    title, url = values.get("license_title") or values.get("license", ""), values.get("license_url", "")
    more = {"artist_id": values.get("artist_id"), "genre_ids": ids, "license_text": title, "license_url": url}
    return ManifestRow(
        str(number),
        file=f"{number // 1000:03d}/{number:06d}.mp3",
        seconds=values.get("seconds"),
        tags={category: names for category, names in tags.items() if names},
        license=license_name(title, url),
        artist=values.get("artist", ""),
        title=values.get("title", ""),
        split=values.get("split", ""),
        source=values.get("source") or f"Free Music Archive, track {number}",
        metadata={**values.get("more", {}), **{key: value for key, value in more.items() if value}},
    )
