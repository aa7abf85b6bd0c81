"""What training takes, before it is paid for.

The real loss of the real trainer runs once on the meta device, where tensors have a shape and no numbers: nothing is
computed, allocated or fetched, and what it would have taken is counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from codecdiff.config.schema import Data, Loop, Optimization
from codecdiff.data.audio import find_tracks, seconds_of
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import split_tracks
from codecdiff.diffusion.loss import StageInput, stage_loss
from codecdiff.interfaces import Codec, Condition, ConditionTokens
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.profiling.flops import Meter, MixedPrecision, size_of, size_of_state
from codecdiff.training.batch import CHECKED
from codecdiff.training.trainer import StageTrainer

Job = tuple[Stage, Optimization, Loop]  # a stage whose denoiser is on the meta device, and how it is trained

PAPER_HOURS = 3778 + 0.2 * 8232  # of music that DiscoDiff was trained on
TOKENS = 64  # of a prompt; a caption has fewer as a rule, and they hardly count


@dataclass(frozen=True)
class Device:
    """A GPU as its maker's data sheet has it: memory, and peaks of dense matrix products."""

    memory: int  # GB
    bf16: float  # TFLOP/s, summed in float32
    tf32: float  # TFLOP/s; what convolutions of float32 use, unless told otherwise


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


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"ask for more than 0, not {text}")
    return number


@dataclass(frozen=True)
class Assumptions:
    """What a plan cannot count: the machines, how much of their peak is reached, and music that is not there yet."""

    devices: int = 1
    device: str = "h100"
    utilisation: float = 0.11  # the paper's model on an H200, by benchmarks/RESULTS.md
    hours: float = PAPER_HOURS

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add `--plan`, and an option for each assumption."""
        parser.add_argument("--plan", action="store_true", help="print what training would take, and stop")
        group = parser.add_argument_group("what --plan assumes")
        group.add_argument("--devices", type=int, choices=range(1, 4097), metavar="N", default=cls.devices)
        group.add_argument("--device", choices=DEVICES, default=cls.device)
        text = f"share of the device's peak that is reached, {cls.utilisation} unless given"
        group.add_argument("--utilisation", type=_above_zero, default=cls.utilisation, help=text)
        text = f"of music, where there is none yet; the paper's {cls.hours:,.0f} unless given"
        group.add_argument("--hours", type=_above_zero, default=cls.hours, help=text)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Assumptions:
        """Give what was asked for on the command line."""
        return cls(arguments.devices, arguments.device, arguments.utilisation, arguments.hours)


@dataclass(frozen=True)
class Music:
    """How much there is to train on: latent frames in all, and of each track that is not held out."""

    source: str
    seconds: float
    frames: float
    training: Sequence[float]

    def crops(self, frames: int) -> int:
        """Count the crops of this many frames in an epoch, as `Crops` draws them."""
        return sum(max(1, round(track / frames)) for track in self.training)


def music(data: Data, store: Path, codec: Codec, hours: float, seed: int = 0) -> Music:
    """Measure the store if there is one, else the audio if there is any, else assume so many hours of it.

    Of audio that is not encoded yet, the share to hold out is taken off every track: which are, their contents decide.
    """
    if (store / "header.json").is_file():
        found = CodeStore(store)
        training = [found.rows[i]["frames"] for i in split_tracks(found, data.held_out, seed)[0]]
        seconds = sum(row["seconds"] for row in found.rows)
        return Music(f"in the store {store}", seconds, found.frames, training)
    rest, source = 1 - data.held_out, "assumed (--hours)"
    if data.audio and data.audio.is_dir():
        lengths = [seconds_of(track.file) for track in find_tracks(data.audio)]
        frames = [-(-round(length * codec.sample_rate) // codec.hop_length) for length in lengths]
        return Music(f"in {data.audio}", sum(lengths), sum(frames), [rest * count for count in frames])
    if data.audio:
        source += f": there is no folder {data.audio} yet"
    frames = hours * 3600 * codec.frame_rate
    return Music(source, hours * 3600, frames, [rest * frames])


def store_size(codec: Codec, target: str, frames: float) -> float:
    """Give the bytes of a store's shards: codes of 16 bits, and projections of 16 bits if they are the target."""
    numbers = 1 + codec.codebook_dim * (target == "continuous")
    return 2 * codec.num_codebooks * numbers * frames


