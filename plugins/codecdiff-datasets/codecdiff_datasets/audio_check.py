"""Whether the audio of a collection is there and whole. Files are looked for by name and tried, several at once.

A probe of the ends opens a file and decodes its first and last samples: it finds text named `.mp3`, empty files and
downloads cut short in milliseconds. A full one decodes all, and finds damage in the middle and NaN samples too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import soundfile

from codecdiff.data.audio import BLOCK, SUFFIXES, is_cut, without_ending
from codecdiff.data.manifest import Recording
from codecdiff.data.metadata import Fault, Report, unsafe

Depth = Literal["none", "ends", "full"]  # how much of a file is decoded
CLIP_SECONDS = 29.0  # the shortest that anyone publishes of a longer track: FMA's clips last 29.98 s
TOLERANCE = 0.9  # of the seconds expected, below which a file is too short
MISSING = "The file is missing."
FETCH = "Fetch it again, or leave it: it is not encoded."


@dataclass(frozen=True)
class Probe:
    """What trying a file found: its seconds, and what is wrong with it, empty if nothing."""

    seconds: float = 0.0
    wrong: str = ""


def probe(file: Path, depth: Depth = "ends") -> Probe:
    """Try an audio file. Nothing is raised: what is wrong is in the answer."""
    try:
        if not file.stat().st_size:
            return Probe(wrong="The file is empty, 0 bytes.")
        with soundfile.SoundFile(file) as stream:
            wrong, frames = _decoded(stream, depth)
            seconds = frames / stream.samplerate
    except OSError as error:
        return Probe(wrong=f"It cannot be opened: {error.strerror}.")
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return Probe(wrong="It cannot be read as audio.")  # libsndfile says of text that the file does not exist
    if not wrong and depth != "none" and is_cut(file):
        wrong = "It is cut short: it ends before its last sample."
    return Probe(seconds, wrong)


def _decoded(stream: soundfile.SoundFile, depth: Depth) -> tuple[str, int]:
    """Decode the ends or all of a file: what is wrong with it, and its length in samples."""
    promised = stream.frames
    endless = not 0 < promised < 2**62  # a streamed FLAC has no length: only decoding tells
    if depth == "none" and not endless:
        return "", promised
    frames, finite = 0, True
    while len(block := stream.read(BLOCK, dtype="float32", always_2d=True)):
        frames += len(block)
        finite = finite and bool(np.isfinite(block).all())
        if depth == "ends" and not endless:
            last = stream.seek(max(frames, promised - BLOCK))
            frames = last + len(stream.read(BLOCK, dtype="float32"))
            break
    if not frames:
        return "It holds no samples.", 0
    if not endless and frames < promised:
        return "It is cut short: it ends before its last sample.", frames
    return "" if finite else "It holds NaN or infinite samples.", frames


def files_in(folder: Path) -> dict[str, str]:
    """Map the audio files of a folder, by their path within it without any ending, to that path."""
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES:
                path = Path(parent, name).relative_to(folder).as_posix()
                found.setdefault(without_ending(path), path)
    return found


def look_up(
    recordings: Sequence[Recording],
    audio: Path,
    report: Report,
    *,
    depth: Depth = "ends",
    notes: Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Recording]:
    """Give the recordings with what their files are: present and their seconds where one can be used.

    A file is found under its name, or under its name with another ending, as `82/382.low.mp3` or `.flac`. One that is
    missing, broken or shorter than published is reported, and its recording kept as not present. With `notes`, what was
    found is written there as it is, and not tried again by the next call. `progress` is told how many are done.
    """
    found = files_in(audio)

    def located(recording: Recording) -> Recording:
        path = recording.file
        there = not unsafe(path) and (audio / path).is_file()
        return replace(recording, file=path if there else found.get(without_ending(path), path), present=there)

    candidates = [located(recording) if recording.file else recording for recording in recordings]
    files = [audio / c.file for c in candidates if c.file and not unsafe(c.file)]
    answers = dict(zip(files, try_all(files, depth, notes=notes, progress=progress), strict=True))
    return [_found(c, answers.get(audio / c.file), report) for c in candidates]


def _found(recording: Recording, answer: Probe | None, report: Report) -> Recording:
    if answer is None:
        if recording.file:
            what, mend = unsafe(recording.file), "Write it relative to the audio folder."
            report(Fault(recording.file, what, mend, track=recording.track, field="file"))
        return replace(recording, present=False)
    if wrong := answer.wrong or too_short(answer.seconds, recording.seconds):
        field = "seconds" if not answer.wrong else "file"
        report(Fault(recording.file, wrong, FETCH, track=recording.track, field=field))
        return replace(recording, present=False)
    return replace(recording, present=True, seconds=answer.seconds)


def too_short(seconds: float, published: float | None) -> str:
    """Say that a file is shorter than both the published track and a clip of it, empty if it is not."""
    expected = min(published or 0.0, CLIP_SECONDS)
    if seconds >= TOLERANCE * expected:
        return ""
    return f"It lasts {seconds:.1f} s; the track is published with {published:.1f} s."


def try_all(
    files: Sequence[Path],
    depth: Depth = "ends",
    *,
    notes: Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Probe]:
    """Try files from as many threads as there are cores. `notes` and `progress` as in `look_up`."""
    known = dict(_read_notes(notes)) if notes else {}
    answers: list[Probe] = []

    def tried(file: Path) -> tuple[str, Probe]:
        key = _key(file, depth)
        return key, known.get(key) or _probed(file, depth)

    with ThreadPoolExecutor(os.cpu_count()) as pool, _opened(notes) as stream:
        try:
            for key, answer in pool.map(tried, files):
                answers.append(answer)
                if stream and key and key not in known:
                    stream.write(json.dumps({"key": key, **asdict(answer)}) + "\n")
                    stream.flush()
                progress(len(answers))
        except BaseException:  # Ctrl-C too: what waits is not tried
            pool.shutdown(cancel_futures=True)
            raise
    if notes and stream:
        notes.unlink(missing_ok=True)  # another call may have ended before
    return answers


def _opened(notes: Path | None) -> AbstractContextManager[TextIO | None]:
    """Open notes to add to them: none are taken where the folder cannot be written."""
    try:
        return notes.open("a") if notes else nullcontext()
    except OSError:
        return nullcontext()


def _probed(file: Path, depth: Depth) -> Probe:
    return probe(file, depth) if file.is_file() else Probe(wrong=MISSING)


def _key(file: Path, depth: Depth) -> str:
    """Name a state of a file; empty if it is not there."""
    try:
        state = file.stat()
    except OSError:
        return ""
    return f"{depth} {state.st_size} {state.st_mtime_ns} {file.as_posix()}"


def _read_notes(notes: Path) -> Iterator[tuple[str, Probe]]:
    for line in notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []:
        try:
            row: Mapping = json.loads(line)
            yield row["key"], Probe(row["seconds"], row["wrong"])
        except (ValueError, KeyError):  # a line that was being written when the run was killed
            continue
