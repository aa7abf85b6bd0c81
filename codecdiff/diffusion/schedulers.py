"""Schedulers of diffusers with a shortcoming mended: which one, the docstring of each says."""

from __future__ import annotations

from typing import Any

from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def clean_of(prediction: str, answer: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Give the clean (b, c, l) that an answer to x = alpha * clean + sigma * noise implies."""
    if prediction == "v_prediction":
        return alpha * x - sigma * answer
    if prediction == "epsilon":
        return (x - sigma * answer) / alpha
    return x - sigma * answer if prediction == "flow_prediction" else answer


class EulerAncestral(EulerAncestralDiscreteScheduler):
    """Euler's method with fresh noise in every step, in the same equations but without their cancellation.

    Its parent takes the root of a difference that rounding makes negative where a step goes from much noise to little:
    the sample is not a number then. It also knows no prediction of the sample.
    """

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """Take one step, to the noise level `after`: part of it is kept of the state's own noise, the rest is fresh."""
        sigma, after = self.sigmas[self.step_index or 0 : (self.step_index or 0) + 2]
        alpha = (1 + sigma**2) ** -0.5
        clean = clean_of(self.config["prediction_type"], model_output, alpha * sample, alpha, alpha * sigma)
        fresh = after * (1 - (after / sigma) ** 2).sqrt()
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        self._step_index = (self.step_index or 0) + 1
        return SchedulerOutput(clean + (after / sigma) ** 2 * (sample - clean) + fresh * noise)


class DEIS(DEISMultistepScheduler):
    """DEIS that ends in no noise. Its parent ends at the least noise of training, and leaves that in the sample."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Take one step; the last one gives the clean sample of the model's answer."""
        if (self.step_index or 0) < len(self.timesteps) - 1:
            return super().step(model_output, timestep, sample, return_dict)
        alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[-2])
        return SchedulerOutput(clean_of(self.config["prediction_type"], model_output, sample, alpha, sigma))


class LMS(LMSDiscreteScheduler):
    """Linear multistep that can stop early. Its parent ends on a curve through earlier estimates."""

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, order: int = 4, return_dict: bool = True
    ) -> Any:
        """Take one step; where the run stops early, the last one is Euler's: to the estimate of the clean latents."""
        is_last = (self.step_index or 0) == len(self.timesteps) - 1
        order = 1 if is_last and self.config["stop_at"] else order
        return super().step(model_output, timestep, sample, order, return_dict)


class PNDM(PNDMScheduler):
    """Pseudo linear multistep of Liu et al. (2022) for any steps and any prediction.

    Its parent goes wrong where the steps do not divide those of training, averages velocities of different steps as if
    they were of one, which makes it first order, and knows no prediction of the sample. Here noise is averaged.
    """

    timesteps: Any  # of its parent None before the first `set_timesteps`

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Take one step."""
        alpha, sigma = self._level(timestep)
        clean = clean_of(self.config["prediction_type"], model_output, sample, alpha, sigma)
        return self.step_plms((sample - alpha * clean) / sigma, timestep, sample, return_dict)

    def _level(self, timestep: Any) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[timestep]
        return abar.sqrt(), (1 - abar).sqrt()

    def _get_prev_sample(self, sample: Tensor, timestep: Any, prev_timestep: Any, model_output: Tensor) -> Tensor:
        """Go to the next noise level with this noise, as DDIM does."""
        place = 0 if self.counter == 1 else self.counter  # the first step is taken twice
        alpha, sigma = self._level(self.timesteps[place])
        clean = (sample - sigma * model_output) / alpha
        if place + 1 == len(self.timesteps):
            return clean
        alpha, sigma = self._level(self.timesteps[place + 1])
        return alpha * clean + sigma * model_output


class _Unscaled:
    """What a sampling loop asks of every scheduler, and those of flow matching lack."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """Give the denoiser's input at a step: the state itself."""
        return sample


class FlowEuler(_Unscaled, FlowMatchEulerDiscreteScheduler):
    """Euler's method for models of flow, with what its parent lacks."""


class FlowHeun(_Unscaled, FlowMatchHeunDiscreteScheduler):
    """Heun's method for models of flow, with what its parent lacks."""
