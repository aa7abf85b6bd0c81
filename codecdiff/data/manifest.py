"""The manifest: which tracks there are, where their files lie and what is known of them, in one parquet file.

A manifest stores the path of its audio folder relative to itself, so that both can be moved together. Whatever a
published data set says of a track is kept: in the column of that name if there is one, otherwise in `metadata`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from codecdiff.data.metadata import Track, unsafe_path
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import parse_json, read_parquet, write_parquet

__all__ = ["SPLITS", "Manifest", "ManifestRow", "split_name"]

FORMAT = 2
KEY = b"codecdiff"  # of the parquet file's own metadata
OLD_COLUMNS = {"licence": "license"}  # of format 1
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("file", pa.string()),
        ("present", pa.bool_()),
        ("seconds", pa.float64()),
        ("tags", pa.map_(pa.string(), pa.list_(pa.string()))),
        ("captions", pa.list_(pa.string())),
        ("license", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("metadata", pa.string()),
    ]
)
SPLITS = ("train", "validation", "test")
OTHER_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation"}
OTHER_NAMES |= {"development": "validation", "eval": "test", "evaluation": "test", "testing": "test"}


def split_name(published: str) -> str:
    """Return our name of a published split, such as "validation" for "valid"; an unknown name stays as it is.

    Otherwise tracks held out under another name would be trained on.
    """
    name = published.strip().casefold()
    return OTHER_NAMES.get(name, name if name in SPLITS else published)


@dataclass(frozen=True)
class ManifestRow:
    """What a manifest says of one track. What is not known is empty, or None for seconds.

    track: its name, unique in the manifest.
    file: its audio, relative to the manifest's audio folder, with forward slashes.
    present: whether the file existed when the manifest was written.
    seconds: duration as published or measured.
    tags: category -> tags, as in {"genre": ["rock"], "mood/theme": ["calm"]}.
    split: "train", "validation" or "test"; empty if there is none.
    source: address or name of where it comes from.
    metadata: everything else, as JSON can hold it.
    """

    track: str
    file: str = ""
    present: bool = False
    seconds: float | None = None
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    captions: Sequence[str] = ()
    license: str = ""
    artist: str = ""
    title: str = ""
    split: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def track_metadata(self) -> dict[str, Any]:
        """Return everything known except file and captions, as the metadata of a `Track`."""
        named = {key: getattr(self, key) for key in ("license", "artist", "title", "split", "source")}
        tags = {"tags": {category: list(names) for category, names in self.tags.items()}} if self.tags else {}
        return {**self.metadata, **{key: value for key, value in named.items() if value}, **tags}


@dataclass(frozen=True)
class Manifest:
    """Tracks, in order, with the folder their files lie in and facts about where they come from.

    `facts` go into the parquet file as JSON: name of the data set, counts of what an import left out. `place_problem`
    is why the folder, which a file named, must not be read, if so.
    """

    audio: Path
    rows: Sequence[ManifestRow]
    facts: Mapping[str, Any] = field(default_factory=dict)
    place_problem: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, file: Path | str, *, audio: Path | None = None) -> Manifest:
        """Read a manifest; `audio` is the folder of its files if they were moved.

        Raises FileNotFoundError if the file does not exist, ValueError if it is not a manifest.
        """
        file = Path(file)
        if file.is_dir():
            what = "store of codes" if (file / "header.json").is_file() else "folder"
            hint = "Name a manifest, a .parquet file, or make one: codecdiff data import folder FOLDER"
            raise InvalidValue(f"'{file}' is a {what}. {hint} -o NAME.parquet.")
        if not file.exists():
            raise MissingFile(f"Manifest '{file}' does not exist. Make one: codecdiff data import ... -o NAME.parquet.")
        try:
            table = read_parquet(file)
            header = parse_json(
                (table.schema.metadata or {}).get(KEY, b"{}"), f"The header of '{file}'", ManifestHeader
            )
        except InvalidValue as error:
            raise InvalidValue(f"'{file}' is not a manifest: {error} Make one with codecdiff data import.") from error
        table = table.rename_columns([OLD_COLUMNS.get(name, name) for name in table.column_names])
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if header.format not in (1, FORMAT) or missing:
            lacks = f" It lacks the columns {', '.join(missing)}." if missing else ""
            raise InvalidValue(
                f"'{file}' is not a manifest of format {FORMAT}.{lacks} Make one with codecdiff data import."
            )
        try:
            columns = [_cast(table[column.name], column, file) for column in SCHEMA]
            batches = pa.Table.from_arrays(columns, schema=SCHEMA).to_batches(2**12)
            values = (row for batch in batches for row in batch.to_pylist(maps_as_pydicts="strict"))
            rows = [_row(row, number, file) for number, row in enumerate(values, 1)]
        except (pa.ArrowException, KeyError) as error:  # of a tag that stands twice
            raise InvalidValue(f"'{file}' is not a manifest: {error}. Make one with codecdiff data import.") from error
        problem = "" if audio else _place_problem(file, header.audio)
        return cls(audio or file.parent / header.audio, rows, header.facts, problem)

    def write(self, file: Path | str) -> None:
        """Write the manifest, whole or not at all."""
        file = Path(file)
        audio = Path(os.path.relpath(self.audio, file.parent)).as_posix()
        header = json.dumps({"format": FORMAT, "audio": audio, "facts": dict(self.facts)})
        rows = [{column.name: getattr(row, column.name) for column in fields(ManifestRow)} for row in self.rows]
        for row in rows:
            row["tags"] = list(row["tags"].items())
            row["metadata"] = json.dumps(dict(row["metadata"]), ensure_ascii=False)
        table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({KEY: header.encode()})
        write_parquet(file, table)

    def file_of(self, row: ManifestRow) -> Path:
        """Return the path of a track's audio. Raises InvalidValue if the folder is a place that must not be read."""
        if self.place_problem:
            raise InvalidValue(self.place_problem)
        return self.audio / row.file

    def tracks(self) -> list[Track]:
        """Return the tracks that have audio, to be encoded."""
        return [
            Track(self.file_of(row), row.track, tuple(row.captions), row.track_metadata(), row.seconds)
            for row in self.rows
            if not _without_audio(row)
        ]

    def without_audio(self) -> dict[str, str]:
        """Map the name of each track that has no audio to encode to the reason."""
        return {row.track: reason for row in self.rows if (reason := _without_audio(row))}

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return every row as a mapping, its `file` a path that can be opened if it is `present`."""
        return [{**asdict(r), "file": str(self.file_of(r)), "present": not _without_audio(r)} for r in self.rows]


class ManifestHeader(BaseModel):
    """The manifest's own entry of the metadata of a parquet file."""

    format: Any = None
    audio: str = ""
    facts: dict[str, Any] = {}


