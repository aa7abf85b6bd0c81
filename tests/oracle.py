"""A denoiser that is exact, because its data is normal, and the solution it leads to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecdiff import Condition, Denoiser
from codecdiff.diffusion.loss import target
from codecdiff.diffusion.noise_schedule import (
    FLOW_SAMPLERS,
    SAMPLERS,
    SCHEDULES,
    prediction_of,
    sampler,
    training_scheduler,
)
from codecdiff.diffusion.sampling import sample
from codecdiff.rng import generator

NOTHING = Condition({})
KARRAS = [name for name in SAMPLERS if name not in ("ddpm", "pndm")]
RANDOM = ("ddpm", "dpm++2m-sde", "euler-a")
EVERY = [*((name, "v_prediction") for name in SAMPLERS), *((name, "flow") for name in FLOW_SAMPLERS)]
MEAN, DEVIATION = 1.5, 0.6


def trained(prediction: str = "v_prediction", steps: int = 1000, **options: Any) -> Any:
    """Give a scheduler for training."""
    return training_scheduler(steps=steps, prediction=prediction, **options)


def other_schedules(prediction: str) -> list[dict[str, Any]]:
    """Give the options of every schedule that goes with a prediction."""
    if prediction == "flow":
        return [{}]
    options: list[dict[str, Any]] = [{"schedule": schedule} for schedule in SCHEDULES]
    return options + ([] if prediction == "epsilon" else [{**each, "zero_terminal_snr": True} for each in options])


class Oracle(Denoiser):
    """The best denoiser of data that is normal. Its answer is exact at every step, also between those of training.

    Each value has this mean and deviation, or all the frames of a channel have a covariance (l, l).
    """

    channels, context_channels, condition_widths = 2, 0, {}

    def __init__(self, trained: Any, covariance: Tensor | None = None):
        super().__init__()
        self.trained, self.prediction, self.calls = trained, prediction_of(trained), 0
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
        return target(self.prediction, clean, (x - alpha * clean) / sigma, alpha, sigma).float()

    def exact(self, start: Tensor) -> Tensor:
        """Where the probability flow leads noise (Song et al., 2021): mean + covariance^(1/2) noise."""
        spread, z = self.variances.sqrt(), start.double()
        return (MEAN + (spread * z if self.basis is None else (z @ self.basis * spread) @ self.basis.T)).float()


def run(
    oracle: Oracle, name: str, steps: int, shape: tuple[int, int], spacing: str = "even", stop_at: float = 0.0
) -> Tensor:
    given: dict[str, Any] = {"context": None, "condition": NOTHING, "guidance": 1.0, "generators": [generator(1)]}
    return sample(oracle, sampler(oracle.trained, name, spacing, stop_at), shape, steps=steps, **given)
