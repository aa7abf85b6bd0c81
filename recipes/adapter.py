"""Train an adapter: `codecdiff train --adapter lora start_from=MODEL data.audio=FOLDER [key=value ...]`.

It encodes the audio (or reuses the store) with the codec of the model, and trains layers of LoRA or DoRA in each of its
stages, whose own weights stay as they are. Run it again to resume. Defaults: configs/adapter.yaml.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from rich.console import Console
from rich.progress import track

from codecdiff import Pipeline, config, training
from codecdiff.config import TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import open_store
from codecdiff.denoisers.adapted import AdaptedDenoiser
from codecdiff.errors import ConfigError, InvalidValue
from codecdiff.files import require_writable
from codecdiff.pipeline import read_stage_config
from codecdiff.pipeline.adapters import AdapterExperiment, AdapterStage, write_adapter
from codecdiff.pipeline.model_card import command_line
from codecdiff.splitters import select_stages
from codecdiff.training.experiment import rows_hash

console = Console(stderr=True, log_path=False, width=None if sys.stderr.isatty() else 160)
AS_THE_MODEL = {
    "train_batch_size",
    "crop_seconds",
    "dropout",
    "context_noise_std",
    "timestep_bias",
    "loss",
    "snr_gamma",
}


class Experiment(AdapterExperiment):  # the adapter and its training: codecdiff/pipeline/adapters.py
    output: Path = Path("runs/adapter")
    stage: str = "all"  # or the name of one stage, to adapt it alone
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None  # null: what `accelerate launch` says
    report_to: str | list[str] = "tensorboard"  # trackers of accelerate

    @property
    def folder(self) -> Path:
        return self.output / "adapter"


def new_trainer(e: Experiment, pipeline: Pipeline, i: int) -> training.StageTrainer:
    """Return the trainer of an adapter of stage `i`, resumed if its folder has one."""
    stage, own = pipeline.stages[i], e.stage_config(pipeline.stage_names[i])
    settings = TrainConfig(**{name: stage.facts[name] for name in AS_THE_MODEL & stage.facts.keys()}).merge(own.train)
    split_seed = e.seed if e.data.split_seed is None else e.data.split_seed
    facts = {"seed": e.seed, "validation_fraction": e.data.validation_fraction, "split_seed": split_seed}
    facts |= settings.model_dump(exclude={"checkpointing_steps", "validation_steps"})
    denoiser = AdaptedDenoiser(deepcopy(stage.denoiser), own.adapter, e.seed)
    options: Any = {"noise_color": stage.noise_color, "facts": {**facts, "command": command_line(sys.argv)}}
    adapted = AdapterStage(stage.name, denoiser, stage.train_scheduler, stage.sampling, **options)
    trainer = training.StageTrainer(adapted, settings, seed=e.seed, allow_changes=e.allow_changes)
    if trainer.resume(e.folder, console.log):
        saved = read_stage_config(trainer.generation or e.folder / stage.name)["training"]
        adapted.facts["base_validation_loss"] = saved["base_validation_loss"]
        console.log(f"{stage.name}: resuming from step {trainer.step_count} of {settings.max_train_steps}")
    return trainer


def train_stage(e: Experiment, accelerator: Accelerator, pipeline: Pipeline, store: CodeStore, i: int) -> None:
    """Train the adapter of stage `i`, which this run has locked."""
    trainer = new_trainer(e, pipeline, i)
    trainer.prepare(accelerator)
    name, settings, denoiser = trainer.stage.name, trainer.config, trainer.denoiser
    data = training.StageData(store, pipeline, i, settings, e.data, seed=e.seed)
    own = sum(parameter.numel() for parameter in denoiser.parameters() if parameter.requires_grad)
    size = sum(parameter.numel() for parameter in denoiser.parameters()) - own
    console.log(f"{name}: {own:,} parameters beside {size:,} of the model, {len(data.crops):,} crops in an epoch")
    if not data.has_validation_tracks:
        console.log("No track is left for validation: the validation loss is on tracks that are trained on")
    if not trainer.step_count:
        trainer.stage.facts["base_validation_loss"] = trainer.validation_loss(data.validation())[0]
    base = trainer.stage.facts["base_validation_loss"]
    console.log(f"{name}: validation loss {base:.4g} without the adapter")

    def log(row: dict[str, float], line: str) -> None:
        accelerator.log({f"{name}/{key}": value for key, value in row.items()}, step=trainer.step_count)
        console.log(f"{line}; {100 * (row['validation_loss'] / base - 1):+.1f} % of that without the adapter")

    checkpoints = range(0, settings.max_train_steps, settings.checkpointing_steps)
    progress = partial(track, description=name, console=console)
    trainer.train(data, e.folder, checkpoints, log=log, track=progress)
    accelerator.wait_for_everyone()


def open_data(e: Experiment, pipeline: Pipeline) -> CodeStore:
    """Open the store, encoding the audio with the model's codec if there is none, and write adapter.json."""
    codec: Any = pipeline.codec
    spec, store = config.to_config("codecs", codec.codec), e.data.store or e.output / "store"
    options: Any = {"target": pipeline.target, "seed": e.seed, "report": console.log}
    codes = open_store(store, e.data.audio, codec.codec, spec, **options)
    data = {**codes.summary(), "hash": rows_hash(codes)}
    write_adapter(e.folder, pipeline, data, allow_changes=e.allow_changes)
    return codes


def train(file: Path, overrides: Sequence[str] = (), plan: Mapping[str, Any] | None = None) -> None:
    """Train the adapter that a configuration file with overrides describes."""
    e = config.load_config(Experiment, file, overrides)
    if plan is not None:
        raise InvalidValue("--plan counts what training a whole model takes: leave out either it or --adapter.")
    if not e.start_from:
        raise ConfigError("start_from is missing: name the model that the adapter is for, as in start_from=starter.")
    require_writable(e.output)
    allowed: Any = {"allow_download": e.allow_download, "allow_local_parts": e.allow_local_parts}
    pipeline = Pipeline.from_pretrained(e.start_from, **allowed)
    selected, unused = select_stages(pipeline.stage_names, e.stage, e.stages)
    for i in selected:  # bad settings are refused before the audio is encoded
        new_trainer(e, pipeline, i)
    options: Any = {"report_to": e.report_to, "config": e.model_dump(mode="json")}
    accumulated = e.train.gradient_accumulation_steps
    accelerator = training.new_accelerator(
        e.output, e.mixed_precision, gradient_accumulation_steps=accumulated, **options
    )
    if accelerator.is_fsdp2:
        raise ConfigError("Adapters are small and are not sharded. Launch with --multi_gpu instead of FSDP.")
    console.quiet = not accelerator.is_main_process  # one process reports
    for name in unused:
        console.log(f"Unused: the settings of stage '{name}'. This model has: {', '.join(pipeline.stage_names)}.")
    pipeline.to(accelerator.device)
    with accelerator.main_process_first():
        store = open_data(e, pipeline)
        progress = partial(track, description="prompts", console=console, transient=True)
        training.prepare_prompts(pipeline, store, track=progress, report=console.log)
    for i in selected:
        with training.lock_stage(e.folder, pipeline.stage_names[i], is_main_process=accelerator.is_main_process):
            train_stage(e, accelerator, pipeline, store, i)
        accelerator.free_memory()
    accelerator.end_training()
    console.log(f'Try it: codecdiff generate "PROMPT" --model {e.start_from} --adapter {e.output} -o out.wav')


if __name__ == "__main__":
    from codecdiff.cli.train import run_recipe

    run_recipe(train, "adapter")
