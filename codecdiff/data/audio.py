"""Reading and writing audio files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.files import atomic_write

__all__ = [
    "SUFFIXES",
    "BadAudio",
    "is_truncated",
    "keeps_comment",
    "read_audio",
    "read_comment",
    "seconds_of",
    "stream_audio",
    "write_audio",
]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus")
BLOCK = 2**16  # audio samples read or written at once


class BadAudio(InvalidValue):
    """An audio file that cannot be used; the message names the file and the reason."""


def seconds_of(file: Path | str) -> float:
    """Return the duration that an audio file states, in seconds, 0 if it cannot be read."""
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

    Raises BadAudio as `read_audio` does; for a truncated file perhaps only after its last block.
    """
    resampler, first = None, np.zeros((0, channels), np.float32)
    for rate, block in _stored_blocks(Path(file)):
        if not np.isfinite(block).all():
            raise BadAudio(f"'{file}' holds NaN or infinite samples. Export it again, or leave it out.")
        samples = block if block.shape[1] == channels else block.mean(1, keepdims=True).repeat(channels, 1)
        if rate != sample_rate:
            if resampler is None:
                resampler, first = soxr.ResampleStream(rate, sample_rate, channels), samples[:1]
            samples = resampler.resample_chunk(samples)
        if len(samples):
            first = first[:0]
            yield _as_audio(samples)
    if resampler is not None:
        samples = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)
        yield _as_audio(samples if len(samples) else first)  # resampling one or two samples may yield none


def _as_audio(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples.T)).clamp(-1, 1)


def _stored_blocks(file: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the sample rate (Hz) and a block (t, ch) of a file, until its end. Raises BadAudio unless it is whole."""
    count = 0
    try:
        with soundfile.SoundFile(file) as stream:
            promised, truncated = stream.frames, is_truncated(file)
            # a streamed FLAC has no length
            while not truncated and len(block := stream.read(BLOCK, dtype="float32", always_2d=True)):
                count += len(block)
                yield stream.samplerate, block
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise BadAudio(f"'{file}' cannot be read as audio: {str(error).rstrip('.')}.") from error
    if truncated or (0 < promised < 2**62 and count < promised):
        raise BadAudio(f"'{file}' is cut short: it ends before its last sample. Fetch it again.")
    if not count:
        raise BadAudio(f"'{file}' holds no samples.")


def is_truncated(file: Path) -> bool:
    """Return whether a WAV or AIFF is shorter than its header says, or an Ogg lacks its end; libsndfile reads both."""
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
    """Return whether a file of this format keeps such a comment, by trying it in memory: a WAV has room for 2 kB."""
    suffix, stream = Path(file).suffix.lower().lstrip("."), io.BytesIO()
    try:
        with soundfile.SoundFile(stream, "w", 44_100, 1, format=suffix.upper()) as sound:
            sound.comment = comment
            sound.write(np.zeros(1024, np.float32))
        stream.seek(0)
        with soundfile.SoundFile(stream) as sound:
            return sound.comment == comment
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return False


def write_audio(file: Path | str, audio: Tensor, sample_rate: int, *, comment: str = "") -> None:
    """Write (ch, t) audio as a file of the format its suffix names, whole or not at all; with a comment, if any."""
    file = Path(file)
    if file.suffix.lower().lstrip(".").upper() not in soundfile.available_formats():
        raise InvalidValue(f"'{file}' names no audio format that can be written. Use .wav or .flac.")
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
