"""Reading audio files.

Files are read by libsndfile, stream by stream (`audio_format`). What stands in them is decided here: how channels are
mixed, which rates and numbers of channels are music, and what is said about samples that were clipped or cancel out.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from codecdiff.data.audio_bytes import ChangedFile, View
from codecdiff.data.audio_format import MAX_HEADER, OtherFormat, layout_of, wave_comment
from codecdiff.data.audio_writer import BLOCK, keeps_comment, write_audio
from codecdiff.errors import InvalidValue
from codecdiff.files import require_file

__all__ = [
    "SUFFIXES",
    "BadAudio",
    "how_to_convert",
    "keeps_comment",
    "open_streams",
    "read_audio",
    "read_comment",
    "seconds_of",
    "stream_audio",
    "write_audio",
]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus")
RATES = (8_000, 768_000)  # Hz, least and most
MAX_CHANNELS = 64
MAX_SECONDS = 3600.0  # that are in memory at once
FOREVER = 1e9  # seconds
UNRECOGNIZED = 1  # libsndfile's code of a format that it does not know
CLIPPED = 0.001  # fraction of samples over full scale that is worth saying
CANCELED = 0.1  # of the power of two channels; less than that left in their mean is worth saying

# Speakers of so many channels, by name: left, right, center, low frequencies, back, side
SPEAKERS = {3: "L R C", 4: "L R BL BR", 5: "L R C BL BR", 6: "L R C LF BL BR", 7: "L R C LF BC SL SR"}
SPEAKERS |= {8: "L R C LF BL BR SL SR"}
OGG_SPEAKERS = {3: "L C R", 4: "L R BL BR", 5: "L C R BL BR", 6: "L C R BL BR LF", 7: "L C R SL SR BC LF"}
OGG_SPEAKERS |= {8: "L C R SL SR BL BR LF"}
DOWNMIX = {"L": (1, 0), "R": (0, 1), "C": (0.5**0.5, 0.5**0.5), "LF": (0, 0), "BC": (0.5, 0.5)}  # ITU-R BS.775, Annex 4
DOWNMIX |= {"BL": (0.5**0.5, 0), "SL": (0.5**0.5, 0), "BR": (0, 0.5**0.5), "SR": (0, 0.5**0.5)}


class BadAudio(InvalidValue):
    """An audio file that cannot be used; the message names the file and the reason."""


def seconds_of(file: Path | str) -> float:
    """Return how long an audio file is by its headers, in seconds; 0 if they do not say, or it cannot be read."""
    try:
        lengths = [sound.frames / sound.samplerate if sound.seekable() else FOREVER for sound in open_streams(file)]
    except BadAudio:
        return 0.0
    return total if (total := sum(lengths)) < FOREVER else 0.0


def read_audio(
    file: Path | str, sample_rate: int, channels: int, *, start: float = 0.0, seconds: float | None = None
) -> Tensor:
    """Read an audio file, or a part of it, as (ch, t) float32 in [-1, 1]: what `stream_audio` yields.

    Raises BadAudio for a file that is not audio, is cut short, holds NaN samples, has no samples there, or more than
    MAX_SECONDS of them.
    """
    limit = MAX_SECONDS + 1 if seconds is None else min(seconds, MAX_SECONDS + 1)
    blocks = list(stream_audio(file, sample_rate, channels, start=start, seconds=limit))
    if not blocks:
        raise BadAudio(f"'{file}' has no audio {start:g} s from its beginning. Start earlier.")
    audio = torch.cat(blocks, dim=1)
    if audio.shape[1] > MAX_SECONDS * sample_rate:
        raise BadAudio(f"'{file}' is longer than {MAX_SECONDS / 3600:g} h. Cut it, or name a part of it.")
    return audio


def stream_audio(
    file: Path | str,
    sample_rate: int,
    channels: int,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    report: Callable[[str], None] = lambda issue: None,
) -> Iterator[Tensor]:
    """Yield a file's audio in blocks (ch, t) of float32 in [-1, 1], one after another: memory does not grow with it.

    Two channels are mixed to one by their mean, one is repeated, and more are mixed by the weights of ITU-R BS.775.

    Args:
        file: The file.
        sample_rate: In Hz, that audio is resampled to.
        channels: That audio is mixed to.
        start: Seconds to leave out.
        seconds: At most so many are read; None reads to the end.
        report: Called with what is wrong with a file that can be used, at its end.

    Raises:
        BadAudio: As `read_audio` does; for NaN samples, and for a file that another program writes meanwhile, perhaps
            only after some blocks.

    """
    resampler, first, rate_before = None, np.zeros((0, channels), np.float32), 0
    for rate, stored, speakers in _unchanged(Path(file), _stored_blocks(Path(file), channels, start, seconds, report)):
        samples = _mix(stored, channels, speakers)
        if resampler is not None and rate != rate_before:  # another of the files that were joined
            yield from _last(resampler, channels, first)
            resampler = None
        if rate != sample_rate:
            if resampler is None:
                resampler, first, rate_before = soxr.ResampleStream(rate, sample_rate, channels), samples[:1], rate
            samples = resampler.resample_chunk(samples)
        if len(samples):
            first = first[:0]
            yield _as_audio(samples)
    if resampler is not None:
        yield from _last(resampler, channels, first)


def _last(resampler: soxr.ResampleStream, channels: int, first: np.ndarray) -> Iterator[Tensor]:
    """Yield what a resampler holds back; the first sample if it has returned none, as of one or two samples."""
    samples = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)
    if len(samples) or len(first):
        yield _as_audio(samples if len(samples) else first)


def _as_audio(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples.T)).clamp(-1, 1)


def _mix(samples: np.ndarray, channels: int, speakers: str) -> np.ndarray:
    """Mix samples (t, ch) to `channels`, by the `speakers` that they are for, if those are known."""
    if samples.shape[1] == channels:
        return samples
    if samples.shape[1] == 2 or channels > 2 or not speakers:
        return samples.mean(1, keepdims=True).repeat(channels, 1)
    weights = np.array([DOWNMIX[name] for name in speakers.split()], np.float32)
    mixed = samples @ (weights / weights.sum(0).max())  # by which nothing exceeds full scale
    return mixed if channels == 2 else mixed.mean(1, keepdims=True)


@dataclass
class SampleStats:
    """What is said about the samples of a file that can be used."""

    count: int = 0
    clipped: int = 0
    peak: float = 0.0
    power: float = 0.0  # sum over both channels, of two
    mean_power: float = 0.0  # sum over the mean of both

    def add(self, samples: np.ndarray, is_mixed: bool) -> None:
        """Take samples (t, ch) into account."""
        levels = np.abs(samples)
        self.count, self.peak = self.count + samples.size, max(self.peak, float(levels.max()))
        self.clipped += int((levels > 1).sum())
        if is_mixed:
            self.power += float(np.square(samples, dtype=np.float64).sum() / 2)
            self.mean_power += float(np.square(samples.mean(1), dtype=np.float64).sum())

    def issues(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        if self.peak > 256:
            yield f"Its samples reach {self.peak:.0f}, as integers do; floats are clipped at 1. Divide them by 32,768."
        elif self.clipped > CLIPPED * self.count:
            part = f"{self.clipped / self.count:.1%} of its samples"
            yield f"{part} are over full scale, up to {self.peak:.3g}, and clipped. Lower its gain."
        if self.power > 1e-8 * self.count and self.mean_power < CANCELED * self.power:
            lost = 10 * np.log10(self.power / max(self.mean_power, 1e-12 * self.power))
            yield f"Its two channels are out of phase: mixed to one, {lost:.0f} dB are lost. Invert one of them."


def _unchanged(file: Path, blocks: Iterator[tuple[int, np.ndarray, str]]) -> Iterator[tuple[int, np.ndarray, str]]:
    """Yield the blocks of a file. Raises BadAudio if it is not at their end what it was before them."""
    before = _state(file)
    try:
        yield from blocks
    except BadAudio as error:
        if _state(file) != before:
            raise _changed(file) from error
        raise
    if _state(file) != before:
        raise _changed(file)


def _state(file: Path) -> tuple[int, int] | None:
    """Return what differs once a file was written, None if it cannot be looked at."""
    try:
        return (status := file.stat()).st_size, status.st_mtime_ns
    except OSError:
        return None


def _changed(file: Path) -> BadAudio:
    return BadAudio(f"'{file}' changed while it was read. Wait until it is written, then run the command again.")


def _stored_blocks(
    file: Path, channels: int, start: float, seconds: float | None, report: Callable[[str], None]
) -> Iterator[tuple[int, np.ndarray, str]]:
    """Yield the sample rate (Hz), samples (t, ch) and speakers of a file, block by block, as `stream_audio` does."""
    stats, is_empty = SampleStats(), True
    skip, left = start, FOREVER if seconds is None else seconds  # seconds
    for sound in open_streams(file, report):
        rate = sound.samplerate
        speakers = (OGG_SPEAKERS if sound.format == "OGG" else SPEAKERS).get(sound.channels, "")
        first = round(skip * rate)
        stop = first + round(left * rate)
        position = sound.seek(min(first, sound.frames)) if first and sound.seekable() else 0
        sound.seekable = lambda: False  # soundfile would seek after each block
        while position < stop and len(block := _read_block(file, sound, position)):
            position, block = position + len(block), block[max(0, first - position) : stop - position]
            if not np.isfinite(block).all():
                raise BadAudio(f"'{file}' holds NaN or infinite samples. Export it again, or leave it out.")
            if len(block):
                stats.add(block, is_mixed=sound.channels == 2 and channels == 1)
                yield rate, block, speakers
        is_empty = is_empty and not position
        skip, left = max(0.0, skip - position / rate), left - max(0, position - first) / rate
        if left <= 0:
            break
    if is_empty:
        raise BadAudio(f"'{file}' holds no samples. Export it again, or leave it out.")
    for issue in stats.issues():
        report(issue)


def open_streams(file: Path | str, report: Callable[[str], None] = lambda issue: None) -> Iterator[soundfile.SoundFile]:
    """Open a file, and the files that were joined to make it, one after another; each is closed before the next.

    One that cannot be sought in has no known length. `report` is called at the end with what may be wrong with it.
    Raises BadAudio for a file that cannot be used.
    """
    file = Path(file)
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("it is not a file, but a folder or a device")
        layout = layout_of(file)
        if layout.damage:
            raise BadAudio(f"'{file}' is {layout.damage}. Fetch it again.")
        with file.open("rb") as raw:
            for stream in layout.streams:
                view: Any = View(raw, stream)  # a file that only reads
                with soundfile.SoundFile(view) as sound:
                    _check_bounds(file, sound)
                    if not stream.has_length:
                        sound.seekable = lambda: False  # libsndfile would look for the end, in vain
                    yield sound
                if view.is_short:
                    raise ChangedFile
        if layout.issue:
            report(layout.issue)
    except BadAudio:
        raise
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception, hint: str = "Fetch it again, or leave it out.") -> BadAudio:
    """Return the error for a file that is not audio that can be read; `hint` says what to do unless the error does."""
    if isinstance(error, ChangedFile):
        return _changed(file)
    reason, convert = str(error), how_to_convert(file)
    if isinstance(error, OtherFormat) and error.is_audio:
        hint = f"{convert}, or leave it out."
    elif isinstance(error, FileNotFoundError):
        reason, hint = "it does not exist", "Check its name."
    elif isinstance(error, OSError):
        reason = error.strerror or reason
    elif isinstance(error, soundfile.LibsndfileError):
        is_unclear = error.code == UNRECOGNIZED or "possibly a pipe" in error.error_string
        contents = f"its contents are in none of the formats {', '.join(SUFFIXES)}"
        reason = contents if is_unclear else error.error_string.removeprefix("Error : ")
        hint = hint if is_unclear else f"{convert}, fetch it again, or leave it out."
    return BadAudio(f"'{file}' cannot be read as audio: {reason.rstrip('.')}. {hint}")


def how_to_convert(file: Path) -> str:
    """Return the sentence, without its period, on how to make a file of audio that can be read of another."""
    converted = file.with_suffix(".wav" if file.suffix.lower() == ".flac" else ".flac")
    names = [f"./{each.name}" if each.name.startswith("-") else each.name for each in (file, converted)]
    return " ".join(["Convert it with ffmpeg -i", *("'" + name.replace("'", "'\\''") + "'" for name in names)])


def _check_bounds(file: Path, sound: soundfile.SoundFile) -> None:
    """Raise BadAudio for a sample rate or number of channels that is damage rather than music."""
    least, most = RATES
    if not least <= sound.samplerate <= most:
        raise BadAudio(f"'{file}' has a sample rate of {sound.samplerate:,} Hz: expected {least:,} to {most:,} Hz.")
    if not 1 <= sound.channels <= MAX_CHANNELS:
        raise BadAudio(f"'{file}' has {sound.channels} channels: expected 1 to {MAX_CHANNELS}.")


def _read_block(file: Path, sound: soundfile.SoundFile, position: int) -> np.ndarray:
    """Read samples (t, ch) from a position on, none at the end."""
    try:
        return sound.read(min(BLOCK, max(0, sound.frames - position)), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise _unreadable(file, error) from error


def read_comment(file: Path | str) -> str:
    """Read the comment of an audio file, empty if it has none. Raises BadAudio, MissingFile or UnusableFile."""
    require_file(file)
    try:
        layout_of(Path(file))
        with Path(file).open("rb") as raw, soundfile.SoundFile(file) as sound:
            return wave_comment(raw.read(MAX_HEADER)) or sound.comment
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise _unreadable(Path(file), error, "Name an audio file.") from error
