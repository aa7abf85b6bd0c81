"""A parquet file is refused before it fills the memory, and one that only repeats its texts is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.errors import InvalidValue
from codecdiff.files import DamagedFile, check_parquet_size, parquet_size, read_parquet

ROWS, LONG = 40_000, "x" * 2**20
ENCODED = pa.dictionary(pa.int32(), pa.string())
TRACKS = [str(i) for i in range(ROWS)]
OFFSETS = pa.array(range(ROWS + 1), pa.int32())
DELTA: dict[str, Any] = {"use_dictionary": False, "data_page_size": 2**30}


def repeated(value: str | bytes, count: int = ROWS) -> Any:
    kind = pa.string() if isinstance(value, str) else pa.binary()
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value], kind))


def nested(depth: int) -> Any:
    kind: Any = pa.int8()
    for _ in range(depth):
        kind = pa.struct([("a", kind)])
    return pa.nulls(1, kind)


def alike(count: int) -> list[str]:
    return [f"{LONG}{i:06d}" for i in range(count)]


BOMBS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "text": (lambda: {"track": TRACKS, "text": repeated(LONG)}, {}),
    "version-2": (lambda: {"track": TRACKS, "text": repeated(LONG)}, {"data_page_version": "2.0"}),
    "bytes": (lambda: {"track": TRACKS, "text": repeated(LONG.encode())}, {}),
    "lists": (
        lambda: {
            "track": ["a" * 9000],
            "captions": pa.ListArray.from_arrays(pa.array([0, ROWS], pa.int32()), repeated(LONG)),
        },
        {},
    ),
    "audio": (
        lambda: {
            "track": TRACKS,
            "audio": pa.StructArray.from_arrays([repeated(LONG.encode()), pa.array(TRACKS)], ["bytes", "path"]),
        },
        {},
    ),
    "tags": (
        lambda: {
            "track": ["a" * 9000],
            "tags": pa.MapArray.from_arrays(
                pa.array([0, ROWS], pa.int32()), pa.array(TRACKS), pa.ListArray.from_arrays(OFFSETS, repeated(LONG))
            ),
        },
        {},
    ),
    "alike": (lambda: {"text": alike(99)}, DELTA | {"column_encoding": {"text": "DELTA_BYTE_ARRAY"}}),
    "lists-alike": (
        lambda: {"text": [alike(99)]},
        DELTA | {"column_encoding": {"text.list.element": "DELTA_BYTE_ARRAY"}},
    ),
    "zstd": (lambda: {"text": ["\0" * 2**27]}, {"compression": "zstd", "use_dictionary": False}),
    "brotli": (lambda: {"text": ["\0" * 2**27]}, {"compression": "brotli", "use_dictionary": False}),
    "gzip": (lambda: {"text": ["\0" * 2**27]}, {"compression": "gzip", "use_dictionary": False}),
    "nothing": (lambda: {"text": pa.nulls(2**20, pa.int64())}, {}),
    "wide-nothing": (lambda: {"track": ["a" * 300] * 9, "text": pa.nulls(9, pa.binary(2**24))}, {}),
    "one-number": (lambda: {"text": pa.array([7] * 2**20)}, {}),
    "columns": (lambda: {f"column {i}": [1] for i in range(6000)}, {}),
    "deep": (lambda: {"text": nested(99)}, {}),
}


LARGEST = ("zstd", "gzip", "brotli", "columns")  # take a second each


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.integration if name in LARGEST else ()) for name in BOMBS]
)
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_size, "FREE_BYTES", 2**26)  # the files of this test unpack to less than a real one
    file = tmp_path / "a.parquet"
    columns, options = BOMBS[name]
    pq.write_table(pa.table(columns()), file, **options)
    assert file.stat().st_size < 2**21
    for read in (read_parquet, check_parquet_size):
        with pytest.raises(DamagedFile, match=r"a.parquet' (unpacks to more than|states .* rows|has .* columns)"):
            read(file)
    with pytest.raises(InvalidValue, match="not a manifest"):
        Manifest.read(file)


def test_a_long_footer_is_not_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["b"]}, metadata={"key": "v" * 2**24}), tmp_path / "a.parquet")
    with pytest.raises(DamagedFile, match="bytes of itself"):
        read_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "options",
    [
        *({"compression": name} for name in ("none", "snappy", "zstd", "gzip", "lz4", "brotli")),
        {"data_page_version": "2.0"},
        {"data_page_version": "2.0", "compression": "none"},
        {"dictionary_pagesize_limit": 1000},  # after which they stand in the pages themselves
        {"dictionary_pagesize_limit": 1000, "data_page_size": 500},
        {"use_dictionary": False},
        *(
            {"use_dictionary": False, "column_encoding": {"text": name}, "data_page_version": version}
            for name in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")
            for version in ("1.0", "2.0")
        ),
        {"row_group_size": 777},
    ],
    ids=str,
)
def test_every_layout_is_read_as_it_was_written(tmp_path: Path, options: dict[str, Any]) -> None:
    draw = random.Random(0)
    texts = [None, *(draw.choice("abé") * draw.randint(0, 50) + str(draw.randint(0, 300)) for _ in range(4999))]
    lists = [None if draw.random() < 0.1 else draw.choices(texts[1:], k=draw.randint(0, 4)) for _ in texts]
    table = pa.table({"text": texts, "list": pa.array(lists, pa.list_(pa.string())), "number": range(5000)})
    pq.write_table(table, tmp_path / "a.parquet", **options)
    schema = pa.schema([("text", ENCODED), ("list", pa.list_(ENCODED)), ("number", pa.int64())])
    for read in (read_parquet(tmp_path / "a.parquet"), read_parquet(tmp_path / "a.parquet", schema)):
        assert read.to_pylist() == table.to_pylist()


def test_texts_that_are_in_memory_once_may_stand_in_any_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_size, "FREE_BYTES", 2**26)
    long = repeated("long " * 2000)
    table = pa.table({"track": TRACKS, "text": long, "list": pa.ListArray.from_arrays(OFFSETS, long)})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    schema = pa.schema([("track", pa.string()), ("text", ENCODED), ("list", pa.list_(ENCODED))])
    read = read_parquet(tmp_path / "a.parquet", schema)
    assert read.nbytes < 2**22
    assert read.slice(ROWS - 1).to_pylist() == [{"track": TRACKS[-1], "text": "long " * 2000, "list": ["long " * 2000]}]
    with pytest.raises(DamagedFile, match="unpacks to more than"):
        read_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_names_that_count_up_and_texts_that_begin_alike_are_read(tmp_path: Path, version: str) -> None:
    names = [f"a folder of the data set/{i % 7}/{i:07d}.wav" for i in range(100_000)]
    table = pa.table({"name": names, "list": pa.ListArray.from_arrays(pa.array([*range(100_001)]), pa.array(names))})
    encodings: dict[str, Any] = {"name": "DELTA_BYTE_ARRAY", "list.list.element": "DELTA_BYTE_ARRAY"}
    options: dict[str, Any] = DELTA | {
        "column_encoding": encodings,
        "compression": "zstd",
        "data_page_version": version,
    }
    pq.write_table(table, tmp_path / "a.parquet", **options)
    assert read_parquet(tmp_path / "a.parquet").equals(table)
    options["column_encoding"] = {"id": "DELTA_BYTE_ARRAY"}
    ids = pa.table({"id": [f"track-{i:09d}" for i in range(100_000)]})
    pq.write_table(ids, tmp_path / "b.parquet", **options)
    assert (tmp_path / "b.parquet").stat().st_size < 100_000
    assert read_parquet(tmp_path / "b.parquet").equals(ids)


def test_encoded_audio_and_texts_of_a_usual_size_are_read(tmp_path: Path) -> None:
    draw = random.Random(0)
    sounds = [{"bytes": draw.randbytes(2**21), "path": f"{i}.wav"} for i in range(20)]
    pq.write_table(pa.table({"audio": sounds}), tmp_path / "a.parquet")
    check_parquet_size(tmp_path / "a.parquet")
    texts = [" ".join(draw.choices(["calm", "loud", "piano", "drums"], k=40)) for _ in range(200)]
    rows = [ManifestRow(f"{i}.wav", captions=[draw.choice(texts)] * 3, license="CC BY 4.0") for i in range(20_000)]
    Manifest(tmp_path, rows).write(tmp_path / "b.parquet")
    assert len(Manifest.read(tmp_path / "b.parquet")) == 20_000


def test_an_error_about_damage_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"track": TRACKS[:99], "text": repeated("long", 99)}), file)
    whole, draw, messages = file.read_bytes(), random.Random(1), list[str]()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        try:
            read_parquet(file)
        except DamagedFile as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("a.parquet'" in message for message in messages)
