"""A window of a recording, read without the rest: of an hour of music, half a minute."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from codecdiff.data.audio import BadAudio


def read_window(file: Path | str, sample_rate: int, seconds: float, start: float | None = None) -> np.ndarray:
    """Read (t,) mono float32 samples: `seconds` from `start`, or from the middle of the file if `start` is None.

    A file that is shorter is read whole. Resampled to `sample_rate` Hz. Raises BadAudio for a file that is not audio,
    ends before `start`, is empty there or holds NaN samples.
    """
    try:
        with soundfile.SoundFile(file) as stream:
            rate, length = stream.samplerate, stream.frames
            first, count = _place(length, rate, seconds, start)
            if count <= 0:
                raise BadAudio(
                    f"'{file}' is {length / rate:.1f} s long: nothing is left from second {start or 0:g} on."
                )
            stream.seek(first)
            samples = stream.read(count, dtype="float32", always_2d=True).mean(1)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise BadAudio(f"'{file}' cannot be read as audio: {str(error).rstrip('.')}.") from error
    if not len(samples) or not np.isfinite(samples).all():
        raise BadAudio(f"'{file}' holds no samples in this window, or ones that are no numbers. Fetch it again.")
    return samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate).astype(np.float32)


def _place(length: int, rate: int, seconds: float, start: float | None) -> tuple[int, int]:
    """Give the first sample of a window, and how many it has, of a file of `length` samples."""
    count = min(length, round(seconds * rate))
    if start is None:
        return (length - count) // 2, count
    first = round(start * rate)
    return first, min(count, length - first)
