"""Distilling a stage of a trained model: the settings, and the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from pydantic import Field, PositiveInt
from torch import Tensor

from codecdiff import config
from codecdiff.config.schema import Config, Fraction, SamplingConfig, TrainConfig
from codecdiff.diffusion.distillation import Distillation, Segments, guided_teacher, student_fraction
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.diffusion.loss import StageInput
from codecdiff.diffusion.noise_schedule import max_inference_steps, prediction_type_of
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.training.trainer import StageTrainer


class DistillConfig(Config):
    """What a stage is distilled to, and how.

    steps: of the student, the only number that it can be sampled in.
    teacher_steps: of the teacher, at least; null: its own.
    solver_steps: of the teacher, before the student's average goes on to the end of the step.
    guidance_fraction: first part of the training, in which the student learns the guided prediction itself.
    """

    steps: int = Field(default=4, ge=1, le=1000)
    teacher_steps: PositiveInt | None = None
    solver_steps: PositiveInt = 3
    guidance_fraction: Fraction = 0.2


def new_distillation(stage: Stage, own: DistillConfig) -> Distillation:
    """Divide the schedule of a stage. Raises InvalidValue for a stage that was distilled, and for too many steps."""
    if stage.distilled:
        raise InvalidValue(
            f"Stage {stage.name} was distilled already, to {stage.sampling.num_inference_steps} steps: distill it in "
            "the model that it comes from."
        )
    final_fraction = stage.sampling.final_timestep_fraction
    most = max_inference_steps(stage.train_scheduler.config.num_train_timesteps, final_fraction)
    if own.steps > most:
        raise InvalidValue(f"Invalid steps={own.steps}: expected 1 to {most} for stage {stage.name}.")
    largest = most // own.steps
    size = min(largest, -(-(own.teacher_steps or stage.sampling.num_inference_steps) // own.steps))
    solver_steps = min(own.solver_steps, size)
    size = min(-(-size // solver_steps), largest // solver_steps) * solver_steps  # a multiple of them
    segments = Segments.of(stage.train_scheduler, own.steps, size, final_fraction)
    return Distillation(stage.train_scheduler, segments, solver_steps)


class DistillationTrainer(StageTrainer):
    """Trains a student of a stage: `codecdiff.diffusion.distillation`. Its initial weights are the teacher's."""

    def __init__(
        self,
        pipeline: Pipeline,
        i: int,
        own: DistillConfig,
        sampling: SamplingConfig,
        train: TrainConfig,
        *,
        facts: Mapping[str, Any],
        **options: Any,
    ):
        teacher = pipeline.sampled_stages(pipeline.generation_config)[i]
        teacher = teacher.with_sampling(**sampling.model_dump(exclude_unset=True))
        self.teacher, self.distillation = teacher, new_distillation(teacher, own)
        self.guidance = resolve_guidance(teacher.sampling.guidance_scale, pipeline.conditioner)
        denoiser = pipeline.new_denoiser(i, config.to_config("denoisers", teacher.denoiser))
        denoiser.load_state_dict(teacher.denoiser.state_dict())
        denoiser.to(device_of(teacher.denoiser))
        of_teacher = teacher.sampling.model_dump(mode="json")
        distilled = {**own.model_dump(), "model": pipeline.base_fingerprint, "teacher": of_teacher}
        sampling, size = self.student_sampling(own.steps), self.distillation.segments.size
        distilled |= {"teacher_steps": size * own.steps, "sampling": sampling.model_dump(mode="json")}
        student = Stage(
            teacher.name,
            denoiser,
            teacher.train_scheduler,
            sampling,
            noise_color=teacher.noise_color,
            facts={**facts, "distilled": distilled},
        )
        self.guidance_steps = round(own.guidance_fraction * train.max_train_steps)
        super().__init__(student, train, **options)

    def student_sampling(self, steps: int) -> SamplingConfig:
        """Return how the student is sampled: by single steps that end where its segments do, without guidance."""
        is_flow = prediction_type_of(self.teacher.train_scheduler) == "flow"
        fraction = self.teacher.sampling.final_timestep_fraction
        return SamplingConfig(
            scheduler="euler" if is_flow else "ddim",
            num_inference_steps=steps,
            guidance_scale=1.0,
            final_timestep_fraction=student_fraction(steps, self.distillation.segments.size, fraction),
        )

    def timesteps_at(self, position: Tensor) -> Tensor:
        """Return the timesteps (b,) at positions (b,) among those at which the student learns."""
        timesteps = self.distillation.segments.timesteps[:: self.distillation.solver_steps].flip(0)
        return timesteps[(position * len(timesteps)).long().clamp_max(len(timesteps) - 1)]

    def loss_of(
        self, network: Any, inputs: StageInput, noise: Tensor, timestep: Tensor, snr_gamma: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a network with this noise (b, c, l) and these timesteps (b,), and the zero predictor's.

        The first steps of training are guidance distillation; validation is of the whole from the beginning.
        """
        distillation, teacher = self.distillation, self.teacher
        if network is self.network and self.step_count < self.guidance_steps:
            distillation = replace(distillation, solver_steps=0)
        with self.accelerator.autocast() if self.accelerator else nullcontext():
            predict = guided_teacher(teacher.denoiser, teacher.train_scheduler, teacher.sampling, self.guidance, inputs)
            options: Any = {"noise": noise, "timestep": timestep, "loss": self.config.loss}
            return distillation.loss(network, self.ema.module.eval(), predict, inputs, **options)
