"""The schedulers that a stage can be sampled with, by name; some classes of diffusers are corrected here."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from codecdiff.diffusion.noise_schedule import prediction_type_of
from codecdiff.errors import InvalidValue, did_you_mean

TIMESTEP_SPACINGS = ("even", "karras")

# Name of a scheduler -> class, here or else in diffusers, and the options of diffusers that make it exact.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small"}),
    "ddim": ("DDIM", {"solver_order": 1, "algorithm_type": "dpmsolver++"}),
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

FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    **{name: SCHEDULERS[name] for name in ("ddim", "dpm++2m", "dpm++2m-sde", "dpm++2s", "unipc", "deis")},
}

# The other schedulers of diffusers, and why a stage cannot be sampled with them.
_REASONS = {
    "it needs a model distilled for it": "LCM TCD FlowMatchLCM FlowMapEulerDiscrete CMStochasticIterative SCM Piflow "
    "HeliosDMD",
    "it supports neither the noise schedule nor v-prediction; `pndm` does": "IPNDM",
    "it lacks v-prediction, and its noise is not that of training": "KarrasVe ScoreSdeVe",
    "it lacks v-prediction": "UnCLIP RePaint DDPMWuerstchen",
    "it needs a denoiser with the input and output scales of EDM": "EDMEuler EDMDPMSolverMultistep "
    "CosineDPMSolverMultistep",
    "it leads from data to noise": "DDIMInverse DPMSolverMultistepInverse",
    "its noise needs torchsde, and would depend on the batch": "DPMSolverSDE",
    "its last step, to zero noise, is NaN": "SASolver",
    "it evaluates between trained timesteps; `heun` is of the same order and does not": "KDPM2Discrete",
    "it evaluates between trained timesteps; `euler-a` does not": "KDPM2AncestralDiscrete",
    "its steps are those of `ddim`": "DDIMParallel CogVideoXDDIM",
    "its steps are those of `ddpm`": "DDPMParallel",
    "it belongs to another model, with a noise process of its own": "CogVideoXDPM Helios LTXEulerAncestralRF MiniMaxH3 "
    "RFD4Proteina",
    "it samples tokens, not latents": "Amused BlockRefinement DiscreteDDIM EntropyBound VQDiffusion",
}
UNSUPPORTED = {f"{name}Scheduler": reason for reason, names in _REASONS.items() for name in names.split()}


def sampling_scheduler(
    train_scheduler: Any, name: str, timestep_spacing: str = "even", final_timestep_fraction: float = 0.0
) -> Any:
    """Return a new scheduler that samples a model of the scheduler `train_scheduler`; `set_timesteps` starts it.

    Every scheduler gets the betas themselves, so that it supports any schedule. The last evaluation is at
    `final_timestep_fraction` of the training timesteps, and its estimate of x_start is the sample. Raises ValueError
    for an unknown name, and for a scheduler that cannot be combined with the model or the spacing.
    """
    prediction_type = prediction_type_of(train_scheduler)
    flow = prediction_type == "flow"
    _check_scheduler(name, timestep_spacing, prediction_type)
    class_name, exact = (FLOW_SCHEDULERS if flow else SCHEDULERS)[name]
    cls = _scheduler_class(class_name)
    options = {
        "num_train_timesteps": train_scheduler.config.num_train_timesteps,
        "trained_betas": None if flow else _betas(train_scheduler).tolist(),
        "prediction_type": "flow_prediction" if flow else prediction_type,
        "use_flow_sigmas": flow,
        "timestep_spacing": "trailing",
        "final_sigmas_type": "zero",
    }
    parameters = inspect.signature(cls).parameters
    scheduler = cls(**{key: value for key, value in options.items() if key in parameters}, **exact)
    scheduler.register_to_config(  # underscores: other classes of diffusers ignore these, without a warning
        _name=name, _timestep_spacing=timestep_spacing, _final_timestep_fraction=final_timestep_fraction
    )
    defaults = scheduler.config.get("_use_default_values", [])  # what `from_config` does not pass on to another class
    scheduler.register_to_config(_use_default_values=[*defaults, "solver_order"])
    if not hasattr(scheduler, "scale_model_input"):  # those of flow matching: the state is the denoiser's input
        scheduler.init_noise_sigma, scheduler.scale_model_input = 1.0, lambda sample, timestep: sample
    return scheduler


def sampling_options(scheduler: Any, train_scheduler: Any) -> dict[str, str]:
    """Return the options `scheduler` and `timestep_spacing` that stand for a scheduler of diffusers, or for its class.

    A name is returned as it is; `sampling_scheduler` checks it. Raises InvalidValue for a scheduler that is not among
    the supported ones, with the same options, or that was made for a model that predicts something else.
    """
    if isinstance(scheduler, str):
        return {"scheduler": scheduler}
    cls, options = (
        (scheduler, {}) if isinstance(scheduler, type) else (type(scheduler), getattr(scheduler, "config", None))
    )
    if options is None:
        raise InvalidValue(f"Invalid scheduler {scheduler!r}: expected a name, a scheduler of diffusers or its class.")
    prediction_type = prediction_type_of(train_scheduler)
    expected = "flow_prediction" if prediction_type == "flow" else prediction_type
    if options.get("prediction_type", expected) != expected:
        raise InvalidValue(
            f"This {cls.__name__} has prediction_type={options['prediction_type']}, not {expected} as the model: make "
            f"it with {cls.__name__}.from_config(stage.scheduler.config)."
        )
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    spacing = "karras" if options.get("use_karras_sigmas") else options.get("_timestep_spacing", "even")
    if options.get("use_karras_sigmas") is False and "use_karras_sigmas" not in options.get("_use_default_values", ()):
        spacing = "even"  # which is chosen
    solvers = {}
    for name, (class_name, exact) in (FLOW_SCHEDULERS if prediction_type == "flow" else SCHEDULERS).items():
        if issubclass(_scheduler_class(class_name), cls):
            solvers[name] = {key: value for key, value in exact.items() if key in ("solver_order", "algorithm_type")}
    if cls.__name__ in ("DDIM", "DDIMScheduler"):  # of any options: they do not change its steps
        solvers = {"ddim": {}}
    if not solvers:
        _check_scheduler(cls.__name__, "even", prediction_type)
    for name, solver in solvers.items():
        if solver.items() <= {**defaults, **options}.items():
            return {"scheduler": name, "timestep_spacing": spacing}
    texts = [", ".join(f"{key}={value!r}" for key, value in solver.items()) for solver in solvers.values()]
    hint = f"{cls.__name__}.from_config(stage.scheduler.config, {texts[0]})"
    raise InvalidValue(f"Unsupported options of {cls.__name__}: expected {' or '.join(texts)}, as made by {hint}.")


def _scheduler_class(name: str) -> Any:
    return _lms() if name == "LMS" else globals().get(name) or getattr(diffusers, name)


def _check_scheduler(name: str, timestep_spacing: str, prediction_type: str) -> None:
    schedulers = FLOW_SCHEDULERS if prediction_type == "flow" else SCHEDULERS
    available, plain = ", ".join(schedulers), name.lower().replace("-", "").removesuffix("scheduler")
    for other, reason in UNSUPPORTED.items():
        if plain == other.lower().removesuffix("scheduler"):
            raise InvalidValue(f"Unsupported scheduler '{name}': {reason}. Available: {available}.")
    flow_classes, classes = ([cls for cls, _ in table.values()] for table in (FLOW_SCHEDULERS, SCHEDULERS))
    if name not in (*SCHEDULERS, *flow_classes, *classes):
        raise InvalidValue(f"Unknown scheduler '{name}'. Available: {available}.{did_you_mean(name, schedulers)}")
    if name not in schedulers:
        what = "a flow model" if prediction_type == "flow" else "this model: it is for flow models"
        raise InvalidValue(f"Scheduler '{name}' cannot sample {what}. Available: {available}.")
    if timestep_spacing not in TIMESTEP_SPACINGS:
        raise InvalidValue(f"Unknown timestep_spacing '{timestep_spacing}'. Available: {', '.join(TIMESTEP_SPACINGS)}.")
    if timestep_spacing == "karras" and (prediction_type == "flow" or name in ("ddpm", "pndm")):
        what = "A flow model" if prediction_type == "flow" else f"Scheduler '{name}'"
        raise InvalidValue(f"{what} supports only timestep_spacing=even, not '{timestep_spacing}': change it first.")


def _betas(train_scheduler: Any) -> Tensor:
    """Return the betas (T,), the last one below 1: at a terminal SNR of 0, sigma / alpha would be infinite."""
    abar = train_scheduler.alphas_cumprod
    if abar[-1] > 0:
        return train_scheduler.betas
    return torch.cat([train_scheduler.betas[:-1], 1 - 2**-24 / abar[-2:-1]])


def predicted_x_start(prediction_type: str, prediction: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the x_start (b, c, l) that a prediction at x = alpha * x_start + sigma * noise implies."""
    if prediction_type == "v_prediction":
        return alpha * x - sigma * prediction
    if prediction_type == "epsilon":
        return (x - sigma * prediction) / alpha
    return x - sigma * prediction if prediction_type in ("flow", "flow_prediction") else prediction


