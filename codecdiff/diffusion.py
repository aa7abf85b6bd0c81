"""The diffusion process over diffusers' schedulers: a pure loss and one sampling loop.

Forward process: x = alpha * clean + sigma * noise, with alpha^2 = abar(timestep) and sigma^2 = 1 - alpha^2
(Ho et al., 2020; the velocity is that of Salimans & Ho, 2022), or alpha = 1 - t and sigma = t in a rectified flow
(Liu et al., 2022). `schedules` says which. The noise is white, or coloured over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecdiff.config.schema import Guidance
from codecdiff.guidance import asked, groups, guided, num_answers
from codecdiff.interfaces import Condition, Denoiser
from codecdiff.noises import colored, whitened
from codecdiff.schedules import (
    Scheduler,
    coefficients,
    draws_noise,
    exact_prediction,
    marginal,
    prediction_of,
    set_steps,
    start_of,
)


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


def generator(*key: int) -> torch.Generator:
    """Give a CPU generator that is a function of the integers in `key` alone."""
    entropy = [len(key), *(k % 2**64 for k in key)]  # the length first: SeedSequence takes (1,) and (1, 0) for one
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def row_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: Any = "cpu") -> Tensor:
    """Draw (b, *shape) noise, each row from its own CPU generator, and move it to a device."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]).to(device)


@dataclass(frozen=True)
class KnownStage:
    """What is known of a stage before it is sampled: latents `clean` (b, c, l), and where they are `kept`, likewise.

    What is not kept starts from `clean` under as much noise as the schedule has at `strength` of its steps. Of a stage
    that `is_whole` nothing is to be made.
    """

    clean: Tensor
    kept: Tensor
    is_whole: bool = False
    strength: float = 1.0


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Scheduler,
    shape: Sequence[int],
    *,
    context: Tensor | None,
    condition: Condition,
    negative: Condition | None = None,
    steps: int,
    guidance: Guidance,
    generators: Sequence[torch.Generator],
    color: float = 0.0,
    known: KnownStage | None = None,
    device: Any = "cpu",
) -> Tensor:
    """Sample one stage, (b, c, l), from noise; `shape` is (c, l) and there is one generator per row.

    Classifier-free guidance (Ho & Salimans, 2022): away + guidance * (conditional - away), in one pass of twice the
    batch, `away` being the answer to the condition `negative`, or to none; with guidance 1, or with nothing to be
    told, the conditional pass alone. Entries that have weights of their own are told one after the other (`guidance`).
    `color` is that of the noise the denoiser was trained with: the scheduler works on whitened latents.
    Where a stage is known and kept, the answer is put right in every step, so that the rest comes to fit; the kept
    latents come back as they are.
    """
    start = 0 if known is None else start_of(scheduler, steps, known.strength)
    set_steps(scheduler, steps, start)
    x = row_noise(shape, generators, device)
    if known is not None and start:
        alpha, sigma = marginal(scheduler, scheduler.timesteps[0])
        x = alpha * whitened(known.clean, color) + sigma * x
    else:
        x = x * scheduler.init_noise_sigma
    told = groups(guidance, condition.entries)
    questions = asked(condition, negative or condition.null(), told)
    count = num_answers(told)
    seen = None if context is None else torch.cat([context] * count)
    network = denoiser.prepared(scheduler.timesteps.to(device), questions)
    # the noise of an ancestral step comes from each row's own generator
    extras = {"generator": list(generators)} if draws_noise(scheduler) else {}
    for timestep in scheduler.timesteps:
        scaled = colored(scheduler.scale_model_input(x, timestep), color)
        rows = torch.cat([scaled] * count)
        answers = network(rows, timestep.to(device).expand(len(rows)), seen, questions).float()
        prediction = guided(answers.chunk(count), told)
        if known is not None:
            exact = exact_prediction(scheduler, colored(x, color), timestep, known.clean)
            prediction = torch.where(known.kept, exact, prediction)
        x = scheduler.step(whitened(prediction, color), timestep, x, **extras).prev_sample
    x = colored(x, color)
    return x if known is None else torch.where(known.kept, known.clean, x)
