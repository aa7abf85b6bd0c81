"""The one reader of metadata: what is wrong in a row is reported with its place, and the other rows are read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small import RATE

from codecdiff.data import metadata
from codecdiff.data.metadata import (
    Issue,
    captions_in,
    column_names,
    convert_rows,
    find_tracks,
    json_lines,
    read_audio_folder,
    read_table,
    text_lines,
    unsafe_path,
)
from codecdiff.errors import MissingFile

FMA = """,album,album,set,track
,id,information,split,title
track_id,,,,
2,1,"<p>About
it</p>",training,Food
3,1,,test,Electric Ave
"""


@pytest.fixture
def issues() -> list[Issue]:
    return []


def test_three_header_rows_become_one(tmp_path: Path, issues: list[Issue]) -> None:
    file = tmp_path / "tracks.csv"
    file.write_text(FMA)
    assert column_names(file, 3) == ["track_id", "album.id", "album.information", "set.split", "track.title"]
    assert [row.line for row in read_table(file, issues.append, header_rows=3)] == [4, 6]
    assert not issues


def test_a_quote_left_open_costs_one_row_of_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issues: list[Issue]
) -> None:
    monkeypatch.setattr("codecdiff.data.metadata.FIELD_LIMIT", 100)
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["a,b", "1,2", '3,"open', "x" * 60, "y" * 60, "5,6"]) + "\n")
    assert [(row.line, row["a"]) for row in read_table(file, issues.append)] == [(2, "1"), (6, "5")]
    assert issues[0].line == 3


@pytest.mark.parametrize(("ragged", "beyond"), [(True, [[], ["3", "4"]]), (False, [[]])])
def test_rows_of_another_length_are_reported(
    tmp_path: Path, issues: list[Issue], ragged: bool, beyond: list[list[str]]
) -> None:
    file = tmp_path / "t.tsv"
    file.write_text('a\tb\n1\t"2\n1\t2\t3\t4\n1\n\n')
    rows = list(read_table(file, issues.append, ragged=ragged))
    assert [list(row.beyond) for row in rows] == beyond
    assert rows[0]["b"] == '"2'  # tabs are not quoted
    assert [issue.line for issue in issues] == ([4] if ragged else [3, 4])
    assert all("the header names 2" in issue.what for issue in issues)


def test_a_header_that_is_not_utf8_is_reported_and_the_rows_are_read(tmp_path: Path, issues: list[Issue]) -> None:
    (tmp_path / "t.csv").write_bytes("file_name,K\u00fcnstler\na.wav,x\n".encode("cp1252") + b"b.wav,\xe9\n")
    rows = [dict(row.values) for row in read_table(tmp_path / "t.csv", issues.append)]
    assert rows == [{"file_name": "a.wav", "K\u00fcnstler": "x"}]
    assert [(issue.line, "UTF-8" in issue.what) for issue in issues] == [(1, True), (3, True)]


def test_fields_are_read_as_what_they_are(tmp_path: Path, issues: list[Issue]) -> None:
    file = tmp_path / "t.csv"
    file.write_text("n,list\n 1.5 ,\"['b', 'a']\"\n,\"{3, 1}\"\nnan,[]\n2,rock\n")
    rows = list(read_table(file, issues.append))
    numbers = list(convert_rows(rows, lambda row: row.number("n"), issues.append))
    lists = list(convert_rows(rows, lambda row: row.items("list"), issues.append))
    assert (numbers, lists) == ([1.5, None, 2.0], [["b", "a"], [1, 3], []])
    assert [(issue.line, issue.field) for issue in issues] == [(4, "n"), (5, "list")]
    assert str(issues[0]) == "t.csv, line 4, n: 'nan' is not a number. Correct the row, or leave it out."


def test_lines_that_are_not_json_or_not_utf8_are_reported(tmp_path: Path, issues: list[Issue]) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\r\n\n{"b": \n"text"\n{"c": "\xe9"}\n{"d": "\\ud83d"}\n{"e": "\\ud83c\\udfb5"}\nnull\n'
    )
    assert list(json_lines(file, issues.append)) == [(1, {"a": 1}), (7, {"e": "\U0001f3b5"})]
    problems = ["not valid JSON", "not an object", "not UTF-8", "half of a character", "not an object"]
    assert [issue.line for issue in sorted(issues, key=lambda issue: issue.line or 0)] == [3, 4, 5, 6, 8]
    assert all(problem in issue.what for problem, issue in zip(problems, issues, strict=True))
    assert [value for _, value in json_lines(file, issues.append, (str, dict))][1] == "text"


def test_lines_of_text(tmp_path: Path, issues: list[Issue]) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  two  \nna\xefve\rfour")
    assert list(text_lines(tmp_path / "t.txt", issues.append)) == [(1, "one"), (3, "two"), (5, "four")]
    assert [(issue.line, "UTF-8" in issue.what) for issue in issues] == [(4, True)]


def test_a_line_or_a_record_has_a_limit(tmp_path: Path, issues: list[Issue], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "FIELD_LIMIT", 2**20)
    with (tmp_path / "t.txt").open("wb") as stream:
        stream.write(b"one\n")
        stream.truncate(2**22)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nthree\n")
    assert list(text_lines(tmp_path / "t.txt", issues.append)) == [(1, "one"), (3, "three")]
    assert [(issue.line, issue.what) for issue in issues] == [(2, "It has more than 1 million characters.")]
    issues.clear()
    monkeypatch.setattr(metadata, "LINE_LIMIT", 10)
    (tmp_path / "t.csv").write_text("a,b\n" + 'x"y,"w\n' * 20 + "last,row\n" * 12)
    assert [row["a"] for row in read_table(tmp_path / "t.csv", issues.append)] == ["last"] * 12
    assert [issue.line for issue in issues] == [*range(2, 22)]
    assert "a record has more than 10 lines" in issues[0].what


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_line_without_an_end_is_one_issue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(metadata, "FIELD_LIMIT", 2**20)
    head, tail = b'{"a": 1}\n', b'\n{"a": 2}\n'
    if suffix != ".jsonl":
        head, tail = b"a\n1\n", b"\n2\n"
    file, lengths = tmp_path / f"a{suffix}", (3 * 2**20, 2**30)
    for length in lengths:
        file.write_bytes(head)
        os.truncate(file, len(head) + length)  # zeros, as of a disk that was full
        with file.open("ab") as stream:
            stream.write(tail)
        issues: list[Issue] = []
        if suffix == ".jsonl":
            values = [row["a"] for _, row in json_lines(file, issues.append)]
        else:
            values = [int(row["a"]) for row in read_table(file, issues.append)]
        assert values == ([1, 2] if length == lengths[0] else [1])
        assert ["million characters" in issue.what for issue in issues] == [True]


def test_captions_of_any_form() -> None:
    values: dict[str, Any] = {"text": " a ", "caption": ["b", None, "", float("nan"), 3], "captions": "a", "more": "x"}
    assert captions_in(values) == ["a", "b", "3"]
    assert captions_in(values, ["more", "absent"]) == ["x"]


@pytest.mark.parametrize("path", ["/etc/a", "../a", "a/../../b", "C:\\a", "a\\b", "a\0b"])
def test_paths_that_leave_their_folder_are_unsafe(path: str) -> None:
    assert unsafe_path(path)
    assert not unsafe_path("a/b..c.mp3")


def test_an_audio_folder_is_read_with_what_is_missing_and_what_is_wrong(tmp_path: Path, issues: list[Issue]) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "sub/b.wav"):
        soundfile.write(tmp_path / name, np.zeros(8), RATE)
    (tmp_path / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "b.wav", "text": "b"}\n{"file_name": "../a.wav", "text": "a"}\n{"file_name": "../../x.wav"}\n'
    )
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,again\ngone.wav,gone\n,none\n")
    tracks = read_audio_folder(tmp_path, issues.append)
    assert [(track.name, track.captions) for track in tracks] == [
        ("a.wav", ("a",)),
        ("sub/b.wav", ("b",)),
        ("gone.wav", ("gone",)),
    ]
    assert [(issue.file, issue.line) for issue in issues] == [("metadata.jsonl", 3), ("metadata.csv", 2)]
    issues.clear()
    assert [track.name for track in find_tracks(tmp_path, issues.append)] == ["a.wav", "sub/b.wav"]
    assert "1 rows of metadata name no file, 'gone.wav' first" in str(issues[-1])
    with pytest.warns(UserWarning, match="name no file"):
        find_tracks(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.wav,na\xefve\n")
    issues.clear()
    assert [track.captions for track in find_tracks(tmp_path, issues.append)] == [("a",), ("b",)]
    assert str(issues[1]).startswith("metadata.csv, line 2: It holds bytes that are not UTF-8")


# Folders as people have them


def silent(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.zeros(8), RATE)
    return folder


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_text_that_is_marked_as_utf16_is_read(tmp_path: Path, issues: list[Issue], order: str) -> None:
    mark = "\ufeff".encode(order)
    silent(tmp_path, "a.wav", "b.wav")
    (tmp_path / "a.TXT").write_bytes(mark + "slow caf\xe9\r\nsecond\r\n".encode(order))
    (tmp_path / "metadata.csv").write_bytes(mark + 'file_name,text\r\nb.wav,"na\xefve, fast"\r\n'.encode(order))
    assert [track.captions for track in find_tracks(tmp_path, issues.append)] == [
        ("slow caf\xe9", "second"),
        ("na\xefve, fast",),
    ]
    assert not issues


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path: Path, issues: list[Issue]) -> None:
    file = tmp_path / "t.csv"
    file.write_text('a,b\n1,"two\nlines"\n2,"open\n3,x\n4,"quoted, again"\n')
    rows = [(row.line, row["a"], row["b"]) for row in read_table(file, issues.append)]
    assert rows == [(2, "1", "two\nlines"), (5, "3", "x"), (6, "4", "quoted, again")]
    assert [(issue.line, issue.what) for issue in issues] == [
        (4, "A quote is left open: it takes up this line and the 2 behind it.")
    ]


def test_a_quote_left_open_loses_none_of_the_rows_behind_the_next_quote(tmp_path: Path, issues: list[Issue]) -> None:
    file = tmp_path / "t.csv"
    file.write_text('a,b\n2,"open\n3,x\n4,"quoted, again"\n5,y\n6,"two\nlines"\n')
    rows = [(row.line, row["a"], row["b"]) for row in read_table(file, issues.append)]
    assert rows == [(3, "3", "x"), (4, "4", "quoted, again"), (5, "5", "y"), (6, "6", "two\nlines")]
    assert [issue.line for issue in issues] == [2]


@pytest.mark.parametrize("header", ["file_name;text", "filename,caption", "file_name\ttext"])
def test_a_table_that_names_no_files_is_reported(tmp_path: Path, issues: list[Issue], header: str) -> None:
    silent(tmp_path, "a.wav")
    (tmp_path / "metadata.csv").write_text(f"{header}\na.wav;slow\n")
    assert find_tracks(tmp_path, issues.append)[0].captions == ()
    assert [issue.line for issue in issues] == [1]
    assert "has no column file_name; its columns are" in issues[0].what


def test_a_row_is_about_the_file_that_is_meant(tmp_path: Path, issues: list[Issue]) -> None:
    composed, decomposed = "K\xf6ln.wav", "Ko\u0308ln.wav"
    silent(tmp_path, decomposed, "Upper Case.WAV", "renamed.flac", "exact.wav", "exact.flac", "two.wav", "two.flac")
    rows = [composed, "upper case.wav", "renamed.mp3", "exact.wav", "two.mp3"]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},{i}\n" for i, name in enumerate(rows)))
    tracks = {track.name: track.captions for track in find_tracks(tmp_path, issues.append)}
    assert {name: texts for name, texts in tracks.items() if texts} == {
        decomposed: ("0",),
        "Upper Case.WAV": ("1",),
        "renamed.flac": ("2",),
        "exact.wav": ("3",),
    }
    assert len(tracks) == 7
    assert [issue.what for issue in issues] == ["1 rows of metadata name no file, 'two.mp3' first."]


def test_trash_and_shadows_are_left_out_and_other_formats_counted(tmp_path: Path, issues: list[Issue]) -> None:
    silent(tmp_path, "a.wav", ".Trash-1000/files/b.wav", "__MACOSX/c.wav", ".hidden.wav", "@eaDir/a.wav/d.wav")
    (tmp_path / "._a.wav").write_bytes(b"shadow")
    for name in ("x.m4a", "y.M4A", "z.wma", "cover.jpg"):
        (tmp_path / name).touch()
    assert [track.name for track in find_tracks(tmp_path, issues.append)] == ["a.wav"]
    assert [issue.what for issue in issues] == ["Audio in other formats is left out: 2 .m4a, 1 .wma."]
    (tmp_path / "a.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no audio.*It holds 2 \.m4a, 1 \.wma: convert them"):
        find_tracks(tmp_path)


def test_links_are_followed_and_loops_are_not(tmp_path: Path, issues: list[Issue]) -> None:
    silent(tmp_path / "elsewhere", "song.wav")
    blob = silent(tmp_path / "blobs", "0123.wav") / "0123"
    (tmp_path / "blobs" / "0123.wav").rename(blob)  # as in the cache of a hub
    folder = tmp_path / "music"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "cached.wav").symlink_to(blob)
    (folder / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    (folder / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    assert [track.name for track in find_tracks(folder, issues.append)] == ["cached.wav", "linked/song.wav"]
    assert [str(issue) for issue in issues] == [
        "broken.wav: It is a link to a file that does not exist. Correct or delete the link."
    ]


def test_what_is_no_text_is_reported_and_no_caption(tmp_path: Path, issues: list[Issue]) -> None:
    silent(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav", "e.wav")
    (tmp_path / "a.txt").write_bytes("one".encode("utf-16-le"))  # without a mark
    half = "file_name,text\na.wav,".encode("utf-16") + b"\x3d\xd8" + "\nb.wav,two\n".encode("utf-16-le")
    (tmp_path / "metadata.csv").write_bytes(half)
    lines = [
        '{"file_name": "c.wav", "text": ["x\\u0000y", {"en": "z"}, null, NaN]}',
        '{"file_name": "d.wav", "text": {}}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    captions = [track.captions for track in find_tracks(tmp_path, issues.append)]
    assert captions == [(), ("two",), ("x y",), (), ()]
    assert [(issue.file, issue.line) for issue in issues] == [("metadata.csv", 2), ("a.txt", 1)]


def test_texts_and_names_match_but_for_spelling(tmp_path: Path, issues: list[Issue]) -> None:
    silent(tmp_path, "Caf\u00e9.wav", "LOUD.WAV", "both.wav", "x.wav", "x.flac")
    names = {"Cafe\u0301.txt": "one", "loud.TXT": "two", "both.txt": "three", "x.txt": "4"}
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "metadata.csv").write_text("\n\nfile_name,text,bpm,bpm\n\n x.wav ,five,1,2\n")
    captions = {track.name: track.captions for track in find_tracks(tmp_path, issues.append)}
    expected = {"Caf\u00e9.wav": "one", "LOUD.WAV": "two", "both.wav": "three", "x.wav": "five", "x.flac": "4"}
    assert captions == {name: (text,) for name, text in expected.items()}
    assert [issue.what for issue in issues] == ["Several columns are named 'bpm': the last of them is read."]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names in Unicode")
def test_a_name_that_is_not_unicode_is_reported(tmp_path: Path, issues: list[Issue]) -> None:
    silent(tmp_path, "a.wav")
    (tmp_path / "a.wav").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    silent(tmp_path, "b.wav")
    assert [track.name for track in find_tracks(tmp_path, issues.append)] == ["b.wav"]
    assert [str(issue) for issue in issues] == ["'caf\\udce9.wav', file: The name of the file is not UTF-8. Rename it."]
    silent(tmp_path / "folder", "c.wav")
    (tmp_path / "folder").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    issues.clear()
    assert [track.name for track in find_tracks(tmp_path, issues.append)] == ["b.wav"]
    assert {issue.file for issue in issues} == {"'caf\\udce9.wav'", "'caf\\udce9/c.wav'"}


def test_music_is_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    with pytest.raises(MissingFile, match=r"Folder '.*a\.wav' does not exist\. Name a folder of audio files"):
        find_tracks(file)
    file.write_bytes(b"")
    with pytest.raises(MissingFile, match=r"'.*a\.wav' is a file\. Name a folder of audio files"):
        find_tracks(file)
