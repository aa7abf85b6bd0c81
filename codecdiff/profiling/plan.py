"""What training takes, before paying for it.

The real loss of the real trainer runs once on the meta device, where tensors have a shape and no data: nothing is
computed, allocated or fetched, and what it would take is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from codecdiff.config.schema import DataConfig, ExperimentConfig, TrainConfig
from codecdiff.data.audio import seconds_of
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import split_tracks
from codecdiff.data.metadata import find_tracks
from codecdiff.diffusion.loss import StageInput
from codecdiff.errors import InvalidValue, UnknownName
from codecdiff.interfaces import Codec, Condition, ConditionTokens
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.profiling.flops import MixedPrecision, OperationCounter, size_of, size_of_state
from codecdiff.training.accelerator import format_duration
from codecdiff.training.batch import VALIDATION_BATCH_SIZE
from codecdiff.training.trainer import StageTrainer

Job = tuple[Stage, TrainConfig]  # a stage whose denoiser is on the meta device, and how it is trained

PAPER_HOURS = 3778 + 0.2 * 8232  # of music that DiscoDiff was trained on
WIDE = 1000  # numbers in a frame of a stage, from which a denoiser of the usual size learns little
MAX_COLUMNS = 4  # of a table, one for each stage
TOKENS = 64  # of a prompt; a caption usually has fewer, and they hardly count


@dataclass(frozen=True)
class Device:
    """A GPU by the data of its manufacturer, or the CPU as measured: memory, and peaks of dense matrix products."""

    memory: float  # GB
    bf16: float  # TFLOP/s, summed in float32; that of fp16 is the same
    tf32: float  # TFLOP/s; the default of convolutions in float32


DEVICES = {
    "h200": Device(141, 989.4, 494.7),
    "h100": Device(80, 989.4, 494.7),  # SXM
    "h100-pcie": Device(80, 756, 378),
    "a100": Device(80, 312, 156),
    "a100-40gb": Device(40, 312, 156),
    "l40s": Device(48, 362, 183),
    "l4": Device(24, 121, 60),
    "a10": Device(24, 125, 62.5),
    "rtx4090": Device(24, 165.2, 82.6),
    "rtx3090": Device(24, 71, 35.6),
}
CPU = "cpu"  # of this machine
# Of the CPU, and of a GPU: the paper's model on an H200, by benchmarks/RESULTS.md
UTILIZATION = {True: 0.4, False: 0.11}


def find_device(name: str) -> tuple[str, Device]:
    """Return the device of this name; if it is empty, the GPU of this machine, or else its CPU, with its name.

    Raises UnknownName.
    """
    if name == CPU or not (name or torch.cuda.is_available()):
        return CPU, measure_cpu()
    if name in DEVICES:
        return name, DEVICES[name]
    choices = f"Devices: {', '.join([CPU, *DEVICES])}."
    if name:
        raise UnknownName(f"No device '{name}' to plan for. {choices}")
    here = torch.cuda.get_device_properties(0)
    plain = here.name.lower().replace(" ", "-")
    matches = [each for each in DEVICES if each in plain]
    if not matches:
        raise UnknownName(f"The peak of this machine's GPU, {here.name}, is not known. Choose by --device. {choices}")
    name = max(matches, key=len)
    return name, replace(DEVICES[name], memory=round(here.total_memory / 1e9))


def measure_cpu() -> Device:
    """Return the CPU of this machine, with the best rate of some matrix products in float32 as its peak."""
    size, seconds = 1024, []
    matrix = torch.ones(size, size)
    for _ in range(10):
        start = time.perf_counter()
        _ = matrix @ matrix
        seconds.append(time.perf_counter() - start)
    peak = 2 * size**3 / min(seconds) / 1e12
    return Device(psutil.virtual_memory().total / 1e9, peak, peak)


def attainable_flops(device: str = "", utilization: float | None = None, *, mixed: bool = False) -> tuple[str, float]:
    """Return the name of a device, by default this machine's, and the FLOPs per second that training attains on it.

    Raises UnknownName.
    """
    name, facts = find_device(device)
    peak = facts.bf16 if mixed else facts.tf32
    return name, 1e12 * peak * (utilization or UTILIZATION[name == CPU])


@dataclass(frozen=True)
class Assumptions:
    """What a plan cannot count: the machines, how much of their peak is reached, and music that is not there yet.

    device: empty for this machine's.
    utilization: fraction of the peak; None for what was measured of a GPU or of the CPU.
    """

    devices: int = 1
    device: str = ""
    utilization: float | None = None
    hours: float = PAPER_HOURS

    def __post_init__(self):
        for name in ("devices", "utilization", "hours"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidValue(f"Invalid --{name}={value}: expected a number above 0.")


@dataclass(frozen=True)
class TrainingAudio:
    """How much there is to train on: latent frames in total, and of each track that is not for validation."""

    source: str
    seconds: float
    frames: float
    training: Sequence[float]

    def num_crops(self, frames: int) -> int:
        """Count the crops of this many frames in an epoch, as `TrainingCrops` draws them."""
        return sum(max(1, round(track / frames)) for track in self.training)


def training_audio(data: DataConfig, store: Path, codec: Codec, hours: float, seed: int = 0) -> TrainingAudio:
    """Measure the store if there is one, else the audio if there is any, else assume so many hours of it.

    Of audio that is not encoded yet, the validation fraction is taken off every track: which tracks are for validation
    follows from their contents.
    """
    if (store / "header.json").is_file():
        codes = CodeStore(store)
        split_seed = seed if data.split_seed is None else data.split_seed
        training = [codes.rows[i]["frames"] for i in split_tracks(codes, data.validation_fraction, split_seed)[0]]
        seconds = sum(row["seconds"] for row in codes.rows)
        return TrainingAudio(f"in the store {store}", seconds, codes.frames, training)
    fraction, source = 1 - data.validation_fraction, "assumed (--hours)"
    if data.audio and data.audio.is_dir():
        lengths = [seconds_of(track.file) for track in find_tracks(data.audio)]
        frames = [-(-round(length * codec.sample_rate) // codec.hop_length) for length in lengths]
        return TrainingAudio(f"in {data.audio}", sum(lengths), sum(frames), [fraction * count for count in frames])
    if data.audio:
        source += f": the folder {data.audio} does not exist yet"
    frames = hours * 3600 * codec.frame_rate
    return TrainingAudio(source, hours * 3600, frames, [fraction * frames])


def store_size(codec: Codec, target: str, frames: float) -> float:
    """Return the bytes of a store's shards: codes of 16 bits, and continuous latents of 16 bits if trained on."""
    values = 1 + codec.codebook_dim * (target == "continuous")
    return 2 * codec.num_codebooks * values * frames


