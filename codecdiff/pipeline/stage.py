"""One stage of a model, and what its denoiser follows from: codec, splitter and conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import nn

from codecdiff import config
from codecdiff.config.schema import Guidance
from codecdiff.diffusion import noise_schedule
from codecdiff.interfaces import Codec, Condition, Conditioner, Denoiser, Prompt, Splitter
from codecdiff.pipeline.code_version import code_versions


@dataclass
class Stage:
    """One stage of a model: its denoiser, the scheduler and noise it was trained with and how it is sampled."""

    name: str
    denoiser: Denoiser
    scheduler: Any
    sampler: str = "ddpm"
    steps: int = 100
    guidance: Guidance = 3.0
    _: KW_ONLY
    spacing: str = "even"
    facts: dict[str, Any] = field(default_factory=dict)  # of its training
    noise_color: float = 0.0  # of `noises.colored`
    stop_at: float = 0.0  # share of the schedule at which the estimate of the clean latents is the sample

    def __post_init__(self):
        self.new_sampler()  # an unknown one is refused now, not after training
        self.check_steps(self.steps)

    def new_sampler(self) -> Any:
        """Give a new scheduler that samples the stage."""
        return noise_schedule.sampler(self.scheduler, self.sampler, self.spacing, self.stop_at)

    def check_steps(self, steps: int) -> None:
        """Raise ValueError unless the stage can be sampled in this many steps."""
        trained = self.scheduler.config.num_train_timesteps
        most = noise_schedule.most_steps(trained, self.stop_at)
        if not 1 <= steps <= most:
            above = f", and stops at {self.stop_at:g} of them" if most < trained else ""
            raise ValueError(
                f"steps={steps}: ask for 1 to {most} sampling steps; {self.name} was trained with {trained}{above}."
            )

    def spec(self) -> dict[str, Any]:
        """Describe the stage for its stage.json."""
        return {
            "denoiser": config.to_config("denoisers", self.denoiser),
            "scheduler": noise_schedule.describe(self.scheduler),
            "noise_color": self.noise_color,
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": self.guidance,
            "spacing": self.spacing,
            "stop_at": self.stop_at,
            "training": self.facts,
            "code": code_versions(self.denoiser),
        }


def stage_shapes(codec: Codec, splitter: Splitter, frames: int) -> list[tuple[int, int]]:
    """Give (channels, frames) of every stage for this many latent frames, by splitting a meta tensor."""
    latents = torch.empty(1, codec.num_codebooks, codec.codebook_dim, frames, device="meta")
    return [(stage.shape[1], stage.shape[2]) for stage in splitter.split(latents)]


def context_channels(codec: Codec, splitter: Splitter) -> list[int]:
    """Give the channels of the context that every stage sees, 0 for none."""
    stages = splitter.split(torch.empty(1, codec.num_codebooks, codec.codebook_dim, 1, device="meta"))
    contexts = [splitter.context(stages, i) for i in range(len(stages))]
    return [0 if context is None else context.shape[1] for context in contexts]


def build_denoiser(spec: Any, codec: Codec, splitter: Splitter, conditioner: Conditioner | None, i: int) -> Denoiser:
    """Build the denoiser of stage `i`; its channels and widths follow from the other parts.

    Raises ValueError for a condition of a name that no denoiser can keep a module or a null under.
    """
    widths = conditioner.widths if conditioner else {}
    held = nn.ModuleDict(), nn.ParameterDict()
    if refused := [name for name in widths if not name or "." in name or any(hasattr(group, name) for group in held)]:
        raise ValueError(
            f"A condition cannot be called '{refused[0]}', a name that torch keeps for itself. Where it is a field of "
            "prompts, call that column of the metadata otherwise."
        )
    return config.build(
        "denoisers",
        spec,
        channels=stage_shapes(codec, splitter, 1)[i][0],
        context_channels=context_channels(codec, splitter)[i],
        condition_widths=widths,
    )


def conditions(conditioner: Conditioner | None, prompts: Sequence[Prompt], device: Any) -> Condition:
    """Encode prompts on a device; a model without a conditioner has an empty condition."""
    return conditioner.encode(prompts).to(device) if conditioner else Condition({})
