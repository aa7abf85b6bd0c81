"""One stage of a model, and what its denoiser follows from: codec, splitter and conditioner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from codecdiff import config
from codecdiff.arguments import Attributes, require_type
from codecdiff.config.schema import SamplingConfig
from codecdiff.diffusion.noise_schedule import evaluation_steps, max_inference_steps, scheduler_to_config, start_step
from codecdiff.errors import InvalidValue, UserError
from codecdiff.interfaces import Codec, Conditioner, Denoiser, Splitter
from codecdiff.pipeline.code_version import code_versions


@dataclass(repr=False)
class Stage(Attributes):
    """One stage of a model: its denoiser, the diffusion process it was trained with and how it is sampled.

    train_scheduler: one of `training_scheduler`.
    sampling: its scheduler, steps, guidance and timesteps, unless a call says otherwise. Options that are not set in
        one that is assigned stay as they are.
    noise_color: of `colored`.
    facts: how it was trained.

    Example:
        >>> import codecdiff
        >>> from diffusers import UniPCMultistepScheduler
        >>> stage = codecdiff.load("starter").stages["primary"]
        >>> stage.scheduler = UniPCMultistepScheduler.from_config(stage.scheduler.config)
        >>> stage.sampling.scheduler
        'unipc'
        >>> stage.scheduler = "euler"
        >>> stage.sampling.num_inference_steps = 20
        >>> stage.sampling = codecdiff.SamplingConfig(guidance_scale=2.0)
        >>> stage
        Stage primary: unet, 3,241,939 parameters; euler, 20 steps, guidance scale 2.0

    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(SamplingConfig.model_fields, "It is one of the stage's sampling: stage.sampling.{name} = ..."),
        **dict.fromkeys(("model", "transformer", "unet"), "Its network is stage.denoiser."),
    }

    name: str
    denoiser: Denoiser
    train_scheduler: Any
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    noise_color: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _ = self.scheduler  # reports an unknown name before training, not after it
        if self.distilled:
            from codecdiff.diffusion.distillation import check_distilled

            check_distilled(self.name, self.sampling, self.distilled.get("sampling", {}))
        self.check_num_inference_steps(self.sampling.num_inference_steps)

    @property
    def scheduler(self) -> Any:
        """A new scheduler that samples the stage. Assign a name, or a scheduler of diffusers or its class."""
        from codecdiff.diffusion.schedulers import sampling_scheduler

        options = self.sampling
        return sampling_scheduler(
            self.train_scheduler, options.scheduler, options.timestep_spacing, options.final_timestep_fraction
        )

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        from codecdiff.diffusion.schedulers import sampling_options

        self.sampling = SamplingConfig(**sampling_options(scheduler, self.train_scheduler))

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute, of `sampling` what is set in it. Raises InvalidValue for what the stage cannot be."""
            if name == "sampling":
                require_type(value, SamplingConfig, "codecdiff.SamplingConfig(num_inference_steps=20)")
                if name in vars(self):
                    value = self.with_sampling(**value.model_dump(exclude_unset=True)).sampling
                value = value.model_copy(update=dict(value))  # of a stage, all options are set
            super().__setattr__(name, value)

    def with_sampling(self, **options: Any) -> Self:
        """Return the stage, with the same denoiser, sampled by other options. Raises InvalidValue if it cannot be."""
        return replace(self, sampling=self.sampling.model_copy(update=options))

    @property
    def distilled(self) -> Mapping[str, Any]:
        """What it was distilled to and from; empty for a stage that was not."""
        return self.facts.get("distilled") or {}

    def num_timesteps(self, num_inference_steps: int, strength: float = 1.0) -> int:
        """Return how often a sampling run evaluates the denoiser; `strength` is that of an edit."""
        start = start_step(self.scheduler, num_inference_steps, strength)
        return len(evaluation_steps(self.sampling.scheduler, num_inference_steps - start))

    def check_num_inference_steps(self, steps: int) -> None:
        """Raise InvalidValue unless the stage can be sampled in this many steps."""
        total, final_fraction = self.train_scheduler.config.num_train_timesteps, self.sampling.final_timestep_fraction
        most = max_inference_steps(total, final_fraction)
        if not 1 <= steps <= most:
            reason = f" and final_timestep_fraction={final_fraction:g}" if most < total else ""
            raise InvalidValue(
                f"Invalid num_inference_steps={steps}: expected 1 to {most} for {self.name}, "
                f"which was trained with num_train_timesteps={total}{reason}."
            )

    def __repr__(self) -> str:
        return f"Stage {self.name}: {self.describe()}"

    def describe(self) -> str:
        """Return what the stage is, in a line."""
        size, sampling = sum(p.numel() for p in self.denoiser.parameters()), self.sampling
        return (
            f"{part_title('denoisers', self.denoiser)}, {size:,} parameters; {sampling.scheduler}, "
            f"{sampling.num_inference_steps} steps, guidance scale {sampling.guidance_scale}"
        )

    def to_config(self) -> dict[str, Any]:
        """Return the description of the stage for its stage.json."""
        return {
            "denoiser": config.to_config("denoisers", self.denoiser),
            "train_scheduler": scheduler_to_config(self.train_scheduler),
            "noise_color": self.noise_color,
            **self.sampling.model_dump(mode="json"),
            "training": self.facts,
            "code": code_versions(self.denoiser),
        }


def stage_shapes(codec: Codec, splitter: Splitter, frames: int) -> list[tuple[int, int]]:
    """Return (channels, frames) of every stage for this many latent frames, by splitting a tensor."""
    return [(stage.shape[1], stage.shape[2]) for stage in _split_empty(codec, splitter, frames)]


def _split_empty(codec: Codec, splitter: Splitter, frames: int) -> list[Tensor]:
    """Split a tensor without values. It is not on the meta device: that imports torch's compiler, for seconds."""
    with torch.device("cpu"):
        return splitter.split(torch.empty(1, codec.num_codebooks, codec.codebook_dim, frames))


