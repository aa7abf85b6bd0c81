"""Noise schedules: how much noise a timestep stands for, and which timesteps a sampling run visits.

A stage is trained with one schedule and can be sampled with any scheduler of `codecdiff.diffusion.schedulers`. The
steps are diffusers'; the noise levels are computed here, because each class of diffusers rounds them differently.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from codecdiff.errors import InvalidValue


class Scheduler(Protocol):
    """The methods of a diffusers scheduler that codecdiff calls."""

    config: Any
    timesteps: Tensor
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose the timesteps of one sampling run."""

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """Return the denoiser's input at a timestep."""
        ...

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Take one step; the result has `prev_sample`."""


PREDICTION_TYPES = ("v_prediction", "epsilon", "sample", "flow")
BETA_SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")
TRAINING_SCHEDULERS = ("DDPMScheduler", "FlowMatchEulerDiscreteScheduler")  # the classes a stage can be trained with
MAX_TIMESTEPS = 100_000
SIGMA_SPACE = ("euler", "euler-a", "heun", "lms")  # their state is x_start + sigma * noise, except for flow models


def training_scheduler(
    *,
    num_train_timesteps: int = 1000,
    beta_schedule: str = "squaredcos_cap_v2",
    prediction_type: str = "v_prediction",
    zero_terminal_snr: bool = False,
) -> Any:
    """Return the scheduler a stage is trained with. Its samples are never clipped: latents have unit variance.

    `beta_schedule` is a name of diffusers: squaredcos_cap_v2 is the cosine schedule of Nichol & Dhariwal (2021). The
    betas of the others are those of 1000 timesteps, scaled so that any number of timesteps ends in as much noise. With
    `zero_terminal_snr` they are rescaled to end in pure noise (Lin et al., 2023). `prediction_type="flow"` trains
    rectified flow (Liu et al., 2022), which has a schedule of its own.
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    if prediction_type not in PREDICTION_TYPES:
        raise InvalidValue(f"Unknown prediction_type '{prediction_type}'. Available: {', '.join(PREDICTION_TYPES)}.")
    if beta_schedule not in BETA_SCHEDULES:
        raise InvalidValue(f"Unknown beta_schedule '{beta_schedule}'. Available: {', '.join(BETA_SCHEDULES)}.")
    if prediction_type == "flow":
        if zero_terminal_snr or beta_schedule != BETA_SCHEDULES[0]:
            raise InvalidValue(
                "prediction_type=flow has a schedule of its own, which ends in pure noise: omit beta_schedule and "
                "zero_terminal_snr."
            )
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=num_train_timesteps, shift=1.0)
    if zero_terminal_snr and prediction_type == "epsilon":
        raise InvalidValue("zero_terminal_snr needs another prediction_type than epsilon, which is undefined at SNR 0.")
    scale = 1.0 if beta_schedule == "squaredcos_cap_v2" else 1000 / num_train_timesteps  # cosine ignores beta_end
    if 0.02 * scale >= 1:
        raise InvalidValue(
            f"num_train_timesteps={num_train_timesteps}: beta_schedule {beta_schedule} needs more than 20. "
            "squaredcos_cap_v2 accepts any number."
        )
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        beta_schedule=beta_schedule,  # pyright: ignore[reportArgumentType]  # checked above
        prediction_type=prediction_type,  # pyright: ignore[reportArgumentType]  # checked above
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_terminal_snr,
    )


def prediction_type_of(scheduler: Any) -> str:
    """Return what the denoiser of a training or sampling scheduler predicts: one of `PREDICTION_TYPES`."""
    name = scheduler.config.get("prediction_type", "flow_prediction")
    return "flow" if name == "flow_prediction" else name


def scheduler_to_config(scheduler: Any) -> dict[str, Any]:
    """Return the description of a training scheduler for stage.json."""
    options = {k: v for k, v in dict(scheduler.config).items() if not k.startswith("_") and v is not None}
    return {"class": type(scheduler).__name__, **options}


def scheduler_from_config(config: dict[str, Any]) -> Any:
    """Build the training scheduler that `scheduler_to_config` described. Raises InvalidValue."""
    import diffusers

    options = dict(config)
    name, steps = options.pop("class", None), options.get("num_train_timesteps", 1000)
    if name not in TRAINING_SCHEDULERS:
        raise InvalidValue(f"Unknown training scheduler '{name}'. Available: {', '.join(TRAINING_SCHEDULERS)}.")
    if type(steps) is not int or not 1 <= steps <= MAX_TIMESTEPS:
        raise InvalidValue(f"Invalid num_train_timesteps={steps!r}: expected 1 to {MAX_TIMESTEPS:,}.")
    if (prediction := options.get("prediction_type", "epsilon")) not in PREDICTION_TYPES:
        raise InvalidValue(f"Unknown prediction_type {prediction!r}. Available: {', '.join(PREDICTION_TYPES)}.")
    cls = getattr(diffusers, name)
    parameters = inspect.signature(cls).parameters  # `from_config` keeps the same, and imports every scheduler
    return cls(**{key: value for key, value in options.items() if key in parameters})