def blank_input(pipeline: Pipeline, i: int, rows: int, frames: int) -> StageInput:
    """Return an input of stage `i` on the meta device, with prompts of TOKENS tokens."""
    codec, widths = pipeline.codec, pipeline.conditioner.widths if pipeline.conditioner else {}
    with torch.device("meta"):
        stages = pipeline.splitter.split(torch.empty(rows, codec.num_codebooks, codec.codebook_dim, frames))
        mask = torch.ones(rows, TOKENS, dtype=torch.bool)
        tokens = {name: ConditionTokens(torch.empty(rows, TOKENS, width), mask) for name, width in widths.items()}
    context = pipeline.splitter.context(stages, i)
    return StageInput(range(rows), stages[i], torch.ones_like(stages[i]), context, Condition(tokens))


def _size_of_input(inputs: StageInput) -> int:
    condition = [tensor for tokens in inputs.condition.values() for tensor in tokens]
    context = [] if inputs.context is None else [inputs.context]
    return size_of([inputs.x_start, inputs.valid_mask, *context, *condition])


@dataclass(frozen=True)
class StepCost:
    """What one training step takes on one device, beside the weights and their gradients."""

    forward: int  # FLOPs
    backward: int  # FLOPs
    recomputed: int  # FLOPs of the forward pass that checkpointing repeats in the backward pass
    activations: int  # bytes at their peak: what is stored for the backward pass, and temporary tensors