def context_channels(codec: Codec, splitter: Splitter) -> list[int]:
    """Return the channels of the context that every stage sees, 0 for none."""
    stages = _split_empty(codec, splitter, 1)
    contexts = [splitter.context(stages, i) for i in range(len(stages))]
    return [0 if context is None else context.shape[1] for context in contexts]


def build_denoiser(spec: Any, codec: Codec, splitter: Splitter, conditioner: Conditioner | None, i: int) -> Denoiser:
    """Build the denoiser of stage `i`; its channels and widths follow from the other parts.

    Raises ValueError for a condition whose name torch reserves.
    """
    widths = conditioner.widths if conditioner else {}
    containers = nn.ModuleDict(), nn.ParameterDict()
    for name in widths:
        if not name or "." in name or any(hasattr(container, name) for container in containers):
            raise InvalidValue(
                f"Invalid name '{name}' of a condition: torch reserves it. If it is a field of prompts, rename that "
                "column of the metadata."
            )
    return config.build(
        "denoisers",
        spec,
        channels=stage_shapes(codec, splitter, 1)[i][0],
        context_channels=context_channels(codec, splitter)[i],
        condition_widths=widths,
        frame_rate=stage_frame_rate(codec, splitter, i),
    )


def stage_frame_rate(codec: Codec, splitter: Splitter, i: int) -> float:
    """Return how many frames of stage `i` a second of audio has."""
    shorter, longer = (stage_shapes(codec, splitter, frames)[i][1] for frames in (64, 128))
    return codec.frame_rate * (longer - shorter) / 64


def part_title(kind: str, part: Any) -> str:
    """Return the name of a part with those inside it, as in "normalized(dac)"."""

    def title(spec: Mapping[str, Any]) -> str:
        values = [each for value in spec.values() for each in (value if isinstance(value, list) else [value])]
        inner = [title(value) for value in values if isinstance(value, Mapping) and "name" in value]
        return spec["name"] + (f"({', '.join(inner)})" if inner else "")

    try:
        return title(config.to_config(kind, part))
    except UserError:  # a part that is not installed, such as a class of a notebook
        return type(part).__name__
