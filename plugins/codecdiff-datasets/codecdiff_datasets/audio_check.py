"""Whether the audio of a data set exists and is whole. Files are looked for by name and tried, several at once.

A check of the ends opens a file and decodes its first and last samples: it finds text named `.mp3`, empty files and
truncated downloads in milliseconds. A full one decodes everything, and finds damage in the middle and NaN samples too.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from codecdiff.data.audio import SUFFIXES, BadAudio, open_streams
from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Issue, Report, unsafe_path
from codecdiff.files import sha256
from codecdiff_datasets.append_log import AppendLog
from codecdiff_datasets.join import without_suffix

Depth = Literal["none", "ends", "full"]  # how much of a file is decoded
BLOCK = 2**16  # audio samples
CLIP_SECONDS = 29.0  # the shortest clip that data sets publish of a longer track: FMA's last 29.98 s
TOLERANCE = 0.9  # of the expected seconds, below which a file is too short
MISSING = "The file is missing."
TRUNCATED = "It is cut short: it ends before its last sample."
FETCH = "Fetch it again, or leave it: it is not encoded."


@dataclass(frozen=True)
class AudioCheck:
    """The result of trying a file: its seconds, what is wrong with it, and what may be although it can be used."""

    seconds: float = 0.0
    problem: str = ""
    doubt: str = ""

    def issue(self, row: ManifestRow) -> Issue | None:
        """Return what is wrong with the file of a track: with the file itself, or that it is shorter than published.

        One that is as long as a clip of the track is right.
        """
        if self.problem:
            return Issue(row.file, self.problem, FETCH, track=row.track, field="file")
        if self.seconds >= TOLERANCE * min(row.seconds or 0.0, CLIP_SECONDS):
            return None
        what = f"It lasts {self.seconds:.1f} s; the track is published with {row.seconds:.1f} s."
        return Issue(row.file, what, FETCH, track=row.track, field="seconds")

    def report_doubt(self, row: ManifestRow, report: Report) -> None:
        """Report what may be wrong with the file of a track, which can be used."""
        if self.doubt:
            what, _, hint = self.doubt.partition(". ")
            report(Issue(row.file, f"{what}.", hint, track=row.track, field="file"))


@dataclass(frozen=True)
class AudioChecker:
    """How files are tried.

    depth: how much of a file is decoded.
    log: a file that keeps the results of a run that is interrupted, so that the next does not try those files again.
    progress: called with the number of files done.
    """

    depth: Depth = "ends"
    log: Path | None = None
    progress: Callable[[int], None] = lambda count: None

    def check_all(self, files: Sequence[Path]) -> list[AudioCheck]:
        """Try files from as many threads as there are cores."""
        results: list[AudioCheck] = []
        with ExitStack() as stack:
            log = None
            with suppress(OSError):  # its folder cannot be written, or another run has it open
                log = stack.enter_context(AppendLog(self.log)) if self.log else None
            pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
            logged = {row.pop("key"): AudioCheck(**row) for row in (log.rows() if log else ())}

            def check(file: Path) -> AudioCheck:
                key = self._key(file)
                if key in logged:
                    return logged[key]
                result = check_file(file, self.depth)
                if log and key:
                    log.add({"key": key, **asdict(result)})
                return result

            try:
                for result in pool.map(check, files):
                    results.append(result)
                    self.progress(len(results))
            except BaseException:  # Ctrl-C too: files that wait are not tried
                pool.shutdown(cancel_futures=True)
                raise
        if self.log and log:
            self.log.unlink(missing_ok=True)
        return results

    def _key(self, file: Path) -> str:
        """Return a name of a state of a file, "" if it does not exist."""
        try:
            state = file.stat()
        except OSError:
            return ""
        return f"{self.depth} {state.st_size} {state.st_mtime_ns} {file.as_posix()}"


def check_file(file: Path, depth: Depth = "ends") -> AudioCheck:
    """Try an audio file, as it is read when it is encoded. Nothing is raised: what is wrong is in the result."""
    if not file.is_file():
        return AudioCheck(problem=MISSING)
    seconds, problem, doubts = 0.0, "", list[str]()
    try:
        for sound in open_streams(file, doubts.append):
            wrong, frames = _decode(sound, depth)
            seconds, problem = seconds + frames / sound.samplerate, problem or wrong
    except BadAudio as error:
        sentence = str(error).removeprefix(f"'{file}' ").partition(". ")[0].rstrip(".")
        return AudioCheck(seconds, f"It {sentence}.")
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError):
        return AudioCheck(seconds, "It is damaged.")
    return AudioCheck(seconds, problem or ("" if seconds else "It holds no samples."), " ".join(doubts))


def _decode(sound: soundfile.SoundFile, depth: Depth) -> tuple[str, int]:
    """Decode the ends or all of a stream. Return what is wrong with it, and its length in samples."""
    has_length = sound.seekable()  # a streamed FLAC has none: only decoding tells
    if depth == "none" and has_length:
        return "", sound.frames
    frames, finite = 0, True
    while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
        frames += len(block)
        finite = finite and bool(np.isfinite(block).all())
        if depth == "ends" and has_length and sound.frames > frames + BLOCK:
            try:
                frames = sound.seek(sound.frames - BLOCK)
            except soundfile.LibsndfileError:  # GSM 6.10 cannot be sought in
                has_length = False
    if has_length and sound.format == "FLAC" and frames < sound.frames:
        return TRUNCATED, frames
    return "" if finite else "It holds NaN or infinite samples.", frames


def find_audio(
    rows: Sequence[ManifestRow], audio: Path, report: Report, checker: AudioChecker | None = None
) -> list[ManifestRow]:
    """Return the rows with what their files are: `present` and their seconds if they can be used.

    A file is found under its name, or under its name with another suffix, as `82/382.low.mp3` or `.flac`. One that is
    missing, broken or shorter than published is reported, and its row kept as not present. So are two tracks with files
    of the same content, which both stay.
    """
    names = _audio_names(audio)

    def located(row: ManifestRow) -> ManifestRow:
        is_there = not unsafe_path(row.file) and (audio / row.file).is_file()
        return row if is_there else replace(row, file=names.get(without_suffix(row.file), row.file))

    rows = [located(row) if row.file else row for row in rows]
    files = [audio / row.file for row in rows if row.file and not unsafe_path(row.file)]
    results = dict(zip(files, (checker or AudioChecker()).check_all(files), strict=True))
    rows = [_with_result(row, results.get(audio / row.file), report) for row in rows]
    report_duplicates(rows, audio, report)
    return rows


def duplicates(files: Iterable[Path]) -> dict[Path, Path]:
    """Map files to the first with the same content, byte by byte. Only those of the same length are read."""
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for file in dict.fromkeys(files):
        with suppress(OSError):
            by_size[file.stat().st_size].append(file)
    same: dict[Path, Path] = {}
    for group in (group for size, group in by_size.items() if size and len(group) > 1):
        first: dict[str, Path] = {}
        for file in group:
            with suppress(OSError):
                if (original := first.setdefault(sha256(file), file)) != file:
                    same[file] = original
    return same


def report_duplicates(rows: Sequence[ManifestRow], audio: Path, report: Report) -> None:
    """Report the tracks whose file has the content of an earlier track's file. Their rows are left as they are."""
    tracks = {audio / row.file: row for row in rows if row.present}
    for file, original in duplicates(tracks).items():
        what = f"It has the content of '{tracks[original].file}', byte by byte."
        report(Issue(tracks[file].file, what, "Keep one of them.", track=tracks[file].track, field="file"))


def _audio_names(folder: Path) -> dict[str, str]:
    """Map the audio files of a folder, by their path within it without any suffix, to that path."""
    names: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES:
                path = Path(parent, name).relative_to(folder).as_posix()
                names.setdefault(without_suffix(path), path)
    return names


def _with_result(row: ManifestRow, result: AudioCheck | None, report: Report) -> ManifestRow:
    if result is None:
        if row.file:
            hint = "Write it relative to the audio folder."
            report(Issue(row.file, unsafe_path(row.file), hint, track=row.track, field="file"))
        return replace(row, present=False)
    if issue := result.issue(row):
        report(issue)
        return replace(row, present=False)
    result.report_doubt(row, report)
    return replace(row, present=True, seconds=result.seconds)