def blank_input(pipeline: Pipeline, i: int, rows: int, frames: int) -> StageInput:
    """Give an input of stage `i` on the meta device, with prompts of TOKENS tokens."""
    codec, widths = pipeline.codec, pipeline.conditioner.widths if pipeline.conditioner else {}
    with torch.device("meta"):
        stages = pipeline.splitter.split(torch.empty(rows, codec.num_codebooks, codec.codebook_dim, frames))
        real = torch.ones(rows, TOKENS, dtype=torch.bool)
        condition = Condition(
            {name: ConditionTokens(torch.empty(rows, TOKENS, width), real) for name, width in widths.items()}
        )
    context = pipeline.splitter.context(stages, i)
    return StageInput(range(rows), stages[i], torch.ones_like(stages[i]), context, condition)


def _tensors(given: StageInput) -> list[Tensor]:
    told = [tensor for entry in given.condition.entries.values() for tensor in entry]
    return [given.x_start, given.valid_mask, *([] if given.context is None else [given.context]), *told]


@dataclass(frozen=True)
class Step:
    """What one training step takes on one device, beside the weights and their gradients."""

    forward: int  # FLOPs
    backward: int  # FLOPs
    recomputed: int  # FLOPs of the forward pass that checkpointing repeats in the backward pass
    activations: int  # bytes at their most: what is kept for the backward pass, and what is worked on


def step_of(trainer: StageTrainer, given: StageInput, *, mixed: bool = False) -> Step:
    """Count one step of a trainer on the device of its input; `mixed` precision is that of a GPU, on meta tensors.

    Gradients of the step before are there until the forward pass is done, as in `StageTrainer.step`.
    """
    meter, denoiser = Meter(given.x_start.device.type), trainer.denoiser.train()
    gradients = size_of(denoiser.parameters())
    trainer.network = _in_mixed_precision(denoiser) if mixed else denoiser
    with meter, ExitStack() as modes:
        loss = trainer.objective(given)
        forward, peak = meter.flops, meter.peak
        meter.is_backward = True
        if mixed:
            modes.enter_context(MixedPrecision(keep=False))
        torch.autograd.backward(get_gradient_edge(loss))  # of a tensor, it would leave the mode
    activations = max(peak, meter.peak - gradients) + size_of(_tensors(given))
    return Step(forward, meter.flops - forward - meter.recomputed, meter.recomputed, activations)


def _in_mixed_precision(network: torch.nn.Module):
    """Give what `accelerator.prepare` makes of a network."""

    def run(*inputs):
        with MixedPrecision():
            return network(*inputs)

    return run


@torch.no_grad()
def check_size(trainer: StageTrainer, given: StageInput) -> int:
    """Give the bytes that the loss on held-out music works on: the averaged weights, in float32."""
    with Meter() as meter:
        noise, timestep = trainer.draw(given.x_start)
        network = trainer.ema.module.eval()
        scheduler = trainer.stage.train_scheduler
        stage_loss(network, scheduler, given, noise=noise, timestep=timestep, loss=trainer.loss)
    return meter.peak + size_of(_tensors(given))


def kept(trainer: StageTrainer, devices: int = 1) -> dict[str, int]:
    """Give the bytes that a device keeps of a trainer from step to step, by what they are."""
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
    parameters: int
    frames: int  # of a crop
    batch_size: int
    steps: int
    step: Step
    memory: dict[str, int]  # bytes, by what they are

    @property
    def flops(self) -> int:
        """FLOPs of one step."""
        return self.step.forward + self.step.backward + self.step.recomputed

    def hours(self, flops: float) -> float:
        """Give the hours of all steps, at so many FLOPs a second."""
        return self.steps * self.flops / flops / 3600


