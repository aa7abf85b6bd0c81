"""Settings of an experiment. A recipe's own configuration is a pydantic model that extends `ExperimentConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, PositiveInt

from codecdiff.arguments import Arguments
from codecdiff.config.parts import CodecSpec, ConditionerSpec, DenoiserSpec, SplitterSpec
from codecdiff.errors import InvalidValue

Target = Literal["codes", "continuous"]  # what is diffused: codebook vectors, or the latents before quantization
Weight = Annotated[float, Field(allow_inf_nan=False)]
GuidanceWeight = Annotated[float, Field(ge=0, le=100)]
# Of all conditions, or of each by its name: codecdiff/diffusion/guidance.py
Guidance = GuidanceWeight | dict[str, GuidanceWeight]
GuidanceMethod = Literal["cfg", "apg", "cfg-zero-star"]  # codecdiff/diffusion/guidance.py
Dropout = Annotated[float, Field(ge=0, lt=1)]  # probability of being absent
Fraction = Annotated[float, Field(ge=0, le=1)]


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise InvalidValue("expected the first end not above the second, as in (0.3, 0.8)")
    return interval


Interval = Annotated[tuple[Fraction, Fraction], AfterValidator(_in_order)]


class Config(Arguments):
    """A group of settings. Unknown names are refused."""

    def merge(self, other: Self) -> Self:
        """Return a copy of these settings, overridden by those that were set explicitly in `other`."""
        return self.model_copy(update=other.model_dump(exclude_unset=True))


class DataConfig(Config):
    """What to train on."""

    audio: Path | None = None  # a folder of audio files, with captions in metadata.jsonl or .txt files
    store: Path | None = None  # codes; encoded from the audio if it does not exist. Default: OUTPUT/store
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)  # of the tracks, which are never trained on
    split_seed: int | None = Field(default=None, ge=0)  # decides which tracks these are; null: the experiment's seed


class TrainConfig(Config):
    """How a stage is trained: `codecdiff.training.trainer.StageTrainer`.

    By AdamW with betas 0.9 and 0.99 and epsilon 1e-8. The averaged weights are an exponential moving average, whose
    decay after n steps is min(ema_decay, (1 + n) / (10 + n)), so that it forgets the initial weights soon.
    """

    max_train_steps: PositiveInt = 1000
    train_batch_size: PositiveInt = 16  # crops per process, computed at once
    gradient_accumulation_steps: PositiveInt = 1  # such batches per process in one step
    crop_seconds: float = Field(default=6.0, ge=0.001, le=3600)
    learning_rate: PositiveFloat = 1e-4
    warmup_steps: int = Field(default=100, ge=0)
    lr_scheduler: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    ema_decay: float = Field(default=0.999, ge=0, lt=1)  # 0: the average is the last weights
    dropout: Dropout | dict[str, Dropout] = 0.1  # of every condition, independently; or of each by its name, else 0
    context_noise_std: float = Field(default=0, ge=0)  # of Gaussian noise added to the context of a stage
    timestep_bias: float = Field(default=1, gt=0)  # above 1, timesteps of high noise are trained on more often
    loss: Literal["l1", "l2"] = "l1"
    noise_device: Literal["cpu", "device"] = "cpu"  # where noise is drawn; on a GPU in less time, as other numbers
    compile: bool = False  # layers by torch.compile, for faster steps that round otherwise
    snr_gamma: PositiveFloat | None = None  # bound of the Min-SNR weights, 5 in the paper; null: unweighted
    checkpointing_steps: PositiveInt = 100  # between checkpoints, each with a validation loss
    validation_steps: int = Field(default=0, ge=0)  # between audio samples; 0: none


class DiffusionConfig(Config):
    """The diffusion process of a stage: arguments of `training_scheduler`, and the color of the noise."""

    num_train_timesteps: int = Field(default=1000, gt=0, le=100_000)
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: str = "v_prediction"
    zero_terminal_snr: bool = False  # rescale the betas so that the last timestep is pure noise
    noise_color: float = Field(default=0, ge=0, le=2)  # power over time falls as 1 / frequency ** color


class SamplingConfig(Config):
    """How a stage is sampled."""

    model_config = ConfigDict(validate_assignment=True)

    scheduler: str = "ddpm"
    num_inference_steps: PositiveInt = 100
    guidance_scale: Guidance = 3.0
    guidance_method: GuidanceMethod = "cfg"
    guidance_rescale: Fraction = 0  # how far the guided prediction gets the deviation of the unguided one back
    guidance_interval: Interval = (0, 1)  # timesteps that are guided, as fractions of the schedule
    timestep_spacing: Literal["even", "karras"] = "even"
    final_timestep_fraction: Fraction = 0  # of the schedule; its estimate of x_start is the sample

    def __repr_args__(self) -> Any:
        """Return the options that are set: those that a preset leaves out are not its own."""
        return [(name, value) for name, value in super().__repr_args__() if name in self.model_fields_set]


class StageConfig(Config):
    """What one stage does differently from the others."""

    denoiser: DenoiserSpec | None = None
    start_from: str | None = None  # initial weights: the name of another stage, or a stage's folder in another model
    train: TrainConfig = TrainConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()


class ExperimentConfig(Config):
    """A model and its training. A recipe adds where to write and what to sample."""

    allow_changes: bool = False  # resume with another seed, validation split or music, and record that
    seed: int = Field(default=0, ge=0)
    codec: CodecSpec
    normalize_latents: Literal["codebook", "channel"] = "codebook"  # one mean and deviation for each
    splitter: SplitterSpec
    conditioner: ConditionerSpec | None = None  # null trains without text
    denoiser: DenoiserSpec
    target: Target = "codes"
    snap_context: bool = True  # a stage sees the codebook vectors of the stages before it, not their raw latents
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    stages: dict[str, StageConfig] = Field(default_factory=dict)

    def stage_config(self, name: str) -> StageConfig:
        """Return what the stage called `name` does differently; nothing, unless there are settings for it."""
        return self.stages.get(name, StageConfig())
