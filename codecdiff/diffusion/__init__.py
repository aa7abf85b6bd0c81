"""The diffusion process of one stage: noise schedules, the training loss, schedulers and guidance."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

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
