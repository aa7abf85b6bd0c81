"""The diffusion process over diffusers' schedulers: a pure loss and one sampling loop.

Forward process: x = alpha * clean + sigma * noise, with alpha^2 = abar(timestep) and sigma^2 = 1 - alpha^2
(Ho et al., 2020; the velocity is that of Salimans & Ho, 2022), or alpha = 1 - t and sigma = t in a rectified flow
(Liu et al., 2022). `schedules` says which. The noise is white, or coloured over time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codecdiff.diffusion.noise_schedule import (
    Scheduler,
    coefficients,
    prediction_of,
)
from codecdiff.interfaces import Condition


def diffuse(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Forward process: alpha * clean + sigma * noise (b, c, l)."""
    return alpha * clean + sigma * noise


def v_target(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Velocity of Salimans & Ho (2022): alpha * noise - sigma * clean."""
    return alpha * noise - sigma * clean


def target(prediction: str, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Give what a denoiser of this prediction type should answer."""
    if prediction == "v_prediction":
        return v_target(clean, noise, alpha, sigma)
    return {"epsilon": noise, "sample": clean, "flow": noise - clean}[prediction]


def min_snr_weight(prediction: str, alpha: Tensor, sigma: Tensor, limit: float) -> Tensor:
    """Min-SNR weight of a squared error (Hang et al., 2023): min(snr, limit) times d clean^2 / d prediction^2.

    That factor is sigma^2 = 1 / (snr + 1) for v, 1 / snr for epsilon, 1 for the sample, and sigma^2 for a flow.
    """
    snr = (alpha / sigma) ** 2
    if prediction == "epsilon":
        return snr.clamp_max(limit) / snr
    return snr.clamp_max(limit) * (1 if prediction == "sample" else sigma**2)


def mean_over(mask: Tensor, error: Tensor) -> Tensor:
    """Average (b, c, l) errors over the places where the mask is 1, giving a scalar."""
    mask = mask.expand_as(error)
    return (error * mask).sum() / mask.sum().clamp_min(1)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


def stage_loss(
    denoiser: Callable[..., Tensor],
    scheduler: Scheduler,
    clean: Tensor,
    *,
    mask: Tensor,
    context: Tensor | None,
    condition: Condition,
    noise: Tensor,
    timestep: Tensor,
    loss: str = "l1",
    min_snr: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Give the loss of one stage, and the loss of the constant answer zero to the same question.

    Shapes: clean, mask and noise (b, c, l), mask 1 where there is music and 0 where there is padding;
    context (b, c', l) or None; timestep (b,). Pure: all randomness is in the arguments. The loss is the
    mean absolute (l1, as in DiscoDiff) or squared (l2) error; with `min_snr` every row has its Min-SNR weight.
    """
    alpha, sigma = coefficients(scheduler, timestep, clean)
    kind = prediction_of(scheduler)
    answer = target(kind, clean, noise, alpha, sigma)
    prediction = denoiser(diffuse(clean, noise, alpha, sigma), timestep, context, condition)
    error = LOSSES[loss]
    weight = 1.0 if min_snr is None else min_snr_weight(kind, alpha, sigma, min_snr)
    return mean_over(mask, weight * error(prediction.float() - answer)), mean_over(mask, weight * error(answer))
