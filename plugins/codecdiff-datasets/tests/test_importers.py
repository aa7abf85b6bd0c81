"""Collections are read as they are published; a faulty row is named and the rest goes on."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from codecdiff_datasets.importers import hf_datasets as hub
from codecdiff_datasets.importers import read_data_set
from codecdiff_datasets.join import read_records
from small import RATE, tone, write_music

from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Issue
from codecdiff.errors import InvalidValue

SOUND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
JAMENDO = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
MUSICCAPS = (
    "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
)
RAW = "track_id,artist_id,artist_name,license_title,license_url,tags,track_duration,track_genres,track_title,track_url"
TRACKS = """,album,album,artist,artist,set,track,track,track,track,track,track
,id,information,id,name,split,duration,genre_top,genres_all,license,tags,title
track_id,,,,,,,,,,,
2,1,"<p>About
it</p>",9,AWOL,training,168,Hip-Hop,"[21, 5]",Attribution-NonCommercial-ShareAlike 3.0 International,[],Food
3,1,,9,AWOL,,237,,[],,['old'],Electric Ave
"""


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def read(kind: str, *files: Path) -> tuple[dict[str, ManifestRow], list[Issue]]:
    issues: list[Issue] = []
    found = read_data_set(kind, [str(file) for file in files], issues.append)
    return {recording.track: recording for recording in found}, issues


def jamendo(number: int, *tags: str, path: str = "", seconds: str = "99.5", artist: int = 1) -> str:
    path = path or f"{number % 100:02d}/{number}.mp3"
    return "\t".join([f"track_{number:07d}", f"artist_{artist}", "album_1", path, seconds, *tags])


def test_ragged_tables_of_jamendo_are_merged_by_track(tmp_path: Path) -> None:
    one = write(
        tmp_path / "genre.tsv", JAMENDO, jamendo(382, "genre---rock", "genre---pop"), jamendo(7, "genre---folk")
    )
    two = write(tmp_path / "mood.tsv", JAMENDO, jamendo(382, "mood/theme---calm", "genre---pop"))
    found, issues = read("jamendo", one, two)
    assert not issues
    assert found["track_0000382"].tags == {"genre": ["rock", "pop"], "mood/theme": ["calm"]}
    assert found["track_0000007"].tags == {"genre": ["folk"]}
    first = found["track_0000382"]
    assert (first.file, first.seconds, first.artist) == ("82/382.mp3", 99.5, "artist_1")


def test_jamendo_names_splits_titles_and_licences_in_other_files(tmp_path: Path) -> None:
    train = write(tmp_path / "autotagging-train.tsv", JAMENDO, jamendo(100, "genre---rock"))
    test = write(tmp_path / "autotagging-test.tsv", JAMENDO, jamendo(200, "genre---rock"), jamendo(100, "genre---pop"))
    meta = "TRACK_ID\tARTIST_ID\tALBUM_ID\tTRACK_NAME\tARTIST_NAME\tALBUM_NAME\tRELEASEDATE\tURL"
    names = write(tmp_path / "raw.meta.tsv", meta, "track_0000100\tartist_1\talbum_1\tOn\tAnn\tAll\t2008-01-01\tx")
    by = "Available under a Creative Commons Attribution license: http://creativecommons.org/licenses/by/3.0/"
    text = write(tmp_path / "audio_licenses.txt", "00/100.mp3", "On by Ann from Jamendo: http://x", by, "")
    found, issues = read("jamendo", train, test, names, text)
    assert [(f.line, f.field) for f in issues] == [(3, "TRACK_ID")]  # is in train already
    first = found["track_0000100"]
    assert (first.split, first.title, first.artist, first.license) == ("train", "On", "Ann", "CC BY 3.0")
    assert first.tags == {"genre": ["rock"]}
    assert found["track_0000200"].split == "test"
    assert found["track_0000200"].artist == "Ann"  # her id is named in another row


def test_every_faulty_row_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        JAMENDO,
        jamendo(1, "genre---rock"),
        jamendo(2, "genre---rock", path="/etc/passwd"),
        jamendo(3, "genre---rock", path="../3.mp3"),
        jamendo(4, "genre---rock", path="C:\\4.mp3"),
        jamendo(1, "genre---pop"),
        jamendo(5, "genre---rock", seconds="long"),
        "track_0000006\tartist_1",
        jamendo(7, "rock"),
        jamendo(8, "genre---rock").replace("track_", ""),
        jamendo(9, "genre---rock", seconds="36000"),
    ]
    file = write(tmp_path / "tags.tsv", *lines)
    with file.open("ab") as stream:
        stream.write(b"track_0000010\tartist_\xe9\talbum\t10/10.mp3\t1.0\tgenre---rock\n")
        stream.write(jamendo(11, "genre---rock").encode())
    found, issues = read("jamendo", file)
    assert sorted(found) == ["track_0000001", "track_0000009", "track_0000011"]
    assert [(issue.line, issue.field) for issue in issues] == [
        (3, "PATH"),
        (4, "PATH"),
        (5, "PATH"),
        (6, "TRACK_ID"),
        (7, "DURATION"),
        (8, ""),
        (9, "TAGS"),
        (10, "TRACK_ID"),
        (12, ""),
    ]
    assert all(issue.file == "tags.tsv" and issue.hint for issue in issues)
    assert "UTF-8" in str(issues[-1])
    assert found["track_0000001"].tags == {"genre": ["rock"]}


def test_both_tables_of_fma_are_read_and_fill_each_other(tmp_path: Path) -> None:
    tracks = tmp_path / "tracks.csv"
    tracks.write_text(TRACKS)
    by = "Attribution,http://creativecommons.org/licenses/by/4.0/"
    genres = "\"[{'genre_id': '21', 'genre_title': 'Hip-Hop'}]\""
    raw = write(
        tmp_path / "raw_tracks.csv",
        f"{RAW},track_listens",
        f"3,9,AWOL,{by},\"['new']\",03:57,{genres},Electric Ave,http://f/3,77",
        f'155066,4,Ö,{by},[],01:02:03,"{{1, 76}}",Late,http://f/155066,5',
    )
    names = write(tmp_path / "genres.csv", "genre_id,#tracks,parent,title,top_level", "76,1,0,Punk,1", "5,2,0,Folk,1")
    found, issues = read("fma", tracks, raw, names)
    assert not issues
    assert list(found) == ["2", "3", "155066"]
    food, avenue, late = found.values()
    assert (food.file, food.title, food.artist, food.seconds, food.split) == (
        "000/000002.mp3",
        "Food",
        "AWOL",
        168,
        "train",
    )
    assert food.license == "CC BY-NC-SA 3.0"
    assert food.tags == {"genre": ["Hip-Hop", "Folk"]}
    assert food.metadata["genre_ids"] == ["21", "5"]
    assert "album.information" not in food.metadata
    assert (avenue.license, avenue.source, avenue.tags) == (
        "CC BY 4.0",
        "http://f/3",
        {"tag": ["old"], "genre": ["Hip-Hop"]},
    )
    assert (avenue.metadata["album.id"], avenue.metadata["track_listens"]) == ("1", "77")
    assert avenue.metadata["license_url"] == "http://creativecommons.org/licenses/by/4.0/"
    assert (late.file, late.seconds, late.tags) == ("155/155066.mp3", 3723, {"genre": ["Punk"]})


def test_faults_of_fma_are_named(tmp_path: Path) -> None:
    good = "Attribution,,[],03:57,[],T,u"
    file = write(
        tmp_path / "raw_tracks.csv",
        RAW,
        f"3,9,AWOL,{good}",
        f"3,9,AWOL,{good}",
        f"three,9,AWOL,{good}",
        f"4,9,AWOL,{good}".replace("03:57", "soon"),
        f"5,9,AWOL,{good}".replace("[],03", "rock,03"),
        f"6,9,AWOL,{good},more",
    )
    found, issues = read("fma", file)
    assert list(found) == ["3"]
    fields = [(3, "track_id"), (4, "track_id"), (5, "track_duration"), (6, "tags"), (7, "")]
    assert [(issue.line, issue.field) for issue in issues] == fields


def musiccaps(ytid: str, *, evaluation: str = "False", aspects: str = '"[\'sad\', ""child\'s voice""]"') -> str:
    return f'{ytid},30,40,"/m/04rlf",{aspects},"Slow, and\nsad.",4,False,{evaluation}'


def test_musiccaps_is_read_with_its_evaluation_split(tmp_path: Path) -> None:
    lines = [
        musiccaps("-0Gj8-vB1q4", evaluation="True"),
        musiccaps("-0SdAVK79lg"),
        musiccaps("-0SdAVK79lg"),
        musiccaps("../../etc/p"),
        musiccaps("-0vPFx-wRRI", aspects="sad"),
        musiccaps("-0xzrMun0Rs", evaluation="yes"),
    ]
    found, issues = read("musiccaps", write(tmp_path / "musiccaps.csv", MUSICCAPS, *lines))
    assert {track: recording.split for track, recording in found.items()} == {
        "-0Gj8-vB1q4": "test",
        "-0SdAVK79lg": "train",
    }
    first = found["-0Gj8-vB1q4"]
    assert first.tags == {"aspect": ["sad", "child's voice"]}
    assert list(first.captions) == ["Slow, and\nsad."]
    assert (first.seconds, first.metadata["start_s"], first.license) == (10, 30, "")
    wrong = [(6, "ytid"), (8, "ytid"), (10, "aspect_list"), (12, "is_audioset_eval")]
    assert [(issue.line, issue.field) for issue in issues] == wrong


def test_a_table_of_another_set_is_told_apart(tmp_path: Path) -> None:
    other = write(tmp_path / "mc.csv", MUSICCAPS, musiccaps("-0SdAVK79lg"))
    own = write(tmp_path / "raw_tracks.csv", RAW, "3,9,AWOL,Attribution,,[],03:57,[],T,u")
    with pytest.raises(
        ValueError, match=r"not a table of FMA.*looks like MusicCaps. Use: codecdiff data import musiccaps"
    ):
        read("fma", other)
    found, issues = read("fma", other, own)
    assert list(found) == ["3"]
    assert issues[0].file == "mc.csv"
    with pytest.raises(ValueError, match="its columns are a, b"):
        read("jamendo", write(tmp_path / "x.csv", "a,b", "1,2"))
    with pytest.raises(ValueError, match="its columns are \ufffd"):
        read("jamendo", write(tmp_path / "x.csv", "\033[31mred,b"))
    with pytest.raises(FileNotFoundError, match=r"File '.*none\.tsv' does not exist"):
        read("jamendo", tmp_path / "none.tsv")
    with pytest.raises(ValueError, match=r"Unknown format 'spotify': expected one of jamendo"):
        read("spotify", own)


def test_a_folder_is_read_with_its_metadata(tmp_path: Path) -> None:
    folder = write_music(tmp_path / "music", count=3, seconds=0.2)
    metadata = folder / "metadata.jsonl"
    metadata.write_bytes(
        b'{"file_name": "0.wav", "text": "one", "license": "cc-by-nc-4.0", "artist": "A", "tags": ["x"], "bpm": 90}\n'
        b'{"file_name": "../evil.wav"}\n{"file_name": "/etc/evil.wav"}\nnot json\n'
        b'{"file_name": "0.wav", "text": "again"}\n'
        b'{"file_name": "gone.wav", "captions": ["lost", "gone"]}\n{"text": "\xff"}\n[1]\n{"text": "x"}\n'
        b'{"file_name": "1.wav", "text": "\\ud83d half a letter"}\n'
    )
    shutil.copy(folder / "1.wav", os.fsdecode(os.fsencode(folder / "b") + b"\xe9.wav"))
    found, issues = read("folder", folder)
    assert list(found) == ["0.wav", "1.wav", "2.wav", "gone.wav"]
    first = found["0.wav"]
    assert (first.license, first.artist, first.tags) == ("CC BY-NC 4.0", "A", {"tag": ["x"]})
    assert (first.captions, dict(first.metadata)) == (("one",), {"bpm": 90, "license_text": "cc-by-nc-4.0"})
    assert found["gone.wav"].captions == ("lost", "gone")
    assert sorted(issue.line or 0 for issue in issues) == [0, 2, 3, 4, 5, 7, 8, 9, 10]
    assert "not UTF-8" in str(issues[0])


def sound(seed: int) -> dict[str, object]:
    stream = io.BytesIO()
    soundfile.write(stream, tone(0.2, 100 + seed), RATE, format="WAV")
    return {"bytes": stream.getvalue(), "path": f"{seed}.wav"}


def test_a_data_set_of_the_hub_is_read_with_its_audio(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_dict(
        {
            "id": ["a/1", "b", "b"],
            "audio": [sound(i) for i in range(3)],
            "caption": ["one", "two", "twice"],
            "genre": [["rock"], ["pop", "jazz"], []],
            "license": ["cc-by-4.0", "", ""],
            "mood": [1, -1, 0],
            "bpm": [120, 90, 80],
        }
    ).cast_column("audio", datasets.Audio(decode=False))
    table = table.cast_column("mood", datasets.ClassLabel(names=["sad", "calm"]))
    datasets.DatasetDict({"train": table.select([0]), "valid": table.select([1, 2])}).save_to_disk(tmp_path / "set")
    issues: list[Issue] = []
    columns = hub.Columns(tags=["genre", "mood"])
    found = read_data_set("hf", [str(tmp_path / "set")], issues.append, audio=tmp_path / "audio", columns=columns)
    assert [(r.track, r.split, list(r.captions), r.license) for r in found] == [
        ("a/1", "train", ["one"], "CC BY 4.0"),
        ("b", "validation", ["two"], ""),
    ]
    assert [r.tags for r in found] == [{"genre": ["rock"], "mood": ["calm"]}, {"genre": ["pop", "jazz"]}]
    assert found[0].metadata == {"bpm": 120}
    assert [(issue.line, issue.track) for issue in issues] == [(2, "b")]
    for i, recording in enumerate(found):
        assert (tmp_path / "audio" / recording.file).read_bytes() == sound(i)["bytes"]
        assert recording.file.count("/") == 1
    (tmp_path / "audio" / found[1].file).write_bytes(b"cut")
    shutil.copytree(tmp_path / "set", tmp_path / "more" / "set")
    again = [
        read_data_set("hf", [str(folder)], issues.append, audio=tmp_path / "audio", columns=columns)
        for folder in (tmp_path / "set", tmp_path / "more" / "set")
    ]
    assert [r.file for r in again[0]] == [r.file for r in found]
    assert not {r.file for r in again[1]} & {r.file for r in found}
    assert (tmp_path / "audio" / found[1].file).read_bytes() == sound(1)["bytes"]
    with pytest.raises(ValueError, match=r"no column 'key'\. It has: id, audio"):
        read_data_set("hf", [str(tmp_path / "set")], issues.append, columns=hub.Columns(tags=["key"]))
    with pytest.raises(FileNotFoundError, match="neither a folder nor a data set"):
        read_data_set("hf", ["nowhere"], issues.append)


def write_sounds(folder: Path, ids: list[str]) -> Path:
    """Write a data set with audio, as anybody may have written it."""
    folder.mkdir(parents=True)
    features = {"id": {"dtype": "string", "_type": "Value"}, "audio": {"_type": "Audio"}}
    schema = pa.schema([("id", pa.string()), ("audio", SOUND)])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(
        pa.table({"id": ids, "audio": [sound(i) for i in range(len(ids))]}, schema), folder / "train.parquet"
    )
    return folder


def test_a_row_of_the_hub_copies_no_file_from_outside_its_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    secret, folder = tmp_path / "secret.wav", tmp_path / "set"
    soundfile.write(secret, tone(0.2, 100), RATE)
    (folder / "audio").mkdir(parents=True)
    soundfile.write(folder / "audio" / "mine.wav", tone(0.2, 200), RATE)
    (folder / "audio" / "link.wav").symlink_to(secret)
    paths = ["audio/mine.wav", str(secret), "../secret.wav", "audio/link.wav", str(folder / "audio" / "mine.wav")]
    paths += ["audio/zero\0.wav", "audio/" + "long" * 2000 + ".wav"]
    columns = {"id": list("abcdefg"), "audio": [{"bytes": None, "path": path} for path in paths]}
    features = datasets.Features({"id": datasets.Value("string"), "audio": datasets.Audio()}).to_dict()
    schema = pa.schema([("id", pa.string()), ("audio", SOUND)])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(pa.table(columns, schema), folder / "train.parquet")  # as anybody may have written it
    issues: list[Issue] = []
    found = read_data_set("hf", [str(folder)], issues.append, audio=tmp_path / "audio")
    copied = {row.track: (tmp_path / "audio" / row.file).is_file() for row in found}
    assert copied == {"a": True, "b": False, "c": False, "d": False, "e": True, "f": False, "g": False}
    assert [issue.track for issue in issues] == ["b", "c", "d", "f", "g"]
    assert all("outside the data set, which is not read" in issue.what and issue.hint for issue in issues)


@pytest.mark.integration
def test_a_file_of_a_data_set_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    many, long = 40_000, pa.array(["x" * 2**20])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * many, pa.int32()), long)
    table = pa.table({"track": [str(i) for i in range(many)], "text": repeated})
    texts = "track,text\n" + "a,b\n" * 2**25
    files = {
        "a.parquet": (lambda file: pq.write_table(table, file), "unpacks to more than"),
        "a.arrow": (lambda file: write_arrow(file, table), "of type dictionary"),
        "b.arrow": (lambda file: write_arrow(file, pa.table({"a": ["\0" * 2**20]}), "zstd"), "is compressed"),
        "a.csv": (lambda file: file.write_bytes(b"\0" * 2**20), "is not a text"),
        "a.jsonl": (lambda file: file.write_bytes(b"\0" * 2**20), "is not a text"),
        "a.csv.gz": (lambda file: file.write_bytes(gzip.compress(texts.encode())), "unpacks to more than"),
        "b.csv": (lambda file: file.write_bytes(b"track,text\na," + b"b" * 2**27), "has a line of more than"),
        "c.arrow": (lambda file: write_arrow(file, pa.table({"a": pa.nulls(2**24)})), "states 16,777,216 rows"),
        "d.arrow": (lambda file: write_arrow(file, pa.table({"a": [[None]]})), "of type lists of null"),
        "a.xml": (lambda file: file.write_bytes(b"<a/>"), "files of 'xml', which are not read"),
    }
    for name, (make, message) in files.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / name)
        with pytest.raises(InvalidValue, match=message) as caught:
            read_data_set("hf", [str(tmp_path / name)], lambda issue: None)
        assert name in str(caught.value)
    with pytest.raises(InvalidValue, match="unpacks to more than"):
        list(read_records(str(tmp_path / "a.parquet" / "a.parquet"), lambda issue: None))


def write_arrow(file: Path, table: pa.Table, compression: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(file, table.schema, options=options) as stream:
        stream.write_table(table)


def value(kind: str) -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}


def write_set(folder: Path, columns: dict[str, Any], **features: Any) -> str:
    """Write a data set that says anything of its columns, and return its name."""
    folder.mkdir()
    described = {"info": {"features": {"id": value("string"), **features}}}
    pq.write_table(
        pa.table({"id": ["a", "b"], **columns}, metadata={"huggingface": json.dumps(described)}),
        folder / "train.parquet",
    )
    return str(folder)


def test_columns_of_any_type_are_read_or_left_out(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    issues: list[Issue] = []
    sounds = pa.array([[sound(1)], [sound(2), sound(3)]], pa.list_(SOUND))
    label = {"names": ["rock"], "_type": "ClassLabel"}
    name = write_set(
        tmp_path / "a",
        {"genre": [7, 0], "stems": sounds, "text": ["x", "y"]},
        genre=label,
        stems={"feature": {"_type": "Audio"}, "_type": "List"},
        text=value("string"),
    )
    columns = hub.Columns(tags=["genre", "stems"])
    found = read_data_set("hf", [name], issues.append, columns=columns)
    assert [(row.track, row.captions, row.tags) for row in found] == [
        ("a", ["x"], {}),
        ("b", ["y"], {"genre": ["rock"]}),
    ]
    no_audio = pa.array([None, {"bytes": b"", "path": ""}], SOUND)
    name = write_set(tmp_path / "b", {"audio": no_audio}, audio={"_type": "Audio"})
    read_data_set("hf", [name], issues.append, audio=tmp_path / "audio")
    assert [(issue.track, issue.what) for issue in issues] == [("a", "It holds no audio."), ("b", "It holds no audio.")]
    name = write_set(tmp_path / "c", {"time": pa.array([1, 2**62], pa.timestamp("us"))}, time=value("timestamp[us]"))
    with pytest.raises(InvalidValue, match=r"Row 2 of '.*c' cannot be read: date value out of range"):
        read_data_set("hf", [name], issues.append)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", "---\nconfigs:\n- config_name: [1]\n---\n"),
        ("README.md", "---\nx: !!python/object/apply:os.getcwd []\n---\n"),
        ("dataset_infos.json", '{"default": {"features": 5}}'),
    ],
)
def test_what_a_data_set_says_of_itself_may_be_anything(tmp_path: Path, file: str, text: str) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    name = write_set(tmp_path / "a", {})
    (tmp_path / "a" / file).write_text(text)
    with pytest.raises(InvalidValue, match=r"The data set '.*a' cannot be loaded: "):
        read_data_set("hf", [name], lambda issue: None)


def test_ids_that_are_longer_than_names_of_files_are_shortened(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    ids = ["a" * 5000, "a" * 5001, "é" * 200, "é" * 201, "a" + "é" * 115, "short"]
    folder = write_sounds(tmp_path / "set", ids)
    issues: list[Issue] = []
    found = read_data_set("hf", [str(folder)], issues.append, audio=tmp_path / "audio")
    assert [row.track for row in found] == ids
    assert len({row.file for row in found}) == len(ids)
    assert found[-1].file.endswith("/short.wav")
    assert all((tmp_path / "audio" / row.file).read_bytes() == sound(i)["bytes"] for i, row in enumerate(found))


@pytest.mark.parametrize("place", ["{}", "../secret.csv", "file://{}", "link.csv"])
def test_a_data_set_reads_no_table_from_outside_of_it(tmp_path: Path, place: str) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    secret, folder = tmp_path / "secret.csv", tmp_path / "set"
    folder.mkdir()
    secret.write_text("track,text\na,secret\n")
    (folder / "link.csv").symlink_to(secret)
    (folder / "own.csv").write_text("track,text\na,mine\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: '{}'\n---\n"
    (folder / "README.md").write_text(card.format(place.format(secret)))
    with pytest.raises(InvalidValue, match="names a file outside of it"):
        read_data_set("hf", [str(folder)], lambda issue: None)
    (folder / "README.md").write_text(card.format("own.csv"))
    (row,) = read_data_set("hf", [str(folder)], lambda issue: None)
    assert row.captions == ["mine"]


def test_a_saved_data_set_reads_no_table_from_outside_of_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        table = pa.table({"track": ["a"], "text": [name]})
        with pa.ipc.new_stream(tmp_path / name / "data.arrow", table.schema) as stream:
            stream.write_table(table)
        features = datasets.Features.from_arrow_schema(table.schema).to_dict()
        (tmp_path / name / "dataset_info.json").write_text(json.dumps({"features": features}))
    state = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "0", "_split": "train"}
    state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    (tmp_path / "one" / "state.json").write_text(json.dumps(state))
    (row,) = read_data_set("hf", [str(tmp_path / "one")], lambda issue: None)
    assert row.captions == ["one"]
    state["_data_files"] = [{"filename": "../two/data.arrow"}]
    (tmp_path / "one" / "state.json").write_text(json.dumps(state))
    with pytest.raises(InvalidValue, match="names a file outside of it"):
        read_data_set("hf", [str(tmp_path / "one")], lambda issue: None)
