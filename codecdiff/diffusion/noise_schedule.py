"""Noise schedules and samplers: diffusers' schedulers, told exactly which noise levels they are at.

A stage is trained with one schedule and may be sampled with any sampler that knows it. diffusers gives the steps of its
samplers; the noise levels they go through are chosen here, because diffusers rounds them differently in each class.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Scheduler(Protocol):
    """What codecdiff calls of a diffusers scheduler."""

    config: Any
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


PREDICTIONS = ("v_prediction", "epsilon", "sample", "flow")

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")

SPACINGS = ("even", "karras")

TRAINED = ("DDPMScheduler", "FlowMatchEulerDiscreteScheduler")  # the classes a stage may be trained with

# The samplers offered by name, with the options of diffusers that make them exact. Classes of `schedulers` come first.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small"}),
    "ddim": ("DPMSolverMultistepScheduler", {"solver_order": 1, "algorithm_type": "dpmsolver++"}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "dpm++2m-sde": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "dpm++2s": ("DPMSolverSinglestepScheduler", {"solver_order": 2, "lower_order_final": True}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2, "lower_order_final": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestral", {}),
    "heun": ("HeunDiscreteScheduler", {"clip_sample": False}),
    "lms": ("LMS", {}),
    "deis": ("DEIS", {"solver_order": 2}),
    "pndm": ("PNDM", {"skip_prk_steps": True, "set_alpha_to_one": True}),
}

FLOW_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowEuler", {}),
    "heun": ("FlowHeun", {}),
    **{name: SAMPLERS[name] for name in ("ddim", "dpm++2m", "dpm++2m-sde", "dpm++2s", "unipc", "deis")},
}

SIGMA_SPACE = ("euler", "euler-a", "heun", "lms")  # their state is clean + sigma * noise, but for models of flow

_DISTILLED = "it needs a model distilled for it"
_OWN_MODEL = "it belongs to another model, with a noise process of its own"
_DISCRETE = "it samples tokens, not numbers"
_TWIN = "it takes the steps of another sampler: {}"

# What else diffusers has, and why a stage cannot be sampled with it.
REFUSED: dict[str, str] = {
    "LCMScheduler": _DISTILLED,
    "TCDScheduler": _DISTILLED,
    "FlowMatchLCMScheduler": _DISTILLED,
    "FlowMapEulerDiscreteScheduler": _DISTILLED,
    "CMStochasticIterativeScheduler": _DISTILLED,
    "SCMScheduler": _DISTILLED,
    "PiflowScheduler": _DISTILLED,
    "HeliosDMDScheduler": _DISTILLED,
    "IPNDMScheduler": "it knows neither the noise schedule nor v-prediction; `pndm` does",
    "KarrasVeScheduler": "it has no v-prediction, and its noise is not that of training",
    "ScoreSdeVeScheduler": "it has no v-prediction, and its noise is not that of training",
    "UnCLIPScheduler": "it has no v-prediction",
    "RePaintScheduler": "it has no v-prediction",
    "DDPMWuerstchenScheduler": "it has no v-prediction",
    "EDMEulerScheduler": "it needs a denoiser with the input and output scales of EDM",
    "EDMDPMSolverMultistepScheduler": "it needs a denoiser with the input and output scales of EDM",
    "CosineDPMSolverMultistepScheduler": "it needs a denoiser with the input and output scales of EDM",
    "DDIMInverseScheduler": "it goes from clean to noise",
    "DPMSolverMultistepInverseScheduler": "it goes from clean to noise",
    "DPMSolverSDEScheduler": "its noise needs torchsde, and would depend on the batch",
    "SASolverScheduler": "its last step, to no noise, is not a number",
    "KDPM2DiscreteScheduler": "it evaluates between trained steps; `heun` is of the same order and does not",
    "KDPM2AncestralDiscreteScheduler": "it evaluates between trained steps; `euler-a` does not",
    "DDIMParallelScheduler": _TWIN.format("`ddim`"),
    "DDPMParallelScheduler": _TWIN.format("`ddpm`"),
    "CogVideoXDDIMScheduler": _TWIN.format("`ddim`"),
    "CogVideoXDPMScheduler": _OWN_MODEL,
    "HeliosScheduler": _OWN_MODEL,
    "LTXEulerAncestralRFScheduler": _OWN_MODEL,
    "MiniMaxH3Scheduler": _OWN_MODEL,
    "RFD4ProteinaScheduler": _OWN_MODEL,
    "AmusedScheduler": _DISCRETE,
    "BlockRefinementScheduler": _DISCRETE,
    "DiscreteDDIMScheduler": _DISCRETE,
    "EntropyBoundScheduler": _DISCRETE,
    "VQDiffusionScheduler": _DISCRETE,
}


def training_scheduler(
    *,
    steps: int = 1000,
    schedule: str = "squaredcos_cap_v2",
    prediction: str = "v_prediction",
    zero_terminal_snr: bool = False,
) -> Any:
    """Give the scheduler a stage is trained with. Its samples are never clipped: latents have unit variance.

    `schedule` is a name of diffusers: squaredcos_cap_v2 is the cosine schedule of Nichol & Dhariwal (2021). The
    betas of the others are those of 1000 steps, scaled so that any number of steps ends in as much noise. With
    `zero_terminal_snr` they are rescaled to end in nothing else (Lin et al., 2023). `prediction="flow"` trains
    rectified flow (Liu et al., 2022), which has a schedule of its own.
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    if prediction not in PREDICTIONS:
        raise ValueError(f"No prediction called '{prediction}'. There are: {', '.join(PREDICTIONS)}.")
    if schedule not in SCHEDULES:
        raise ValueError(f"No schedule called '{schedule}'. There are: {', '.join(SCHEDULES)}.")
    if prediction == "flow":
        if zero_terminal_snr or schedule != SCHEDULES[0]:
            raise ValueError(
                "prediction=flow has a schedule of its own, which ends in noise alone: leave schedule and "
                "zero_terminal_snr out."
            )
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=1.0)
    if zero_terminal_snr and prediction == "epsilon":
        raise ValueError(
            "zero_terminal_snr needs another prediction than epsilon: where all is noise, it says nothing."
        )
    scale = 1.0 if schedule == "squaredcos_cap_v2" else 1000 / steps  # the cosine has no use for the range of beta
    if 0.02 * scale >= 1:
        raise ValueError(f"steps={steps}: schedule {schedule} needs more than 20 steps. squaredcos_cap_v2 takes any.")
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        beta_schedule=schedule,  # pyright: ignore[reportArgumentType]  # checked above
        prediction_type=prediction,  # pyright: ignore[reportArgumentType]  # checked above
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_terminal_snr,
    )


