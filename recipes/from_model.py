"""What recipes share that train something of a whole model: adapters, and stages that are distilled."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from codecdiff.recipes import check_folders  # pyright: ignore[reportMissingImports]  # this folder, as installed
from codecdiff.recipes.discodiff import console  # pyright: ignore[reportMissingImports]  # as installed
from pydantic import Field

from codecdiff import Pipeline, config, training
from codecdiff.cli.console import track
from codecdiff.config import Config, DataConfig, TrainConfig
from codecdiff.data.encoding.encode import open_store
from codecdiff.errors import ConfigError
from codecdiff.pipeline import Stage, read_stage_config
from codecdiff.pipeline.model_card import command_line
from codecdiff.pipeline.vocabulary import spread_captions
from codecdiff.splitters import select_stages
from codecdiff.training.experiment import facts_of_training

AS_THE_MODEL = {"train_batch_size", "crop_seconds", "dropout", "context_noise_std", "loss"}


class FromModel(Config):
    """A training that starts from a model."""

    start_from: str = ""  # the model: a folder, an installed one or a hub id
    output: Path
    stage: str = "all"  # or the name of one stage
    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None  # null: what `accelerate launch` says
    report_to: str | list[str] = "tensorboard"  # trackers of accelerate
    prompts: list[str] = Field(default=[])  # to sample; none: captions of the music
    seconds: float = Field(default=8.0, ge=0.001, le=3600)  # of each sample
    allow_changes: bool = False  # resume with another seed, validation split or music, and record that
    allow_download: bool = False  # of what the model names on the hub
    allow_local_parts: bool = False  # that the model names outside of its folder

    @property
    def folder(self) -> Path:
        """What is trained: the stages in it are as in a model's folder."""
        raise NotImplementedError

    def settings(self, stage: Stage, own: TrainConfig, *names: str) -> tuple[TrainConfig, dict[str, Any]]:
        """Return how a stage is trained, as the model was where nothing else is said, and the facts to keep of it."""
        usual = {name: stage.facts[name] for name in {*AS_THE_MODEL, *names} & stage.facts.keys()}
        train = TrainConfig(**usual).merge(self.train).merge(own)
        return train, facts_of_training(self.seed, self.data, train) | {"command": command_line(sys.argv)}


def resume(e: FromModel, trainer: training.StageTrainer) -> None:
    """Resume a trainer from the folder of what is trained, if it is there."""
    stage = trainer.stage
    if trainer.resume(e.folder, console.log):
        saved = read_stage_config(trainer.generation or e.folder / stage.name)["training"]
        stage.facts["base_validation_loss"] = saved["base_validation_loss"]


def train_stage(e: FromModel, accelerator: Accelerator, trainer: training.StageTrainer, data: Any, base: str) -> None:
    """Train what this run has locked; `base` says what the validation loss is compared with."""
    trainer.prepare(accelerator)
    name, denoiser = trainer.stage.name, trainer.denoiser
    own, size = (sum(p.numel() for p in denoiser.parameters() if p.requires_grad == is_own) for is_own in (True, False))
    frozen = f" to train and {size:,} frozen ones" if size else ""
    console.log(f"{name}: {own:,} parameters{frozen}, {len(data.crops):,} crops in an epoch")
    if not data.has_validation_tracks:
        console.log("No track is left for validation: the validation loss is that of training tracks")
    if not trainer.step_count:
        trainer.stage.facts["base_validation_loss"] = trainer.validation_loss(data.validation())[0]
    before = trainer.stage.facts["base_validation_loss"]
    console.log(f"{name}: validation loss {before:.4g} {base}")

    def log(row: dict[str, float], line: str) -> None:
        change = row["validation_loss"] / before - 1
        console.log(f"{line}; {abs(change):.1%} {'lower' if change < 0 else 'higher'} than {base} ({before:.4g})")

    progress = partial(track, what=name, console=console)
    trainer.train(data, e.folder, log=log, track=progress, report=console.log)
    if note := training.no_progress_note(name, trainer.rows, before):
        console.log(note)
    accelerator.wait_for_everyone()


def open_model(e: FromModel) -> tuple[Pipeline, list[int]]:
    """Load the model, and select the stages to train. Raises UserError for what it lacks."""
    if not e.start_from:
        raise ConfigError("start_from is missing: name the model to start from, as in start_from=starter.")
    allowed: Any = {"allow_download": e.allow_download, "allow_local_parts": e.allow_local_parts}
    pipeline = Pipeline.from_pretrained(e.start_from, **allowed)
    selected, unused = select_stages(pipeline.stage_names, e.stage, getattr(e, "stages", ()))
    for name in unused:
        console.log(f"Unused: the settings of stage '{name}'. This model has: {', '.join(pipeline.stage_names)}.")
    if missing := [pipeline.stage_names[i] for i in selected if i >= len(pipeline.stages)]:
        raise ConfigError(
            f"Stage {missing[0]} of '{e.start_from}' is not trained. Trained: "
            f"{', '.join(stage.name for stage in pipeline.stages) or 'none'}. Train it first, or name another stage."
        )
    return pipeline, selected


def run(
    e: FromModel,
    pipeline: Pipeline,
    selected: list[int],
    new_trainer: Callable[[Any, Pipeline, int], training.StageTrainer],
    write_folder: Callable[[Any, Pipeline, dict[str, Any]], None],
    base: str,
) -> bool:
    """Encode the audio, or open the store, and train the selected stages of a model; `write_folder` gets the data.

    `new_trainer` returns the trainer of a stage, resumed if its folder has one. The codec is the model's. Returns
    whether this is the process that ends the run.
    """
    place = e.data.store or e.output / "store"
    console.quiet = True
    for i in selected:  # bad settings are refused before the audio is encoded
        new_trainer(e, pipeline, i)
    check_folders(e.data.audio, place, e.output)
    options: Any = {"gradient_accumulation_steps": e.train.gradient_accumulation_steps, "report_to": e.report_to}
    accelerator = training.new_accelerator(e.output, e.mixed_precision, config=e.model_dump(mode="json"), **options)
    if accelerator.is_fsdp2:
        raise ConfigError("Adapters and distilled stages are not sharded. Launch with --multi_gpu instead of FSDP.")
    console.quiet = not accelerator.is_main_process  # one process reports
    console.log(f"Music: {e.data.audio or place}. Output: {e.output}")
    pipeline.to(accelerator.device)
    with accelerator.main_process_first():
        codec: Any = pipeline.codec
        own: Any = {"target": pipeline.target, "seed": e.seed, "report": console.log}
        store = open_store(place, e.data.audio, codec.codec, config.to_config("codecs", codec.codec), **own)
        write_folder(e, pipeline, {**store.summary(), "hash": training.rows_hash(store)})
        e.prompts = e.prompts or spread_captions(store, pipeline.conditioner)
        progress = partial(track, what="Encoding prompts", console=console)
        training.prepare_prompts(pipeline, store, e.prompts, track=progress, report=console.log)
    for i in selected:
        with training.lock_stage(e.folder, pipeline.stage_names[i], is_main_process=accelerator.is_main_process):
            trainer = new_trainer(e, pipeline, i)
            data = training.StageData(store, pipeline, i, trainer.config, e.data, seed=e.seed)
            train_stage(e, accelerator, trainer, data, base)
        accelerator.free_memory()
    accelerator.end_training()
    return accelerator.is_main_process
