"""The diffusion process of one stage: noise schedules, the training loss, schedulers and guidance."""

from collections import UserDict
from functools import cached_property
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

from codecdiff import lazy_exports, stand_ins

if TYPE_CHECKING:
    from codecdiff.diffusion.colored_noise import colored, whitened
    from codecdiff.diffusion.guidance import num_passes, parse_guidance_scale, resolve_guidance
    from codecdiff.diffusion.loss import StageInput, stage_loss
    from codecdiff.diffusion.noise_schedule import (
        BETA_SCHEDULES,
        PREDICTION_TYPES,
        Scheduler,
        prediction_type_of,
        set_timesteps,
        training_scheduler,
    )
    from codecdiff.diffusion.sampling import SamplingInput, StageMask, sample_stage
    from codecdiff.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, sampling_options, sampling_scheduler

__all__ = [
    "BETA_SCHEDULES",
    "FLOW_SCHEDULERS",
    "PREDICTION_TYPES",
    "SCHEDULERS",
    "SamplingInput",
    "Scheduler",
    "StageInput",
    "StageMask",
    "colored",
    "num_passes",
    "parse_guidance_scale",
    "prediction_type_of",
    "resolve_guidance",
    "sample_stage",
    "sampling_options",
    "sampling_scheduler",
    "set_timesteps",
    "stage_loss",
    "training_scheduler",
    "whitened",
]

__getattr__, __dir__ = lazy_exports(__name__)


class _Distributions(UserDict[str, list[str]]):
    """What `importlib.metadata.packages_distributions` returns, which reads the lists of files of all packages."""

    def __init__(self) -> None:
        """Read nothing yet."""

    @cached_property
    def data(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]  # an attribute, made when it is read
        return metadata.packages_distributions()


def _import_schedulers() -> None:
    """Import the schedulers of diffusers without torch's compiler and scipy.stats, which take longer than the rest.

    diffusers catches that the former is missing. The latter it names in a spacing of timesteps alone, which finds the
    package by `scipy`'s own lazy import. It asks for the distributions of all packages, and reads them for few.
    """
    packages_distributions, metadata.packages_distributions = metadata.packages_distributions, _Distributions
    try:
        with stand_ins({"torch._dynamo": None, "scipy.stats": ModuleType("scipy.stats")}):
            for name in _SCHEDULERS.split():
                import_module(f"diffusers.schedulers.scheduling_{name}")
    finally:
        metadata.packages_distributions = packages_distributions


_SCHEDULERS = (
    "ddpm deis_multistep dpmsolver_multistep dpmsolver_singlestep euler_ancestral_discrete euler_discrete "
    "flow_match_euler_discrete flow_match_heun_discrete heun_discrete pndm unipc_multistep"
)

_import_schedulers()