def coefficients(scheduler: Any, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at timesteps (b,), each shaped to multiply `like` (b, ...)."""
    shape = (-1, *[1] * (like.dim() - 1))
    if prediction_type_of(scheduler) == "flow":
        time = ((timestep + 1) / scheduler.config.num_train_timesteps).to(like).view(shape)
        return 1 - time, time
    abar = scheduler.alphas_cumprod.to(like.device)[timestep].to(like.dtype).view(shape)
    return abar.sqrt(), (1 - abar).sqrt()


def noise_levels(scheduler: Any) -> Tensor:
    """Return the noise level (T,) of every training timestep: sigma / alpha, or the time of a flow."""
    if prediction_type_of(scheduler) == "flow":
        total = scheduler.config.num_train_timesteps
        return torch.arange(1, total + 1) / total
    return ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5


def even_timesteps(num_train_timesteps: int, num_inference_steps: int, final_fraction: float = 0.0) -> Tensor:
    """Return evenly spaced timesteps (n,) from the last one down: the "trailing" spacing of Lin et al. (2023).

    It ends one interval above noiseless latents, or at `final_fraction` of the timesteps where this is higher.
    """
    end, intervals = max(final_fraction, 1 / num_inference_steps), max(1, num_inference_steps - 1)
    places = [1 - i * (1 - end) / intervals for i in range(num_inference_steps)]
    return torch.tensor([round(num_train_timesteps * place) - 1 for place in places])


def max_inference_steps(num_train_timesteps: int, final_fraction: float = 0.0) -> int:
    """Return the largest number of different timesteps that a sampling run can visit."""
    return num_train_timesteps - max(1, round(num_train_timesteps * final_fraction)) + 1


def evaluation_steps(name: str, num_inference_steps: int) -> list[int]:
    """Return the indices of the noise levels at which a scheduler evaluates the network, in order."""
    steps = list(range(num_inference_steps))
    if name == "heun":  # at the end of a step, to correct it, and again to continue
        return [0] + [step for step in steps[1:] for _ in range(2)]
    if name == "pndm":  # takes the first step twice
        return steps[:2] + steps[1:]
    return steps


def sampling_levels(scheduler: Any, num_inference_steps: int) -> tuple[Tensor, Tensor]:
    """Return the noise levels (n,) of a sampling run, and the timesteps (n,) that stand for them in the network.

    The spacing "karras" is Eq. 5 of Karras et al. (2022), with rho = 7.
    """
    levels, final_fraction = noise_levels(scheduler), scheduler.config._final_timestep_fraction
    if scheduler.config._timestep_spacing == "karras":
        lowest = max(0, round(len(levels) * final_fraction) - 1)
        high, low = levels[-1].double() ** (1 / 7), levels[lowest].double() ** (1 / 7)
        karras = (high + torch.linspace(0, 1, num_inference_steps, dtype=torch.float64) * (low - high)) ** 7.0
        timesteps = np.interp(karras.log(), levels.double().log(), np.arange(len(levels)))  # between those of training
        return karras, torch.from_numpy(timesteps).float()
    timesteps = even_timesteps(len(levels), num_inference_steps, final_fraction)
    return levels[timesteps], timesteps


def start_step(scheduler: Any, num_inference_steps: int, strength: float) -> int:
    """Return the step of a sampling run that is nearest to the fraction `strength` of the training timesteps."""
    _, timesteps = sampling_levels(scheduler, num_inference_steps)
    return int(((timesteps + 1) / scheduler.config.num_train_timesteps - strength).abs().argmin())


def set_timesteps(scheduler: Any, num_inference_steps: int, start: int = 0) -> None:
    """Prepare a scheduler of `sampling_scheduler` for a run, or for its steps from step `start` on.

    Sets `timesteps`, the network's input at each evaluation, and the noise levels they stand for.
    """
    scheduler.set_timesteps(num_inference_steps - start)
    levels, timesteps = sampling_levels(scheduler, num_inference_steps)
    steps = [start + step for step in evaluation_steps(scheduler.config._name, num_inference_steps - start)]
    is_exact = not timesteps.is_floating_point()
    scheduler.timesteps = (timesteps.to(scheduler.timesteps.dtype) if is_exact else timesteps)[steps]
    if not hasattr(scheduler, "sigmas"):
        return
    if scheduler.config.get("use_flow_sigmas"):
        levels = levels.clamp_max(1 - 1e-4)  # these schedulers compute log(alpha / sigma)
    scheduler.sigmas = torch.cat([levels[steps].float(), torch.zeros(1)])
    scheduler.set_begin_index(0)


def accepts_generator(scheduler: Any) -> bool:
    """Return whether a step draws noise, from one generator for each row."""
    return "generator" in inspect.signature(scheduler.step).parameters


def marginal(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma such that the state before this step is alpha * x_start + sigma * noise.

    `timestep` is the element of `scheduler.timesteps` of the next step. The state is variance preserving, except for
    the schedulers of `SIGMA_SPACE`, where alpha is 1, and for flow models, where alpha is 1 - sigma.
    """
    if not hasattr(scheduler, "sigmas"):
        abar = scheduler.alphas_cumprod[timestep.cpu()]
        return abar.sqrt(), (1 - abar).sqrt()
    sigma = scheduler.sigmas[scheduler.step_index or 0]
    if prediction_type_of(scheduler) == "flow":
        return 1 - sigma, sigma
    if scheduler.config._name in SIGMA_SPACE:
        return torch.ones_like(sigma), sigma
    alpha = (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha


def exact_prediction(scheduler: Any, x: Tensor, timestep: Tensor, x_start: Tensor) -> Tensor:
    """Return, in float32, the prediction that leads from the state `x` (b, c, l) before a step to `x_start`.

    v is (alpha * x - x_start) / sigma, from Eq. 6 of DiscoDiff, of the network's input: in sigma space, the state
    scaled to be variance preserving.
    """
    x, x_start = x.float(), x_start.float()
    prediction_type, (alpha, sigma) = prediction_type_of(scheduler), marginal(scheduler, timestep)
    if prediction_type == "sample":
        return x_start
    if prediction_type == "flow":
        return (x - x_start) / sigma
    norm = (alpha**2 + sigma**2).sqrt()
    x, alpha, sigma = x / norm, alpha / norm, sigma / norm
    return (alpha * x - x_start) / sigma if prediction_type == "v_prediction" else (x - alpha * x_start) / sigma
