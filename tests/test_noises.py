"""Coloured noise: its spectrum, its inverse, and a model that is trained and sampled with it."""

from __future__ import annotations

import pytest
import torch
from oracle import sample_plain
from small import noise
from torch import Tensor

from codecdiff import Condition, Denoiser
from codecdiff.diffusion.colored_noise import LOWEST, colored, whitened
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.diffusion.schedulers import SCHEDULERS, sampling_scheduler
from codecdiff.rng import generator

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
    level = (power(made) * frequency**color)[2:]  # below, the spectrum falls within the band of one frequency
    assert float((level / level.mean() - 1).abs().max()) < 0.15


@pytest.mark.parametrize("color", COLORS)
def test_a_frequency_is_as_strong_whatever_the_number_of_frames(color: float) -> None:
    """A model that is trained on crops of one length meets the same noise when it makes music of another."""
    short, long = (power(colored(impulse(frames), color)) * frames for frames in (64, 960))
    torch.testing.assert_close(short[2:], long[30::15], rtol=0.1, atol=0)
    lowest = float(short[0] + 2 * short[1]) / 64, float(long[0] + 2 * long[1:23].sum()) / 960
    assert lowest[0] == pytest.approx(lowest[1], rel=0.03)


def impulse(frames: int) -> Tensor:
    """Give (1, 1, l), whose spectrum is flat."""
    return torch.nn.functional.pad(torch.ones(1, 1, 1), (0, frames - 1))


class Oracle(Denoiser):
    """The best denoiser, in noise of this colour, of data that is normal with a spectrum of its own."""

    channels, context_channels, condition_widths = 2, 0, {}

    def __init__(self, color: float, frames: int):
        super().__init__()
        self.abar = training_scheduler(beta_schedule="linear").alphas_cumprod.double()
        self.noise = power(colored(impulse(frames), color)) * frames
        self.data = 0.2 + torch.cos(torch.linspace(0, 3, len(self.noise), dtype=torch.float64)) ** 2

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        abar = self.abar[timestep.long()].view(-1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        gain = alpha * self.data / (abar * self.data + sigma**2 * self.noise)
        clean = torch.fft.irfft(torch.fft.rfft(noisy.double()) * gain, n=noisy.shape[-1])
        return (alpha * (noisy - alpha * clean) / sigma - sigma * clean).float()


@pytest.mark.integration
@pytest.mark.parametrize("name", SCHEDULERS)
def test_samples_have_the_spectrum_of_the_data(name: str) -> None:
    frames = 32
    oracle, trained = Oracle(1.0, frames), training_scheduler(beta_schedule="linear")
    generators = [generator("test", i) for i in range(500)]
    made = sample_plain(oracle, sampling_scheduler(trained, name), (2, frames), generators, 100, color=1.0)
    assert float((power(made) / oracle.data - 1).abs().mean()) < 0.1
    other = sample_plain(oracle, sampling_scheduler(trained, name), (2, frames), generators, 100)
    assert float((power(other) / oracle.data - 1).abs().mean()) > 0.3