class EulerAncestral(EulerAncestralDiscreteScheduler):
    """Euler's method with fresh noise in every step: the same equations without their cancellation.

    Its parent takes the square root of a difference that rounding makes negative in a step from high to low noise,
    which gives NaN. It also lacks the prediction type `sample`.
    """

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """Take one step to the noise level `after`, in part by the state's own noise, in part by fresh noise."""
        sigma, after = self.sigmas[self.step_index or 0 : (self.step_index or 0) + 2]
        alpha = (1 + sigma**2) ** -0.5
        x_start = predicted_x_start(self.config["prediction_type"], model_output, alpha * sample, alpha, alpha * sigma)
        fresh = after * (1 - (after / sigma) ** 2).sqrt()
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        self._step_index = (self.step_index or 0) + 1
        return SchedulerOutput(x_start + (after / sigma) ** 2 * (sample - x_start) + fresh * noise)


class DDIM(DPMSolverMultistepScheduler):
    """DDIM, whose steps are those of the solver of order 1, for any prediction and any noise levels."""


class DEIS(DEISMultistepScheduler):
    """DEIS that ends without noise. Its parent leaves the lowest noise level of training in the sample."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Take one step; the last one returns the model's estimate of x_start."""
        if (self.step_index or 0) < len(self.timesteps) - 1:
            return super().step(model_output, timestep, sample, return_dict)
        alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[-2])
        return SchedulerOutput(predicted_x_start(self.config["prediction_type"], model_output, sample, alpha, sigma))


