"""The accelerator of a training run, what its trackers log, and what is said of losses, time and memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs

from codecdiff.data.audio_writer import write_audio
from codecdiff.errors import ConfigError

if TYPE_CHECKING:
    from codecdiff.pipeline.output import PipelineOutput


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
    while the others wait. Raises ConfigError if accelerate is set to something else, or has no such tracker.
    """
    set_outside = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if mixed_precision and set_outside and set_outside != mixed_precision:
        raise ConfigError(
            f"mixed_precision={mixed_precision}, but accelerate is set to {set_outside}. Leave one of them out, or "
            f"start with: accelerate launch --mixed_precision {mixed_precision}."
        )
    names = [name for name in (report_to if isinstance(report_to, list) else [report_to]) if name not in ("", "none")]
    installed = ["none", "all", *map(str, get_available_trackers())]
    if unknown := [name for name in names if isinstance(name, str) and name not in ("tensorboard", *installed)]:
        raise ConfigError(f"No tracker '{unknown[0]}' for report_to. Installed: {', '.join(installed)}.")
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=not torch.accelerator.is_available(),  # undecided, each of several processes takes itself for the first
        log_with=[name for name in names if name != "tensorboard" or name in installed] or None,
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


def set_up_sharding(accelerator: Accelerator) -> None:
    """Make an accelerator shard on CPUs, too, where it is set to; accelerate does so on GPUs alone.

    Raises ConfigError for what else divides weights, and would leave no model folder that can be read.
    """
    state: Any = accelerator.state
    is_requested = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if is_requested and accelerator.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
        PartialState().distributed_type = DistributedType.FSDP  # which every new AcceleratorState starts from
        if accelerator.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(accelerator.mixed_precision)
    if accelerator.is_fsdp2:
        state.fsdp_plugin.cpu_ram_efficient_loading = False  # every process has the weights, and may have buffers
    elif accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type.value}, which cannot be trained with: expected one or "
            "several GPUs, or FSDP with fsdp_version 2. Run `accelerate config` again; docs/scaling.md has examples."
        )


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


def no_progress_note(stage: str, log: Sequence[Mapping[str, Any]], base: float | None = None) -> str:
    """Return a sentence on a stage that has learned nothing by the last line of its log; empty for others.

    That is, its validation loss is not below that of the zero predictor, or below `base`, that of the model that it
    started from.
    """
    if not log:
        return ""
    loss, advice = log[-1]["validation_loss"], "Train for more steps, or on more music."
    if base is not None:
        unchanged = f"{stage} did not improve: its validation loss is {loss:.4g}, and was {base:.4g} before. {advice}"
        return unchanged if loss >= base else ""
    if (normalized := log[-1].get("normalized_validation_loss", 0.0)) < 0.98:
        return ""
    how = "hardly predicts" if normalized < 1 else "does not predict"
    return (
        f"{stage} {how} better than zero, the mean of its latents: expect noise. Its normalized validation "
        f"loss is {normalized:.2f}, and 1 for zeros. {advice}"
    )


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, as in "45 s", "2 min 5 s" or "3 d 4 h"."""
    seconds = round(seconds)
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds} s"


def peak_memory_of(device: torch.device) -> float:
    """Return memory in GB: the most that tensors on a GPU took, or what this process takes now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
