"""Music of a sort, for a codec that has to be fitted before it can be tried."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clips(sample_rate: int, channels: int, *, count: int = 24, seconds: float = 2.0, seed: int = 0) -> list[Tensor]:
    """Give clips (ch, t): chords with harmonics that fade, over bursts of noise and some silence."""
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
