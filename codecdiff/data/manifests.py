"""Manifests: which recordings there are, where their files lie and what is known of them, one parquet file.

A manifest says where its audio lies relative to itself, so that both can be moved together. Whatever a published
data set says of a track is kept: what has a column here in its column, the rest in `metadata`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from codecdiff.data.audio import Track
from codecdiff.data.faults import unsafe
from codecdiff.files import atomic_write

FORMAT = 1
KEY = b"codecdiff"  # of the parquet file's own metadata
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("file", pa.string()),
        ("present", pa.bool_()),
        ("seconds", pa.float64()),
        ("tags", pa.map_(pa.string(), pa.list_(pa.string()))),
        ("captions", pa.list_(pa.string())),
        ("licence", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("metadata", pa.string()),
    ]
)


@dataclass(frozen=True)
class Recording:
    """One row of a manifest. What is not known is empty, or None for seconds.

    track: name, which no other row has.
    file: of its audio, relative to the manifest's audio folder, with forward slashes.
    present: whether the file was there when the manifest was written.
    seconds: duration as published or measured.
    tags: category -> tags, as in {"genre": ["rock"], "mood/theme": ["calm"]}.
    split: "train", "validation" or "test"; empty where nobody said.
    source: address or name of what it comes from.
    metadata: all else, as JSON can hold it.
    """

    track: str
    file: str = ""
    present: bool = False
    seconds: float | None = None
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    captions: Sequence[str] = ()
    licence: str = ""
    artist: str = ""
    title: str = ""
    split: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """Give what is known of the recording beside its file and captions, as the metadata of a `Track`."""
        named = {key: getattr(self, key) for key in ("licence", "artist", "title", "split", "source")}
        tags = {"tags": {category: list(names) for category, names in self.tags.items()}} if self.tags else {}
        return {**self.metadata, **{key: value for key, value in named.items() if value}, **tags}


@dataclass(frozen=True)
class Manifest:
    """Recordings, in order, with the folder their files lie in and facts of where they come from.

    `facts` go into the parquet file as JSON: name of the data set, counts of what an import left out.
    """

    audio: Path
    recordings: Sequence[Recording]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.recordings)

    @classmethod
    def read(cls, file: Path | str, *, audio: Path | None = None) -> Manifest:
        """Read a manifest; `audio` is the folder of its files where that was moved.

        Raises FileNotFoundError if it is not there, ValueError if it is no manifest.
        """
        file = Path(file)
        if (file / "header.json").is_file():
            raise ValueError(f"'{file}' is a store of codes. Give the manifest it was made of, a .parquet file.")
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no manifest '{file}'. Make one: codecdiff data import ... -o NAME.parquet."
            )
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"'{file}' is no manifest: {error}. Make one with codecdiff data import.") from error
        header = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if header.get("format") != FORMAT or missing:
            lacks = f" It lacks the columns {', '.join(missing)}." if missing else ""
            raise ValueError(f"'{file}' is no manifest of format {FORMAT}.{lacks} Make one with codecdiff data import.")
        rows = table.select(SCHEMA.names).to_pylist(maps_as_pydicts="strict")
        root = audio or file.parent / header["audio"]
        return cls(
            root, [Recording(**{**row, "metadata": json.loads(row["metadata"])}) for row in rows], header["facts"]
        )

    def write(self, file: Path | str) -> None:
        """Write the manifest, whole or not at all."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        audio = Path(os.path.relpath(self.audio, file.parent)).as_posix()
        header = json.dumps({"format": FORMAT, "audio": audio, "facts": dict(self.facts)})
        names = [f.name for f in fields(Recording)]
        rows = [{name: getattr(recording, name) for name in names} for recording in self.recordings]
        for row in rows:
            row["tags"] = list(row["tags"].items())
            row["metadata"] = json.dumps(dict(row["metadata"]), ensure_ascii=False)
        table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({KEY: header.encode()})
        with atomic_write(file) as temporary:
            pq.write_table(table, temporary)

    def file_of(self, recording: Recording) -> Path:
        """Give the path of a recording's audio."""
        return self.audio / recording.file

    def tracks(self) -> list[Track]:
        """Give the recordings whose audio is there, to be encoded."""
        faults = self.faults()
        there = [r for r in self.recordings if r.track not in faults]
        return [Track(self.file_of(r), r.track, tuple(r.captions), r.told(), r.seconds) for r in there]

    def faults(self) -> dict[str, str]:
        """Say of each recording that has no audio to encode why not, by its name."""
        return {r.track: fault for r in self.recordings if (fault := self._fault(r))}

    def _fault(self, recording: Recording) -> str:
        name = f"'{recording.track}'"
        if not recording.file:
            return f"{name} has no file in the manifest."
        if not recording.present:
            return f"{name}: there was no '{recording.file}' when the manifest was made. Fetch it and import again."
        if reason := unsafe(recording.file):
            return f"{name}: {reason} Its audio has to lie in the manifest's folder of audio."
        return ""

    def rows(self) -> list[dict[str, Any]]:
        """Give every recording as a mapping, its `file` a path that can be opened, and may be if it is `present`."""
        return [{**asdict(r), "file": str(self.file_of(r)), "present": not self._fault(r)} for r in self.recordings]
