"""Budgets: what a training step and a generated clip take, and the steps that a budget pays for.

FLOPs are those of convolutions and matrix products of the denoiser (`flops.OperationCounter`), counted on the meta
device by the real loss and the real network; a multiplication and an addition are two. Codec and conditioner, which are
frozen and the same for all patterns, are not counted, and neither are validation losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from codecdiff.config.schema import ExperimentConfig
from codecdiff.diffusion.guidance import num_passes
from codecdiff.diffusion.noise_schedule import set_steps
from codecdiff.interfaces import Condition
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.profiling.flops import OperationCounter
from codecdiff.profiling.plan import blank_input, count_step
from codecdiff.training.experiment import check_warm_starts, new_pipeline, new_stage
from codecdiff.training.trainer import StageTrainer


@dataclass(frozen=True)
class StageCost:
    """What one stage takes. `values` are the numbers it makes in a latent frame: how much of the model it is."""

    name: str
    parameters: int
    values: float
    asked: int  # steps of training in its settings
    training: int  # FLOPs of a step
    evaluations: int  # of the network for a clip
    answers: int  # of the network in each: with guidance, of so many rows for one clip
    sampling: int  # FLOPs of one clip


def costs_of(blueprint: ExperimentConfig, seconds: float) -> list[StageCost]:
    """Count what the stages of an experiment take, and clips of so many seconds. Nothing is computed or allocated."""
    pipeline, codec = new_pipeline(blueprint, skeleton=True)
    length = pipeline.frames(seconds)
    ones = pipeline.splitter.split(torch.ones(1, codec.num_codebooks, codec.codebook_dim, length))
    jobs = [new_stage(blueprint, pipeline, i, "meta") for i in range(len(pipeline.stage_names))]
    check_warm_starts(blueprint, pipeline, [stage for stage, _ in jobs], Path())
    costs = []
    for i, (stage, train) in enumerate(jobs):
        frames = round(train.crop_seconds * codec.frame_rate)
        step = count_step(StageTrainer(stage, train), blank_input(pipeline, i, train.train_batch_size, frames))
        evaluations, answers, sampling = sampling_of(stage, pipeline, i, length)
        costs.append(
            StageCost(
                stage.name,
                sum(parameter.numel() for parameter in stage.denoiser.parameters()),
                float(ones[i].sum()) / length,
                train.max_train_steps,
                step.forward + step.backward + step.recomputed,
                evaluations,
                answers,
                sampling,
            )
        )
    return costs


@torch.no_grad()
def sampling_of(stage: Stage, pipeline: Pipeline, i: int, frames: int) -> tuple[int, int, int]:
    """Count the evaluations of one clip, and the answers that guidance takes in each, and give the FLOPs of all.

    The denoiser of the stage is on the meta device. What it computes once for all (`prepare_for_sampling`) is
    counted in every one: hardly anything beside the rest.
    """
    given, scheduler = blank_input(pipeline, i, 1, frames), stage.new_sampler()
    set_steps(scheduler, stage.steps)
    evaluations = len(scheduler.timesteps)
    rows = num_passes(stage.guidance, pipeline.conditioner)
    asked = Condition.cat([given.condition] * rows)
    seen = None if given.context is None else given.context.repeat(rows, 1, 1)
    with OperationCounter() as meter:
        stage.denoiser.eval()(given.x_start.repeat(rows, 1, 1), torch.zeros(rows, device="meta"), seen, asked)
    return evaluations, rows, evaluations * meter.flops


def total(costs: Sequence[StageCost], steps: Sequence[int] | None = None) -> int:
    """Give the FLOPs of training all stages for so many steps each, those of their settings unless given."""
    counts = [cost.asked for cost in costs] if steps is None else steps
    return sum(cost.training * count for cost, count in zip(costs, counts, strict=True))


def affordable(costs: Sequence[StageCost], budget: float, share: str = "steps") -> list[int]:
    """Give the steps of every stage that a budget of FLOPs pays for, rounded down.

    Stages share it in the ratio of the steps in their settings ("steps"), or take as many FLOPs each ("flops").
    Raises ValueError if a stage could not take one step.
    """
    if share == "flops":
        steps = [int(budget / len(costs) / cost.training) for cost in costs]
    else:
        steps = [int(cost.asked * budget / total(costs)) for cost in costs]
    for cost, count in zip(costs, steps, strict=True):
        if count < 1:
            raise ValueError(
                f"budget={budget:g} FLOPs is less than a step of {cost.name}: one takes {cost.training:.3g}, and "
                f"the whole is shared among {len(costs)} stages."
            )
    return steps
