"""Training of one stage: a step, the loop of all steps, its state and its checkpoints."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from codecdiff import rng
from codecdiff.config.schema import TrainConfig
from codecdiff.data.dataset import dropped_conditions
from codecdiff.diffusion.colored_noise import colored
from codecdiff.diffusion.loss import StageInput, stage_loss
from codecdiff.errors import UserError
from codecdiff.execution import compile_layers, require_compiler
from codecdiff.interfaces import Condition
from codecdiff.pipeline.checkpoint import config_differences
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.stage_folder import STATE, find_state, publish, read_state, write_generation
from codecdiff.training.accelerator import format_duration, peak_memory_of
from codecdiff.training.batch import StageData
from codecdiff.training.resuming import CHANGE, TrainingStopped, check_same_stage, stop_after_step

STOPPING = "Stopping after this step, with a checkpoint. Press Ctrl+C again to stop at once, without it."


class TrainingDiverged(UserError, FloatingPointError):
    """A loss or a gradient that is not finite."""


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
        from codecdiff.training.sharding import shard, shard_average

        self.sharding = accelerator
        self.network, self.optimizer = shard(accelerator, self.denoiser, self.optimizer)
        self.averaged = deepcopy(self.ema.module) if accelerator.is_main_process else None
        shard_average(self.ema.module, self.denoiser)
        self.stage = replace(self.stage, denoiser=self.ema.module)  # of the same class as before

    def train(
        self,
        data: StageData,
        folder: Path | str,
        checkpoints: Container[int] | None = None,
        *,
        log: Callable[[dict[str, float], str], None] = lambda row, line: None,
        track: Callable[[Sequence[int]], Iterable[int]] = iter,
        after_step: Callable[[int], None] = lambda count: None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take the remaining steps, with a checkpoint in a model folder after those in `checkpoints` and the last.

        Ctrl+C stops a single process after its step, with a checkpoint; then it raises TrainingStopped.

        checkpoints: every `checkpointing_steps`, unless they are passed. Trackers of the accelerator get their rows.
        log: receives the row of a checkpoint in the stage's log, and the same as a sentence.
        track: iterates over steps and may show progress.
        after_step: receives the number of steps taken so far, that of a resumed checkpoint too.
        report: receives a sentence when a stop is requested.
        """
        accelerator, total, start = self.accelerator, self.config.max_train_steps, time.monotonic()
        rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        accumulated = self.config.gradient_accumulation_steps
        steps, losses = range(self.step_count, total), []
        checkpoints = range(0, total, self.config.checkpointing_steps) if checkpoints is None else checkpoints
        if self.generation and rank == 0:  # its save may have been interrupted, and how it is sampled may have changed
            publish(Path(folder) / self.stage.name, self.generation, self.ema_stage().to_config())
            after_step(self.step_count)  # what was due then may be missing
        with stop_after_step(lambda: report(STOPPING), enabled=world == 1) as is_stop_requested:
            for step in track(steps):
                parts = range(step * accumulated, (step + 1) * accumulated)
                losses.append(self.step(*(data.step(part, rank, world) for part in parts)))
                stops = is_stop_requested()
                is_due = stops or self.step_count in checkpoints or self.step_count == total
                state = self.state() if is_due and (rank == 0 or self.sharding) else {}
                if is_due and rank == 0:
                    row = self.validate(data.validation(), losses, time.monotonic() - start)
                    self.save(folder, row, state)
                    self._track(row)
                    log(row, self.describe(row, row["seconds"] / (self.step_count - steps.start)))
                    losses = []
                if stops:
                    break
                after_step(self.step_count)
            if is_stop_requested():  # also while the last step was saved
                raise TrainingStopped(
                    f"Stopped after step {self.step_count:,} of {total:,} of {self.stage.name}, which is saved. "
                    "Run the same command again to resume."
                )

    def _track(self, row: Mapping[str, float]) -> None:
        if self.accelerator:
            self.accelerator.log({f"{self.stage.name}/{key}": v for key, v in row.items()}, step=self.step_count)

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
            self.peak_memory = max(self.peak_memory, peak_memory_of(part.x_start.device))  # with activations
            is_last = i == count - 1  # processes exchange gradients once
            with nullcontext() if accelerator is None or is_last else accelerator.no_sync(self.network):
                (accelerator.backward if accelerator else torch.Tensor.backward)(loss / count)
        clip: Any = accelerator.clip_grad_norm_ if accelerator else torch.nn.utils.clip_grad_norm_
        norm = clip(self.denoiser.parameters(), self.config.max_grad_norm)
        self.grad_norm = float(getattr(norm, "full_tensor", lambda: norm)())  # of sharded gradients, it is sharded
        if accelerator is None or accelerator.scaler is None:  # a scaler of float16 leaves such a step out
            self._require_finite("gradient norm", self.grad_norm, num_parts, *inputs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step_count)
        self.optimizer.step()
        self.ema.update_parameters(self.denoiser)
        self.step_count += 1
        return value

    def loss(self, inputs: StageInput, num_parts: int = 1) -> Tensor:
        """Return the loss of the current step, whose gradient `step` takes."""
        noise, timestep = self.draw(inputs, num_parts)
        context = self.augment(inputs)
        inputs = replace(inputs, context=context, condition=self.drop(inputs.condition, inputs.sample_indices))
        with self.sharding.autocast() if self.sharding else nullcontext():  # otherwise the network does it
            return self.loss_of(self.network, inputs, noise, timestep, self.config.snr_gamma)[0]

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

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear warmup, then constant or half a cosine down to 2 %."""
        rate = self.config.learning_rate * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        if self.config.lr_scheduler == "constant":
            return rate
        progress = min(1.0, step / self.config.max_train_steps)
        return rate * (0.02 + 0.98 * float(torch.cos(torch.tensor(progress * torch.pi)) + 1) / 2)

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

    def describe(self, row: dict[str, float], seconds_per_step: float) -> str:
        """Return a row of the log as a sentence, with the speed and the time that is left.

        The speed is in crops and, if the cost of a step is known, in FLOP/s and their part of the GPU's peak.
        """
        accelerator, total = self.accelerator, self.config.max_train_steps
        crops = self.config.train_batch_size * self.config.gradient_accumulation_steps
        crops *= accelerator.num_processes if accelerator else 1
        speed = f"{crops / seconds_per_step:.3g} crops/s"
        if self.cost is not None:
            flops, bf16, tf32 = self.cost
            rate, peak = flops / seconds_per_step / 1e12, tf32
            if accelerator and accelerator.mixed_precision != "no":
                peak = bf16
            speed += f", {rate:.3g} TFLOP/s ({rate / peak:.0%} of the peak)"
        return (
            f"{self.stage.name}: step {self.step_count:,} of {total:,}, loss {row['loss']:.4g}, "
            f"validation loss {row['validation_loss']:.4g} "
            f"(normalized {row['normalized_validation_loss']:.3f}; predicting zero = 1), "
            f"{seconds_per_step:.2g} s per step, {speed}, "
            f"{format_duration((total - self.step_count) * seconds_per_step)} left, {row['peak_memory']:.1f} GB"
        )

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
        from codecdiff.training.sharding import whole_tensors

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

    def start_from(self, folder: Path | str) -> str:
        """Initialize from the averaged weights of a trained stage, a folder, where names and shapes agree.

        The average starts there too, and the stage's metadata records what was copied, which is returned as the end of
        a sentence.
        """
        from codecdiff.training.warm_start import warm_start

        self.stage.facts["start_from"], message = warm_start(self.denoiser, Path(folder))
        self.ema.module.load_state_dict(self.denoiser.state_dict())
        return message

    def resume(self, folder: Path | str, report: Callable[[str], None] = lambda line: None) -> bool:
        """Load the training state that `save` wrote, and report so; return False if the folder holds no such stage.

        Raises InvalidValue if the stage in training there has another denoiser or scheduler, or if no state of its
        training is intact: it would be overwritten.
        """
        path = find_state(Path(folder) / self.stage.name, report)
        if path is None:
            return False
        before = check_same_stage(self.stage, path, allow_changes=self.allow_changes)
        self.step_count, tensors, self.rows = read_state(path)
        count, total = self.step_count, self.config.max_train_steps
        note = f"resuming from step {count} of {total}" if count < total else f"already trained for {count} steps"
        if before.get("max_train_steps", total) <= count < total:
            note = f"previously finished at step {count}; continuing to step {total}"
        changes = [line for line in self.stage.facts.get("changes", ()) if line.startswith(f"from step {count} on, ")]
        if count >= total:
            own = self.config.model_dump(mode="json", exclude={"max_train_steps"})
            keys = own.keys() & before.keys()
            other = [line for key in sorted(keys) for line in config_differences(before[key], own[key], key, CHANGE)]
            changes += [f"{', '.join(other)}: ignored, as no steps are left"] if other else []
        report("; ".join([f"{self.stage.name}: {note}", *changes]))
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
