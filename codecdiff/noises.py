"""Noise that is coloured over time, as the latents of music are.

What lasts for seconds holds most of the variance of latents. White noise has next to none there, so it shows through
all but the last few steps of a schedule, and is learned in these alone. Under noise whose power falls with frequency,
slow and quick are lost nearly together, and every step of the schedule teaches both.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = 1e-3  # cycles per frame below which coloured noise has no more power; 86 frames/s make it 0.09 Hz


def _gains(frames: int, color: float) -> Tensor:
    """Give the amplitude (l // 2 + 1,) of every frequency of noise whose power is (frequency + LOWEST) ** -color."""
    power = (torch.fft.rfftfreq(frames, dtype=torch.float64) + LOWEST) ** -color
    twice = torch.full_like(power, 2)  # but for the ends, a frequency stands for its negative as well
    twice[0] = 1
    if frames % 2 == 0:
        twice[-1] = 1
    return (power * frames / (power * twice).sum()).sqrt()


def colored(white: Tensor, color: float) -> Tensor:
    """White noise (b, c, l) -> noise of unit variance whose power falls as 1 / frequency ** color over the frames.

    A color of 0 is white, 1 pink, 2 brown. The inverse is `whitened`. Both are linear: diffusion in noise M n is
    diffusion of M^-1 latents in white noise n, so a sampler that works on whitened latents stays exact.
    """
    return _filtered(white, _gains(white.shape[-1], color)) if color else white


def whitened(noise: Tensor, color: float) -> Tensor:
    """Noise (b, c, l) of this color -> white noise: the inverse of `colored`."""
    return _filtered(noise, 1 / _gains(noise.shape[-1], color)) if color else noise


def _filtered(signal: Tensor, gains: Tensor) -> Tensor:
    gains = gains.to(signal.device, torch.float32)
    return torch.fft.irfft(torch.fft.rfft(signal.float()) * gains, n=signal.shape[-1])