def count_step(trainer: StageTrainer, inputs: StageInput, *, mixed: bool = False) -> StepCost:
    """Count one step of a trainer on the device of its input; `mixed` precision is that of a GPU, on meta tensors.

    Gradients of the step before are there until the forward pass is done, as in `StageTrainer.step`.
    """
    counter, denoiser = OperationCounter(inputs.x_start.device.type), trainer.denoiser.train()
    gradients = size_of(denoiser.parameters())

    def in_mixed_precision(*inputs: Tensor) -> Tensor:  # as `accelerator.prepare` does
        with MixedPrecision():
            return denoiser(*inputs)

    trainer.network = in_mixed_precision if mixed else denoiser
    with counter, ExitStack() as modes:
        loss = trainer.loss(inputs)
        forward, peak = counter.flops, counter.peak
        counter.is_backward = True
        if mixed:
            modes.enter_context(MixedPrecision(cache=False))
        torch.autograd.backward(get_gradient_edge(loss))  # of a tensor, it would leave the mode
    activations = max(peak, counter.peak - gradients) + _size_of_input(inputs)
    return StepCost(forward, counter.flops - forward - counter.recomputed, counter.recomputed, activations)


def resident_size(trainer: StageTrainer, devices: int = 1) -> dict[str, int]:
    """Return the bytes that a device holds of a trainer from step to step, by what they are."""
    parameters = list(trainer.denoiser.parameters())
    sizes = {
        "weights": size_of_state(trainer.denoiser),
        "gradients": size_of(parameters),
        "moments of AdamW": 2 * size_of(parameters) + 4 * len(parameters),  # and the count of steps of each
        "averaged weights": size_of_state(trainer.ema),
    }
    return sizes | ({"gradients exchanged": size_of(parameters)} if devices > 1 else {})


@dataclass(frozen=True)
class StagePlan:
    """What the training of one stage takes, on each device."""

    name: str
    num_parameters: int
    crop_frames: int
    train: TrainConfig
    step: StepCost
    memory: dict[str, int]  # bytes, by what they are

    @property
    def flops(self) -> int:
        """FLOPs of one step."""
        once = self.step.forward + self.step.backward + self.step.recomputed
        return once * self.train.gradient_accumulation_steps

    def hours(self, flops: float) -> float:
        """Return the hours of all steps, at so many FLOPs a second."""
        return self.train.max_train_steps * self.flops / flops / 3600


def step_cost(pipeline: Pipeline, job: Job) -> tuple[int, float, float] | None:
    """Return the FLOPs of a training step, and the GPU's peaks in bf16 and tf32, in TFLOP/s; None if unknown."""
    try:
        _, device = find_device("" if torch.cuda.is_available() else "no GPU")
    except UnknownName:
        return None
    (plan,) = plan_stages(pipeline, [job], mixed=False, devices=1)
    return plan.flops, device.bf16, device.tf32


def plan_stages(pipeline: Pipeline, jobs: Sequence[Job], *, mixed: bool, devices: int) -> list[StagePlan]:
    """Plan the stages of a run, one after the other; each has the averaged weights of those before it loaded."""
    plans, before = [], 0
    for stage, train in jobs:
        i, frames = pipeline.stage_names.index(stage.name), round(train.crop_seconds * pipeline.codec.frame_rate)
        trainer = StageTrainer(stage, train)
        step = count_step(trainer, blank_input(pipeline, i, train.train_batch_size, frames), mixed=mixed)
        inputs = blank_input(pipeline, i, VALIDATION_BATCH_SIZE, frames)
        with OperationCounter() as validation, torch.no_grad():  # with the averaged weights, in float32
            trainer.loss_of(trainer.ema.module.eval(), inputs, *trainer.draw(inputs))
        memory = {
            **resident_size(trainer, devices),
            "stages before": before,
            "codec": size_of_state(pipeline.codec),
            "conditioner": size_of_state(pipeline.conditioner),
            "activations": max(step.activations, validation.peak + _size_of_input(inputs)),
        }
        num_parameters = sum(parameter.numel() for parameter in stage.denoiser.parameters())
        plans.append(StagePlan(stage.name, num_parameters, frames, train, step, memory))
        before += size_of_state(stage.denoiser)
    return plans


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _cells(values: Iterable[float | str], scale: float = 1) -> list[str]:
    return [value if isinstance(value, str) else _short(value / scale) for value in values]


