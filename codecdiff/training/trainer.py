"""Training of one stage: a step, the loop of all steps, its state and its checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, is_tensorboard_available
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from codecdiff import rng
from codecdiff.config.schema import TrainConfig
from codecdiff.data.audio_writer import write_audio
from codecdiff.data.dataset import dropped_conditions
from codecdiff.diffusion.colored_noise import colored
from codecdiff.diffusion.loss import StageInput, stage_loss
from codecdiff.diffusion.noise_schedule import scheduler_from_config, scheduler_to_config
from codecdiff.errors import ConfigError, InvalidValue, UserError
from codecdiff.execution import compile_layers, require_compiler
from codecdiff.interfaces import Condition
from codecdiff.pipeline.checkpoint import STATE, config_differences, read_stage_config
from codecdiff.pipeline.code_version import warn_of_code_changes
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.warm_start import WarmStart, warm_start
from codecdiff.training.batch import StageData
from codecdiff.training.sharding import full_tensor, set_up_sharding, shard, shard_average, whole_tensors
from codecdiff.training.state import find_state, publish, read_state, write_generation

if TYPE_CHECKING:
    from codecdiff.pipeline.output import PipelineOutput

# Each has one value in a run
RUN_FACTS = ("seed", "validation_fraction", "split_seed", "gradient_accumulation_steps", "noise_device")


class TrainingDiverged(UserError, FloatingPointError):
    """A loss or a gradient that is not finite."""


def new_accelerator(
    output: Path | str,
    mixed_precision: str | None = None,
    *,
    gradient_accumulation_steps: int = 1,
    report_to: Any = "tensorboard",
    config: dict[str, Any] | None = None,
) -> Accelerator:
    """Return the accelerator of a training run: on the CPU if nothing else is there.

    Without `mixed_precision`, accelerate's own setting holds. `report_to` names trackers of accelerate, or is one, and
    `config` is what they keep; TensorBoard may be missing. Processes wait for each other up to a day: the first encodes
    while the others wait. Raises ConfigError where accelerate is set to something else.
    """
    set_outside = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if mixed_precision and set_outside and set_outside != mixed_precision:
        raise ConfigError(
            f"mixed_precision={mixed_precision}, but accelerate is set to {set_outside}. Leave one of them out, or "
            f"start with: accelerate launch --mixed_precision {mixed_precision}."
        )
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=not torch.accelerator.is_available(),  # undecided, each of several processes takes itself for the first
        log_with=None if report_to == "tensorboard" and not is_tensorboard_available() else report_to or None,
        project_dir=str(output),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
    )
    if accelerator.gradient_accumulation_steps not in (1, gradient_accumulation_steps):
        raise ConfigError(
            f"train.gradient_accumulation_steps={gradient_accumulation_steps}, but accelerate is set to "
            f"{accelerator.gradient_accumulation_steps}. Set it in the configuration alone."
        )
    accelerator.gradient_accumulation_steps = 1  # the trainer accumulates itself
    set_up_sharding(accelerator)
    accelerator.init_trackers("log", dict(_flat(config or {})))
    return accelerator


def log_sample(accelerator: Accelerator, name: str, output: PipelineOutput, file: Path, step: int) -> None:
    """Write the first waveform of an output to a file, and log it: TensorBoard and Weights & Biases take audio."""
    audio, rate = output.audios[0], output.sampling_rate
    write_audio(file, audio, rate)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_audio(name, audio.mean(0, keepdim=True).cpu(), step, rate)  # of one channel
        elif tracker.name == "wandb":
            import wandb  # pyright: ignore[reportMissingImports]

            tracker.log({name: wandb.Audio(audio.T.cpu().numpy(), rate)}, step=step)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their names on the command line, with values that every tracker takes."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _average(decay: float) -> Any:
    """Return the update of an exponential moving average whose decay is (1 + n) / (10 + n), at most `decay`."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor) -> None:
        means, values = list(averaged), list(current)  # of one type: torch groups them into few kernels
        if not means[0].is_floating_point():
            return torch._foreach_copy_(means, values)  # pyright: ignore[reportPrivateImportUsage]
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(means, values, weight)  # pyright: ignore[reportPrivateImportUsage]

    return update


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, as in "45 s", "2 min 5 s" or "3 d 4 h"."""
    seconds = round(seconds)
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds} s"


class StageTrainer:
    """Trains the denoiser of a stage. Everything random in a step follows from the seed, the step and the sample index.

    `network` is what the forward pass goes through: the denoiser itself, or what `prepare` makes of it.
    """

    def __init__(self, stage: Stage, config: TrainConfig | None = None, *, seed: int = 0, allow_changes: bool = False):
        self.stage, self.denoiser, self.allow_changes = stage, stage.denoiser, allow_changes
        self.config, self.seed = config or TrainConfig(), seed
        self.network: Any = stage.denoiser
        options: Any = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
        self.optimizer = torch.optim.AdamW(self.denoiser.parameters(), betas=(0.9, 0.99), fused=True, **options)
        self.ema = AveragedModel(self.denoiser, multi_avg_fn=_average(self.config.ema_decay), use_buffers=True)
        self.averaged: Any = self.ema.module  # with whole weights: those of the last checkpoint, if they are sharded
        self.accelerator: Accelerator | None = None
        self.sharding: Accelerator | None = None  # the same, if it shards weights
        self.step_count = 0
        self.rows: list[dict[str, Any]] = []  # of the log
        self.generation: Path | None = None  # folder of the last checkpoint
        self.cost: tuple[int, float, float] | None = None  # of `profiling.step_cost`
        self.peak_memory, self.grad_norm = 0.0, math.nan  # in GB; of the last step, before it was clipped

    @property
    def num_parameters(self) -> int:
        """Number of values that are trained."""
        return sum(parameter.numel() for parameter in self.denoiser.parameters())

    def prepare(self, accelerator: Accelerator, cost: tuple[int, float, float] | None = None) -> None:
        """Train on all processes of an accelerator, in its precision; `cost`, of `profiling.step_cost`, is logged."""
        self.accelerator, self.cost = accelerator, cost
        if self.config.compile:
            require_compiler(accelerator.device)
            compile_layers(self.denoiser.repeated_layers())
        if not accelerator.is_fsdp2:
            self.network, self.optimizer = accelerator.prepare(self.denoiser, self.optimizer)
            return
        self.sharding = accelerator
        self.network, self.optimizer = shard(accelerator, self.denoiser, self.optimizer)
        self.averaged = deepcopy(self.ema.module) if accelerator.is_main_process else None
        shard_average(self.ema.module, self.denoiser)
        self.stage = replace(self.stage, denoiser=self.ema.module)  # of the same class as before

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear warmup, then constant or half a cosine down to 2 %."""
        rate = self.config.learning_rate * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        if self.config.lr_scheduler == "constant":
            return rate
        progress = min(1.0, step / self.config.max_train_steps)
        return rate * (0.02 + 0.98 * float(torch.cos(torch.tensor(progress * torch.pi)) + 1) / 2)

    def draw(self, inputs: StageInput, num_parts: int = 1) -> tuple[Tensor, Tensor]:
        """Draw the noise (b, c, l) and timesteps (b,) of the current step, stratified over the schedule.

        The strata are those of all samples of the step. `inputs` are one of its `num_parts`: each process has one for
        every batch that it accumulates.

        With u uniform, a timestep is at 1 - u ** timestep_bias of the schedule: above 1, high noise is drawn more
        often. What lasts a whole clip, and most of what the text says, is decided there.
        """
        x_start = inputs.x_start
        noise = self._row_noise("codecdiff.train.noise", inputs.sample_indices, x_start)
        rows = len(x_start) * num_parts
        generator = rng.generator("codecdiff.train.timesteps", self.seed, self.stage.name, self.step_count)
        even = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
        own = even[[index % rows for index in inputs.sample_indices]]
        timestep = self.timesteps_at(1 - (1 - own) ** self.config.timestep_bias)
        return colored(noise, self.stage.noise_color).to(x_start.device), timestep.to(x_start.device)

    def timesteps_at(self, position: Tensor) -> Tensor:
        """Return the timesteps (b,) at positions (b,) in the schedule, from 0 to 1 at the most noise."""
        total = self.stage.train_scheduler.config.num_train_timesteps
        return (position * total).long().clamp_max(total - 1)

    def _row_noise(self, name: str, sample_indices: Sequence[int], like: Tensor) -> Tensor:
        """Draw white noise for each sample of the current step, as large as `like` (b, c, l), on the noise's device."""
        key = self.seed, self.stage.name, self.step_count
        device = like.device if self.config.noise_device == "device" else "cpu"
        generators = [rng.generator(name, *key, index, device=device) for index in sample_indices]
        return rng.row_noise(like.shape[1:], generators)

    def augment(self, inputs: StageInput) -> Tensor | None:
        """Add Gaussian noise of deviation `context_noise_std` to the context (b, c', l) of the current step, if any.

        Conditioning augmentation of Ho et al., "Cascaded diffusion models" (2022), here of one strength: a stage
        learns to tolerate errors of the stages before it. Nothing is added in sampling.
        """
        context = inputs.context
        if context is None or not self.config.context_noise_std:
            return context
        noise = self._row_noise("codecdiff.train.context_noise", inputs.sample_indices, context)
        return context + self.config.context_noise_std * noise.to(context)

    def drop(self, condition: Condition, sample_indices: Sequence[int]) -> Condition:
        """Make each condition absent with the dropout probability, as a function of the sample index."""
        names = list(condition)
        rows = dropped_conditions(self.seed, sample_indices, names, self.config.dropout) if names else {}
        for name, absent in rows.items():
            condition = condition.drop(absent.to(condition[name].mask.device), name)
        return condition

    def loss(self, inputs: StageInput, num_parts: int = 1) -> Tensor:
        """Return the loss of the current step, whose gradient `step` takes."""
        noise, timestep = self.draw(inputs, num_parts)
        context = self.augment(inputs)
        inputs = replace(inputs, context=context, condition=self.drop(inputs.condition, inputs.sample_indices))
        with self.sharding.autocast() if self.sharding else nullcontext():  # otherwise the network does it
            return self.loss_of(self.network, inputs, noise, timestep, self.config.snr_gamma)[0]

    def loss_of(
        self, network: Any, inputs: StageInput, noise: Tensor, timestep: Tensor, snr_gamma: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a network with this noise (b, c, l) and these timesteps (b,), and the zero predictor's."""
        return stage_loss(
            network,
            self.stage.train_scheduler,
            inputs,
            noise=noise,
            timestep=timestep,
            loss=self.config.loss,
            snr_gamma=snr_gamma,
        )

    def train(
        self,
        data: StageData,
        folder: Path | str,
        checkpoints: Container[int],
        *,
        log: Callable[[dict[str, float], str], None] = lambda row, line: None,
        track: Callable[[Sequence[int]], Iterable[int]] = iter,
        after_step: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Take the remaining steps, with a checkpoint in a model folder after those in `checkpoints` and the last.

        log: receives the row of a checkpoint in the stage's log, and the same as a sentence.
        track: iterates over steps and may show progress.
        after_step: receives the number of steps taken so far, that of a resumed checkpoint too.
        """
        accelerator, total, start = self.accelerator, self.config.max_train_steps, time.monotonic()
        rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        accumulated = self.config.gradient_accumulation_steps
        steps, losses = range(self.step_count, total), []
        if self.generation and rank == 0:  # its save may have been interrupted, and how it is sampled may have changed
            publish(Path(folder) / self.stage.name, self.generation, self.ema_stage().to_config())
            after_step(self.step_count)  # what was due then may be missing
        for step in track(steps):
            parts = range(step * accumulated, (step + 1) * accumulated)
            losses.append(self.step(*(data.step(part, rank, world) for part in parts)))
            is_due = self.step_count in checkpoints or self.step_count == total
            state = self.state() if is_due and (rank == 0 or self.sharding) else {}
            if is_due and rank == 0:
                row = self.validate(data.validation(), losses, time.monotonic() - start)
                self.save(folder, row, state)
                log(row, self.describe(row, row["seconds"] / (self.step_count - steps.start)))
                losses = []
            after_step(self.step_count)

    def describe(self, row: dict[str, float], seconds_per_step: float) -> str:
        """Return a row of the log as a sentence, with the speed and the time that is left."""
        total, world = self.config.max_train_steps, self.accelerator.num_processes if self.accelerator else 1
        crops = self.config.train_batch_size * self.config.gradient_accumulation_steps * world
        left = format_duration((total - self.step_count) * seconds_per_step)
        return (
            f"{self.stage.name}: step {self.step_count:,} of {total:,}, loss {row['loss']:.4g}, "
            f"validation loss {row['validation_loss']:.4g} "
            f"(normalized {row['normalized_validation_loss']:.3f}; predicting zero = 1), "
            f"{seconds_per_step:.2g} s per step, {self._speed(crops / seconds_per_step, seconds_per_step)}, "
            f"{left} left, {row['peak_memory']:.1f} GB"
        )

    def _speed(self, crops: float, seconds_per_step: float) -> str:
        """Return crops a second and, if they are known, FLOP/s and their part of the GPU's peak."""
        if self.cost is None:
            return f"{crops:.3g} crops/s"
        flops, bf16, tf32 = self.cost
        rate, is_mixed = flops / seconds_per_step / 1e12, self.accelerator and self.accelerator.mixed_precision != "no"
        peak = bf16 if is_mixed else tf32
        return f"{crops:.3g} crops/s, {rate:.3g} TFLOP/s ({rate / peak:.0%} of the peak)"

    def step(self, *inputs: StageInput) -> float:
        """Take one optimizer step on the mean gradient of some inputs, and return the mean loss before it.

        Raises TrainingDiverged, before weights, optimizer and average are touched, if a loss or the norm of the
        gradient is not finite.
        """
        self.denoiser.train()
        accelerator, count = self.accelerator, len(inputs)
        num_parts = count * (accelerator.num_processes if accelerator else 1)
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for i, part in enumerate(inputs):
            loss = self.loss(part, num_parts)
            self._require_finite("loss", float(loss.detach()), num_parts, part)
            value += float(loss.detach()) / count
            self.peak_memory = max(self.peak_memory, _memory_in_use(part.x_start.device))  # with activations
            is_last = i == count - 1  # processes exchange gradients once
            with nullcontext() if accelerator is None or is_last else accelerator.no_sync(self.network):
                (accelerator.backward if accelerator else torch.Tensor.backward)(loss / count)
        clip: Any = accelerator.clip_grad_norm_ if accelerator else torch.nn.utils.clip_grad_norm_
        self.grad_norm = float(full_tensor(clip(self.denoiser.parameters(), self.config.max_grad_norm)))
        if accelerator is None or accelerator.scaler is None:  # a scaler of float16 leaves such a step out
            self._require_finite("gradient norm", self.grad_norm, num_parts, *inputs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step_count)
        self.optimizer.step()
        self.ema.update_parameters(self.denoiser)
        self.step_count += 1
        return value

    def _require_finite(self, name: str, value: float, num_parts: int, *inputs: StageInput) -> None:
        """Raise TrainingDiverged, naming samples and noise levels, for a value that is infinite or not a number."""
        if math.isfinite(value):
            return
        pairs = [
            pair for part in inputs for pair in zip(part.sample_indices, self.draw(part, num_parts)[1], strict=True)
        ]
        levels = ", ".join(f"{index} at {int(timestep)}" for index, timestep in pairs[:16])
        total = self.stage.train_scheduler.config.num_train_timesteps
        raise TrainingDiverged(
            f"The {name} of {self.stage.name} became {value} at step {self.step_count}. Lower train.learning_rate. "
            f"The last checkpoint is as it was. Samples of the step, each at its timestep of {total}: {levels}."
        )

    @torch.no_grad()
    def validation_loss(self, inputs: Sequence[StageInput]) -> tuple[float, float]:
        """Return the unweighted loss of the averaged weights on validation inputs, and that of the zero predictor.

        Noise and timesteps are the same at every call: fixed noise, timesteps spread evenly over the schedule.
        """
        self.averaged.eval()
        losses = []
        for i, batch in enumerate(inputs):
            x_start, rows = batch.x_start, len(batch.x_start)
            key = "codecdiff.train.validation_noise", self.seed, self.stage.name
            white = rng.row_noise(x_start.shape[1:], [rng.generator(*key, index) for index in batch.sample_indices])
            noise = colored(white, self.stage.noise_color).to(x_start.device)
            timestep = self.timesteps_at((torch.arange(rows) + (i + 0.5) / len(inputs)) / rows).to(x_start.device)
            losses.append(self.loss_of(self.averaged, batch, noise, timestep))
        mean = torch.tensor([[float(loss), float(zero)] for loss, zero in losses]).mean(0)
        return float(mean[0]), float(mean[1])

    def validate(self, inputs: Sequence[StageInput], losses: Sequence[float], seconds: float) -> dict[str, float]:
        """Return a row of the log: step, mean of the `losses` since the last row, validation, gradient, memory in GB.

        Raises TrainingDiverged if the validation loss is not finite.
        """
        loss, zero = self.validation_loss(inputs)
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The validation loss of {self.stage.name} became {loss} at step {self.step_count}, which is not "
                "saved. Lower train.learning_rate, and train again from the last checkpoint."
            )
        row = {"step": self.step_count, "loss": sum(losses) / len(losses), "validation_loss": loss}
        row |= {"zero_predictor_loss": zero, "normalized_validation_loss": loss / zero}
        row |= {"learning_rate": self.learning_rate(self.step_count - 1), "grad_norm": self.grad_norm}
        return row | {"seconds": seconds, "peak_memory": self.peak_memory}

    def ema_stage(self) -> Stage:
        """Return the stage with the averaged weights, which are used for generation."""
        facts = {**self.stage.facts, "steps": self.step_count}
        return replace(self.stage, denoiser=self.averaged, facts=facts)

    def state(self) -> dict[str, Tensor]:
        """Return raw weights and optimizer. If they are sharded, all processes call this, and the main one has them."""
        state = {f"raw.{name}": tensor for name, tensor in self.denoiser.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        if self.sharding is None:
            return state
        if average := whole_tensors(self.ema.module.state_dict(), self.sharding):
            self.averaged.load_state_dict(average)
        return whole_tensors(state, self.sharding)

    def save(
        self, folder: Path | str, row: dict[str, float] | None = None, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Save the averaged stage into a model folder, and beside it what resuming needs: no pickles.

        `row` is appended to the stage's log. `state` is what `state` returns, by default now.
        """
        self.rows += [row] if row else []
        state = self.state() if state is None else state
        home, spec, weights = Path(folder) / self.stage.name, self.ema_stage().to_config(), self.averaged.state_dict()
        self.generation = write_generation(home, spec, weights, state, self.rows)

    def start_from(self, folder: Path | str) -> WarmStart:
        """Initialize from the averaged weights of a trained stage, a folder, where names and shapes agree.

        The average starts there too, and the stage's metadata records what was copied.
        """
        warm = warm_start(self.denoiser, Path(folder))
        self.ema.module.load_state_dict(self.denoiser.state_dict())
        self.stage.facts["start_from"] = warm.to_dict()
        return warm

    def resume(self, folder: Path | str, report: Callable[[str], None] = lambda line: None) -> bool:
        """Load the training state that `save` wrote; return False if the folder holds no such stage.

        Raises InvalidValue if the stage in training there has another denoiser or scheduler, or if no state of its
        training is intact: it would be overwritten.
        """
        path = find_state(Path(folder) / self.stage.name, report)
        if path is None:
            return False
        check_same_stage(self.stage, path, allow_changes=self.allow_changes)
        self.step_count, tensors, self.rows = read_state(path)
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)  # raw, averaged and optimizer
        for name, tensor in tensors.items():
            part, _, name = name.partition(".")
            parts[part][name] = tensor
        self.denoiser.load_state_dict(parts["raw"])
        self.ema.module.load_state_dict(parts["averaged"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.ema.n_averaged.fill_(self.step_count)
        self.generation = None if path.name == STATE else path
        return True


def check_same_stage(stage: Stage, path: Path, *, allow_changes: bool = False) -> None:
    """Check that a state of training is of this very stage and run, and take over facts that only the state knows.

    Those are where it started from, and what was changed since. Warns of changed code. Raises InvalidValue for another
    stage, and for another seed, validation split or accumulation unless `allow_changes` records them.
    """
    home = path.parent if path.name == STATE else path.parent.parent
    saved, spec = read_stage_config(home if path.name == STATE else path), stage.to_config()
    # a folder of an older diffusers lacks newer options
    saved["train_scheduler"] = scheduler_to_config(scheduler_from_config(saved["train_scheduler"]))
    keys = ("denoiser", "train_scheduler", "noise_color")
    differ = [line for key in keys for line in config_differences(saved[key], spec[key], key)]
    before, now = saved["training"], stage.facts
    differ += config_differences(before.get("distilled", {}), now.get("distilled", {}), "distilled")
    if differ:
        raise InvalidValue(
            f"{home} holds another stage in training: {'; '.join(differ)}. Choose another output folder, or delete it."
        )
    both = [key for key in RUN_FACTS if key in before and key in now]
    changes = [line for key in both for line in config_differences(before[key], now[key], key)]
    if changes and not allow_changes:
        raise InvalidValue(
            f"{home} was trained with other settings: {'; '.join(changes)}. Restore them, choose another output "
            "folder, or resume with --allow-changes: the model card then records the change. With another seed or "
            "split, the model may train on tracks of its validation set."
        )
    warn_of_code_changes(saved.get("code", {}), spec["code"], home)
    if "start_from" in before:
        now["start_from"] = before["start_from"]
    changes = [f"from step {before['steps']} on, {line}" for line in changes]
    if changes := [*before.get("changes", []), *changes]:
        now["changes"] = changes


def _memory_in_use(device: torch.device) -> float:
    """Return memory in GB: the most that tensors on a GPU took, or what this process takes now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
