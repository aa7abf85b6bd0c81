"""Budgets: FLOPs of a training step and of a generated clip, and the training steps that a budget pays for.

FLOPs are those of convolutions and matrix products of the denoiser, counted on the meta device by the real loss and the
real network; a multiplication and an addition are two. Codec and conditioner, which are frozen and the same for all
patterns, are not counted, and neither are validation losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path

import torch
from pydantic import ValidationError

from codecdiff import config
from codecdiff.config import ExperimentConfig, TrainConfig
from codecdiff.diffusion import num_passes, set_timesteps
from codecdiff.errors import InvalidValue, UnknownName, UserError, did_you_mean, validation_issues
from codecdiff.interfaces import Condition
from codecdiff.pipeline import Pipeline, Stage
from codecdiff.profiling import OperationCounter, attainable_flops, blank_input, count_step
from codecdiff.training import StageTrainer, check_warm_starts, format_duration, new_pipeline, new_stage
from codecdiff_eval.compare.config import CompareConfig
from codecdiff_eval.compare.trained import IdentifiedModel, TrainedModel
from codecdiff_eval.numbers import NOTHING, format_count
from codecdiff_eval.report import Table

MUCH_MORE = 2  # times the FLOPs of sampling of another variant, from which on that is worth a warning


@dataclass(frozen=True)
class StageCost:
    """What one stage costs.

    values_per_frame: latent values that it generates per frame, its weight in the loss of the model.
    max_train_steps: of its settings.
    network_calls: for a clip; those that are guided compute as many rows as guidance has `passes`.
    """

    name: str
    parameters: int
    values_per_frame: float
    max_train_steps: int
    step_flops: int
    network_calls: int
    guided_calls: int
    passes: int
    clip_flops: int


@dataclass(frozen=True)
class Variant:
    """One variant: its experiment of the first seed, with the steps that the budget pays for, and its costs.

    trained: the model that it is, if it is not trained; its steps are 0 then.
    """

    name: str
    experiment: ExperimentConfig
    costs: tuple[StageCost, ...]
    steps: tuple[int, ...]
    trained: IdentifiedModel | None = None

    @property
    def training_flops(self) -> int:
        """FLOPs of training one model."""
        return training_flops(self.costs, self.steps)

    @property
    def clip_flops(self) -> int:
        """FLOPs of generating one clip."""
        return sum(cost.clip_flops for cost in self.costs)


def make_variants(comparison: CompareConfig) -> list[Variant]:
    """Count what every variant costs, and set the steps that the budget pays for.

    Raises ConfigError for an invalid variant or a budget that is too small.
    """
    budget, variants = comparison.budget, []
    for name in comparison.variants:
        try:
            if model := comparison.trained_model(name):
                variants.append(_trained_variant(comparison, name, model))
                continue
            experiment = comparison.variant(name, comparison.seeds[0])
            costs = stage_costs(experiment, comparison.evaluation.seconds)
            budget = budget or training_flops(costs)  # of the first variant that is trained
            steps = affordable_steps(costs, budget, comparison.budget_split)
        except UserError as error:
            raise config.ConfigError(f"The variant '{name}' is invalid: {error}") from error
        except ValidationError as error:
            issues = "; ".join(map(str, validation_issues(error)))
            raise config.ConfigError(f"The variant '{name}' is invalid: {issues}.") from error
        variants.append(Variant(name, _with_steps(experiment, costs, steps), tuple(costs), tuple(steps)))
    readers = [new_pipeline(variant.experiment, skeleton=True) for variant in variants]
    _require_controls(comparison.evaluation.controls, readers, "evaluation.controls")
    return variants


def _require_controls(controls: Sequence[str], pipelines: Sequence[Pipeline], setting: str) -> None:
    """Raise UnknownName for a control that none of the models reads."""
    names = sorted({name for each in pipelines if each.conditioner for name in each.conditioner.control_rates})
    for name in controls:
        if name not in names:
            hint = did_you_mean(name, names)
            raise UnknownName(f"Unknown control '{name}' in {setting}. Available: {', '.join(names) or 'none'}.{hint}")


def _trained_variant(comparison: CompareConfig, name: str, model: TrainedModel) -> Variant:
    """Load a model, so that it is known to be usable, and count what its stages cost as they are sampled."""
    pipeline = model.load()
    frames = pipeline.frames(comparison.evaluation.seconds)
    if missing := pipeline.stage_names[len(pipeline.stages) :]:
        raise InvalidValue(f"Stage {missing[0]} of '{model.model}' is not trained. Train it first: stage={missing[0]}.")
    _require_controls(model.controls or (), [pipeline], "controls")
    costs = []
    for i, stage in enumerate(pipeline.sampled_stages(pipeline.generation_config)):
        parameters = sum(parameter.numel() for parameter in stage.denoiser.parameters())
        stage.denoiser.to("meta")
        sampling = sampling_cost(stage, pipeline, i, frames)
        costs.append(StageCost(stage.name, parameters, 0.0, 0, 0, *sampling))
    experiment = comparison.variant(name, comparison.seeds[0])
    return Variant(name, experiment, tuple(costs), (0,) * len(costs), IdentifiedModel.of(model, pipeline))


def _with_steps(experiment: ExperimentConfig, costs: Sequence[StageCost], steps: Sequence[int]) -> ExperimentConfig:
    """Return an experiment whose stages are trained for these steps, over which the learning rate decays."""
    stages = dict(experiment.stages)
    for cost, count in zip(costs, steps, strict=True):
        own = experiment.stage_config(cost.name)
        stages[cost.name] = own.model_copy(update={"train": own.train.merge(TrainConfig(max_train_steps=count))})
    return experiment.model_copy(update={"stages": stages})


def stage_costs(experiment: ExperimentConfig, seconds: float) -> list[StageCost]:
    """Count what the stages of an experiment cost, and clips of so many seconds. Nothing is computed or allocated."""
    pipeline = new_pipeline(experiment, skeleton=True)
    codec, frames = pipeline.codec, pipeline.frames(seconds)
    ones = pipeline.splitter.split(torch.ones(1, codec.num_codebooks, codec.codebook_dim, frames))
    jobs = [new_stage(experiment, pipeline, i, "meta") for i in range(len(pipeline.stage_names))]
    check_warm_starts(experiment, pipeline, [stage for stage, _ in jobs], Path())
    costs = []
    for i, (stage, train) in enumerate(jobs):
        batch = blank_input(pipeline, i, train.train_batch_size, round(train.crop_seconds * codec.frame_rate))
        step = count_step(StageTrainer(stage, train), batch)
        parameters = sum(parameter.numel() for parameter in stage.denoiser.parameters())
        values, once = float(ones[i].sum()) / frames, step.forward + step.backward + step.recomputed
        step_flops = once * train.gradient_accumulation_steps
        sampling = sampling_cost(stage, pipeline, i, frames)
        costs.append(StageCost(stage.name, parameters, values, train.max_train_steps, step_flops, *sampling))
    return costs


@torch.no_grad()
def sampling_cost(stage: Stage, pipeline: Pipeline, i: int, frames: int) -> tuple[int, int, int, int]:
    """Count the network calls of a clip, how many are guided, the passes of guidance in these, and the FLOPs of all.

    The denoiser of the stage is on the meta device. What it computes once for all calls (`prepare_for_sampling`) is
    counted in each: it is little.
    """
    inputs, scheduler = blank_input(pipeline, i, 1, frames), stage.scheduler
    set_timesteps(scheduler, stage.sampling.num_inference_steps)
    calls, rows = len(scheduler.timesteps), num_passes(stage.sampling.guidance_scale, pipeline.conditioner)
    first, last = (scheduler.config.num_train_timesteps * part for part in stage.sampling.guidance_interval)
    guided = sum(first <= timestep <= last for timestep in scheduler.timesteps.tolist())
    condition = Condition.cat([inputs.condition] * rows)
    context = None if inputs.context is None else inputs.context.repeat(rows, 1, 1)
    with OperationCounter() as counter:
        stage.denoiser.eval()(inputs.x_start.repeat(rows, 1, 1), torch.zeros(rows, device="meta"), context, condition)
    return calls, guided, rows, guided * counter.flops + (calls - guided) * counter.flops // rows


def training_flops(costs: Sequence[StageCost], steps: Sequence[int] | None = None) -> int:
    """Return the FLOPs of training all stages for so many steps each, by default those of their settings."""
    counts = [cost.max_train_steps for cost in costs] if steps is None else steps
    return sum(cost.step_flops * count for cost, count in zip(costs, counts, strict=True))


def affordable_steps(costs: Sequence[StageCost], budget: float, split: str = "steps") -> list[int]:
    """Return the steps of every stage that a budget of FLOPs pays for, rounded down.

    Stages divide it in the ratio of the steps of their settings ("steps"), or equally ("flops"). Raises ValueError if a
    stage could not take one step.
    """
    if split == "flops":
        steps = [int(budget / len(costs) / cost.step_flops) for cost in costs]
    else:
        steps = [int(cost.max_train_steps * budget / training_flops(costs)) for cost in costs]
    for cost, count in zip(costs, steps, strict=True):
        if count < 1:
            raise InvalidValue(
                f"budget={budget:g} FLOPs is less than a step of {cost.name}: one takes {cost.step_flops:.3g}, and "
                f"the budget is for {len(costs)} stages."
            )
    return steps


def cost_table(variants: Sequence[Variant]) -> Table:
    """Return a row for every stage of every variant: steps and FLOPs of training, network calls and FLOPs of a clip."""
    rows: list[tuple[str, ...]] = []
    for variant in variants:
        for cost, steps in zip(variant.costs, variant.steps, strict=True):
            training = (f"{steps:,}", format_count(cost.step_flops * steps)) if steps else (NOTHING, NOTHING)
            calls, clip = _describe_calls(cost), format_count(cost.clip_flops)
            rows.append((variant.name, cost.name, f"{cost.parameters:,}", *training, calls, clip))
        if len(variant.costs) > 1:
            flops = variant.training_flops
            totals = format_count(flops) if flops else NOTHING, "", format_count(variant.clip_flops)
            rows.append((variant.name, "all", "", "", *totals))
    columns = ("variant", "stage", "parameters", "steps", "training FLOPs", "network calls", "FLOPs of a clip")
    return Table(columns, rows, text_columns=2)


def _describe_calls(cost: StageCost) -> str:
    """Return the calls of guided and unguided predictions, as 12 × 2 + 8."""
    if cost.passes == 1 or not cost.guided_calls:
        return str(cost.network_calls)
    unguided = cost.network_calls - cost.guided_calls
    return f"{cost.guided_calls} × {cost.passes}{f' + {unguided}' if unguided else ''}"


def sampling_warnings(variants: Sequence[Variant]) -> list[str]:
    """Warn if a clip of one variant takes much more computation than that of another."""
    costs = {variant.name: variant.clip_flops for variant in variants if variant.clip_flops}
    most, least = (choose(costs, key=costs.__getitem__, default="") for choose in (max, min))
    if not costs or costs[most] < MUCH_MORE * costs[least]:
        return []
    return [
        f"Variants differ in the cost of sampling: a clip takes {format_count(costs[most])}FLOPs with {most} and "
        f"{format_count(costs[least])}FLOPs with {least}, which may explain differences in quality. To compare "
        "at an equal cost, set sampling.num_inference_steps of each."
    ]


def describe_costs(comparison: CompareConfig, variants: Sequence[Variant], device: str = "") -> str:
    """Say what training takes, and how long this and generation take on a device, empty for this machine's.

    An oracle generates the later stages once more, so stage `i` of a variant is sampled `i + 1` times for each clip.
    """
    count, trained = len(comparison.seeds), [variant.name for variant in variants if variant.trained]
    flops = count * sum(variant.training_flops for variant in variants)
    seeds = f"{len(variants) - len(trained)} variants × {count} seed{'s' * (count > 1)}"
    lines = ["Network calls of a clip are steps × passes of guidance."]
    lines += [f"{seeds}: {format_count(flops)}FLOPs of training."] if flops else []
    line = " ".join([*lines, *([f"Not trained: {', '.join(trained)}."] if trained else [])])
    try:
        name, rate = attainable_flops(device)
    except UnknownName:  # a GPU whose peak is unknown
        return line
    calls = [sum((i + 1) * cost.clip_flops for i, cost in enumerate(variant.costs)) for variant in variants]
    training = f"{format_duration(flops / rate)} to train and " if flops else ""
    models = [1 if variant.trained else count for variant in variants]
    sampling = comparison.evaluation.clips * sum(map(mul, models, calls))
    seconds = f"{format_duration(sampling / rate)} to generate clips of {comparison.evaluation.seconds:g} seconds"
    return (
        f"{line} Estimated time on 1 x {name}: at least {training}{seconds}. Encoding the music and measuring are not "
        "included."
    )
