"""What is compared: one experiment, and what each variant of it does otherwise."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from codecdiff import config
from codecdiff.config.schema import Config, ExperimentConfig


class Evaluation(Config):
    """What every model is asked for, and how it is heard."""

    clips: int = Field(default=48, ge=8)  # of held-out recordings, made anew by every model
    reference: int = Field(default=96, ge=8)  # clips of other held-out recordings, which distances are measured to
    seconds: float = Field(default=5.0, ge=1, le=600)  # of a clip
    lessons: int = Field(default=96, ge=8)  # clips of training recordings, which probes learn from
    probes: list[str] = Field(default_factory=list)  # columns of the metadata that probes learn to hear
    embedder: config.EmbedderSpec | None = None  # what hears; null hears 32 log-mel bands, as the demo
    seed: int = Field(default=0, ge=0)  # of clips, of generation and of intervals
    resamples: PositiveInt = 200  # of an interval
    players: int = Field(default=4, ge=0)  # clips that can be listened to


class Comparison(Config):
    """Variants of one experiment, each trained with every seed at one budget."""

    experiment: ExperimentConfig
    variants: dict[str, list[str]]  # by name: what each changes, written as on the command line; others are
    seeds: list[int] = Field(default=[0], min_length=1)  # compared with the first variant
    budget: PositiveFloat | None = None  # FLOPs of training a model; null: what the first variant's steps take
    share: Literal["steps", "flops"] = (
        "steps"  # how stages share it: as their train.max_train_steps, or so many FLOPs each
    )
    checks: PositiveInt = 10  # of every stage, evenly over its steps: held-out losses and saves
    evaluation: Evaluation = Evaluation()
    prompts: list[str] = Field(default_factory=list)  # to listen to, beside held-out captions

    @model_validator(mode="after")
    def _named(self) -> Self:
        """Refuse names that are no folders, and seeds that are there twice."""
        if not self.variants:
            raise ValueError("there is no variant: variants is a mapping, as in {parallel: [splitter.name=parallel]}")
        for name in self.variants:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
                raise ValueError(f"'{name}' names no variant: use letters, digits and -, for it is a folder too")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds}: give different numbers from 0 up")
        return self

    def blueprint(self, variant: str, seed: int) -> ExperimentConfig:
        """Give the experiment of one variant and seed. Raises ConfigError for what it cannot change."""
        data = self.experiment.model_dump(exclude_unset=True)
        try:
            changed = config.override(data, ExperimentConfig, self.variants[variant])
        except (ValueError, LookupError) as error:
            raise config.ConfigError(f"The variant '{variant}' cannot be made: {error}") from error
        return ExperimentConfig.model_validate({**changed, "seed": seed})
