"""Audio files and the captions beside them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from codecdiff.files import atomic_write

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus")
BLOCK = 2**16  # audio samples read or written at once
CAPTION_FIELDS = ("text", "caption", "captions")


class BadAudio(ValueError):
    """An audio file that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Track:
    """One audio file, its captions (any number) and whatever else its metadata says."""

    file: Path
    name: str  # path within the folder it came from
    captions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None  # duration, where it is known without opening the file


def find_tracks(folder: Path | str) -> list[Track]:
    """Find the audio files of a folder, in order of name, with their captions.

    Captions come from `metadata.jsonl` or `metadata.csv` (columns file_name and text, the audio-folder
    convention of Hugging Face datasets) or from a `.txt` file beside the audio, one caption per line.
    A file may have none. Raises FileNotFoundError if there is no audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'. data.audio names a folder of audio files.")
    return tracks_in(folder, _metadata(folder))


def tracks_in(folder: Path, table: Mapping[str, dict[str, Any]]) -> list[Track]:
    """Find the audio files of a folder as `find_tracks`, with a table of what is known of them by path within it."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise FileNotFoundError(f"'{folder}' holds no audio. Files that are read: {', '.join(SUFFIXES)}.")
    return [track_of(file, file.relative_to(folder).as_posix(), table) for file in files]


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.rglob("metadata.jsonl")):
        rows += [_located(row, file.parent, folder) for row in _json_lines(file)]
    for file in sorted(folder.rglob("metadata.csv")):
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows += [_located(dict(row), file.parent, folder) for row in csv.DictReader(stream)]
    return {row["file_name"]: row for row in rows if row.get("file_name")}


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError as error:
            raise ValueError(f"{file} line {number} is not valid JSON: {error}.") from error
        yield row if isinstance(row, dict) else {}


def _located(row: dict[str, Any], parent: Path, folder: Path) -> dict[str, Any]:
    name = row.get("file_name")
    return {**row, "file_name": Path(os.path.relpath(parent / str(name), folder)).as_posix()} if name else row


def track_of(file: Path, name: str, table: Mapping[str, dict[str, Any]]) -> Track:
    """Give the track of one file with what the table, or a `.txt` beside it, says of it."""
    row = dict(table.get(name, {}))
    row.pop("file_name", None)
    found: list[str] = []
    for key in CAPTION_FIELDS:
        value = row.pop(key, None)
        found += [str(item) for item in (value if isinstance(value, list) else [value]) if item]
    beside = file.with_suffix(".txt")
    if not found and beside.is_file():
        found = beside.read_text(encoding="utf-8", errors="replace").splitlines()
    captions = tuple(dict.fromkeys(text.strip() for text in found if text.strip()))
    return Track(file, name, captions, row)


def without_ending(path: str) -> str:
    """Give a path without the ending of its audio, `.mp3` or `.low.mp3` alike; any other dot is part of its name."""
    stem, dot, ending = path.rpartition(".")
    return stem.removesuffix(".low") if dot + ending.lower() in SUFFIXES else path


def seconds_of(file: Path | str) -> float:
    """Give how long an audio file says it is, 0 if it cannot be read."""
    try:
        return soundfile.info(str(file)).duration
    except (soundfile.LibsndfileError, OSError):
        return 0.0


def read_audio(file: Path | str, sample_rate: int, channels: int) -> Tensor:
    """Read an audio file as (ch, t) float32 in [-1, 1], resampled, mixed down or repeated to `channels`.

    Raises BadAudio for a file that is not audio, is cut short, is empty or holds NaN samples.
    """
    return torch.cat(list(stream_audio(file, sample_rate, channels)), dim=1)


