"""Audio that is missing or broken is found by trying it, and `check` names every issue of a manifest or a store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from codecdiff_datasets import audio_check
from codecdiff_datasets.audio_check import AudioChecker, check_file, find_audio
from codecdiff_datasets.validate import validate
from small import RATE, tone
from typer.testing import CliRunner

from codecdiff import Codec
from codecdiff.cli.main import app
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.encoding.job import EncodeConfig
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import Issue, find_tracks
from codecdiff.data.segments import SegmentConfig


def encoded(file: Path, seconds: float = 4.0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, tone(seconds, 220), RATE)
    return file


def halved(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_file_cut_short_is_found_at_its_end(tmp_path: Path, ending: str) -> None:
    file = encoded(tmp_path / f"a.{ending}", 30.0)
    whole = check_file(file)
    assert not whole.problem
    assert whole.seconds == pytest.approx(30, abs=0.1)
    assert check_file(file, "full").seconds == pytest.approx(whole.seconds)
    halved(file)
    assert check_file(file).problem
    assert check_file(file, "full").problem


def test_what_is_no_audio_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.mp3").write_text("404 not found" * 100)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    samples = tone(40.0, 220)
    samples[len(samples) // 2] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    assert "0 bytes" in check_file(tmp_path / "empty.mp3").problem
    assert "cannot be read" in check_file(tmp_path / "text.mp3").problem
    assert "no samples" in check_file(tmp_path / "none.wav").problem
    assert "NaN" in check_file(tmp_path / "nan.wav", "full").problem
    assert not check_file(tmp_path / "nan.wav").problem  # in the middle: only decoding all finds it


def test_ogg_without_its_last_page_can_be_used_and_is_reported(tmp_path: Path) -> None:
    file = encoded(tmp_path / "a.ogg")
    file.write_bytes(file.read_bytes()[: file.read_bytes().rindex(b"OggS")])
    rows, issues = [ManifestRow("a", "a.ogg")], list[Issue]()
    (row,) = find_audio(rows, tmp_path, issues.append)
    assert row.present
    Manifest(tmp_path, [row]).write(tmp_path / "manifest.parquet")
    validate(tmp_path / "manifest.parquet", issues.append)
    assert [issue.what for issue in issues] == ["It ends without its last page: it may be cut short."] * 2


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    encoded(tmp_path / "01. Intro.flac")
    recordings = [ManifestRow(name, name) for name in ("01. Intro.mp3", "01. Outro.mp3")]
    found = find_audio(recordings, tmp_path, lambda issue: None)
    assert [(r.file, r.present) for r in found] == [("01. Intro.flac", True), ("01. Outro.mp3", False)]


def test_audio_is_looked_up_by_name_and_what_is_wrong_is_reported(tmp_path: Path) -> None:
    encoded(tmp_path / "01" / "1.mp3")
    encoded(tmp_path / "02" / "2.low.mp3", 30.0)
    encoded(tmp_path / "03" / "3.flac", 0.5)
    (tmp_path / "04").mkdir()
    (tmp_path / "04" / "4.mp3").touch()
    recordings = [ManifestRow(str(i), f"0{i}/{i}.mp3", seconds=200.0 if i == 2 else 4.0) for i in range(1, 6)]
    recordings += [ManifestRow("6", "../6.mp3"), ManifestRow("7")]
    issues: list[Issue] = []
    found = find_audio(recordings, tmp_path, issues.append)
    assert [r.present for r in found] == [True, True, False, False, False, False, False]
    assert found[1].file == "02/2.low.mp3"
    assert found[1].seconds == pytest.approx(30, abs=0.2)  # a clip of a longer track
    assert [(issue.track, issue.field) for issue in issues] == [
        ("3", "seconds"),
        ("4", "file"),
        ("5", "file"),
        ("6", "file"),
    ]
    assert [f.what for f in issues if f.track == "5"] == [audio_check.MISSING]
    assert len(found) == len(recordings)


def test_trying_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(tmp_path / f"{i}.wav", 0.1) for i in range(20)]
    notes, tried = tmp_path / "notes.jsonl", []
    real = audio_check.check_file

    def until_killed(file: Path, depth: audio_check.Depth) -> audio_check.AudioCheck:
        tried.append(file)
        if len(tried) == 10:
            raise KeyboardInterrupt
        return real(file, depth)

    monkeypatch.setattr(audio_check, "check_file", until_killed)
    with pytest.raises(KeyboardInterrupt):
        AudioChecker(log=notes).check_all(files)
    kept = len(notes.read_text().splitlines())
    assert 0 < kept < 20
    with notes.open("a") as stream:
        stream.write('{"key": "half')
    encoded(files[0], 0.2)  # has changed meanwhile
    tried.clear()
    tried.extend([files[0]] * 10)
    answers = AudioChecker(log=notes).check_all(files)
    assert len(tried) - 10 == 20 - kept + 1
    assert [round(answer.seconds, 2) for answer in answers] == [0.2, *[0.1] * 19]
    assert not notes.exists()


def test_audio_that_was_moved_is_named(tmp_path: Path) -> None:
    encoded(tmp_path / "audio" / "a.wav")
    Manifest(tmp_path / "audio", [ManifestRow("a", "a.wav", True, 4.0)]).write(tmp_path / "m.parquet")
    (tmp_path / "audio").rename(tmp_path / "moved")
    words = ["data", "check", str(tmp_path / "m.parquet")]
    assert "1 issue in 1 tracks" in CliRunner().invoke(app, words).output
    result = CliRunner().invoke(app, [*words, "--audio", str(tmp_path / "moved")])
    assert (result.exit_code, "0 issues in 1 tracks" in result.output) == (0, True)


def checked(path: Path) -> tuple[int, dict[tuple[str, str], str]]:
    issues: list[Issue] = []
    count = validate(path, issues.append)
    assert all(issue.hint for issue in issues)
    return count, {(issue.track, issue.field): issue.what for issue in issues}


def test_every_fault_of_a_manifest_is_named(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b", "cut", "longer", "mended")):
        encoded(tmp_path / "audio" / f"{name}.wav", 2.0 + i / 100)
    halved(tmp_path / "audio" / "cut.wav")
    good = ManifestRow("good", "a.wav", True, 2.0, artist="A", split="train")
    recordings = [
        good,
        replace(good, track="twice", file="b.wav"),
        replace(good, track="twice", file="b.wav", split="test"),
        ManifestRow("cut", "cut.wav", True, 2.0),
        ManifestRow("gone", "gone.wav", True, 2.0),
        ManifestRow("never", "never.wav"),
        ManifestRow("longer", "longer.wav", True, 1.0),
        ManifestRow("mended", "mended.wav", False, 2.0),
        ManifestRow("day", "", False, 36_000.0),
        ManifestRow("out", "../x.wav", True, 1.0),
        ManifestRow("odd", split="dev", captions=[" "], seconds=0.0),
    ]
    Manifest(tmp_path / "audio", recordings).write(tmp_path / "m.parquet")
    count, issues = checked(tmp_path / "m.parquet")
    assert count == 11
    assert set(issues) == {
        ("twice", "track"),
        ("", "split"),
        ("", "file"),
        ("cut", "file"),
        ("gone", "file"),
        ("never", "file"),
        ("longer", "seconds"),
        ("mended", "present"),
        ("day", "seconds"),
        ("out", "file"),
        ("odd", "split"),
        ("odd", "captions"),
        ("odd", "seconds"),
    }
    assert "10.0 hours" in issues["day", "seconds"]
    assert "'A' are in test and train" in issues["", "split"]


def test_a_manifest_without_faults_has_none_and_one_without_audio_fails(tmp_path: Path) -> None:
    encoded(tmp_path / "a.wav", 2.0)
    Manifest(tmp_path, [ManifestRow("a", "a.wav", True, 2.0)]).write(tmp_path / "m.parquet")
    Manifest(tmp_path, [ManifestRow("a", "", False, 10.0)]).write(tmp_path / "captions.parquet")
    Manifest(tmp_path, [ManifestRow("a", "x.wav", False, 10.0)]).write(tmp_path / "elsewhere.parquet")
    assert checked(tmp_path / "m.parquet") == (1, {})
    expected = {("", "present"): "No track has its audio."}
    assert checked(tmp_path / "captions.parquet") == (1, expected)
    assert checked(tmp_path / "elsewhere.parquet") == (1, {("a", "file"): "The file is missing."})


def test_files_of_the_same_content_are_reported(tmp_path: Path) -> None:
    encoded(tmp_path / "a.wav", 2.0)
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "c.wav")
    other = bytearray((tmp_path / "a.wav").read_bytes())
    other[-1] ^= 1  # of the same length
    (tmp_path / "d.wav").write_bytes(other)
    rows = [ManifestRow(name, f"{name}.wav", True, 2.0) for name in "abcd"]
    Manifest(tmp_path, rows).write(tmp_path / "m.parquet")
    expected = {("b", "file"): "It has the content of 'a.wav', byte by byte."}
    expected["c", "file"] = expected["b", "file"]
    assert checked(tmp_path / "m.parquet") == (4, expected)
    issues: list[Issue] = []
    found = find_audio(rows, tmp_path, issues.append)
    assert [row.present for row in found] == [True] * 4
    assert {(issue.track, issue.field): issue.what for issue in issues} == expected


def test_a_store_of_segments_is_no_fault(dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path: Path) -> None:
    rules = EncodeConfig(segments=SegmentConfig.parse(segment=0.5))
    cut, _ = encode_tracks(find_tracks(music), tmp_path / "store", dac, codec_spec, rules)
    assert len(cut) > len({row["track"] for row in cut.rows})
    assert checked(cut.folder) == (len(cut), {})


def test_every_fault_of_a_store_is_named(store: CodeStore, tmp_path: Path) -> None:
    assert checked(store.folder) == (6, {})
    folder = tmp_path / "store"
    shutil.copytree(store.folder, folder)
    shard = folder / "shards" / "00000.npy"
    np.save(shard, np.load(shard)[:-5])
    assert set(checked(folder)[1]) == {("5.wav", "frames")}
    np.save(shard, np.load(shard).astype(np.int32))
    assert len(checked(folder)[1]) == 6
    shard.unlink()
    missing = checked(folder)[1]
    assert len(missing) == 6
    assert all("00000.npy" in what for what in missing.values())
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, "format": 99}))
    assert "is damaged: it is not what was written" in checked(folder)[1]["", ""]
    del header["files"], header["sha256"]
    (folder / "header.json").write_text(json.dumps({**header, "format": 99}))
    assert "format 99" in checked(folder)[1]["", ""]
    with pytest.raises(FileNotFoundError, match="not a store of codes"):
        checked(tmp_path)


def test_audio_is_tried_without_notes_where_none_can_be_taken(tmp_path: Path) -> None:
    file = encoded(tmp_path / "a.wav")
    assert not AudioChecker(log=tmp_path / "none" / "notes.jsonl").check_all([file])[0].problem


def test_two_calls_may_share_their_notes(tmp_path: Path) -> None:
    file, notes = encoded(tmp_path / "a.wav"), tmp_path / "notes.jsonl"
    answers = AudioChecker(log=notes, progress=lambda count: notes.unlink()).check_all([file])  # the other ended first
    assert not answers[0].problem
