"""However often encoding is killed, and wherever it is done, every segment is in the store once, the same codes."""

from __future__ import annotations

import errno
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty_workers
import numpy as np
import pytest
import soundfile
import soxr
import torch
from small import RATE, noise, tone, write_music
from typer.testing import CliRunner

from codecdiff import Codec
from codecdiff.cli.main import app
from codecdiff.codecs import CodecWrapper
from codecdiff.config import to_config
from codecdiff.data import segments as segmenting
from codecdiff.data.audio import read_audio, stream_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import split_tracks
from codecdiff.data.encoding import local, worker
from codecdiff.data.encoding.encode import encode_tracks, publish_store
from codecdiff.data.encoding.job import (
    EncodeConfig,
    EncodingIncomplete,
    EncodingProgress,
    Job,
    ReportTracks,
    Task,
    TaskResult,
    begin_job,
    draft_of,
)
from codecdiff.data.encoding.worker import TrackReader, prefetch, run_in_process, run_task
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import Track, find_tracks
from codecdiff.data.segments import SegmentConfig, read_segments, split_blocks

SHORT = 1.2 / 60  # minutes in a shard: one track of the music each, or two
CUT = EncodeConfig(segments=SegmentConfig(segment=0.5), shard_minutes=SHORT)


@pytest.fixture(scope="module")
def spec(dac: Codec) -> dict[str, Any]:
    """What the command finds that its codec is."""
    return to_config("codecs", dac)


@pytest.fixture(scope="module")
def whole(dac: Codec, spec: dict[str, Any], music: Path, tmp_path_factory: pytest.TempPathFactory) -> CodeStore:
    """A store of segments whose making nothing interrupted."""
    folder = tmp_path_factory.mktemp("segments") / "store"
    return encode_tracks(find_tracks(music), folder, dac, spec, CUT)[0]


def same(store: CodeStore, other: CodeStore) -> bool:
    """Report whether two stores hold the same: nothing lost, nothing twice, the same codes in the same files.

    Their headers also record which command made them.
    """
    files = [sorted((file.name, file.read_bytes()) for file in s.folder.glob("shards/*")) for s in (store, other)]
    return (
        store.rows == other.rows
        and {**store.header, "request": ""} == {**other.header, "request": ""}
        and files[0] == files[1]
    )


# segments


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize(("length", "step"), [(10, 10), (10, 4), (3, 3), (200, 150)])
@pytest.mark.parametrize("total", [1, 9, 10, 11, 14, 15, 64])
def test_pieces_are_where_they_say_and_cover_everything_once(block: int, length: int, step: int, total: int) -> None:
    audio = noise(2, total)
    pieces = list(split_blocks(audio.split(block, 1), length, step))
    assert [number for number, _, _ in pieces] == list(range(len(pieces)))
    for number, start, piece in pieces:
        assert start == number * step
        assert torch.equal(piece, audio[:, start : start + length])
    assert max(start + piece.shape[1] for _, start, piece in pieces) == total
    assert all(start + length < total for _, start, _ in pieces[:-1])  # none lies in the one before it


def test_a_stream_is_resampled_as_the_whole_is(tmp_path: Path) -> None:
    both = np.stack([tone(5.0, 440, 44100), tone(5.0, 330, 44100)], 1)
    soundfile.write(tmp_path / "a.wav", both, 44100, subtype="FLOAT")
    blocks = list(stream_audio(tmp_path / "a.wav", RATE, 1))
    assert len(blocks) > 3
    wanted = soxr.resample(both.mean(1), 44100, RATE)
    assert np.array_equal(torch.cat(blocks, 1)[0], wanted)


def level(audio: torch.Tensor) -> float:
    return 20 * float(audio.double().square().mean().sqrt().log10())