def _stage_facts(stages: Sequence[StagePlan], audio: TrainingAudio, devices: int, flops: float) -> dict[str, list[str]]:
    """Return work, memory and time by title, a cell for each stage; titles of parts of a sum are indented."""
    batches = [devices * s.train.train_batch_size * s.train.gradient_accumulation_steps for s in stages]
    steps = [stage.train.max_train_steps for stage in stages]
    crops = [audio.num_crops(stage.crop_frames) for stage in stages]
    passes = {"forward": "forward", "backward": "backward", "forward, again": "recomputed"}
    return {
        "": [stage.name for stage in stages],
        "parameters": [f"{stage.num_parameters:,}" for stage in stages],
        "frames of a crop": _cells(stage.crop_frames for stage in stages),
        "crops in a step": _cells(batches),
        "crops in an epoch": _cells(crops),
        "steps": _cells(steps),
        "epochs": _cells(batch * count / epoch for batch, count, epoch in zip(batches, steps, crops, strict=True)),
        "TFLOP of a step, a device": _cells((stage.flops for stage in stages), 1e12),
        **{f"  {title}": _cells((getattr(s.step, key) for s in stages), 1e12) for title, key in passes.items()},
        "GB of memory, a device": _cells((sum(stage.memory.values()) for stage in stages), 1e9),
        **{f"  {key}": _cells((stage.memory[key] for stage in stages), 1e9) for key in stages[0].memory},
        "time": [format_duration(3600 * stage.hours(flops)) for stage in stages],
    }


def _table(facts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines of a table: a column for each stage, or a row without parts of sums if there are many."""
    if len(facts[""]) <= MAX_COLUMNS:
        return [f"{title:<26}" + "".join(f"{cell:>16}" for cell in cells) for title, cells in facts.items()]
    columns = [[title.removesuffix(", a device"), *cells] for title, cells in facts.items() if title[:1] != " "]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def plan_report(
    experiment: ExperimentConfig,
    pipeline: Pipeline,
    jobs: Sequence[Job],
    store: Path,
    *,
    mixed_precision: str,
    assumptions: Assumptions,
) -> str:
    """Report what a run takes: the music and its store, then a column, or a row, for each stage, then the total."""
    mixed, count = mixed_precision != "no", assumptions.devices
    name, device = find_device(assumptions.device)
    precision = mixed_precision if mixed else "float32" if name == CPU else "tf32"
    peak = device.bf16 if mixed else device.tf32
    utilization = assumptions.utilization or UTILIZATION[name == CPU]
    audio = training_audio(experiment.data, store, pipeline.codec, assumptions.hours, experiment.seed)
    stages = plan_stages(pipeline, jobs, mixed=mixed, devices=count)
    flops = 1e12 * peak * utilization
    hours = [stage.hours(flops) for stage in stages]
    size = store_size(pipeline.codec, pipeline.target, audio.frames)
    lines = [
        f"{count} x {name} ({device.memory:.0f} GB, {peak:.4g} TFLOP/s in {precision}"
        f"{', measured now' if name == CPU else ''}), assuming that training reaches {100 * utilization:g} % of "
        "the peak (--utilization)",
        f"{_short(audio.seconds / 3600)} hours of music, {audio.source}",
        f"{_short(size / 1e9)} GB of {'codes' if pipeline.target == 'codes' else 'codes and latents'} in the store",
        "",
        *_table(_stage_facts(stages, audio, count, flops)),
        "",
        f"Total: {format_duration(3600 * sum(hours))} on {count} x {name}"
        + (f", {_short(count * sum(hours))} hours of one." if count > 1 else "."),
    ]
    if full := [s.name for s in stages if sum(s.memory.values()) > 1e9 * device.memory]:
        lines.append(f"TOO MUCH for the memory of one {name}: {', '.join(full)}. Lower train.train_batch_size.")
    if wide := [stage.name for stage, _ in jobs if stage.denoiser.channels > WIDE]:
        hint = "A network learns so many poorly: see docs/write-a-codec.md#many-levels-or-wide-latents"
        lines.append(f"More than {WIDE:,} numbers in a frame: {', '.join(wide)}. {hint}")
    return "\n".join(lines)
