"""The diffusion process over diffusers' schedulers: a pure loss and one sampling loop.

Forward process: x = alpha * clean + sigma * noise, with alpha^2 = abar(timestep) and sigma^2 = 1 - alpha^2
(Ho et al., 2020; the velocity is that of Salimans & Ho, 2022). The noise is white, or coloured over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from codecdiff.interfaces import Condition, Denoiser
from codecdiff.noises import colored, whitened


class Scheduler(Protocol):
    """What codecdiff calls of a diffusers scheduler."""

    config: Any
    alphas_cumprod: Tensor
    timesteps: Tensor
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose the steps of one sampling run."""
        ...

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """Give the denoiser's input at a step."""
        ...

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Take one step; the result has `prev_sample`."""
        ...


# The samplers offered by name, with the options they need; `from_config` would put their own defaults back.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "zero"}),
    "euler": ("EulerDiscreteScheduler", {}),
}

PREDICTIONS = ("v_prediction", "epsilon", "sample")

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")  # that every sampler knows


def training_scheduler(
    *, steps: int = 1000, schedule: str = "squaredcos_cap_v2", prediction: str = "v_prediction"
) -> Any:
    """Give the DDPM scheduler a stage is trained with. Its samples are never clipped: latents have unit variance.

    `schedule` is a name of diffusers: squaredcos_cap_v2 is the cosine schedule of Nichol & Dhariwal (2021).
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if prediction not in PREDICTIONS:
        raise ValueError(f"No prediction called '{prediction}'. There are: {', '.join(PREDICTIONS)}.")
    if schedule not in SCHEDULES:
        raise ValueError(f"No schedule called '{schedule}'. There are: {', '.join(SCHEDULES)}.")
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_schedule=schedule,  # pyright: ignore[reportArgumentType]  # checked by diffusers
        prediction_type=prediction,  # pyright: ignore[reportArgumentType]  # checked above
        clip_sample=False,
        timestep_spacing="trailing",
    )


def sampler(trained: Any, name: str) -> Any:
    """Give a new scheduler called `name` that samples what was trained with the scheduler `trained`."""
    import diffusers

    if name not in SAMPLERS:
        raise ValueError(f"No sampler called '{name}'. There are: {', '.join(SAMPLERS)}.")
    class_name, options = SAMPLERS[name]
    return getattr(diffusers, class_name).from_config(trained.config, timestep_spacing="trailing", **options)


def coefficients(scheduler: Scheduler, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(b,) steps -> alpha and sigma, each shaped to multiply `like` (b, ...)."""
    abar = scheduler.alphas_cumprod.to(like.device)[timestep].to(like.dtype)
    abar = abar.view(-1, *[1] * (like.dim() - 1))
    return abar.sqrt(), (1 - abar).sqrt()


def diffuse(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Forward process: alpha * clean + sigma * noise (b, c, l)."""
    return alpha * clean + sigma * noise


def v_target(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Velocity of Salimans & Ho (2022): alpha * noise - sigma * clean."""
    return alpha * noise - sigma * clean


def target(prediction: str, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Give what a denoiser of this prediction type should answer."""
    if prediction == "v_prediction":
        return v_target(clean, noise, alpha, sigma)
    return {"epsilon": noise, "sample": clean}[prediction]


def mean_over(mask: Tensor, error: Tensor) -> Tensor:
    """Average (b, c, l) errors over the places where the mask is 1, giving a scalar."""
    mask = mask.expand_as(error)
    return (error * mask).sum() / mask.sum().clamp_min(1)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


def stage_loss(
    denoiser: Callable[..., Tensor],
    scheduler: Scheduler,
    clean: Tensor,
    *,
    mask: Tensor,
    context: Tensor | None,
    condition: Condition,
    noise: Tensor,
    timestep: Tensor,
    loss: str = "l1",
) -> tuple[Tensor, Tensor]:
    """Give the loss of one stage, and the loss of the constant answer zero to the same question.

    Shapes: clean, mask and noise (b, c, l), mask 1 where there is music and 0 where there is padding;
    context (b, c', l) or None; timestep (b,). Pure: all randomness is in the arguments. The loss is the
    mean absolute (l1, as in DiscoDiff) or squared (l2) error.
    """
    alpha, sigma = coefficients(scheduler, timestep, clean)
    answer = target(scheduler.config.prediction_type, clean, noise, alpha, sigma)
    prediction = denoiser(diffuse(clean, noise, alpha, sigma), timestep, context, condition)
    error = LOSSES[loss]
    return mean_over(mask, error(prediction.float() - answer)), mean_over(mask, error(answer))


def generator(*key: int) -> torch.Generator:
    """Give a CPU generator that is a function of the integers in `key` alone."""
    entropy = [len(key), *(k % 2**64 for k in key)]  # the length first: SeedSequence takes (1,) and (1, 0) for one
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def row_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: Any = "cpu") -> Tensor:
    """Draw (b, *shape) noise, each row from its own CPU generator, and move it to a device."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]).to(device)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Scheduler,
    shape: Sequence[int],
    *,
    context: Tensor | None,
    condition: Condition,
    steps: int,
    guidance: float,
    generators: Sequence[torch.Generator],
    color: float = 0.0,
    device: Any = "cpu",
) -> Tensor:
    """Sample one stage, (b, c, l), from noise; `shape` is (c, l) and there is one generator per row.

    Classifier-free guidance (Ho & Salimans, 2022): null + guidance * (conditional - null), in one pass of
    twice the batch; with guidance 1, or with nothing to be told, the conditional pass alone.
    `color` is that of the noise the denoiser was trained with: the scheduler works on whitened latents.
    """
    scheduler.set_timesteps(steps)
    x = row_noise(shape, generators, device) * scheduler.init_noise_sigma
    guided = guidance != 1 and bool(condition.entries)
    asked = Condition.cat([condition, condition.null()]) if guided else condition
    seen = torch.cat([context, context]) if guided and context is not None else context
    network = denoiser.prepared(scheduler.timesteps.to(device), asked)
    # the noise of an ancestral step comes from each row's own generator
    extras = {"generator": list(generators)} if type(scheduler).__name__ == "DDPMScheduler" else {}
    for timestep in scheduler.timesteps:
        scaled = colored(scheduler.scale_model_input(x, timestep), color)
        rows = torch.cat([scaled, scaled]) if guided else scaled
        prediction = network(rows, timestep.to(device).expand(len(rows)), seen, asked).float()
        if guided:
            told, null = prediction.chunk(2)
            prediction = null + guidance * (told - null)
        x = scheduler.step(whitened(prediction, color), timestep, x, **extras).prev_sample
    return colored(x, color)
