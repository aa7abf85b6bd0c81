"""FMA (Defferrard et al., 2017): `tracks.csv` with three header rows, `raw_tracks.csv`, and `genres.csv` for names.

They are merged by track: each fills in what the others leave empty. The audio of track 2 is `000/000002.mp3`. Texts
about albums, artists and tracks are left out; all else that has no column of its own is kept in `metadata`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from codecdiff_datasets.licenses import licence_name

from codecdiff.data.manifest import Recording
from codecdiff.data.metadata import Report, Row, header_of, made, rows

TRACKS = {"track_id", "track.title", "artist.name", "set.split"}
RAW = {"track_id", "track_title", "artist_name", "license_title"}
GENRES = {"genre_id", "title", "parent"}
SPLITS = {"training": "train", "validation": "validation", "test": "test", "": ""}
TEXTS = {"album.information", "artist.bio", "track.information", "track_information", "artist.associated_labels"}


def is_table(columns: Sequence[str]) -> bool:
    """Tell whether a table with these columns is one of FMA's."""
    return any(set(columns) >= names for names in (TRACKS, RAW, GENRES))


def read(files: Sequence[Path], report: Report) -> list[Recording]:
    """Read FMA: every track of `tracks.csv` and of `raw_tracks.csv`, with genres named where `genres.csv` is given."""
    tracks: dict[int, dict[str, Any]] = {}
    genres: dict[str, str] = {}
    for file in files:
        columns = set(header_of(file))
        if columns >= GENRES:
            genres |= {row["genre_id"]: row["title"] for row in rows(file, report)}
            continue
        seen: set[int] = set()
        fields = _tracks_fields if columns >= TRACKS else _raw_fields
        for number, found in made(rows(file, report), partial(_numbered, seen, fields), report):
            before = tracks.setdefault(number, {})
            more = {**found["more"], **before.get("more", {})}
            before |= {key: value for key, value in found.items() if not before.get(key)}
            before["more"] = more
    return [_recording(number, found, genres) for number, found in tracks.items()]


def _numbered(seen: set[int], fields: Any, row: Row) -> tuple[int, dict[str, Any]]:
    text = row.needed("track_id")
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise row.bad("track_id", f"'{text[:40]}' is no id of a track, as in 2.")
    if int(text) in seen:
        raise row.bad("track_id", f"{text} stands in an earlier row of this file too.", "Leave one of them out.")
    found = fields(row)
    seen.add(int(text))
    return int(text), found


def _tracks_fields(row: Row) -> dict[str, Any]:
    """Give what a row of `tracks.csv` says, by our names."""
    if row["set.split"] not in SPLITS:
        raise row.bad("set.split", f"'{row['set.split']}' is no split. There are: training, validation, test.")
    mapped = {"track_id", "track.title", "artist.name", "track.duration", "track.license", "set.split", "track.tags"}
    mapped |= {"track.genre_top", "track.genres", "track.genres_all"}
    return {
        "title": row["track.title"],
        "artist": row["artist.name"],
        "artist_id": row["artist.id"],
        "seconds": row.number("track.duration"),
        "licence": row["track.license"],
        "split": SPLITS[row["set.split"]],
        "tags": [str(tag) for tag in row.items("track.tags")],
        "genre_top": row["track.genre_top"],
        "genres": [str(genre) for genre in row.items("track.genres_all") or row.items("track.genres")],
        "more": _more(row, mapped | {"artist.id"}),
    }


def _raw_fields(row: Row) -> dict[str, Any]:
    """Give what a row of `raw_tracks.csv` says, by our names. Its genres are mappings, as published, or ids."""
    listed = row.items("track_genres")
    named = [genre for genre in listed if isinstance(genre, Mapping)]
    mapped = {"track_id", "track_title", "artist_name", "artist_id", "track_duration", "license_title", "license_url"}
    mapped |= {"track_url", "tags", "track_genres"}
    return {
        "title": row["track_title"],
        "artist": row["artist_name"],
        "artist_id": row["artist_id"],
        "seconds": _clock(row, "track_duration"),
        "licence_title": row["license_title"],
        "licence_url": row["license_url"],
        "source": row["track_url"],
        "tags": [str(tag) for tag in row.items("tags")],
        "genres": [str(genre.get("genre_id")) if isinstance(genre, Mapping) else str(genre) for genre in listed],
        "names": {str(genre.get("genre_id")): str(genre.get("genre_title")) for genre in named},
        "more": _more(row, mapped),
    }


def _more(row: Row, mapped: set[str]) -> dict[str, str]:
    return {key: row[key] for key in row.values if key not in mapped | TEXTS and row[key]}


def _clock(row: Row, field: str) -> float | None:
    """Read `MM:SS` or `HH:MM:SS` as seconds."""
    if not row[field]:
        return None
    if not re.fullmatch(r"(\d+:)?\d+:\d\d", row[field], re.ASCII):
        raise row.bad(field, f"'{row[field][:40]}' is no duration, as in 03:27.")
    seconds = 0
    for part in row[field].split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _recording(number: int, found: Mapping[str, Any], genres: Mapping[str, str]) -> Recording:
    named = {**genres, **found.get("names", {})}
    ids = found.get("genres", [])
    top = [found["genre_top"]] if found.get("genre_top") else []
    tags = {"genre": list(dict.fromkeys([*top, *(named[i] for i in ids if i in named)])), "tag": found.get("tags", [])}
    title, url = found.get("licence_title") or found.get("licence", ""), found.get("licence_url", "")
    told = {"artist_id": found.get("artist_id"), "genre_ids": ids, "licence_text": title, "licence_url": url}
    return Recording(
        str(number),
        file=f"{number // 1000:03d}/{number:06d}.mp3",
        seconds=found.get("seconds"),
        tags={category: names for category, names in tags.items() if names},
        licence=licence_name(title, url),
        artist=found.get("artist", ""),
        title=found.get("title", ""),
        split=found.get("split", ""),
        source=found.get("source") or f"Free Music Archive, track {number}",
        metadata={**found.get("more", {}), **{key: value for key, value in told.items() if value}},
    )
