"""Captions and numbers of others are joined by id, however they spell it, and never to the wrong track."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from codecdiff_datasets.join import JoinColumns, join, read_records

from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import Issue

JAMENDO = ManifestRow("track_0000382", "82/382.low.mp3", captions=["before"], metadata={"album": "a1"})
FMA = ManifestRow("382", "000/000382.mp3")
OTHER = ManifestRow("383", "000/000383.mp3")


@pytest.mark.parametrize(
    "name", ["track_0000382", "382", "0000382", 382, 382.0, "382.0", "82/382.mp3", "raw/82/382.mp3"]
)
def test_an_id_of_jamendo_is_known_by_its_spellings(name: object) -> None:
    joined = join([JAMENDO], [{"id": name, "caption": "new"}])
    assert joined.rows[0].captions == ["before", "new"]
    assert (joined.records, joined.matched, joined.changed) == (1, 1, 1)


@pytest.mark.parametrize("name", ["382", "000382", "000/000382.mp3", "fma_large/000/000382.mp3", "000382.flac"])
def test_an_id_of_fma_is_known_by_its_spellings(name: str) -> None:
    assert join([FMA, OTHER], [{"id": name, "caption": "new"}]).rows[0].captions == ["new"]


def test_an_id_of_one_set_never_meets_a_track_of_another() -> None:
    rows = [{"id": "000/000382.mp3", "caption": "fma"}, {"id": "fma_382", "caption": "x"}]
    assert join([JAMENDO], rows).unmatched == ["000/000382.mp3", "fma_382"]
    assert join([FMA], [{"id": "82/382.mp3", "caption": "jamendo"}]).unmatched == ["82/382.mp3"]


def test_a_dot_in_a_name_is_no_ending() -> None:
    intro, outro = ManifestRow("01. Intro.mp3", "01. Intro.mp3"), ManifestRow("01. Outro.mp3", "01. Outro.mp3")
    rows = [{"file_name": "01. Intro.flac", "text": "begins"}, {"file_name": "music/01. Outro.mp3", "text": "ends"}]
    joined = join([intro, outro], rows)
    assert [r.captions for r in joined.rows] == [["begins"], ["ends"]]


def test_what_fits_several_tracks_changes_none() -> None:
    joined = join([JAMENDO, FMA], [{"id": "382", "caption": "whose"}])
    assert (joined.ambiguous, joined.changed) == (["382"], 0)
    two = [{"id": "382", "caption": "a"}, {"id": "track_0000382", "caption": "b"}]
    joined = join([JAMENDO], two)
    assert (joined.ambiguous, joined.changed, joined.matched) == (["382", "track_0000382"], 0, 0)


def test_captions_are_added_once_or_replaced() -> None:
    rows = [{"track": "382", "caption": text} for text in ("one", "two", "one", "", None)]
    assert join([JAMENDO], rows).rows[0].captions == ["before", "one", "two"]
    assert join([JAMENDO], rows, JoinColumns(replace_captions=True)).rows[0].captions == ["one", "two"]
    assert join([JAMENDO], rows[3:], JoinColumns(replace_captions=True)).rows[0].captions == ["before"]
    assert JAMENDO.captions == ["before"]


def test_numbers_go_to_metadata() -> None:
    ranked = join(
        [JAMENDO, OTHER], [{"id": "382", "CLAP-log-likelihood": "-12.5", "note": "x"}, {"id": "9", "note": "y"}]
    )
    assert ranked.rows[0].metadata == {"album": "a1", "CLAP-log-likelihood": -12.5}
    assert ranked.rows[0].captions == ["before"]
    assert ranked.unmatched == ["9"]
    rows = [{"id": "382", "caption": "c", "score": 3, "by": "me"}, {"id": "382", "caption": "d", "score": 4}]
    assert join([JAMENDO], rows).rows[0].metadata == {"album": "a1"}
    kept = join([JAMENDO], rows, JoinColumns(metadata=["score", "by"]))
    assert kept.rows[0].metadata == {"album": "a1", "score": 3, "by": "me"}  # the first of several


def test_another_key_can_be_joined_on() -> None:
    joined = join([JAMENDO, FMA], [{"album": "a1", "caption": "new"}], JoinColumns(on="album", id="album"))
    assert joined.rows[0].captions == ["before", "new"]
    with pytest.raises(ValueError, match="No track has 'isrc'"):
        join([JAMENDO], [{"id": "1", "caption": ""}], JoinColumns(on="isrc"))


def test_columns_that_are_not_there_are_told() -> None:
    with pytest.raises(ValueError, match=r"no column 'text'\. It has: id, words"):
        join([FMA], [{"id": "1", "words": ""}], JoinColumns(captions=["text"]))
    with pytest.raises(ValueError, match="holds the ids"):
        join([FMA], [{"number": "1", "caption": ""}])
    with pytest.raises(ValueError, match="holds the captions"):
        join([FMA], [{"id": "1", "words": "x"}])
    with pytest.raises(ValueError, match="no rows"):
        join([FMA], [])


def test_dates_and_bytes_are_joined_as_text(tmp_path: Path) -> None:
    day, noon = date(2020, 5, 17), datetime(2020, 5, 17, 12, tzinfo=UTC)
    values = {"id": b"382", "caption": b"caf\xc3\xa9", "day": day, "at": noon, "clock": time(12, 30)}
    values |= {"price": Decimal("1.50"), "length": timedelta(seconds=90), "audio": b"\xff\xfe", "empty": math.nan}
    values |= {"days": [day, None], "by": {"day": day, "raw": b"x"}}
    pq.write_table(pa.Table.from_pylist([values]), tmp_path / "t.parquet")
    columns = JoinColumns(metadata=["day", "at", "clock", "price", "length", "audio", "empty", "days", "by"])
    joined = join([JAMENDO], read_records(str(tmp_path / "t.parquet"), print), columns)
    assert joined.rows[0].captions == ["before", "café"]
    Manifest(tmp_path, joined.rows).write(tmp_path / "m.parquet")
    metadata = dict(Manifest.read(tmp_path / "m.parquet").rows[0].metadata)
    assert metadata == {
        "album": "a1",
        "day": "2020-05-17",
        "at": "2020-05-17T12:00:00+00:00",
        "clock": "12:30:00",
        "price": 1.5,
        "length": 90.0,
        "days": ["2020-05-17", None],
        "by": {"day": "2020-05-17", "raw": "x"},
    }


def test_tables_of_every_format_are_read(tmp_path: Path) -> None:
    wanted = [{"id": "1", "caption": "a, b"}, {"id": "2", "caption": "c"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wanted) + "{broken\n")
    (tmp_path / "t.csv").write_text('id,caption\n1,"a, b"\n2,c\n3\n')
    pq.write_table(pa.Table.from_pylist(wanted), tmp_path / "t.parquet")
    issues: list[Issue] = []
    for ending in ("jsonl", "csv", "parquet"):
        assert list(read_records(str(tmp_path / f"t.{ending}"), issues.append)) == wanted
    assert [(issue.file, issue.line) for issue in issues] == [("t.jsonl", 3), ("t.csv", 4)]
    (tmp_path / "bad.parquet").write_text("id")
    (tmp_path / "t.txt").write_text("id")
    with pytest.raises(ValueError, match="not a parquet file"):
        list(read_records(str(tmp_path / "bad.parquet"), issues.append))
    with pytest.raises(ValueError, match=r"\.jsonl, \.csv"):
        list(read_records(str(tmp_path / "t.txt"), issues.append))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(read_records(str(tmp_path / "none.csv"), issues.append))