def stage_plan(pipeline: Pipeline, job: Job, *, mixed: bool, devices: int, before: int = 0) -> StagePlan:
    """Plan the training of one stage; `before` are the bytes of the stages that were trained before it in the run."""
    stage, train, loop = job
    i, frames = pipeline.stage_names.index(stage.name), round(loop.seconds * pipeline.codec.frame_rate)
    trainer = StageTrainer(stage, **train.model_dump())
    step = step_of(trainer, blank_input(pipeline, i, loop.batch_size, frames), mixed=mixed)
    check = check_size(trainer, blank_input(pipeline, i, CHECKED, frames))
    memory = {
        **kept(trainer, devices),
        "stages before": before,
        "codec": size_of_state(pipeline.codec),
        "conditioner": size_of_state(pipeline.conditioner),
        "activations": max(step.activations, check),
    }
    parameters = sum(parameter.numel() for parameter in stage.denoiser.parameters())
    return StagePlan(stage.name, parameters, frames, loop.batch_size, train.steps, step, memory)


def plan(pipeline: Pipeline, jobs: Sequence[Job], *, mixed: bool, devices: int) -> list[StagePlan]:
    """Plan the stages of a run, one after the other; each finds the averaged weights of those before it loaded."""
    sizes = [size_of_state(stage.denoiser) for stage, _, _ in jobs]
    options = {"mixed": mixed, "devices": devices}
    return [stage_plan(pipeline, job, **options, before=sum(sizes[:n])) for n, job in enumerate(jobs)]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _row(title: str, cells: Iterable[str]) -> str:
    return f"{title:<26}" + "".join(f"{cell:>16}" for cell in cells)


def report(
    pipeline: Pipeline, jobs: Sequence[Job], data: Data, store: Path, precision: str, seed: int, assumed: Assumptions
) -> str:
    """Say what a run takes: the music and its store, then a column for each stage, then the whole."""
    device, mixed, n = DEVICES[assumed.device], precision == "bf16", assumed.devices
    peak = device.bf16 if mixed else device.tf32
    found = music(data, store, pipeline.codec, assumed.hours, seed)
    stages = plan(pipeline, jobs, mixed=mixed, devices=n)
    hours = [stage.hours(1e12 * peak * assumed.utilisation) for stage in stages]
    crops = [found.crops(stage.frames) for stage in stages]
    size = store_size(pipeline.codec, pipeline.target, found.frames)

    def row(title: str, numbers: Iterable[float], scale: float = 1) -> str:
        return _row(title, (_short(number / scale) for number in numbers))

    passes = {"forward": "forward", "backward": "backward", "forward, again": "recomputed"}
    lines = [
        f"{n} x {assumed.device} ({device.memory} GB, {peak:g} TFLOP/s in {'bf16' if mixed else 'tf32'}), "
        f"{100 * assumed.utilisation:g} % of the peak reached (--utilisation)",
        f"{_short(found.seconds / 3600)} hours of music, {found.source}",
        f"{_short(size / 1e9)} GB of {pipeline.target} in the store",
        "",
        _row("", (stage.name for stage in stages)),
        _row("parameters", (f"{stage.parameters:,}" for stage in stages)),
        row("frames of a crop", (stage.frames for stage in stages)),
        row("crops in a step", (n * stage.batch_size for stage in stages)),
        row("crops in an epoch", crops),
        row("steps", (stage.steps for stage in stages)),
        row("epochs", (n * s.batch_size * s.steps / count for s, count in zip(stages, crops, strict=True))),
        _row("TFLOP of a step, a device", (_short(stage.flops / 1e12) for stage in stages)),
        *(row(f"  {title}", (getattr(s.step, key) for s in stages), 1e12) for title, key in passes.items()),
        _row("GB of memory, a device", (_short(sum(stage.memory.values()) / 1e9) for stage in stages)),
        *(row(f"  {key}", (stage.memory[key] for stage in stages), 1e9) for key in stages[0].memory),
        row("hours", hours),
        "",
        f"Together {_short(sum(hours))} hours on {n} x {assumed.device}: {_short(n * sum(hours))} device hours.",
    ]
    full = [s.name for s in stages if sum(s.memory.values()) > 1e9 * device.memory]
    if full:
        lines.append(f"TOO MUCH for the memory of one {assumed.device}: {', '.join(full)}. Lower loop.batch_size.")
    return "\n".join(lines)
