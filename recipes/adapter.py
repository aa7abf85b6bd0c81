"""Train an adapter: `codecdiff train --adapter lora start_from=MODEL data.audio=FOLDER [key=value ...]`.

It encodes the audio (or reuses the store) with the codec of the model, and trains layers of LoRA or DoRA in each of its
stages, whose own weights stay as they are. Run it again to resume. Defaults: configs/adapter.yaml.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from codecdiff.recipes.discodiff import end_run  # pyright: ignore[reportMissingImports]  # as installed
from codecdiff.recipes.from_model import (  # pyright: ignore[reportMissingImports]  # as installed
    FromModel,
    console,
    open_model,
    resume,
    run,
)
from pydantic import Field

from codecdiff import Pipeline, config, training
from codecdiff.config import Config, TrainConfig
from codecdiff.denoisers.adapted import AdaptedDenoiser, AdapterConfig
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.adapters import AdapterStage, write_adapter


class StageConfig(Config):
    """What the adapter of one stage does differently from the others."""

    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()


class Experiment(FromModel):
    output: Path = Path("runs/adapter")
    adapter: AdapterConfig = AdapterConfig()
    stages: dict[str, StageConfig] = Field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.output / "adapter"


def new_trainer(e: Experiment, pipeline: Pipeline, i: int) -> training.StageTrainer:
    """Return the trainer of an adapter of stage `i`, resumed if its folder has one."""
    stage, own = pipeline.stages[i], e.stages.get(pipeline.stage_names[i], StageConfig())
    if stage.distilled:
        raise InvalidValue(
            f"Stage {stage.name} of '{e.start_from}' was distilled, which training would undo: adapt the model that it "
            "was distilled from, and distill that with the adapter in its weights."
        )
    settings, facts = e.settings(stage, own.train, "timestep_bias", "snr_gamma")
    denoiser = AdaptedDenoiser(deepcopy(stage.denoiser), e.adapter.merge(own.adapter), e.seed)
    options: Any = {"noise_color": stage.noise_color, "facts": facts}
    adapted = AdapterStage(stage.name, denoiser, stage.train_scheduler, stage.sampling, **options)
    trainer = training.StageTrainer(adapted, settings, seed=e.seed, allow_changes=e.allow_changes)
    resume(e, trainer)
    return trainer


def write_folder(e: Experiment, pipeline: Pipeline, data: dict[str, Any]) -> None:
    model = {"fingerprint": pipeline.base_fingerprint, "model_name": pipeline.name}
    write_adapter(e.folder, data=data, allow_changes=e.allow_changes, **model)


def train(file: Path, overrides: Sequence[str] = (), plan: Mapping[str, Any] | None = None) -> None:
    """Train the adapter that a configuration file with overrides describes."""
    e = config.load_config(Experiment, file, overrides)
    if plan is not None:
        raise InvalidValue("--plan counts what training a whole model takes: leave out either it or --adapter.")
    if (e.output / "model").exists():
        raise InvalidValue(f"'{e.output}' holds a trained model. Choose another folder for the adapter: output=FOLDER.")
    pipeline, selected = open_model(e)
    if run(e, pipeline, selected, new_trainer, write_folder, "without the adapter"):
        end_run(e, pipeline.load_adapter(e.output))
    console.log(f'Try it: codecdiff generate "PROMPT" --model {e.start_from} --adapter {e.output} -o out.wav')


if __name__ == "__main__":
    from codecdiff.cli.train import run_recipe

    run_recipe(train, "adapter")