def test_silent_and_short_pieces_are_dropped_and_counted(tmp_path: Path, dac: Codec) -> None:
    loud = np.sin(np.arange(2 * RATE) / 5)  # -3 dBFS
    quiet = 0.001 * loud[:RATE]  # -63 dBFS
    soundfile.write(tmp_path / "a.wav", np.concatenate([loud, quiet, loud[: RATE // 4]]), RATE, subtype="FLOAT")
    dropped: Counter[str] = Counter()
    rules = SegmentConfig(segment=1.0, min_seconds=0.5, silence=-60)
    kept = list(read_segments(tmp_path / "a.wav", dac, rules, dropped))
    assert [(piece.index, piece.offset) for piece in kept] == [(0, 0.0), (1, 1.0)]
    assert dropped == {"silent": 1, "short": 1}
    assert level(kept[0].audio) == pytest.approx(-3.01, abs=0.01)
    soundfile.write(tmp_path / "b.wav", quiet, RATE, subtype="FLOAT")
    store, skipped = encode_tracks(find_tracks(tmp_path), tmp_path / "store", dac, {}, EncodeConfig(segments=rules))
    assert [(row["track"], row["segment"]) for row in store.rows] == [("a.wav", 0), ("a.wav", 1)]
    assert store.header["dropped"] == {"silent": 2, "short": 1}
    assert "b.wav' has no segment that is long and loud enough" in skipped[0]


@pytest.mark.parametrize("of", ["track", "segment"])
def test_loudness_is_of_the_track_or_of_each_segment_and_never_clips(tmp_path: Path, dac: Codec, of: Any) -> None:
    sine = np.sin(np.arange(RATE) / 5)
    soundfile.write(tmp_path / "a.wav", np.concatenate([0.1 * sine, 0.01 * sine]), RATE, subtype="FLOAT")
    rules = SegmentConfig(segment=1.0, loudness=-20, loudness_of=of)
    pieces = [piece.audio for piece in read_segments(tmp_path / "a.wav", dac, rules, Counter())]
    if of == "segment":
        assert [level(piece) for piece in pieces] == pytest.approx([-20, -20], abs=0.01)
    else:
        assert level(torch.cat(pieces, 1)) == pytest.approx(-20, abs=0.01)
        assert level(pieces[0]) - level(pieces[1]) == pytest.approx(20, abs=0.01)
    loudest = SegmentConfig(loudness=0, loudness_of=of)
    (piece,) = (piece.audio for piece in read_segments(tmp_path / "a.wav", dac, loudest, Counter()))
    assert float(piece.abs().max()) == pytest.approx(1, abs=1e-6)


def test_rules_that_cannot_be_are_told_in_a_sentence(dac: Codec) -> None:
    with pytest.raises(ValueError, match=r"Invalid segments: .*an overlap of 2 s needs segments that are longer\."):
        SegmentConfig.parse(segment=2, overlap=2)
    with pytest.raises(ValueError, match=r"Invalid segments: silence = .*: expected at most 0\."):
        SegmentConfig.parse(silence=3)
    with pytest.raises(ValueError, match="advance by less than a latent frame"):
        SegmentConfig(segment=1, overlap=0.999).samples(dac)


def test_a_store_of_segments_holds_the_codes_of_each(whole: CodeStore, music: Path, dac: Codec) -> None:
    assert Counter(row["track"] for row in whole.rows) == {f"{i}.wav": -(-(10 + i) // 5) for i in range(6)}
    for i, row in enumerate(whole.rows):
        start = round(row["offset"] * RATE)
        assert start == row["segment"] * RATE // 2
        piece = read_audio(music / row["track"], RATE, 1)[:, start : start + RATE // 2]
        assert row["seconds"] == piece.shape[1] / RATE
        assert np.array_equal(whole.codes(i), dac.encode(piece[None])[0].T)
    assert whole.header["segmentation"]["segment"] == 0.5
    assert (whole.header["tracks"], whole.header["segments"]) == (6, len(whole))
    assert whole.summary()["tracks"] == 6


def test_overlapping_segments_begin_every_step(music: Path, dac: Codec, tmp_path: Path) -> None:
    rules = SegmentConfig(segment=0.5, overlap=0.1)
    store, _ = encode_tracks(find_tracks(music)[:1], tmp_path / "store", dac, {}, EncodeConfig(segments=rules))
    assert [row["offset"] for row in store.rows] == pytest.approx([0, 0.4, 0.8])
    assert store.rows[-1]["seconds"] == pytest.approx(0.2)


def test_a_long_recording_is_encoded_in_segments_alone(
    tmp_path: Path, dac: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenting, "MAX_SECONDS", 2.0)
    soundfile.write(tmp_path / "long.wav", tone(3.0, 300), RATE)
    soundfile.write(tmp_path / "short.wav", tone(1.0, 300), RATE)
    store, skipped = encode_tracks(find_tracks(tmp_path), tmp_path / "store", dac, {})
    assert [row["track"] for row in store.rows] == ["short.wav"]
    assert "long.wav" in skipped[0]
    assert "--segment SECONDS" in skipped[0]
    store, skipped = encode_tracks(
        find_tracks(tmp_path), tmp_path / "cut", dac, {}, EncodeConfig(segments=SegmentConfig(segment=1))
    )
    assert not skipped
    assert len(store) == 4


@pytest.mark.slow
def test_ten_hours_take_no_more_memory_than_one(tmp_path: Path, dac_folder: Path) -> None:
    peaks = []
    for hours in (1, 10):
        with soundfile.SoundFile(tmp_path / f"{hours}.flac", "w", RATE, 1) as stream:
            stream.write(tone(60.0, 300))
            for _ in range(hours * 60 - 1):
                stream.write(np.zeros(60 * RATE, np.float32))
        arguments = ["encode", f"{hours}.flac", "-o", f"s{hours}", "--codec", "dac", "--set", f"model={dac_folder}"]
        code = (
            "import resource, sys; from codecdiff.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, *arguments, "--segment", "30", "--silence", "-60"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
        peaks.append(int(told.split()[-1]) / 1024)  # MiB
    store = CodeStore(tmp_path / "s10")
    assert (len(store), store.header["dropped"]) == (2, {"silent": 1198})
    assert peaks[1] - peaks[0] < 60  # an hour is 115 MB as samples, ten are 1150


# interruption


def stopping(after: int) -> Callable[..., Iterator[TaskResult]]:
    """Give an engine that fails once so many tasks are done, in the middle of the next."""

    def engine(tasks: Sequence[Task], job: Job, codec: Codec, tell: ReportTracks) -> Iterator[TaskResult]:
        for task in tasks[:after]:
            yield run_task(task, job, codec, tell)

        def fail(number: int, count: int) -> None:
            raise KeyboardInterrupt

        run_task(tasks[after], job, codec, fail)

    return engine


def test_what_was_interrupted_goes_on(
    whole: CodeStore, dac: Codec, spec: dict[str, Any], music: Path, tmp_path: Path
) -> None:
    tracks, folder, done = find_tracks(music), tmp_path / "store", []
    for after in (0, 2, 1):
        with pytest.raises(KeyboardInterrupt):
            encode_tracks(tracks, folder, dac, spec, CUT, engine=stopping(after))
        assert not folder.exists()
    assert [file.name for file in sorted(draft_of(folder).glob("tasks/[0-9]*"))] == [
        f"0000{i}.parquet" for i in range(3)
    ]

    def counting(tasks: Sequence[Task], *rest: Any) -> Iterator[TaskResult]:
        done.extend(task.index for task in tasks)
        return run_in_process(tasks, *rest)

    store, _ = encode_tracks(tracks, folder, dac, spec, CUT, engine=counting)
    assert done == [3, 4, 5]
    assert same(store, whole)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_a_draft_that_another_began_is_never_deleted(
    begun: tuple[Job, list[Task]], dac: Codec, spec: dict[str, Any], music: Path, tmp_path: Path
) -> None:
    for folder, stays in ((tmp_path / "store", True), (tmp_path / "own", False)):
        with pytest.raises(KeyboardInterrupt):
            encode_tracks(find_tracks(music), folder, dac, spec, CUT, engine=stopping(0))
        assert draft_of(folder).exists() == stays


@pytest.fixture
def begun(dac: Codec, spec: dict[str, Any], music: Path, tmp_path: Path) -> tuple[Job, list[Task]]:
    return begin_job(find_tracks(music), tmp_path / "store", dac, spec, CUT)


def test_a_task_that_is_done_by_two_is_in_the_store_once(
    begun: tuple[Job, list[Task]], whole: CodeStore, dac: Codec, tmp_path: Path
) -> None:
    job, tasks = begun
    late = job.rows_file(1)
    run_task(tasks[1], job, dac)
    late.rename(late.with_suffix(".hidden"))  # a machine that was believed dead
    for task in [*tasks, tasks[0]]:
        run_task(task, job, dac)
    late.with_suffix(".hidden").replace(late)  # and commits after the one that replaced it
    assert len(list(job.draft.glob("shards/00001.*"))) == 2
    publish_store(job, len(tasks), tmp_path / "store")
    assert same(CodeStore(tmp_path / "store"), whole)


def test_publishing_may_be_interrupted(
    begun: tuple[Job, list[Task]], whole: CodeStore, dac: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, tasks = begun
    for task in tasks:
        run_task(task, job, dac)

    def stop(*_: object) -> None:  # not by a signal, which a shell in the background has its children ignore
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("codecdiff.data.encoding.encode.write_sealed", stop)
        with pytest.raises(KeyboardInterrupt):
            publish_store(job, len(tasks), tmp_path / "store")
    publish_store(job, len(tasks), tmp_path / "store")
    assert same(CodeStore(tmp_path / "store"), whole)


def test_a_draft_of_something_else_is_refused(
    begun: tuple[Job, list[Task]], dac: Codec, spec: dict[str, Any], music: Path, tmp_path: Path
) -> None:
    tracks, folder = find_tracks(music), tmp_path / "store"
    with pytest.raises(ValueError, match=r"begun with other segments\. Run the command it was begun with"):
        encode_tracks(tracks, folder, dac, spec, EncodeConfig(shard_minutes=SHORT))
    with pytest.raises(ValueError, match="begun with other tracks and codec"):
        encode_tracks(tracks[1:], folder, dac, {}, CUT)
    with pytest.raises(ValueError, match="begun with other tracks"):
        encode_tracks([replace(tracks[0], captions=("other",)), *tracks[1:]], folder, dac, spec, CUT)
    other = CodecWrapper(dac)
    other.register_buffer("more", torch.ones(3))
    with pytest.raises(ValueError, match="begun by a codec whose weights are"):
        encode_tracks(tracks, folder, other, spec, CUT)


def test_progress_counts_hours_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("codecdiff.data.encoding.job.time.monotonic", lambda: clock[0])
    track = Track(Path("a.wav"), "a")
    progress = EncodingProgress([Task(i, (track, track), 3600.0) for i in range(10)], {0, 1})
    clock[0] += 36
    for number, count in ((2, 1), (3, 1), (2, 2), (3, 1), (3, 0), (3, 2)):  # a worker died and began again
        progress.update(number, count)
    progress.skipped = 3
    assert str(progress) == "4.00 of 10.00 h, 200 x real time, 108 s left, 3 skipped"
    assert progress.tracks == 4


def test_hours_on_paper() -> None:
    hours_to_encode = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks/encoding.py"))["hours_to_encode"]
    assert hours_to_encode(12_000, 100, 8) == 15
    assert hours_to_encode(12_000, 1000, 8, read_speed=500, cores=16) == 1.5
    assert hours_to_encode(12_000, 1000, 64, read_speed=500, cores=16) == 1.5


def test_reading_ahead_changes_neither_order_nor_errors() -> None:
    def numbers(first: int) -> Iterator[int]:
        yield from range(first, first + 3)
        if first == 30:
            raise ValueError("thirty")
        yield first + 3

    for threads in (0, 1, 4):
        found: list[Any] = []
        for iterator in prefetch([numbers(first) for first in range(0, 60, 10)], threads):
            try:
                found.append(list(iterator))
            except ValueError as error:
                found.append(str(error))
        assert found == ["thirty" if n == 30 else [n, n + 1, n + 2, n + 3] for n in range(0, 60, 10)]


def test_batches_hold_segments_of_one_length(dac: Codec, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(2.7, 300), RATE)
    source = TrackReader(find_tracks(tmp_path)[0])
    batches = list(source.batches(dac, CUT.segments, 4))
    assert [[piece.audio.shape[1] for piece in batch] for batch in batches] == [[4000] * 4, [4000], [1600]]
    assert len(source.checksum) == 16


def test_batches_and_reading_ahead_as_for_a_gpu_make_the_same_store(
    whole: CodeStore, dac: Codec, spec: dict[str, Any], music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "batch_settings", lambda codec: (3, 2))
    assert same(encode_tracks(find_tracks(music), tmp_path / "store", dac, spec, CUT)[0], whole)


# processes


Encode = Callable[..., tuple[CodeStore, list[str]]]


@pytest.fixture
def encode(dac: Codec, spec: dict[str, Any], music: Path, tmp_path: Path) -> Encode:
    """Give a function that encodes the music in two processes, or as it is told."""

    def run(**options: Any) -> tuple[CodeStore, list[str]]:
        options = {"engine": local.local_engine("cpu", 2), **options}
        return encode_tracks(find_tracks(music), tmp_path / "store", dac, spec, CUT, **options)

    return run


@pytest.mark.integration
def test_processes_make_the_same_store_though_two_are_killed(
    encode: Encode, whole: CodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_work", faulty_workers.killed_once)
    store, _ = encode()
    assert sorted(file.name for file in tmp_path.glob("killed-*")) == ["killed-0", "killed-3"]
    assert same(store, whole)


@pytest.mark.integration
def test_a_task_that_kills_its_workers_is_given_up_and_the_others_are_done(
    encode: Encode, whole: CodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(local, "_work", faulty_workers.killed_always)
        with pytest.raises(
            EncodingIncomplete, match=r"(?s)Task 2 failed: .*died 3 times \(exit -9.*2\.wav'.*same command"
        ):
            encode()
    assert len(list(draft_of(tmp_path / "store").glob("tasks/[0-9]*"))) == 5
    assert same(encode(engine=run_in_process)[0], whole)


@pytest.mark.integration
def test_what_stops_a_worker_is_told(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_work", faulty_workers.disk_full)
    with pytest.raises(EncodingIncomplete, match=r"No space left on device.*resumes from there"):
        encode()


def test_small_jobs_start_no_process(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "Worker", None)
    assert encode(engine=local.local_engine("cpu"))[0].header["shards"] == 6


# the command


def command(audio: Path, store: Path, dac_folder: Path, *more: str) -> list[str]:
    codec = ["--codec", "dac", "--set", f"model={dac_folder}"]
    return ["encode", str(audio), "-o", str(store), *codec, "--segment", "0.5", "--shard-minutes", str(SHORT), *more]


KILLED_AT_THE_THIRD_RESULT = """
import os, signal, sys
from codecdiff.data.encoding import worker
write_result = worker.write_result
def killed(job, result, rows):
    if result.index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write_result(job, result, rows)
worker.write_result = killed
from codecdiff.cli.main import app
app(sys.argv[1:])
"""


@pytest.mark.integration
def test_a_killed_command_loses_and_doubles_nothing(
    music: Path, whole: CodeStore, dac_folder: Path, tmp_path: Path
) -> None:
    arguments = command(music, tmp_path / "store", dac_folder)
    process = subprocess.run([sys.executable, "-c", KILLED_AT_THE_THIRD_RESULT, *arguments], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "store").exists()
    assert len(list(draft_of(tmp_path / "store").glob("tasks/[0-9]*"))) == 2
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert same(CodeStore(tmp_path / "store"), whole)


def listed(folder: Path) -> Path:
    """Write a manifest of one good recording and every bad one."""
    audio = folder / "audio"
    audio.mkdir()
    soundfile.write(audio / "good.wav", tone(1.0, 300), RATE)
    soundfile.write(audio / "nan.wav", np.array([0.1, np.nan]), RATE, subtype="FLOAT")
    soundfile.write(audio / "cut.flac", tone(4.0, 440), RATE)
    (audio / "cut.flac").write_bytes((audio / "cut.flac").read_bytes()[:9000])
    (audio / "zero.mp3").write_bytes(b"")
    soundfile.write(folder / "outside.wav", tone(1.0, 300), RATE)
    names = ["good.wav", "nan.wav", "cut.flac", "zero.mp3", "gone.wav", "../outside.wav"]
    recordings = [ManifestRow(name, name, present=True, split="test", license="CC0") for name in names]
    never = [ManifestRow("never", "never.wav"), ManifestRow("nameless")]
    Manifest(audio, [*recordings, *never]).write(folder / "all.parquet")
    return folder / "all.parquet"


def test_what_is_wrong_in_a_manifest_is_named_and_the_rest_goes_on(tmp_path: Path, dac_folder: Path) -> None:
    result = CliRunner().invoke(app, command(listed(tmp_path), tmp_path / "store", dac_folder))
    assert result.exit_code == 0, result.output
    said = {
        "nan.wav": "holds NaN",
        "cut.flac": "cut short|cannot be read",
        "zero.mp3": "cannot be read",
        "gone.wav": "cannot be read",
        "../outside.wav": "leads out of its folder",
        "never": "there was no 'never.wav' when the manifest was made",
        "nameless": "has no file",
    }
    lines = [line for line in result.output.splitlines() if line.startswith("Skipped: ")]
    assert len(lines) == len(said)
    for name, reason in said.items():
        assert any(name in line and re.search(reason, line) for line in lines), (name, lines)
    assert "1 of 8 files, 2 segments" in result.output
    store = CodeStore(tmp_path / "store")
    assert {(row["track"], row["split"], row["license"]) for row in store.rows} == {("good.wav", "test", "CC0")}


def test_encode_says_what_it_cannot_do(tmp_path: Path, dac_folder: Path, music: Path) -> None:
    def said(*more: str, audio: Path = music) -> str:
        result = CliRunner().invoke(app, command(audio, tmp_path / "store", dac_folder, *more))
        assert result.exit_code == 1
        return result.output

    assert "No engine named 'spark'. Installed: local, ray." in said("--engine", "spark")
    assert "Invalid segments" in said("--overlap", "3")
    assert "names no audio that exists" in said(audio=_empty(tmp_path))


def _empty(folder: Path) -> Path:
    Manifest(folder, [ManifestRow("a", "a.wav")]).write(folder / "empty.parquet")
    return folder / "empty.parquet"


def test_splits_that_a_data_set_names_are_kept(music: Path, dac: Codec, tmp_path: Path) -> None:
    splits = ["train", "test", "", "validation", "train", "train"]
    tracks = [replace(t, metadata={"split": s}) for t, s in zip(find_tracks(music), splits, strict=True)]
    twin = replace(tracks[1], name="twin", metadata={"split": "train"})  # of what is held out
    store, _ = encode_tracks([*tracks, twin], tmp_path / "store", dac, {}, CUT)
    for fraction in (0, 0.5):
        training, held = split_tracks(store, fraction)
        assert {store.rows[i]["track"] for i in held} == {"1.wav", "3.wav", "twin"}
        assert sorted(training + held) == list(range(len(store)))


def test_segments_of_a_track_are_on_one_side(whole: CodeStore) -> None:
    for seed in range(5):
        training, held = split_tracks(whole, 0.3, seed)
        assert held
        assert not {whole.rows[i]["track"] for i in training} & {whole.rows[i]["track"] for i in held}


# for real, which takes its time


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_music(tmp_path_factory.mktemp("album"), 24, 60.0)


LONG = EncodeConfig(segments=SegmentConfig(segment=5, overlap=1), shard_minutes=2)


@pytest.fixture(scope="module")
def expected(album: Path, dac: Codec, spec: Any, tmp_path_factory: pytest.TempPathFactory) -> CodeStore:
    folder = tmp_path_factory.mktemp("expected") / "store"
    return encode_tracks(find_tracks(album), folder, dac, spec, LONG)[0]


@pytest.mark.slow
def test_the_real_command_goes_on_after_it_is_killed(
    album: Path, expected: CodeStore, dac_folder: Path, tmp_path: Path
) -> None:
    codec = ["--codec", "dac", "--set", f"model={dac_folder}", "--segment", "5", "--overlap", "1"]
    code = "from codecdiff.cli.main import main; main()"
    more = [*codec, "--shard-minutes", "2", "--workers", "2"]
    arguments = [sys.executable, "-c", code, "encode", str(album), "-o", str(tmp_path / "store"), *more]
    for wanted in (2, 5):
        process = subprocess.Popen(arguments)
        while len(list(draft_of(tmp_path / "store").glob("tasks/[0-9]*"))) < wanted and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(arguments, check=True)
    assert same(CodeStore(tmp_path / "store"), expected)


@pytest.mark.parametrize("fails", [1, 2])
def test_a_disk_that_is_full_as_a_shard_begins_is_a_sentence(
    dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    real, opened = Path.open, list[Path]()

    def open_until_full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "w+b":
            opened.append(path)
            if len(opened) >= fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_until_full)
    with pytest.raises(OSError, match="No space left on device"):
        encode_tracks(find_tracks(music), tmp_path / "store", dac, codec_spec, EncodeConfig(target="continuous"))
    monkeypatch.undo()
    store, skipped = encode_tracks(
        find_tracks(music), tmp_path / "store", dac, codec_spec, EncodeConfig(target="continuous")
    )
    assert (len(store), skipped) == (6, [])
