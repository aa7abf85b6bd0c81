"""Training of one stage: one step, its state and its save. The loop belongs to the recipe."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, is_tensorboard_available
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from codecdiff import rng
from codecdiff.data.code_store import load_state
from codecdiff.data.dataset import dropped
from codecdiff.diffusion.colored_noise import colored
from codecdiff.diffusion.loss import StageInput, stage_loss
from codecdiff.diffusion.noise_schedule import scheduler_from_config, scheduler_to_config
from codecdiff.files import replaced
from codecdiff.interfaces import Condition
from codecdiff.pipeline.checkpoint import config_differences, read_stage_config, save_stage
from codecdiff.pipeline.code_version import warn_of_code_changes
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.warm_start import WarmStart, warm_start

STATE = "training"


def new_accelerator(output: Path | str, precision: Literal["no", "bf16"] = "no") -> Accelerator:
    """Give the accelerator of a training run: on the CPU where there is nothing else, logging to TensorBoard if any.

    Processes wait for each other up to a day: the first encodes while the others wait.
    """
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=not torch.accelerator.is_available(),  # left open, every process of several takes itself for the first
        log_with="tensorboard" if is_tensorboard_available() else None,
        project_dir=str(output),
        kwargs_handlers=[patience],
    )
    accelerator.init_trackers("log")
    return accelerator


def _average(decay: float) -> Any:
    """Exponential moving average whose decay grows as (1 + n) / (10 + n) until it reaches `decay`."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor) -> None:
        means, values = list(averaged), list(current)  # of one type: torch groups them, so that few kernels do
        if not means[0].is_floating_point():
            return torch._foreach_copy_(means, values)  # pyright: ignore[reportPrivateImportUsage]
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(means, values, weight)  # pyright: ignore[reportPrivateImportUsage]

    return update


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class StageTrainer:
    """Trains the denoiser of a stage. All that is random in a step follows from (seed, step, rank).

    `network` is what the forward pass goes through: the denoiser itself, or what `accelerator.prepare`
    made of it.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        learning_rate: float = 1e-4,
        warmup: int = 100,  # steps
        steps: int = 1000,
        schedule: Literal["cosine", "constant"] = "cosine",
        weight_decay: float = 0.01,
        clip_norm: float = 1.0,
        ema_decay: float = 0.999,
        loss: Literal["l1", "l2"] = "l1",
        dropout: float = 0.1,
        context_noise: float = 0.0,
        high_noise: float = 1.0,
        min_snr: float | None = None,
        seed: int = 0,
    ):
        self.stage, self.denoiser = stage, stage.denoiser
        self.network: Any = stage.denoiser
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True
        )
        self.ema = AveragedModel(self.denoiser, multi_avg_fn=_average(ema_decay), use_buffers=True)
        self.learning_rate, self.warmup, self.steps, self.schedule = learning_rate, warmup, steps, schedule
        self.clip_norm, self.loss, self.dropout, self.seed = clip_norm, loss, dropout, seed
        self.context_noise, self.high_noise, self.min_snr = context_noise, high_noise, min_snr
        self.step_count = 0

    def rate(self, step: int) -> float:
        """Give the learning rate of a step: a linear warm-up, then constant or half a cosine down to 2 %."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.learning_rate * rise
        done = min(1.0, step / max(1, self.steps))
        fall = 0.02 + 0.98 * float(torch.cos(torch.tensor(done * torch.pi)) + 1) / 2
        return self.learning_rate * rise * fall

    def draw(self, clean: Tensor, rank: int = 0) -> tuple[Tensor, Tensor]:
        """Draw the noise (b, c, l) and steps (b,) of the current step, stratified over the schedule.

        A step lies at 1 - u ** high_noise of the schedule, with u uniform: above 1, steps of much noise are drawn
        more often. What lasts a whole clip, and most of what the text says, is decided there.
        """
        generator = rng.generator(self.seed, 3, self.step_count, rank)
        noise = torch.randn(clean.shape, generator=generator)
        total = self.stage.train_scheduler.config.num_train_timesteps
        rows = len(clean)
        even = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
        place = 1 - (1 - even) ** self.high_noise
        return self.colored(noise).to(clean.device), (place * total).long().clamp_max(total - 1).to(clean.device)

    def colored(self, noise: Tensor) -> Tensor:
        """Give white noise (b, c, l) the colour of the stage's."""
        return colored(noise, self.stage.noise_color)

    def augment(self, context: Tensor | None, rank: int = 0) -> Tensor | None:
        """Add Gaussian noise of deviation `context_noise` to the context (b, c', l) of the current step, if any.

        Conditioning augmentation of Ho et al., "Cascaded diffusion models" (2022), here of one strength: a stage
        learns to allow for errors of the stages before it. Nothing is added in sampling.
        """
        if context is None or not self.context_noise:
            return context
        noise = torch.randn(context.shape, generator=rng.generator(self.seed, 6, self.step_count, rank))
        return context + self.context_noise * noise.to(context)

    def drop(self, condition: Condition, numbers: Sequence[int]) -> Condition:
        """Make each condition absent with the dropout probability, as the samples' numbers decide."""
        rows = dropped(self.seed, numbers, list(condition.entries), self.dropout) if condition.entries else {}
        for name, absent in rows.items():
            condition = condition.drop(absent.to(condition[name].mask.device), name)
        return condition

    def objective(self, given: StageInput, rank: int = 0) -> Tensor:
        """Give the loss of the current step, which `step` takes the gradient of."""
        noise, timestep = self.draw(given.x_start, rank)
        inputs = replace(
            given,
            context=self.augment(given.context, rank),
            condition=self.drop(given.condition, given.sample_indices),
        )
        loss, _ = stage_loss(
            self.network,
            self.stage.train_scheduler,
            inputs,
            noise=noise,
            timestep=timestep,
            loss=self.loss,
            snr_gamma=self.min_snr,
        )
        return loss

    def step(self, given: StageInput, *, rank: int = 0, accelerator: Any = None) -> float:
        """Take one optimiser step and give the loss before it. Raises FloatingPointError if that is not finite."""
        self.denoiser.train()
        loss = self.objective(given, rank)
        value = float(loss.detach())
        if value != value or abs(value) == float("inf"):
            raise FloatingPointError(
                f"The loss of {self.stage.name} became {value} at step {self.step_count}. Lower train.learning_rate."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step_count)
        self.optimizer.zero_grad(set_to_none=True)
        (accelerator.backward if accelerator else torch.Tensor.backward)(loss)
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.clip_norm)
        self.optimizer.step()
        self.ema.update_parameters(self.denoiser)
        self.step_count += 1
        return value

    @torch.no_grad()
    def held_out(self, inputs: Sequence[StageInput]) -> tuple[float, float]:
        """Give the unweighted loss of the averaged weights on held-out inputs, and that of the constant answer zero.

        Noise and steps are the same at every call: fixed noise, steps spread evenly over the schedule.
        """
        self.ema.eval()
        total = self.stage.train_scheduler.config.num_train_timesteps
        pairs = []
        for i, given in enumerate(inputs):
            rows = len(given.x_start)
            noise = torch.randn(given.x_start.shape, generator=rng.generator(self.seed, 4, i))
            place = (torch.arange(rows) + (i + 0.5) / len(inputs)) / rows
            pairs.append(
                stage_loss(
                    self.ema.module,
                    self.stage.train_scheduler,
                    given,
                    noise=self.colored(noise).to(given.x_start.device),
                    timestep=(place * total).long().to(given.x_start.device),
                    loss=self.loss,
                )
            )
        mean = torch.tensor([[float(a), float(b)] for a, b in pairs]).mean(0)
        return float(mean[0]), float(mean[1])

    def check(self, inputs: Sequence[StageInput], losses: Sequence[float], seconds: float) -> dict[str, float]:
        """Give a line for the log: the step, the mean of the `losses` since the last line, held-out losses, memory."""
        held_out, zero = self.held_out(inputs)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)  # GB
        row = {"step": self.step_count, "loss": sum(losses) / len(losses)}
        row |= {"held_out": held_out, "held_out_baseline": zero, "held_out_ratio": held_out / zero}
        return row | {"seconds": seconds, "peak_memory": memory}

    def averaged(self) -> Stage:
        """Give the stage with the averaged weights: the one that generation reads."""
        facts = {**self.stage.facts, "steps": self.step_count}
        denoiser: Any = self.ema.module  # a copy of the stage's
        return replace(self.stage, denoiser=denoiser, facts=facts)

    def save(self, folder: Path | str, row: dict[str, float] | None = None) -> None:
        """Save the averaged stage into a model folder, and beside it what resuming needs: no pickles.

        `row` is added to the stage's `log.jsonl`.
        """
        folder = Path(folder)
        state = folder / self.stage.name / STATE
        state.mkdir(parents=True, exist_ok=True)  # first: a stage without it is not in training here
        save_stage(folder, self.averaged())
        tensors = {f"raw.{name}": tensor for name, tensor in self.denoiser.state_dict().items()}
        tensors |= {f"averaged.{name}": tensor for name, tensor in self.ema.module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        with replaced(state / "state.safetensors") as temporary:  # one file: a crash leaves one step or the other
            whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
            save_file(whole, temporary, metadata={"step": str(self.step_count)})
        if row:
            with (folder / self.stage.name / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")

    def start_from(self, folder: Path | str) -> WarmStart:
        """Begin with the averaged weights of a trained stage, a folder, where they agree: `warm_start`.

        The average begins there too, and the stage's facts keep what was taken.
        """
        taken = warm_start(self.denoiser, Path(folder))
        self.ema.module.load_state_dict(self.denoiser.state_dict())
        self.stage.facts["start_from"] = taken.to_dict()
        return taken

    def resume(self, folder: Path | str) -> bool:
        """Take up training where `save` left it; False if the folder holds no such stage.

        Raises ValueError if what was trained there is another denoiser, or with another scheduler, or if the state of
        its training is gone: it would be written over.
        """
        home = Path(folder) / self.stage.name
        file = home / STATE / "state.safetensors"
        if (home / "stage.json").exists() and not file.parent.exists():
            raise ValueError(
                f"{home} holds a trained stage without {STATE}/, which going on needs. Choose another output folder, "
                f"and begin there with its weights by stages.{self.stage.name}.start_from={home}; or delete it."
            )
        if not file.exists():
            return False
        saved = read_stage_config(home)
        # a folder of an older diffusers lacks newer options
        saved["train_scheduler"] = scheduler_to_config(scheduler_from_config(saved["train_scheduler"]))
        spec, kept = self.stage.to_config(), ("denoiser", "train_scheduler", "noise_color")
        if differ := [line for key in kept for line in config_differences(saved[key], spec[key], key)]:
            raise ValueError(
                f"{home} holds another stage in training: {'; '.join(differ)}. "
                "Choose another output folder, or delete it."
            )
        warn_of_code_changes(saved.get("code", {}), spec["code"], home)
        if "start_from" in saved["training"]:
            self.stage.facts["start_from"] = saved["training"]["start_from"]
        tensors = load_state(file)
        with safe_open(file, "pt") as opened:
            self.step_count = int(opened.metadata()["step"])
        self.denoiser.load_state_dict(_under("raw.", tensors))
        self.ema.module.load_state_dict(_under("averaged.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.ema.n_averaged.fill_(self.step_count)
        return True


def read_logs(model: Path, stages: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Give the training log of every stage of a model folder, one mapping a line; a stage without one is left out."""
    files = {stage: model / stage / "log.jsonl" for stage in stages}
    return {
        stage: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for stage, file in files.items()
        if file.is_file()
    }
