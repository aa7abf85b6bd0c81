"""Audio that is missing or broken is found by trying it, and `check` names every fault of a manifest or a store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small import RATE, tone

from codecdiff import Codec
from codecdiff.data import probes
from codecdiff.data.audio import find_tracks
from codecdiff.data.checks import check
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.encoding.job import EncodeConfig
from codecdiff.data.faults import Fault
from codecdiff.data.manifests import Manifest, Recording
from codecdiff.data.probes import look_up, probe, try_all
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
    whole = probe(file)
    assert not whole.wrong
    assert whole.seconds == pytest.approx(30, abs=0.1)
    assert probe(file, "full").seconds == pytest.approx(whole.seconds)
    halved(file)
    assert probe(file).wrong
    assert probe(file, "full").wrong


def test_what_is_no_audio_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.mp3").write_text("404 not found" * 100)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    samples = tone(40.0, 220)
    samples[len(samples) // 2] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    assert "0 bytes" in probe(tmp_path / "empty.mp3").wrong
    assert "cannot be read" in probe(tmp_path / "text.mp3").wrong
    assert "no samples" in probe(tmp_path / "none.wav").wrong
    assert "NaN" in probe(tmp_path / "nan.wav", "full").wrong
    assert not probe(tmp_path / "nan.wav").wrong  # in the middle: only decoding all finds it


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    encoded(tmp_path / "01. Intro.flac")
    recordings = [Recording(name, name) for name in ("01. Intro.mp3", "01. Outro.mp3")]
    found = look_up(recordings, tmp_path, lambda fault: None)
    assert [(r.file, r.present) for r in found] == [("01. Intro.flac", True), ("01. Outro.mp3", False)]


def test_audio_is_looked_up_by_name_and_what_is_wrong_is_reported(tmp_path: Path) -> None:
    encoded(tmp_path / "01" / "1.mp3")
    encoded(tmp_path / "02" / "2.low.mp3", 30.0)
    encoded(tmp_path / "03" / "3.flac", 0.5)
    (tmp_path / "04").mkdir()
    (tmp_path / "04" / "4.mp3").touch()
    recordings = [Recording(str(i), f"0{i}/{i}.mp3", seconds=200.0 if i == 2 else 4.0) for i in range(1, 6)]
    recordings += [Recording("6", "../6.mp3"), Recording("7")]
    faults: list[Fault] = []
    found = look_up(recordings, tmp_path, faults.append)
    assert [r.present for r in found] == [True, True, False, False, False, False, False]
    assert found[1].file == "02/2.low.mp3"
    assert found[1].seconds == pytest.approx(30, abs=0.2)  # a clip of a longer track
    assert [(fault.track, fault.field) for fault in faults] == [
        ("3", "seconds"),
        ("4", "file"),
        ("5", "file"),
        ("6", "file"),
    ]
    assert [f.what for f in faults if f.track == "5"] == [probes.MISSING]
    assert len(found) == len(recordings)


def test_trying_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(tmp_path / f"{i}.wav", 0.1) for i in range(20)]
    notes, tried = tmp_path / "notes.jsonl", []
    real = probes.probe

    def until_killed(file: Path, depth: probes.Depth) -> probes.Probe:
        tried.append(file)
        if len(tried) == 10:
            raise KeyboardInterrupt
        return real(file, depth)

    monkeypatch.setattr(probes, "probe", until_killed)
    with pytest.raises(KeyboardInterrupt):
        try_all(files, notes=notes)
    kept = len(notes.read_text().splitlines())
    assert 0 < kept < 20
    with notes.open("a") as stream:
        stream.write('{"key": "half')
    encoded(files[0], 0.2)  # has changed meanwhile
    tried.clear()
    tried.extend([files[0]] * 10)
    answers = try_all(files, notes=notes)
    assert len(tried) - 10 == 20 - kept + 1
    assert [round(answer.seconds, 2) for answer in answers] == [0.2, *[0.1] * 19]
    assert not notes.exists()


def checked(path: Path) -> tuple[int, dict[tuple[str, str], str]]:
    faults: list[Fault] = []
    count = check(path, faults.append)
    assert all(fault.mend for fault in faults)
    return count, {(fault.track, fault.field): fault.what for fault in faults}


def test_every_fault_of_a_manifest_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "cut", "longer", "mended"):
        encoded(tmp_path / "audio" / f"{name}.wav", 2.0)
    halved(tmp_path / "audio" / "cut.wav")
    good = Recording("good", "a.wav", True, 2.0, artist="A", split="train")
    recordings = [
        good,
        replace(good, track="twice", file="b.wav"),
        replace(good, track="twice", file="b.wav", split="test"),
        Recording("cut", "cut.wav", True, 2.0),
        Recording("gone", "gone.wav", True, 2.0),
        Recording("never", "never.wav"),
        Recording("longer", "longer.wav", True, 1.0),
        Recording("mended", "mended.wav", False, 2.0),
        Recording("day", "", False, 36_000.0),
        Recording("out", "../x.wav", True, 1.0),
        Recording("odd", split="dev", captions=[" "], seconds=0.0),
    ]
    Manifest(tmp_path / "audio", recordings).write(tmp_path / "m.parquet")
    count, faults = checked(tmp_path / "m.parquet")
    assert count == 11
    assert set(faults) == {
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
    assert "10.0 hours" in faults["day", "seconds"]
    assert "'A' are in test and train" in faults["", "split"]


def test_a_manifest_without_faults_or_without_audio_has_none(tmp_path: Path) -> None:
    encoded(tmp_path / "a.wav", 2.0)
    Manifest(tmp_path, [Recording("a", "a.wav", True, 2.0)]).write(tmp_path / "m.parquet")
    Manifest(tmp_path, [Recording("a", "x.wav", False, 10.0)]).write(tmp_path / "captions.parquet")
    assert checked(tmp_path / "m.parquet") == (1, {})
    assert checked(tmp_path / "captions.parquet") == (1, {})


def test_a_store_of_segments_is_no_fault(dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path: Path) -> None:
    config = EncodeConfig(segments=SegmentConfig(segment=0.5))
    cut, _ = encode_tracks(find_tracks(music), tmp_path / "store", dac, codec_spec, config)
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
    assert "00000.npy" in checked(folder)[1]["", ""]
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, "format": 99}))
    assert "format 99" in checked(folder)[1]["", ""]
    with pytest.raises(FileNotFoundError, match="not a store of codes"):
        checked(tmp_path)


def test_audio_is_tried_without_notes_where_none_can_be_taken(tmp_path: Path) -> None:
    file = encoded(tmp_path / "a.wav")
    assert not try_all([file], notes=tmp_path / "none" / "notes.jsonl")[0].wrong


def test_two_calls_may_share_their_notes(tmp_path: Path) -> None:
    file, notes = encoded(tmp_path / "a.wav"), tmp_path / "notes.jsonl"
    answers = try_all([file], notes=notes, progress=lambda count: notes.unlink())  # the other ended first
    assert not answers[0].wrong
