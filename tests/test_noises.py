"""Coloured noise: its spectrum, its inverse, and a model that is trained and sampled with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import noise
from torch import Tensor

from codecdiff import Condition, Denoiser
from codecdiff.diffusion import generator, sample
from codecdiff.noises import LOWEST, colored, whitened
from codecdiff.schedules import SAMPLERS, sampler, training_scheduler

COLORS = [0.5, 1.0, 2.0]


def power(signal: Tensor) -> Tensor:
    """(b, c, l) -> mean power (l // 2 + 1,) of every frequency; 1 everywhere for white noise of unit variance."""
    return torch.fft.rfft(signal.double()).abs().square().mean((0, 1)) / signal.shape[-1]


@pytest.mark.parametrize("frames", [1, 2, 63, 64])
@pytest.mark.parametrize("color", COLORS)
def test_whitening_undoes_the_colour(color: float, frames: int) -> None:
    white = noise(3, 2, frames)
    torch.testing.assert_close(whitened(colored(white, color), color), white, atol=1e-4, rtol=1e-4)


def test_white_noise_is_left_alone() -> None:
    white = noise(3, 2, 64)
    assert colored(white, 0.0) is white
    assert whitened(white, 0.0) is white


@pytest.mark.parametrize("frames", [199, 200])
@pytest.mark.parametrize("color", COLORS)
def test_coloured_noise_has_unit_variance_and_its_spectrum(color: float, frames: int) -> None:
    made = colored(noise(2000, 2, frames), color)
    assert abs(float(made.square().mean()) - 1) < 0.03
    frequency = torch.fft.rfftfreq(frames, dtype=torch.float64) + LOWEST
    level = power(made) * frequency**color
    assert float((level / level.mean() - 1).abs().max()) < 0.15


class Oracle(Denoiser):
    """The best denoiser, in noise of this colour, of data that is normal with a spectrum of its own."""

    channels, context_channels, condition_widths = 2, 0, {}

    def __init__(self, color: float, frames: int):
        super().__init__()
        self.abar = training_scheduler(schedule="linear").alphas_cumprod.double()
        impulse = torch.zeros(1, 1, frames)
        impulse[..., 0] = 1
        self.noise = power(colored(impulse, color)) * frames
        self.data = 0.2 + torch.cos(torch.linspace(0, 3, len(self.noise), dtype=torch.float64)) ** 2

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        abar = self.abar[timestep.long()].view(-1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        gain = alpha * self.data / (abar * self.data + sigma**2 * self.noise)
        clean = torch.fft.irfft(torch.fft.rfft(noisy.double()) * gain, n=noisy.shape[-1])
        return (alpha * (noisy - alpha * clean) / sigma - sigma * clean).float()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_spectrum_of_the_data(name: str) -> None:
    frames = 32
    oracle, trained = Oracle(1.0, frames), training_scheduler(schedule="linear")
    options: dict[str, Any] = {"context": None, "condition": Condition({}), "steps": 100, "guidance": 1.0}
    generators = [generator(i) for i in range(500)]
    made = sample(oracle, sampler(trained, name), (2, frames), **options, generators=generators, color=1.0)
    assert float((power(made) / oracle.data - 1).abs().mean()) < 0.1
    other = sample(oracle, sampler(trained, name), (2, frames), **options, generators=generators)
    assert float((power(other) / oracle.data - 1).abs().mean()) > 0.3
