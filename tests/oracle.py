"""A denoiser that is exact, because its data is normal, and the solution it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from codecdiff import Condition, Denoiser
from codecdiff.diffusion.loss import prediction_target
from codecdiff.diffusion.noise_schedule import BETA_SCHEDULES, prediction_type_of, training_scheduler
from codecdiff.diffusion.sampling import SamplingInput, sample_stage
from codecdiff.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, sampling_scheduler
from codecdiff.rng import generator, row_noise

NOTHING = Condition({})
KARRAS = [name for name in SCHEDULERS if name not in ("ddpm", "pndm")]
RANDOM = ("ddpm", "dpm++2m-sde", "euler-a")
EVERY = [*((name, "v_prediction") for name in SCHEDULERS), *((name, "flow") for name in FLOW_SCHEDULERS)]
MEAN, DEVIATION = 1.5, 0.6
FAST = {"ddim", "dpm++2m", "euler-a", "heun"}  # one of each kind, in the fast tests; integration has them all


def mostly_integration(cases: Sequence[Any]) -> list[Any]:
    """Mark the cases of all samplers but those of FAST, each a name or a tuple that begins with it."""
    rows = [(case,) if isinstance(case, str) else case for case in cases]
    return [pytest.param(*row, marks=() if row[0] in FAST else pytest.mark.integration) for row in rows]


def trained(prediction: str = "v_prediction", steps: int = 1000, **options: Any) -> Any:
    """Give a scheduler for training."""
    return training_scheduler(num_train_timesteps=steps, prediction_type=prediction, **options)


def other_schedules(prediction: str) -> list[dict[str, Any]]:
    """Give the options of every schedule that goes with a prediction."""
    if prediction == "flow":
        return [{}]
    options: list[dict[str, Any]] = [{"beta_schedule": schedule} for schedule in BETA_SCHEDULES]
    return options + ([] if prediction == "epsilon" else [{**each, "zero_terminal_snr": True} for each in options])


class Oracle(Denoiser):
    """The best denoiser of data that is normal. Its answer is exact at every step, also between those of training.

    Each value has this mean and deviation, or all the frames of a channel have a covariance (l, l).
    """

    channels, context_channels, condition_widths = 2, 0, {}

    def __init__(self, trained: Any, covariance: Tensor | None = None):
        super().__init__()
        self.trained, self.prediction, self.calls = trained, prediction_type_of(trained), 0
        values, vectors = (torch.tensor([DEVIATION**2]), None) if covariance is None else torch.linalg.eigh(covariance)
        self.variances, self.basis = values.double(), None if vectors is None else vectors.double()

    def level(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        if self.prediction == "flow":
            time = (timestep.double() + 1) / self.trained.config.num_train_timesteps
            return 1 - time, time
        abar = self.trained.alphas_cumprod.double().clamp_min(2**-24 if self.trained.alphas_cumprod[-1] == 0 else 0)
        log_sigma = np.interp(timestep.double(), np.arange(len(abar)), ((1 - abar) / abar).log() / 2)
        sigma = torch.from_numpy(log_sigma).exp()
        alpha = (1 + sigma**2) ** -0.5
        return alpha, sigma * alpha

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        self.calls += 1
        alpha, sigma = (each.view(-1, 1, 1) for each in self.level(timestep))
        x, gain = noisy.double(), alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        away = x - alpha * MEAN
        clean = MEAN + (gain * away if self.basis is None else (away @ self.basis * gain) @ self.basis.T)
        return prediction_target(self.prediction, clean, (x - alpha * clean) / sigma, alpha, sigma).float()

    def exact(self, start: Tensor) -> Tensor:
        """Where the probability flow leads noise (Song et al., 2021): mean + covariance^(1/2) noise."""
        spread, z = self.variances.sqrt(), start.double()
        return (MEAN + (spread * z if self.basis is None else (z @ self.basis * spread) @ self.basis.T)).float()


def run(
    oracle: Oracle, name: str, steps: int, shape: tuple[int, int], spacing: str = "even", stop_at: float = 0.0
) -> Tensor:
    scheduler = sampling_scheduler(oracle.trained, name, spacing, stop_at)
    return sample_plain(oracle, scheduler, shape, [generator("test", 1)], steps)


def sample_plain(
    denoiser: Denoiser,
    scheduler: Any,
    shape: tuple[int, int],
    generators: list[torch.Generator],
    steps: int,
    color: float = 0.0,
) -> Tensor:
    """Sample a denoiser of this shape (c, l) without context, conditions or guidance, one row for each generator."""
    inputs = SamplingInput(row_noise(shape, generators), generators, None, NOTHING)
    return sample_stage(denoiser, scheduler, inputs, num_inference_steps=steps, guidance_scale=1.0, noise_color=color)
