"""The settings that recipes share: a recipe's own configuration is a pydantic model made of these."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from codecdiff.config.parts import CodecSpec, ConditionerSpec, DenoiserSpec, SplitterSpec

Target = Literal["codes", "continuous"]  # what is diffused: entries of the codebooks, or what they quantise
Weight = Annotated[float, Field(allow_inf_nan=False)]
Guidance = Weight | dict[str, Weight]  # of all conditions, or of each by its name: codecdiff/diffusion/guidance.py


class Settings(BaseModel):
    """A group of settings. Names it does not have are refused."""

    model_config = ConfigDict(extra="forbid")

    def over(self, other: Self) -> Self:
        """Give these settings with those that were set in `other` put over them."""
        return self.model_copy(update=other.model_dump(exclude_unset=True))


class Data(Settings):
    """What to train on."""

    audio: Path | None = None  # a folder of audio files, with captions in metadata.jsonl or .txt files
    store: Path | None = None  # codes; made from the audio if it does not exist. Default: OUTPUT/store
    held_out: float = Field(default=0.1, ge=0, lt=1)  # share of the tracks that is never trained on


class Optimization(Settings):
    """Options of the StageTrainer."""

    steps: PositiveInt = 1000
    learning_rate: PositiveFloat = 1e-4
    warmup: int = Field(default=100, ge=0)  # steps
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: PositiveFloat = 1.0
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)  # of every condition, independently
    context_noise: float = Field(default=0, ge=0)  # deviation of the noise added to what a stage sees of those before
    high_noise: float = Field(default=1, gt=0)  # above 1, steps of much noise are trained on more often
    loss: Literal["l1", "l2"] = "l1"
    min_snr: PositiveFloat | None = None  # bound of the Min-SNR weights, 5 in the paper; null trains unweighted


class Loop(Settings):
    """What a recipe's loop does around the steps."""

    batch_size: PositiveInt = 16  # crops per device
    seconds: float = Field(default=6.0, gt=0, le=3600)  # of a crop
    check_every: PositiveInt = 100  # steps between held-out losses and saves
    sample_every: int = Field(default=0, ge=0)  # steps between audible samples; 0 for none


class Diffusion(Settings):
    """The process a stage learns to reverse: options of `schedules.training_scheduler`, and the colour of the noise."""

    steps: PositiveInt = 1000
    schedule: str = "squaredcos_cap_v2"
    prediction: str = "v_prediction"
    zero_terminal_snr: bool = False  # rescale the schedule so that the last step is noise alone
    noise_color: float = Field(default=0, ge=0, le=2)  # its power over time falls as 1 / frequency ** color


class Sampling(Settings):
    """How a stage is sampled."""

    sampler: str = "ddpm"
    steps: PositiveInt = 100
    guidance: Guidance = 3.0
    spacing: Literal["even", "karras"] = "even"  # of the noise levels
    stop_at: float = Field(default=0, ge=0, le=1)  # share of the schedule whose estimate of the clean is the sample


class StageOptions(Settings):
    """What one stage does differently from the others."""

    denoiser: DenoiserSpec | None = None
    start_from: str | None = None  # weights of another stage, by its name, or by its folder in another model
    train: Optimization = Optimization()
    loop: Loop = Loop()
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()


class ExperimentConfig(Settings):
    """A model and its training. A recipe adds where it works and what it does besides."""

    seed: int = Field(default=0, ge=0)
    codec: CodecSpec
    standardize: Literal["codebook", "channel"] = "codebook"
    splitter: SplitterSpec
    conditioner: ConditionerSpec | None = None  # null trains without text
    denoiser: DenoiserSpec
    target: Target = "codes"  # diffuse codebook entries, or the projections that they quantise
    snap_context: bool = True  # a stage sees the codebook entries of those before it, not their latents as they are
    data: Data = Data()
    train: Optimization = Optimization()
    loop: Loop = Loop()
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()
    stages: dict[str, StageOptions] = Field(default_factory=dict)
