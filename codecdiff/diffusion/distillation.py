"""Distillation: a student that is sampled in few steps without guidance goes where its teacher does in many with it.

The schedule is divided into segments, one for each step of the student. From a noisy x inside of one, the guided
teacher takes some steps of its own, the student's moving average takes one step from there to the end of the segment,
and the student learns the prediction whose one step leads to the same place. These are multistep consistency models
(Heek et al., 2024; phased, of Wang et al., 2024), and, where the teacher itself reaches the end, the progressive
distillation of Salimans & Ho (2022). All steps are those of DDIM, which are Euler's in a flow: alpha' x_start + sigma'
noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codecdiff.config.schema import Guidance, SamplingConfig
from codecdiff.diffusion.guidance import group_by_weight, guided_prediction, num_predictions, stack_conditions
from codecdiff.diffusion.loss import LOSSES, StageInput, add_noise, masked_mean, prediction_target
from codecdiff.diffusion.noise_schedule import Scheduler, coefficients, even_timesteps, prediction_type_of
from codecdiff.diffusion.schedulers import predicted_x_start
from codecdiff.errors import InvalidValue

FIXED = {"num_inference_steps", "guidance_scale", "scheduler", "timestep_spacing", "final_timestep_fraction"}

Predict = Callable[[Tensor, Tensor], Tensor]  # (x (b, c, l), timesteps (b,)) -> prediction (b, c, l)


def check_distilled(stage: str, sampling: SamplingConfig, only: Mapping[str, Any]) -> None:
    """Raise InvalidValue if a stage would be sampled in another way than the `only` one that it was distilled to."""
    now = sampling.model_dump()
    for name in FIXED & only.keys():
        weights = now[name].values() if isinstance(now[name], Mapping) else [now[name]]
        if any(value != only[name] for value in weights):
            raise InvalidValue(
                f"Stage {stage} was distilled to {only['num_inference_steps']} steps of {only['scheduler']} without "
                f"guidance, so {name}={json.dumps(now[name])} is not possible: leave it out, or use the model that it "
                "was distilled from."
            )


@dataclass(frozen=True)
class Segments:
    """Where the teacher evaluates its network, every `size`-th place being where the student does.

    timesteps: (n,), from the highest.
    alpha, sigma: of the timesteps and of what follows the last, the sample: (n + 1,).
    """

    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    size: int

    @classmethod
    def of(cls, scheduler: Scheduler, steps: int, size: int, final_fraction: float) -> Segments:
        """Divide the schedule down to the teacher's `final_timestep_fraction` into as many segments as steps."""
        total = scheduler.config.num_train_timesteps
        timesteps = even_timesteps(total, steps * size, final_fraction)
        timesteps[::size] = even_timesteps(total, steps, student_fraction(steps, size, final_fraction))
        alpha, sigma = coefficients(scheduler, timesteps, torch.empty(len(timesteps)))
        return cls(timesteps, torch.cat([alpha, torch.ones(1)]), torch.cat([sigma, torch.zeros(1)]), size)

    def levels(self, place: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at places (b,), each (b, 1, 1) to multiply `like` (b, c, l)."""
        alpha, sigma = (level.to(like)[place][:, None, None] for level in (self.alpha, self.sigma))
        return alpha, sigma

    def place(self, timestep: Tensor) -> Tensor:
        """Return the places (b,) of timesteps (b,)."""
        return (timestep[:, None] == self.timesteps.to(timestep)).int().argmax(1)

    def end(self, place: Tensor) -> Tensor:
        """Return the places (b,) at which the segments of places (b,) end."""
        return (place // self.size + 1) * self.size

    def extrapolation(self, place: Tensor, like: Tensor) -> Tensor:
        """Return how much of the last change of x_start the step from places (b,) adds: 2M of DPM-Solver++ (2022)."""
        log_snr = (self.alpha / self.sigma).log()
        size = log_snr.diff()
        weight = torch.cat([torch.zeros(1), size[1:] / (2 * size[:-1])])
        return torch.where(weight.isfinite(), weight, 0.0).to(like)[place][:, None, None]


def student_fraction(steps: int, size: int, final_fraction: float) -> float:
    """Return the student's `final_timestep_fraction`: its last step begins its last segment."""
    count = steps * size
    end = max(final_fraction, 1 / count)
    return 1 - (steps - 1) * size * (1 - end) / max(1, count - 1)


def move(x: Tensor, x_start: Tensor, level: tuple[Tensor, Tensor], to: tuple[Tensor, Tensor]) -> Tensor:
    """Step from x = alpha x_start + sigma noise to another level with this x_start: DDIM."""
    (alpha, sigma), (to_alpha, to_sigma) = level, to
    return to_alpha * x_start + to_sigma / sigma.clamp_min(1e-8) * (x - alpha * x_start)


def guided_teacher(
    denoiser: Callable[..., Tensor], scheduler: Scheduler, sampling: SamplingConfig, guidance: Guidance, x: StageInput
) -> Predict:
    """Return the guided prediction of a denoiser with the context and condition of inputs, as sampling computes it."""
    groups = group_by_weight(guidance, x.condition)
    count = num_predictions(groups)
    stacked = stack_conditions(x.condition, x.condition.null(), groups)
    context = None if x.context is None else torch.cat([x.context] * count)
    first, last = (scheduler.config.num_train_timesteps * fraction for fraction in sampling.guidance_interval)

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        rows = denoiser(torch.cat([noisy] * count), timestep.repeat(count), context, stacked).float().chunk(count)
        is_guided = (timestep >= first) & (timestep <= last)
        return torch.where(is_guided[:, None, None], guided_prediction(rows, groups, sampling), rows[0])

    return predict


@dataclass(frozen=True)
class Distillation:
    """What a student of a stage learns from: its segments, and how many steps the teacher takes before its average.

    With `solver_steps` of 0 it learns the guided prediction itself.
    """

    scheduler: Any
    segments: Segments
    solver_steps: int

    @torch.no_grad()
    def x_start(self, x: Tensor, place: Tensor, teacher: Predict, average: Predict) -> Tensor:
        """Return the x_start (b, c, l) that the student is to predict from x at places (b,) of the schedule."""
        segments, start, now, previous = self.segments, x, place, None
        for _ in range(self.solver_steps):
            estimate = latest = self._estimate(teacher, x, now)
            if previous is not None:
                estimate = latest + segments.extrapolation(now, x) * (latest - previous)
            x, previous = move(x, estimate, segments.levels(now, x), segments.levels(now + 1, x)), latest
            now = now + 1
        if not self.solver_steps:
            return self._estimate(teacher, x, now)
        end = segments.end(place)
        if (now < end).any():
            before_end = now.minimum(end - 1)  # rows that are at the end stay there
            ahead = move(x, self._estimate(average, x, before_end), segments.levels(now, x), segments.levels(end, x))
            x = torch.where((now < end)[:, None, None], ahead, x)
        (alpha, sigma), (end_alpha, end_sigma) = segments.levels(place, x), segments.levels(end, x)
        ratio = end_sigma / sigma  # with this x_start, `move` leads from the start to x
        return (x - ratio * start) / (end_alpha - ratio * alpha)

    def _estimate(self, predict: Predict, x: Tensor, place: Tensor) -> Tensor:
        prediction = predict(x, self.segments.timesteps.to(place)[place]).float()
        return predicted_x_start(prediction_type_of(self.scheduler), prediction, x, *self.segments.levels(place, x))

    def loss(
        self,
        student: Callable[..., Tensor],
        average: Callable[..., Tensor],
        teacher: Predict,
        inputs: StageInput,
        *,
        noise: Tensor,
        timestep: Tensor,
        loss: str = "l2",
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a student, and the loss that predicting zero would have; pure, as `stage_loss`."""
        place = self.segments.place(timestep)
        alpha, sigma = self.segments.levels(place, noise)
        noisy = add_noise(inputs.x_start, noise, alpha, sigma)
        own = inputs.context, inputs.condition
        x_start = self.x_start(noisy, place, teacher, lambda x, t: average(x, t, *own))
        kind = prediction_type_of(self.scheduler)
        target = prediction_target(kind, x_start, (noisy - alpha * x_start) / sigma, alpha, sigma)
        error = LOSSES[loss](student(noisy, timestep, *own).float() - target)
        return masked_mean(inputs.valid_mask, error), masked_mean(inputs.valid_mask, LOSSES[loss](target))