def _place_problem(file: Path, audio: str) -> str:
    """Return why the folder of audio that a manifest names must not be read, "" if it may.

    It is relative to the manifest, and they are in one folder at some level: one that leads to the root and down again
    names any place of this machine.
    """
    folder, home = os.path.abspath(file.parent / audio), os.path.abspath(file.parent)
    is_relative = "\\" not in audio and not PurePosixPath(audio).is_absolute() and not PureWindowsPath(audio).drive
    if is_relative and "\0" not in audio and (os.path.commonpath([folder, home]) != os.path.sep or home == os.path.sep):
        return ""
    return f"'{file}' names audio elsewhere, {audio!r}. If it is right, name it: --audio {folder!r}, or move the file."


def _cast(values: Any, column: pa.Field, file: Path) -> Any:
    """Return a column with the type that it has in a manifest. Raises InvalidValue."""
    try:
        return values.cast(column.type)
    except (pa.ArrowException, ValueError) as error:
        what = f"its column {column.name} cannot be used: {error}"
        raise InvalidValue(f"'{file}' is not a manifest: {what}. Make one with codecdiff data import.") from error


def _row(values: dict[str, Any], number: int, file: Path) -> ManifestRow:
    """Return a row as it was read, with empty values for those that are null. Raises BadDocument."""
    track = values["track"]
    if track is None:
        raise InvalidValue(
            f"'{file}' is not a manifest: row {number} has no track. Make one with codecdiff data import."
        )
    metadata = parse_json(values["metadata"] or "{}", f"The metadata of '{track}' in '{file}'", dict[str, Any])
    tags = {key: _texts(names) for key, names in (values["tags"] or {}).items()}
    present = {name: value for name, value in values.items() if value is not None}
    return ManifestRow(**present | {"metadata": metadata, "tags": tags, "captions": _texts(values["captions"])})


def _texts(values: Sequence[str | None] | None) -> list[str]:
    """Return the texts of a list without those that are null."""
    return [value for value in values or () if value is not None]


def _without_audio(row: ManifestRow) -> str:
    """Return why a track has no audio to encode, "" if it has."""
    name = f"'{row.track}'"
    if not row.file:
        return f"{name} has no file in the manifest."
    if not row.present:
        return f"{name}: there was no '{row.file}' when the manifest was made. Fetch it and import again."
    if reason := unsafe_path(row.file):
        return f"{name}: {reason} Its audio has to lie in the manifest's folder of audio."
    return ""
