"""Manifests come back as they were written, and a file that is none is told in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.errors import InvalidValue

ROWS = [
    ManifestRow(
        "track_7",
        "07/7.mp3",
        present=True,
        seconds=12.5,
        tags={"genre": ["rock", "Fado "], "mood/theme": ["calm"]},
        captions=["a calm rock song"],
        license="CC BY 3.0",
        artist="artist_1",
        title="Señor",
        split="train",
        source="jamendo",
        metadata={"album": 3, "list": [1, None]},
    ),
    ManifestRow("track_8"),
]


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    Manifest(tmp_path / "audio", ROWS, {"data set": "jamendo"}).write(tmp_path / "lists" / "all.parquet")
    again = Manifest.read(tmp_path / "lists" / "all.parquet")
    assert [r.track_metadata() for r in again.rows] == [r.track_metadata() for r in ROWS]
    assert [(r.track, r.file, r.present, r.seconds) for r in again.rows] == [
        ("track_7", "07/7.mp3", True, 12.5),
        ("track_8", "", False, None),
    ]
    assert again.facts == {"data set": "jamendo"}
    assert again.audio.resolve() == (tmp_path / "audio").resolve()
    track = again.tracks()[0]
    assert track.captions == ("a calm rock song",)
    assert track.metadata["tags"] == {"genre": ["rock", "Fado "], "mood/theme": ["calm"]}


def test_a_manifest_moves_with_its_audio(tmp_path: Path) -> None:
    Manifest(tmp_path / "a" / "audio", ROWS).write(tmp_path / "a" / "m.parquet")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Manifest.read(tmp_path / "b" / "m.parquet").audio.resolve() == tmp_path / "b" / "audio"
    assert str(tmp_path).encode() not in (tmp_path / "b" / "m.parquet").read_bytes()


def test_a_file_outside_the_audio_folder_is_no_track(tmp_path: Path) -> None:
    names = ["in/a.wav", "../a.wav", "/etc/a.wav", "in/../../a.wav", "C:\\a.wav"]
    manifest = Manifest(tmp_path, [ManifestRow(name, name, True) for name in names])
    assert [track.name for track in manifest.tracks()] == ["in/a.wav"]
    assert [row["track"] for row in manifest.as_dicts() if row["present"]] == ["in/a.wav"]


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="codecdiff data import"):
        Manifest.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("track,file")
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"track": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="lacks the columns file, present"):
        Manifest.read(tmp_path / "other.parquet")


def test_a_manifest_of_format_1_is_read(tmp_path: Path) -> None:
    Manifest(tmp_path / "audio", ROWS).write(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    header = json.loads(table.schema.metadata[b"codecdiff"]) | {"format": 1}
    names = ["licence" if name == "license" else name for name in table.column_names]
    old = table.rename_columns(names).replace_schema_metadata({"codecdiff": json.dumps(header)})
    pq.write_table(old, tmp_path / "old.parquet")
    assert Manifest.read(tmp_path / "old.parquet") == Manifest.read(tmp_path / "m.parquet")


def test_nulls_within_lists_are_left_out_and_other_values_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    Manifest(tmp_path, [ManifestRow("a"), ManifestRow("b")]).write(file)
    table = pq.read_table(file)

    def write(**columns: Any) -> None:
        changed = table
        for name, values in columns.items():
            kind = None if name == "artist" else table.schema.field(name).type
            changed = changed.set_column(table.column_names.index(name), name, pa.array(values, kind))
        pq.write_table(changed, file)

    write(captions=[[None, "calm"], None], tags=[[("genre", None)], [("mood", [None, "dark"])]])
    rows = Manifest.read(file).rows
    assert [row.captions for row in rows] == [["calm"], []]
    assert [row.tags for row in rows] == [{"genre": []}, {"mood": ["dark"]}]
    write(track=["a", None])
    with pytest.raises(InvalidValue, match=r"a\.parquet' is not a manifest: row 2 has no track"):
        Manifest.read(file)
    write(artist=[["a"], ["b"]])
    with pytest.raises(InvalidValue, match=r"a\.parquet' is not a manifest: its column artist cannot be used"):
        Manifest.read(file)
    file.write_bytes(b"short")
    with pytest.raises(InvalidValue, match="it does not end as one"):
        Manifest.read(file)
