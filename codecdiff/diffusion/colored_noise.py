"""Noise that is colored over time, as the latents of music are.

Most of the variance of latents is at low frequencies, where white noise has little power. They stay visible at almost
all timesteps, and are learned in the last few alone. Under noise whose power falls with frequency, slow and fast
features are lost nearly together, and every timestep trains both.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

LOWEST = 1e-3  # cycles per frame below which the spectrum is flat: 0.09 Hz at 86 frames/s


def spectrum_until(frequency: Tensor, color: float) -> Tensor:
    """Integrate the spectrum (f + LOWEST) ** -color from 0 to each frequency, in cycles per frame."""
    if color == 1:
        return torch.log1p(frequency / LOWEST)
    return ((frequency + LOWEST) ** (1 - color) - LOWEST ** (1 - color)) / (1 - color)


@lru_cache(maxsize=32)
def _gains(frames: int, color: float, device: torch.device) -> Tensor:
    """Return the amplitude (l // 2 + 1,) of every frequency: the mean of the spectrum over its band.

    The variance is 1, and the power of a band does not depend on the number of frames.
    """
    edges = torch.cat([torch.zeros(1), (torch.arange(frames // 2 + 1) + 0.5) / frames]).double().clamp_max(0.5)
    power = spectrum_until(edges, color).diff() / edges.diff()
    total = 2 * spectrum_until(torch.tensor(0.5, dtype=torch.float64), color)
    return (power / total).sqrt().to(device, torch.float32)


def colored(white: Tensor, color: float) -> Tensor:
    """Color white noise (b, c, l): unit variance, and a power that falls as 1 / frequency ** color over the frames.

    A color of 0 is white, 1 pink, 2 brown. The inverse is `whitened`. Both are linear: diffusion in noise M n is
    diffusion of M^-1 latents in white noise n, so a sampler that works on whitened latents stays exact.
    """
    return _filtered(white, _gains(white.shape[-1], color, white.device)) if color else white


def whitened(noise: Tensor, color: float) -> Tensor:
    """Whiten noise (b, c, l) of this color: the inverse of `colored`."""
    return _filtered(noise, 1 / _gains(noise.shape[-1], color, noise.device)) if color else noise


def _filtered(signal: Tensor, gains: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(signal.float()) * gains, n=signal.shape[-1])
