"""The audio of a prompt: what the field `audio` may hold.

a path, as text or a `Path`             the whole file
{file, start, seconds, checksum}        a part of one, in seconds; all but the file may be left out
(samples, sample_rate)                  (ch, t) in [-1, 1], and Hz
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from codecdiff.data.audio import BadAudio, read_audio
from codecdiff.files import cached_checksum, sha256

PARTS = ("file", "start", "seconds", "checksum")
FORMS = "a path, a mapping of file, start and seconds, or a pair (samples (ch, t), sample_rate)"


def excerpt(value: Any, sample_rate: int) -> Tensor:
    """Give the audio of a prompt, (t,) mono in float32 at `sample_rate` Hz.

    Raises ValueError for what is none of the forms, FileNotFoundError and BadAudio for files that cannot be read.
    """
    if isinstance(value, tuple | list):
        samples, rate = _samples(value)
        return _resampled(samples.mean(0).float().cpu().numpy(), rate, sample_rate)
    part = _part(value)
    if "start" in part or "seconds" in part:
        return _read_part(part, sample_rate)
    return read_audio(part["file"], sample_rate, 1)[0]


def excerpt_key(value: Any) -> dict[str, Any]:
    """Describe the audio of a prompt by its content, wherever it lies. Raises as `excerpt` does."""
    if isinstance(value, tuple | list):
        samples, rate = _samples(value)
        content = samples.detach().cpu().float().contiguous().numpy().tobytes()
        return {"samples": hashlib.sha256(content).hexdigest(), "channels": len(samples), "rate": rate}
    part = _part(value)
    known = part.get("checksum") or cached_checksum(part["file"])
    return {"checksum": known, **{name: part[name] for name in ("start", "seconds") if name in part}}


def recorded_excerpt(value: Any) -> dict[str, Any]:
    """Give what a made file may say of the audio it was asked with: hashes and times, no name of this machine."""
    if isinstance(value, tuple | list):
        return excerpt_key(value)
    part = _part(value)
    return {"sha256": sha256(part["file"]), **{name: part[name] for name in ("start", "seconds") if name in part}}


def _part(value: Any) -> dict[str, Any]:
    """Read a file or a part of one. Raises ValueError, or FileNotFoundError if it is not there."""
    if isinstance(value, Mapping) and "file" not in value and {"sha256", "samples"} & value.keys():
        raise ValueError(
            "The audio of this prompt is known by its hash alone. Ask anew with the file: codecdiff generate "
            f"--field audio=FILE, with the seed and the other options. ({dict(value)})"
        )
    part = {"file": value} if isinstance(value, str | Path) else value
    if not isinstance(part, Mapping) or "file" not in part or part.keys() - set(PARTS):
        raise ValueError(f"audio={value!r}: the field 'audio' of a prompt is {FORMS}.")
    if not Path(part["file"]).is_file():
        raise FileNotFoundError(f"There is no file '{part['file']}', which a prompt names as its audio.")
    return dict(part)


def _samples(value: Any) -> tuple[Tensor, int]:
    samples, rate = value if len(value) == 2 else (None, None)
    if not isinstance(samples, Tensor) or samples.ndim != 2 or not samples.numel() or not isinstance(rate, int):
        raise ValueError(f"The field 'audio' of a prompt is {FORMS}.")
    return samples, rate


def _read_part(part: Mapping[str, Any], sample_rate: int) -> Tensor:
    file, start, seconds = part["file"], float(part.get("start") or 0), part.get("seconds")
    try:
        with soundfile.SoundFile(str(file)) as stream:
            rate = stream.samplerate
            stream.seek(min(round(start * rate), stream.frames))
            block = stream.read(-1 if seconds is None else round(seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise BadAudio(f"'{file}' cannot be read as audio: {str(error).rstrip('.')}.") from error
    if not len(block):
        raise BadAudio(f"'{file}' has no audio {start:g} s from its beginning.")
    return _resampled(block.mean(1), rate, sample_rate)


def _resampled(samples: np.ndarray, rate: int, sample_rate: int) -> Tensor:
    """(t,) mono samples at one rate -> (t',) at another, at least one."""
    given = soxr.resample(samples, rate, sample_rate) if rate != sample_rate else samples
    return torch.from_numpy(np.ascontiguousarray(given if len(given) else samples[:1])).clamp(-1, 1)
