"""Distill stages of a model: `codecdiff distill MODEL --stage secondary --steps 4 data.audio=FOLDER [key=value ...]`.

It encodes the audio (or reuses the store) with the codec of the model, writes a model whose other stages are copied,
and trains the stages in it to be sampled in few steps without guidance. Run it again to resume. Defaults:
configs/distill.yaml.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from codecdiff.recipes.discodiff import end_run  # pyright: ignore[reportMissingImports]  # as installed
from codecdiff.recipes.from_model import (  # pyright: ignore[reportMissingImports]  # as installed
    FromModel,
    console,
    open_model,
    resume,
    run,
)
from pydantic import Field

from codecdiff import Pipeline, config
from codecdiff.config import SamplingConfig, TrainConfig
from codecdiff.errors import InvalidValue
from codecdiff.files import read_safetensors
from codecdiff.pipeline import Stage
from codecdiff.pipeline.checkpoint import MODEL_FILE, check_same_model, save_stage
from codecdiff.pipeline.generation import (
    SAMPLING_OPTIONS,
    Presets,
    load_generation_config,
    save_generation_config,
    save_presets,
)
from codecdiff.pipeline.model_card import write_model_card
from codecdiff.pipeline.stage_folder import STAGE_FILE, WEIGHTS_FILE, generations, is_trained, load_weights
from codecdiff.training.distillation import DistillationTrainer, DistillConfig


class StageConfig(config.Config):
    """What distilling one stage does differently from the others."""

    distill: DistillConfig = DistillConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: TrainConfig = TrainConfig()


class Experiment(FromModel):
    output: Path = Path("runs/distilled")
    distill: DistillConfig = DistillConfig()
    sampling: SamplingConfig = SamplingConfig()  # of the teacher, where it is not the model's own
    stages: dict[str, StageConfig] = Field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.output / "model"


def new_trainer(e: Experiment, pipeline: Pipeline, i: int) -> DistillationTrainer:
    stage, own = pipeline.stages[i], e.stages.get(pipeline.stage_names[i], StageConfig())
    settings, facts = e.settings(stage, own.train)
    options: Any = {"facts": facts, "seed": e.seed, "allow_changes": e.allow_changes}
    sampling = e.sampling.merge(own.sampling)
    trainer = DistillationTrainer(pipeline, i, e.distill.merge(own.distill), sampling, settings, **options)
    resume(e, trainer)
    return trainer


def train(file: Path, overrides: Sequence[str] = (), plan: Mapping[str, Any] | None = None) -> None:
    """Distill what a configuration file with overrides describes."""
    e = config.load_config(Experiment, file, overrides)
    if plan is not None:
        raise InvalidValue("--plan counts what training a whole model takes, and not yet what distilling takes.")
    pipeline, selected = open_model(e)
    write_other_stages(pipeline, selected, e.folder, dry_run=True)

    def write_folder(e: Experiment, pipeline: Pipeline, data: dict[str, Any]) -> None:
        write_other_stages(pipeline, selected, e.folder)

    if run(e, pipeline, selected, new_trainer, write_folder, "before"):
        write_model_card(e.folder)
        pipeline.load_stages(e.folder, allow_local_parts=True)
        pipeline.generation_config = load_generation_config(e.folder)
        end_run(e, pipeline)
    console.log(f'Try it: codecdiff generate "PROMPT" --model {e.output} -o out.wav')


def write_other_stages(pipeline: Pipeline, selected: Sequence[int], folder: Path, *, dry_run: bool = False) -> None:
    """Write a model whose `selected` stages are missing: they are distilled in its folder.

    Presets of the distilled stages are left out, and so are options of all stages, which the others have as their own.
    Raises InvalidValue for the folder of the model itself, or of another one; with `dry_run` nothing else happens.
    """
    if pipeline.folder is not None and pipeline.folder.resolve() == folder.resolve():
        raise InvalidValue(f"'{folder}' holds the model itself, which stays as it is: choose another output.")
    if (folder / MODEL_FILE).exists():
        check_same_model(folder, pipeline.to_config(), pipeline.codec.fitted_state())
    sampled = pipeline.sampled_stages(pipeline.generation_config)
    others = [stage for i, stage in enumerate(sampled) if i not in selected]
    missing = [stage for stage in others if not _is_there(folder / stage.name, stage)]
    if dry_run:
        return
    pipeline.save_parts(folder)
    for stage in missing:
        save_stage(folder, stage, source=pipeline.folder)
    options: dict[str, Any] = dict.fromkeys(SAMPLING_OPTIONS)
    save_generation_config(folder, pipeline.generation_config.model_copy(update=options))
    names = [stage.name for stage in others]
    presets: Presets = {
        quality: {name: own for name, own in stages.items() if name in names}
        for quality, stages in pipeline.presets.items()
    }
    if presets:
        save_presets(folder, presets)


def _is_there(home: Path, stage: Stage) -> bool:
    """Return whether a folder holds a stage, or one that was distilled from it. Raises InvalidValue for another one.

    It does not yet if a process was killed as it copied the stage: its description comes last.
    """
    if not is_trained(home):
        return False
    is_whole = (home / STAGE_FILE).exists() or bool(generations(home))
    weights = home / WEIGHTS_FILE
    spec, tensors = load_weights(home) if is_whole else ({}, read_safetensors(weights)[0])
    own = stage.denoiser.state_dict()
    is_other = any(not torch.equal(own[name].cpu(), tensor) for name, tensor in tensors.items())
    if is_other and not spec.get("training", {}).get("distilled"):
        raise InvalidValue(f"'{home}' holds another stage than the model: choose another output folder, or delete it.")
    return is_whole


if __name__ == "__main__":
    from codecdiff.cli.train import run_recipe

    run_recipe(train, "distill")
