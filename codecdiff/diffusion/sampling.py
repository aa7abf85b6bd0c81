"""Sampling of one stage, from noise to latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from codecdiff.config.schema import Guidance, SamplingConfig
from codecdiff.diffusion.colored_noise import colored, whitened
from codecdiff.diffusion.guidance import group_by_weight, guided_prediction, num_predictions, stack_conditions
from codecdiff.diffusion.noise_schedule import (
    Scheduler,
    accepts_generator,
    exact_prediction,
    marginal,
    set_timesteps,
    start_step,
)
from codecdiff.execution import with_cuda_graph
from codecdiff.interfaces import Condition, Denoiser


@dataclass(frozen=True)
class StageMask:
    """What an edit keeps of one stage.

    x_start: latents of the source (b, c, l).
    keep_mask: True where they come back unchanged, (b, c, l).
    keeps_all: whether nothing is left to generate.
    strength: fraction of the training timesteps that sampling starts at, from `x_start` under that much noise.
    """

    x_start: Tensor
    keep_mask: Tensor
    keeps_all: bool = False
    strength: float = 1.0

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return replace(self, x_start=self.x_start.to(device), keep_mask=self.keep_mask.to(device))


@dataclass(frozen=True)
class SamplingInput:
    """What the latents of a stage are sampled from, in a batch.

    noise: white noise (b, c, l), on the device of the denoiser.
    generators: one for each row, from which schedulers with random steps draw.
    context: what the stage sees of the stages before it, (b, c', l), or None.
    negative_condition: the condition guided away from; None for the null condition.
    """

    noise: Tensor
    generators: Sequence[torch.Generator]
    context: Tensor | None
    condition: Condition
    negative_condition: Condition | None = None
    mask: StageMask | None = None


@torch.no_grad()
def sample_stage(
    denoiser: Denoiser,
    scheduler: Scheduler,
    inputs: SamplingInput,
    *,
    num_inference_steps: int,
    guidance_scale: Guidance,
    sampling: SamplingConfig | None = None,
    noise_color: float = 0.0,
    on_step_end: Callable[[Tensor, Tensor], Tensor] = lambda timestep, latents: latents,
) -> Tensor:
    """Sample the latents (b, c, l) of one stage.

    `scheduler` is one of `sampling_scheduler`. `sampling` says how and where guidance is applied: by default
    everywhere, classifier-free. `noise_color` is that of the noise the denoiser was trained with: the scheduler works
    on whitened latents. Where a mask keeps latents, every step replaces the prediction by the exact one, so that the
    generated latents fit them, and the kept latents are returned unchanged. `on_step_end` is called with each timestep
    and the scheduler's state (b, c, l) after it, and returns the state to continue from.
    """
    mask = inputs.mask
    x = _initial_state(scheduler, inputs, num_inference_steps, noise_color)
    predict = _guided_denoiser(denoiser, scheduler, inputs, guidance_scale, sampling or SamplingConfig())
    options = {"generator": list(inputs.generators)} if accepts_generator(scheduler) else {}
    # The scheduler reads timesteps on the CPU and the denoiser on its device: moved once, so no step waits for either
    for timestep, moved in zip(scheduler.timesteps, scheduler.timesteps.to(x.device), strict=True):
        prediction = predict(colored(scheduler.scale_model_input(x, timestep), noise_color), timestep, moved)
        if mask is not None:
            exact = exact_prediction(scheduler, colored(x, noise_color), timestep, mask.x_start)
            prediction = torch.where(mask.keep_mask, exact, prediction)
        x = on_step_end(timestep, scheduler.step(whitened(prediction, noise_color), timestep, x, **options).prev_sample)
    x = colored(x, noise_color)
    return x if mask is None else torch.where(mask.keep_mask, mask.x_start, x)


def _initial_state(scheduler: Scheduler, inputs: SamplingInput, num_inference_steps: int, color: float) -> Tensor:
    """Start the scheduler, and return its state before the first step: noise, or noisy latents of the source."""
    mask = inputs.mask
    start = 0 if mask is None else start_step(scheduler, num_inference_steps, mask.strength)
    set_timesteps(scheduler, num_inference_steps, start)
    if mask is None or not start:
        return inputs.noise * scheduler.init_noise_sigma
    alpha, sigma = marginal(scheduler, scheduler.timesteps[0])
    return alpha * whitened(mask.x_start, color) + sigma * inputs.noise


def _guided_denoiser(
    denoiser: Denoiser, scheduler: Scheduler, inputs: SamplingInput, guidance_scale: Guidance, sampling: SamplingConfig
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the function (x, timestep, the same on the denoiser's device) -> prediction, guided where it should be."""
    first, last = (scheduler.config.num_train_timesteps * fraction for fraction in sampling.guidance_interval)
    is_guided = (scheduler.timesteps >= first) & (scheduler.timesteps <= last)
    guided, plain = (
        _batched_denoiser(denoiser, scheduler.timesteps[selected], inputs, weight, sampling)
        for selected, weight in ((is_guided, guidance_scale), (~is_guided, 1.0))
    )

    def predict(x: Tensor, timestep: Tensor, moved: Tensor) -> Tensor:
        return (guided if first <= timestep <= last else plain)(x, moved)

    return predict


def _batched_denoiser(
    denoiser: Denoiser, timesteps: Tensor, inputs: SamplingInput, guidance_scale: Guidance, sampling: SamplingConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function (x, timestep) -> prediction for some timesteps, guidance running as one larger batch."""
    condition = inputs.condition
    groups = group_by_weight(guidance_scale, condition)
    count = num_predictions(groups)
    context = None if inputs.context is None else torch.cat([inputs.context] * count)
    stacked = stack_conditions(condition, inputs.negative_condition or condition.null(), groups)
    network = denoiser
    if len(timesteps):
        with _own_precision(denoiser):
            network = denoiser.prepare_for_sampling(timesteps.to(inputs.noise.device), stacked)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        rows = torch.cat([x] * count)
        with _own_precision(denoiser):
            predictions = network(rows, timestep.expand(len(rows)), context, stacked).float()
        return guided_prediction(predictions.chunk(count), groups, sampling)

    return with_cuda_graph(predict, inputs.noise.device) if network.supports_cuda_graphs else predict


def _own_precision(denoiser: Denoiser) -> AbstractContextManager[Any]:
    """Compute in the precision of a denoiser's weights; the states of sampling stay float32."""
    parameter = next(denoiser.parameters(), None)
    if parameter is None or parameter.dtype not in (torch.float16, torch.bfloat16):
        return nullcontext()
    return torch.autocast(parameter.device.type, dtype=parameter.dtype)
