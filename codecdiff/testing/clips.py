"""Synthetic music, for parts that need audio, and codecs that have to be fitted, before they can be checked."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Codec

RATE = 44_100  # Hz, of audio files


def clips(sample_rate: int, channels: int, *, count: int = 24, seconds: float = 2.0, seed: int = 0) -> list[Tensor]:
    """Return clips (ch, t): chords with harmonics that fade, over bursts of noise and silence."""
    generator = torch.Generator().manual_seed(seed)
    return [_clip(sample_rate, channels, round(seconds * sample_rate), generator) for _ in range(count)]


def _clip(rate: int, channels: int, samples: int, generator: torch.Generator) -> Tensor:
    times = torch.arange(samples) / rate
    notes = 55 * 2 ** (torch.randint(0, 60, (3,), generator=generator) / 12)  # Hz, of five octaves from A1
    partials = [(note * n, 1 / n) for note in notes.tolist() for n in range(1, 9) if note * n < rate / 2]
    chord = torch.stack([size * torch.sin(2 * math.pi * hertz * times) for hertz, size in partials]).sum(0)
    beat = 0.2 + 0.3 * float(torch.rand((), generator=generator))  # seconds
    hiss = torch.randn(channels, samples, generator=generator) * torch.exp(-30 * (times % beat))
    swell = torch.exp(-2 * times) * (times < 0.9 * times[-1])
    return (0.1 * chord * swell + 0.1 * hiss * (times < 0.9 * times[-1])).clamp(-1, 1)


def example_audio(folder: Path) -> tuple[Path, Path]:
    """Write two different clips of three seconds, mono."""
    files = folder / "first.wav", folder / "second.wav"
    for file, clip in zip(files, clips(RATE, 1, count=2, seconds=3.0), strict=True):
        soundfile.write(file, np.asarray(clip.T), RATE)
    return files


def fit_to_clips(codec: Codec) -> list[str]:
    """Fit a codec that has to be fitted to tones and noise. Returns notes about it; raises ValueError if that fails."""
    if codec.is_fitted:
        return []
    music = clips(codec.sample_rate, codec.channels)
    try:
        codec.fit(music)
    except Exception as error:  # third-party code may fail in any way
        message = f"{type(error).__name__}: {error}"
        raise InvalidValue(
            f"{type(codec).__name__} cannot be fitted to tones and noise; fit raised {message}"
        ) from error
    if not codec.is_fitted:
        raise InvalidValue(f"{type(codec).__name__}.fit left `is_fitted` False after {len(music)} clips.")
    return [f"fitted to {len(music)} clips of tones and noise"]
