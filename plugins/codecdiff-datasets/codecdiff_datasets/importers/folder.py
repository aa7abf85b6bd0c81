"""A folder of audio with `metadata.jsonl`, `metadata.csv` or `.txt` beside it, as `codecdiff.data.audio` reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codecdiff_datasets.licenses import licence_name

from codecdiff.data.audio import Track, track_of, tracks_in
from codecdiff.data.manifest import Recording, split_name
from codecdiff.data.metadata import Fault, Report, json_lines, rows, unsafe

Found = tuple[Path, int, dict[str, Any]]  # a row of metadata, its file and its line
COLUMNS = ("artist", "title", "split", "source")  # of a manifest that metadata may name


def read(folder: Path, report: Report) -> list[Recording]:
    """Read a folder: every audio file in it, and every row of metadata whose file is missing.

    Raises FileNotFoundError if there is no folder or no audio in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    table: dict[str, dict[str, Any]] = {}
    for file, line, row in _metadata(folder, report):
        name = str(row["file_name"])
        path = os.path.normpath(file.parent.relative_to(folder) / name)
        if reason := unsafe(name):
            report(Fault(file.name, reason, "Write it relative to the metadata file.", line, field="file_name"))
        elif path in table:
            what = f"'{name}' stands in an earlier row too."
            report(Fault(file.name, what, "Give all captions in one row.", line, field="file_name"))
        else:
            table[path] = row
    tracks = [track for track in tracks_in(folder, table) if _is_named(track, report)]
    gone = sorted(set(table) - {track.name for track in tracks})
    missing = [track_of(folder / name, name, table) for name in gone]
    return [_recording(track) for track in [*tracks, *missing]]


def _metadata(folder: Path, report: Report) -> Iterator[Found]:
    """Yield the rows of all metadata files of a folder that name a file; the others are reported."""
    for file in sorted(folder.rglob("metadata.jsonl")):
        for line, row in json_lines(file, report):
            if row.get("file_name"):
                yield file, line, row
            else:
                what, mend = "It names no file.", "Add it, or leave the row out."
                report(Fault(file.name, what, mend, line, field="file_name"))
    for file in sorted(folder.rglob("metadata.csv")):
        yield from ((file, row.line, dict(row.values)) for row in rows(file, report) if row["file_name"])


def _is_named(track: Track, report: Report) -> bool:
    """Tell whether a file's name is text, which a manifest can hold."""
    try:
        track.name.encode()
    except UnicodeEncodeError:
        report(Fault(ascii(track.name), "The name of the file is not UTF-8.", "Rename it.", field="file"))
        return False
    return True


def _recording(track: Track) -> Recording:
    metadata = {key: value for key, value in track.metadata.items() if value not in (None, "")}
    said = str(metadata.pop("licence", "") or metadata.pop("license", ""))
    licence = licence_name(said, said)
    known: dict[str, Any] = {key: str(metadata.pop(key)) for key in COLUMNS if key in metadata}
    known |= {"split": split_name(known["split"])} if "split" in known else {}
    known["tags"] = tags_of(metadata.pop("tags", {}))
    metadata |= {"licence_text": said} if said != licence else {}
    return Recording(track.name, track.name, captions=track.captions, licence=licence, metadata=metadata, **known)


def tags_of(value: Any) -> Mapping[str, list[str]]:
    """Read tags that are a mapping of categories, a list, or a text with commas: the last two of the category tag."""
    if isinstance(value, Mapping):
        return {str(key): tags_of(inner).get("tag", []) for key, inner in value.items() if inner}
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    tags = [str(tag).strip() for tag in listed if tag is not None and str(tag).strip()]
    return {"tag": tags} if tags else {}
