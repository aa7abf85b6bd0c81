"""The audio of a prompt: what the field `audio` may hold.

a path, as text or a `Path`             the whole file
{file, start, seconds, checksum}        a part of a file, in seconds; all but the file are optional
(samples, sample_rate)                  a tensor (ch, t) in [-1, 1], and Hz
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from codecdiff.data.audio import read_audio
from codecdiff.errors import InvalidValue
from codecdiff.files import cached_checksum, missing_file, sha256

KEYS = ("file", "start", "seconds", "checksum")
FORMS = "a path, a mapping of file, start and seconds, or a pair (samples (ch, t), sample_rate)"


def load_audio_prompt(value: Any, sample_rate: int) -> Tensor:
    """Load the audio of a prompt: (t,) mono float32 at `sample_rate` Hz.

    Raises ValueError for a value of another form, FileNotFoundError and BadAudio for files that cannot be read.
    """
    if isinstance(value, tuple | list):
        samples, rate = _parse_samples(value)
        mono = samples.mean(0).float().cpu().numpy()
        resampled = soxr.resample(mono, rate, sample_rate) if rate != sample_rate else mono
        return torch.from_numpy(np.ascontiguousarray(resampled if len(resampled) else mono[:1])).clamp(-1, 1)
    part = _parse_part(value)
    start, seconds = float(part.get("start") or 0), part.get("seconds")
    return read_audio(part["file"], sample_rate, 1, start=start, seconds=None if seconds is None else float(seconds))[0]


def audio_prompt_key(value: Any) -> dict[str, Any]:
    """Describe the audio of a prompt by its content, wherever it is stored. Raises as `load_audio_prompt` does."""
    if isinstance(value, tuple | list):
        samples, rate = _parse_samples(value)
        content = samples.detach().cpu().float().contiguous().numpy().tobytes()
        return {"samples": hashlib.sha256(content).hexdigest(), "channels": len(samples), "rate": rate}
    part = _parse_part(value)
    return {"checksum": part.get("checksum") or cached_checksum(part["file"]), **_times(part)}


def audio_prompt_record(value: Any) -> dict[str, Any]:
    """Return what a generated file records of the audio of its prompt: hashes and times, and no paths."""
    if isinstance(value, tuple | list):
        return audio_prompt_key(value)
    part = _parse_part(value)
    return {"sha256": sha256(part["file"]), **_times(part)}


def _times(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part[name] for name in ("start", "seconds") if name in part}


def _parse_part(value: Any) -> dict[str, Any]:
    """Parse a file or a part of one. Raises ValueError, and FileNotFoundError if the file does not exist."""
    if isinstance(value, Mapping) and "file" not in value and {"sha256", "samples"} & value.keys():
        raise InvalidValue(
            "The audio of this prompt is known by its hash alone. Generate again with the file: codecdiff generate "
            f"--field audio=FILE, with the seed and the other options. ({dict(value)})"
        )
    part = {"file": value} if isinstance(value, str | Path) else value
    if not isinstance(part, Mapping) or "file" not in part or part.keys() - set(KEYS):
        raise InvalidValue(f"audio={value!r}: the field 'audio' of a prompt is {FORMS}.")
    if not Path(part["file"]).is_file():
        raise missing_file(part["file"], "The prompt's audio file")
    return dict(part)


def _parse_samples(value: Any) -> tuple[Tensor, int]:
    samples, rate = value if len(value) == 2 else (None, None)
    if not isinstance(samples, Tensor) or samples.ndim != 2 or not samples.numel() or not isinstance(rate, int):
        raise InvalidValue(f"The field 'audio' of a prompt is {FORMS}.")
    return samples, rate
