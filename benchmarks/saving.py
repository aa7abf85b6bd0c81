"""What a checkpoint costs: hashes, generations and flushes against `torch.save` of the same state and one flush.

`python benchmarks/saving.py [--width 256] [--repeats 5]` alternates both, and prints medians, their ratio, and the
share of a checkpoint in the time of training at the default interval, by the time of one step of this model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from codecdiff import Condition, config
from codecdiff.config import TrainConfig
from codecdiff.diffusion.loss import StageInput
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.pipeline import Stage
from codecdiff.training import StageTrainer


def new_trainer(width: int) -> StageTrainer:
    """Return the trainer of a U-Net after one step of its optimizer, so that all of its state exists."""
    options: dict[str, Any] = {"width": width, "multipliers": [1, 2], "layers": ["none", "none"], "groups": 8}
    shape = {"channels": 64, "context_channels": 0, "condition_widths": {}}
    denoiser = config.build("denoisers", {"name": "unet", **options}, **shape)
    trainer = StageTrainer(Stage("primary", denoiser, training_scheduler()), TrainConfig())
    for parameter in denoiser.parameters():
        parameter.grad = torch.randn_like(parameter)
    trainer.optimizer.step()
    trainer.ema.update_parameters(denoiser)
    return trainer


def save_plainly(trainer: StageTrainer, file: Path) -> None:
    """Write raw and averaged weights and the optimizer by `torch.save`, and flush the file."""
    state = [part.state_dict() for part in (trainer.denoiser, trainer.ema.module, trainer.optimizer)]
    with file.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def seconds_per_step(trainer: StageTrainer) -> float:
    """Return how long a training step takes, with the default batch of crops of 512 frames, about 6 s."""
    clean = torch.randn(trainer.config.train_batch_size, 64, 512)
    inputs = StageInput(range(len(clean)), clean, torch.ones_like(clean), None, Condition({}))
    return statistics.median(seconds(lambda: trainer.step(inputs)) for _ in range(3))


def main() -> None:
    """Measure, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    trainer, plain, whole = new_trainer(options.width), [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for step in range(1, options.repeats + 1):
            trainer.step_count = step
            plain.append(seconds(lambda: save_plainly(trainer, Path(folder) / "state.pt")))
            whole.append(seconds(lambda: trainer.save(Path(folder) / "model", {"step": trainer.step_count})))
        size = (Path(folder) / "state.pt").stat().st_size / 1e6
    a, b = statistics.median(plain), statistics.median(whole)
    ratio = statistics.median(y / x for x, y in zip(plain, whole, strict=True))
    sys.stdout.write(f"{size:,.0f} MB: torch.save and fsync {a:.3f} s, a checkpoint {b:.3f} s, ratio {ratio:.2f}\n")
    interval, step = trainer.config.checkpointing_steps, seconds_per_step(trainer)
    share = b / (interval * step + b)
    sys.stdout.write(f"One checkpoint in {interval} steps of {step:.2f} s takes {share:.2%} of the time\n")


if __name__ == "__main__":
    main()
