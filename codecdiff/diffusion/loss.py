"""The training loss of one stage.

Forward process: x = alpha * x_start + sigma * noise, with alpha^2 = abar(timestep) and sigma^2 = 1 - alpha^2
(Ho et al., 2020; the velocity is that of Salimans & Ho, 2022), or alpha = 1 - t and sigma = t in a rectified flow
(Liu et al., 2022), as `noise_schedule` says. The noise is white, or colored over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codecdiff.diffusion.noise_schedule import Scheduler, coefficients, prediction_type_of
from codecdiff.interfaces import Condition


@dataclass(frozen=True)
class StageInput:
    """The data of one training batch of a stage.

    sample_indices: position of every sample in the order of the data, which decides everything drawn for it.
    x_start: latents (b, c, l).
    valid_mask: 1 for music, 0 for padding, (b, c, l).
    context: what the stage sees of the stages before it, (b, c', l), or None.
    """

    sample_indices: Sequence[int]
    x_start: Tensor
    valid_mask: Tensor
    context: Tensor | None
    condition: Condition


def add_noise(x_start: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Forward process: alpha * x_start + sigma * noise (b, c, l)."""
    return alpha * x_start + sigma * noise


def velocity(x_start: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Velocity of Salimans & Ho (2022): alpha * noise - sigma * x_start."""
    return alpha * noise - sigma * x_start


def prediction_target(prediction_type: str, x_start: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what a denoiser of this prediction type learns to predict, (b, c, l)."""
    if prediction_type == "v_prediction":
        return velocity(x_start, noise, alpha, sigma)
    return {"epsilon": noise, "sample": x_start, "flow": noise - x_start}[prediction_type]


def min_snr_weight(prediction_type: str, alpha: Tensor, sigma: Tensor, snr_gamma: float) -> Tensor:
    """Min-SNR weight of a squared error (Hang et al., 2023): min(snr, gamma) times d x_start^2 / d prediction^2.

    That factor is sigma^2 = 1 / (snr + 1) for v, 1 / snr for epsilon, 1 for the sample, and sigma^2 for a flow.
    """
    snr = (alpha / sigma) ** 2
    if prediction_type == "epsilon":
        return snr.clamp_max(snr_gamma) / snr
    return snr.clamp_max(snr_gamma) * (1 if prediction_type == "sample" else sigma**2)


def masked_mean(mask: Tensor, error: Tensor) -> Tensor:
    """Average errors (b, c, l) over the places where the mask is 1, to a scalar."""
    mask = mask.expand_as(error)
    return (error * mask).sum() / mask.sum().clamp_min(1)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


def stage_loss(
    denoiser: Callable[..., Tensor],
    scheduler: Scheduler,
    inputs: StageInput,
    *,
    noise: Tensor,
    timestep: Tensor,
    loss: str = "l1",
    snr_gamma: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of one stage, and the loss that predicting zero would have.

    Shapes: noise (b, c, l), timestep (b,). Pure: all randomness is in the arguments. The loss is the mean absolute
    (l1, as in DiscoDiff) or squared (l2) error over the valid places, with `snr_gamma` weighted by Min-SNR.
    """
    alpha, sigma = coefficients(scheduler, timestep, inputs.x_start)
    prediction_type = prediction_type_of(scheduler)
    target = prediction_target(prediction_type, inputs.x_start, noise, alpha, sigma)
    noisy = add_noise(inputs.x_start, noise, alpha, sigma)
    prediction = denoiser(noisy, timestep, inputs.context, inputs.condition)
    error, mask = LOSSES[loss], inputs.valid_mask
    weight = 1.0 if snr_gamma is None else min_snr_weight(prediction_type, alpha, sigma, snr_gamma)
    return masked_mean(mask, weight * error(prediction.float() - target)), masked_mean(mask, weight * error(target))