@cache
def _lms() -> Any:
    from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler  # and scipy.integrate

    class LMS(LMSDiscreteScheduler):
        """Linear multistep that can stop early. Its parent ends on a curve through earlier estimates."""

        def step(
            self, model_output: Tensor, timestep: Any, sample: Tensor, order: int = 4, return_dict: bool = True
        ) -> Any:
            """Take one step; the last one of a run that stops early is Euler's, to the estimate of x_start."""
            is_last = (self.step_index or 0) == len(self.timesteps) - 1
            order = 1 if is_last and self.config["_final_timestep_fraction"] else order
            return super().step(model_output, timestep, sample, order, return_dict)

    return LMS


class PNDM(PNDMScheduler):
    """Pseudo linear multistep of Liu et al. (2022) for any steps and any prediction.

    Its parent is wrong where the number of steps does not divide that of training, averages velocities of different
    steps, which makes it first order, and lacks the prediction type `sample`. This one averages noise.
    """

    timesteps: Any  # None in its parent before the first `set_timesteps`

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Take one step."""
        alpha, sigma = self._level(timestep)
        x_start = predicted_x_start(self.config["prediction_type"], model_output, sample, alpha, sigma)
        return self.step_plms((sample - alpha * x_start) / sigma, timestep, sample, return_dict)

    def _level(self, timestep: Any) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[timestep]
        return abar.sqrt(), (1 - abar).sqrt()

    def _get_prev_sample(self, sample: Tensor, timestep: Any, prev_timestep: Any, model_output: Tensor) -> Tensor:
        """Step to the next noise level with this noise, as DDIM does."""
        place = 0 if self.counter == 1 else self.counter  # the first step is taken twice
        alpha, sigma = self._level(self.timesteps[place])
        x_start = (sample - sigma * model_output) / alpha
        if place + 1 == len(self.timesteps):
            return x_start
        alpha, sigma = self._level(self.timesteps[place + 1])
        return alpha * x_start + sigma * model_output