def prediction_of(scheduler: Any) -> str:
    """Name what a denoiser answers, of a scheduler for training or sampling: one of `PREDICTIONS`."""
    name = scheduler.config.get("prediction_type", "flow_prediction")
    return "flow" if name == "flow_prediction" else name


def describe(trained: Any) -> dict[str, Any]:
    """Give what a stage.json says of a scheduler for training."""
    options = {k: v for k, v in dict(trained.config).items() if not k.startswith("_") and v is not None}
    return {"class": type(trained).__name__, **options}


def build(description: dict[str, Any]) -> Any:
    """Build the scheduler that `describe` describes. One without a class is of a time when all were of DDPM."""
    import diffusers

    options = dict(description)
    name = options.pop("class", "DDPMScheduler")
    if name not in TRAINED:
        raise ValueError(f"No stage is trained with the scheduler '{name}'. There are: {', '.join(TRAINED)}.")
    return getattr(diffusers, name).from_config(options)


def coefficients(scheduler: Any, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(b,) steps -> alpha and sigma, each shaped to multiply `like` (b, ...)."""
    shape = (-1, *[1] * (like.dim() - 1))
    if prediction_of(scheduler) == "flow":
        time = ((timestep + 1) / scheduler.config.num_train_timesteps).to(like).view(shape)
        return 1 - time, time
    abar = scheduler.alphas_cumprod.to(like.device)[timestep].to(like.dtype).view(shape)
    return abar.sqrt(), (1 - abar).sqrt()


def sampler(trained: Any, name: str, spacing: str = "even", stop_at: float = 0.0) -> Any:
    """Give a new scheduler that samples what was trained with the scheduler `trained`: start it with `set_steps`.

    Every sampler is given the betas themselves, so it knows any schedule. `stop_at` is the share of the steps of
    training at which the last evaluation is made, whose estimate of the clean latents is the sample. Raises ValueError
    for a name there is not, and for a sampler that cannot be combined with the model or the spacing.
    """
    import diffusers

    from codecdiff.diffusion import schedulers

    prediction = prediction_of(trained)
    flow = prediction == "flow"
    _check_sampler(name, spacing, prediction)
    class_name, exact = (FLOW_SAMPLERS if flow else SAMPLERS)[name]
    chosen = getattr(schedulers, class_name, None) or getattr(diffusers, class_name)
    options = {
        "num_train_timesteps": trained.config.num_train_timesteps,
        "trained_betas": None if flow else _betas(trained).tolist(),
        "prediction_type": "flow_prediction" if flow else prediction,
        "use_flow_sigmas": flow,
        "timestep_spacing": "trailing",
        "final_sigmas_type": "zero",
    }
    known = inspect.signature(chosen).parameters
    made = chosen(**{key: value for key, value in options.items() if key in known}, **exact)
    made.register_to_config(sampler=name, spacing=spacing, stop_at=stop_at)
    return made


def _check_sampler(name: str, spacing: str, prediction: str) -> None:
    offered = FLOW_SAMPLERS if prediction == "flow" else SAMPLERS
    plain = name.lower().replace("-", "").removesuffix("scheduler")
    for other, reason in REFUSED.items():
        if plain == other.lower().removesuffix("scheduler"):
            raise ValueError(f"Sampler '{name}' cannot be used: {reason}. There are: {', '.join(offered)}.")
    if name not in SAMPLERS:
        raise ValueError(f"No sampler called '{name}'. There are: {', '.join(offered)}.")
    if name not in offered:
        raise ValueError(f"Sampler '{name}' cannot sample a model of flow. These can: {', '.join(offered)}.")
    if spacing not in SPACINGS:
        raise ValueError(f"No spacing called '{spacing}'. There are: {', '.join(SPACINGS)}.")
    if spacing == "karras" and (prediction == "flow" or name in ("ddpm", "pndm")):
        what = "A model of flow" if prediction == "flow" else f"Sampler '{name}'"
        raise ValueError(f"{what} takes even steps only, not spacing '{spacing}'.")


def _betas(trained: Any) -> Tensor:
    """(T,) betas, the last one short of 1: where all is noise, sigma / alpha would be infinite."""
    abar = trained.alphas_cumprod
    if abar[-1] > 0:
        return trained.betas
    return torch.cat([trained.betas[:-1], 1 - 2**-24 / abar[-2:-1]])


def noise_levels(scheduler: Any) -> Tensor:
    """Give (T,) the noise level of every step of training: sigma / alpha, or the time of a flow."""
    if prediction_of(scheduler) == "flow":
        total = scheduler.config.num_train_timesteps
        return torch.arange(1, total + 1) / total
    return ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5


def even_steps(total: int, steps: int, stop_at: float = 0.0) -> Tensor:
    """Give (n,) steps of training, evenly spaced, from the last one down: the "trailing" of Lin et al. (2023).

    That ends one spacing above clean latents, or at the share `stop_at` of the steps where this is higher.
    """
    end = max(stop_at, 1 / steps)
    return torch.tensor([round(total * (1 - i * (1 - end) / max(1, steps - 1))) - 1 for i in range(steps)])


def karras_levels(levels: Tensor, steps: int, rho: float = 7.0) -> Tensor:
    """Give (n,) noise levels from the highest to the lowest of (T,) `levels`: Eq. 5 of Karras et al. (2022)."""
    high, low = levels[-1].double() ** (1 / rho), levels[0].double() ** (1 / rho)
    return (high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** rho


def visits(name: str, steps: int) -> list[int]:
    """Give the places among `steps` noise levels at which a sampler asks the network, in order."""
    places = list(range(steps))
    if name == "heun":  # where a step led, to correct it, and then to go on
        return [0] + [place for place in places[1:] for _ in range(2)]
    if name == "pndm":  # the first step is taken twice
        return places[:2] + places[1:]
    return places


def evaluations(name: str, steps: int) -> int:
    """Count the evaluations of the network that a sampler needs for `steps` steps asked."""
    return len(visits(name, steps))


def most_steps(total: int, stop_at: float = 0.0) -> int:
    """Count the steps that can be sampled, all different, with a schedule of so many."""
    return total - max(1, round(total * stop_at)) + 1


def levels_of_run(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
    """Give the noise levels (n,) of a run of `steps` steps, and as which steps of training the network is told them."""
    levels, stop_at = noise_levels(scheduler), scheduler.config.stop_at
    if scheduler.config.spacing == "karras":
        lowest = max(0, round(len(levels) * stop_at) - 1)
        chosen = karras_levels(levels[lowest:], steps)
        told = np.interp(chosen.log(), levels.double().log(), np.arange(len(levels)))  # between steps of training
        return chosen, torch.from_numpy(told).float()
    index = even_steps(len(levels), steps, stop_at)
    return levels[index], index


def start_of(scheduler: Any, steps: int, strength: float) -> int:
    """Give the step of a run of `steps` that is nearest to the share `strength` of the steps of training."""
    _, told = levels_of_run(scheduler, steps)
    return int(((told + 1) / scheduler.config.num_train_timesteps - strength).abs().argmin())


def set_steps(scheduler: Any, steps: int, start: int = 0) -> None:
    """Start a run of `steps` steps, or of those from step `start` on; `sampler` made the scheduler.

    It sets `timesteps`, what the network is told at each evaluation, and the noise levels they stand for.
    """
    scheduler.set_timesteps(steps - start)
    chosen, told = levels_of_run(scheduler, steps)
    places = [start + place for place in visits(scheduler.config.sampler, steps - start)]
    is_exact = not told.is_floating_point()
    scheduler.timesteps = (told.to(scheduler.timesteps.dtype) if is_exact else told)[places]
    if not hasattr(scheduler, "sigmas"):
        return
    if scheduler.config.get("use_flow_sigmas"):
        chosen = chosen.clamp_max(1 - 1e-4)  # these reckon with log(alpha / sigma)
    scheduler.sigmas = torch.cat([chosen[places].float(), torch.zeros(1)])
    scheduler.set_begin_index(0)


def draws_noise(scheduler: Any) -> bool:
    """Whether a step takes generators, one for each row, that its noise comes from."""
    return "generator" in inspect.signature(scheduler.step).parameters


def marginal(sampler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Give alpha and sigma such that a sampler's state before this step is alpha * clean + sigma * noise.

    `timestep` is the one of `sampler.timesteps` that is about to be stepped from. The state is variance preserving, but
    for the samplers of `SIGMA_SPACE`, where alpha is 1, and for models of flow, where alpha is 1 - sigma.
    """
    if not hasattr(sampler, "sigmas"):
        abar = sampler.alphas_cumprod[timestep.cpu()]
        return abar.sqrt(), (1 - abar).sqrt()
    sigma = sampler.sigmas[sampler.step_index or 0]
    if prediction_of(sampler) == "flow":
        return 1 - sigma, sigma
    if sampler.config.sampler in SIGMA_SPACE:
        return torch.ones_like(sigma), sigma
    alpha = (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha


def exact_prediction(sampler: Any, x: Tensor, timestep: Tensor, clean: Tensor) -> Tensor:
    """Give, in float32, the answer of a denoiser that knows `clean` to the state `x` (b, c, l) before a step.

    v is (alpha * x - clean) / sigma, from Eq. 6 of DiscoDiff, of the input the denoiser sees: that of a sampler in
    sigma space is scaled to be variance preserving.
    """
    x, clean = x.float(), clean.float()
    prediction, (alpha, sigma) = prediction_of(sampler), marginal(sampler, timestep)
    if prediction == "sample":
        return clean
    if prediction == "flow":
        return (x - clean) / sigma
    norm = (alpha**2 + sigma**2).sqrt()
    x, alpha, sigma = x / norm, alpha / norm, sigma / norm
    return (alpha * x - clean) / sigma if prediction == "v_prediction" else (x - alpha * clean) / sigma
