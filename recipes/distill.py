"""Distill stages of a model: `codecdiff distill MODEL --stage secondary --steps 4 data.audio=FOLDER [key=value ...]`.

It encodes the audio (or reuses the store) with the codec of the model, writes a model whose other stages are copied,
and trains the stages in it to be sampled in few steps without guidance. Run it again to resume. Defaults:
configs/distill.yaml.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codecdiff.recipes import from_model
from codecdiff.recipes.from_model import FromModel, console
from pydantic import Field

from codecdiff import Pipeline, config
from codecdiff.config import SamplingConfig, TrainConfig
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.model_card import write_model_card
from codecdiff.training.distillation import DistillationTrainer, DistillConfig, write_other_stages


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
    from_model.resume(e, trainer)
    return trainer


def train(file: Path, overrides: Sequence[str] = (), plan: Mapping[str, Any] | None = None) -> None:
    """Distill what a configuration file with overrides describes."""
    e = config.load_config(Experiment, file, overrides)
    if plan is not None:
        raise InvalidValue("--plan counts what training a whole model takes, and not yet what distilling takes.")
    pipeline, selected = from_model.open_model(e)
    write_other_stages(pipeline, selected, e.folder, dry_run=True)

    def write_folder(e: Experiment, pipeline: Pipeline, data: dict[str, Any]) -> None:
        write_other_stages(pipeline, selected, e.folder)

    from_model.run(e, pipeline, selected, new_trainer, write_folder, "before")
    write_model_card(e.folder)
    console.log(f'Try it: codecdiff generate "PROMPT" --model {e.output} -o out.wav')


if __name__ == "__main__":
    from codecdiff.cli.train import run_recipe

    run_recipe(train, "distill")
