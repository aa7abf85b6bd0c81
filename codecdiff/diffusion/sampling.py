"""Sampling of one stage, from noise to latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codecdiff.config.schema import Guidance
from codecdiff.diffusion.colored_noise import colored, whitened
from codecdiff.diffusion.guidance import asked, groups, guided, num_answers
from codecdiff.diffusion.noise_schedule import (
    Scheduler,
    draws_noise,
    exact_prediction,
    marginal,
    set_steps,
    start_of,
)
from codecdiff.interfaces import Condition, Denoiser
from codecdiff.rng import row_noise


@dataclass(frozen=True)
class StageMask:
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
    known: StageMask | None = None,
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
    told = groups(guidance, condition)
    questions = asked(condition, negative or condition.null(), told)
    count = num_answers(told)
    seen = None if context is None else torch.cat([context] * count)
    network = denoiser.prepare_for_sampling(scheduler.timesteps.to(device), questions)
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