def stream_audio(file: Path | str, sample_rate: int, channels: int) -> Iterator[Tensor]:
    """Yield what `read_audio` reads in blocks (ch, t), one after another: memory does not grow with the file.

    Raises BadAudio as `read_audio` does, for a file that is cut short perhaps only after its last block.
    """
    resampler, few = None, np.zeros((0, channels), np.float32)
    for rate, block in _stored_blocks(Path(file)):
        if not np.isfinite(block).all():
            raise BadAudio(f"'{file}' holds NaN or infinite samples. Export it again, or leave it out.")
        samples = block if block.shape[1] == channels else block.mean(1, keepdims=True).repeat(channels, 1)
        if rate != sample_rate:
            if resampler is None:
                resampler, few = soxr.ResampleStream(rate, sample_rate, channels), samples[:1]
            samples = resampler.resample_chunk(samples)
        if len(samples):
            few = few[:0]
            yield _as_audio(samples)
    if resampler is not None:
        samples = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)
        yield _as_audio(samples if len(samples) else few)  # a sample or two may round to none


def _as_audio(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples.T)).clamp(-1, 1)


def _stored_blocks(file: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the sample rate (Hz) and a block (t, ch) of a file, until its end. Raises BadAudio unless it is whole."""
    count = 0
    try:
        with soundfile.SoundFile(file) as stream:
            promised, cut = stream.frames, is_cut(file)
            # a streamed FLAC has no length
            while not cut and len(block := stream.read(BLOCK, dtype="float32", always_2d=True)):
                count += len(block)
                yield stream.samplerate, block
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise BadAudio(f"'{file}' cannot be read as audio: {str(error).rstrip('.')}.") from error
    if cut or (0 < promised < 2**62 and count < promised):
        raise BadAudio(f"'{file}' is cut short: it ends before its last sample. Fetch it again.")
    if not count:
        raise BadAudio(f"'{file}' holds no samples.")


def is_cut(file: Path) -> bool:
    """Tell whether a WAV or AIFF is shorter than its header says, or an Ogg lacks its end: libsndfile forgives both."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        if head[:4] in (b"RIFF", b"FORM"):
            promised = int.from_bytes(head[4:], "little" if head[:4] == b"RIFF" else "big")
            return promised < 2**32 - 1 and size < promised + 8  # a stream of unknown length says 2**32 - 1
        if head[:4] != b"OggS":
            return False
        stream.seek(max(0, size - 2**17))  # two pages at most
        tail = stream.read()
    page = tail.rfind(b"OggS")
    return not tail[page + 5 : page + 6] or not tail[page + 5] & 4  # end of stream


def read_comment(file: Path | str) -> str:
    """Read the comment of an audio file, empty if it has none. Raises BadAudio for a file that is not audio."""
    try:
        with soundfile.SoundFile(file) as stream:
            return stream.comment
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise BadAudio(f"'{file}' cannot be read as audio: {str(error).rstrip('.')}.") from error


def keeps_comment(file: Path | str, comment: str) -> bool:
    """Tell whether a file of this format keeps such a comment, by trying it in memory: a WAV has room for 2 kB."""
    suffix, stream = Path(file).suffix.lower().lstrip("."), io.BytesIO()
    try:
        with soundfile.SoundFile(stream, "w", 44_100, 1, format=suffix.upper()) as trial:
            trial.comment = comment
            trial.write(np.zeros(1024, np.float32))
        stream.seek(0)
        with soundfile.SoundFile(stream) as trial:
            return trial.comment == comment
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return False


def write_audio(file: Path | str, audio: Tensor, sample_rate: int, *, comment: str = "") -> None:
    """Write (ch, t) audio as a file of the format its suffix names, whole or not at all; with a comment, if any."""
    file = Path(file)
    if file.suffix.lower().lstrip(".").upper() not in soundfile.available_formats():
        raise ValueError(f"'{file}' names no audio format that can be written. Use .wav or .flac.")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        samples = audio.clamp(-1, 1).T.cpu().numpy()
        with (
            atomic_write(file) as temporary,
            soundfile.SoundFile(temporary, "w", sample_rate, samples.shape[1]) as stream,
        ):
            if comment:
                stream.comment = comment
            for start in range(0, len(samples), BLOCK):  # libsndfile overflows its stack on a long Vorbis write
                stream.write(samples[start : start + BLOCK])
    except soundfile.LibsndfileError as error:
        raise OSError(f"'{file}' cannot be written: {error}") from error
