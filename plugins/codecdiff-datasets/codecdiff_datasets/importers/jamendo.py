"""MTG-Jamendo (Bogdanov et al., 2019): ragged tables of tags, a table of titles, and a text of licences.

Tables of tags (`autotagging*.tsv`, `raw_30s*.tsv`) hold one tag a cell, as many as there are beyond the header's last
name. Several are merged by track. `raw.meta.tsv` names titles and artists; `audio_licenses.txt` the licences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from codecdiff_datasets.licenses import licence_name

from codecdiff.data.manifest import Recording
from codecdiff.data.metadata import Report, Row, made, rows, unsafe

TAGGED = {"TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"}
NAMED = {"TRACK_ID", "ARTIST_ID", "TRACK_NAME", "ARTIST_NAME"}
SPLIT = re.compile(r"-(train|validation|test)$")  # ends the names of the tables in data/splits
LICENSED = re.compile(r"\d+/\d+\.mp3")  # the first line of a licence, which has three


def is_table(columns: Sequence[str]) -> bool:
    """Tell whether a file that begins with these columns is MTG-Jamendo's."""
    return set(columns) >= TAGGED or set(columns) >= NAMED or bool(columns and LICENSED.fullmatch(columns[0]))


def read(files: Sequence[Path], report: Report) -> list[Recording]:
    """Read MTG-Jamendo: every track that a table of tags names, with all its tags; split by the tables' own names."""
    tagged: dict[str, Recording] = {}
    names: dict[str, Row] = {}
    artists: dict[str, str] = {}
    licences: dict[str, tuple[str, str, str]] = {}
    for file in files:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            first = stream.readline()
        if LICENSED.fullmatch(first.strip()):
            licences |= _licences(file)
        elif "TRACK_NAME" in first:
            for row in rows(file, report):
                names[row["TRACK_ID"]] = row
                artists[row["ARTIST_ID"]] = row["ARTIST_NAME"]
        else:
            seen: set[str] = set()
            for _ in made(rows(file, report, ragged=True), partial(_add, tagged, seen, _split(file)), report):
                pass
    return [_named(r, names.get(r.track), artists, licences) for r in tagged.values()]


def _split(file: Path) -> str:
    found = SPLIT.search(file.stem)
    return found.group(1) if found else ""


def _add(tagged: dict[str, Recording], seen: set[str], split: str, row: Row) -> None:
    """Put a row of tags to what other tables say of its track."""
    found = _recording(row, split)
    track = found.track
    if track in seen:
        raise row.bad("TRACK_ID", f"'{track}' stands in an earlier row of this file too.", "Leave one of them out.")
    seen.add(track)
    before = tagged.get(track, found)
    if before.file != found.file:
        raise row.bad("PATH", f"Another table says that {track} is '{before.file}'.")
    if split and before.split not in ("", split):
        raise row.bad("TRACK_ID", f"Another table puts {track} into {before.split}.", "Take the tables of one split.")
    tags = {
        key: list(dict.fromkeys([*before.tags.get(key, []), *found.tags.get(key, [])]))
        for key in {**before.tags, **found.tags}
    }
    tagged[track] = replace(before, tags=tags, split=split or before.split)


def _recording(row: Row, split: str) -> Recording:
    track, path = row.needed("TRACK_ID"), row.needed("PATH")
    number = re.fullmatch(r"track_(\d+)", track)
    if not number:
        raise row.bad("TRACK_ID", f"'{track[:40]}' is no id of a track, as in track_0000382.")
    if reason := unsafe(path):
        raise row.bad("PATH", reason, "Write it relative to the audio folder, as in 82/382.mp3.")
    tags: dict[str, list[str]] = {}
    for tag in filter(None, (cell.strip() for cell in (row["TAGS"], *row.beyond))):
        category, dashes, name = tag.partition("---")
        if not (dashes and category and name):
            raise row.bad("TAGS", f"'{tag[:40]}' is no tag, as in genre---rock.")
        tags.setdefault(category, []).append(name)
    return Recording(
        track,
        file=PurePosixPath(path).as_posix(),
        seconds=row.number("DURATION"),
        tags=tags,
        artist=row["ARTIST_ID"],
        split=split,
        source=f"https://www.jamendo.com/track/{int(number.group(1))}",
        metadata={"artist_id": row["ARTIST_ID"], "album_id": row["ALBUM_ID"]},
    )


def _licences(file: Path) -> dict[str, tuple[str, str, str]]:
    """Give title, words and address of the licence of each path: three lines, apart by an empty one."""
    found = {}
    for block in file.read_text(encoding="utf-8-sig", errors="replace").split("\n\n"):
        lines = [line.strip() for line in block.strip().splitlines()]
        if len(lines) >= 3 and LICENSED.fullmatch(lines[0]):
            words, _, address = lines[2].partition(": ")
            found[lines[0]] = (lines[1].partition(" from Jamendo")[0], words, address)
    return found


def _named(
    recording: Recording,
    row: Row | None,
    artists: Mapping[str, str],
    licences: Mapping[str, tuple[str, str, str]],
) -> Recording:
    """Add what the table of titles and the text of licences say of a recording."""
    artist = artists.get(recording.artist) or recording.artist
    metadata = dict(recording.metadata)
    title = ""
    if row:
        title = row["TRACK_NAME"]
        metadata |= {key.lower(): row[key] for key in ("ALBUM_NAME", "RELEASEDATE") if row[key]}
    licence = ""
    if recording.file in licences:
        credit, words, address = licences[recording.file]
        licence = licence_name(words.partition("Creative Commons ")[2].removesuffix(" license"), address)
        title = title or credit
        metadata |= {"licence_text": words, "licence_url": address}
    return replace(recording, artist=artist, title=title, licence=licence, metadata=metadata)
