"""Samplers against diffusers' own steps, a denoiser that knows the answer, and the exact solution of normal data."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from oracle import (
    DEVIATION,
    EVERY,
    KARRAS,
    MEAN,
    NOTHING,
    RANDOM,
    Oracle,
    mostly_integration,
    other_schedules,
    run,
    sample_plain,
    trained,
)
from small import noise
from torch import Tensor

from codecdiff.diffusion.noise_schedule import (
    PREDICTION_TYPES,
    accepts_generator,
    evaluation_steps,
    exact_prediction,
    marginal,
    set_timesteps,
)
from codecdiff.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, sampling_scheduler
from codecdiff.rng import generator, row_noise

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside diffusers' DEIS


def theirs(name: str, steps: int, x: Tensor, oracle: Oracle) -> Tensor:
    """Sample with a class of diffusers as it is, but for trailing spacing and no clipping."""
    scheduler = getattr(diffusers, name).from_config(
        oracle.trained.config, timestep_spacing="trailing", clip_sample=False, lower_order_final=True
    )
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        answer = oracle(scheduler.scale_model_input(x, timestep), timestep.expand(len(x)), None, NOTHING)
        x = scheduler.step(answer, timestep, x).prev_sample
    return x


UNMENDED = {
    "ddim": "DDIMScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
}


@pytest.mark.parametrize("name", UNMENDED)
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
def test_the_steps_are_those_of_diffusers(name: str, schedule: str) -> None:
    oracle, start = Oracle(trained(beta_schedule=schedule)), row_noise((2, 50), [generator("test", 1)])
    expected = theirs(UNMENDED[name], 20, start, oracle)
    torch.testing.assert_close(run(oracle, name, 20, (2, 50)), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("steps", [20, 25])
def test_pndm_of_noise_is_that_of_diffusers(steps: int) -> None:
    oracle, start = Oracle(trained("epsilon", beta_schedule="linear")), row_noise((2, 50), [generator("test", 1)])
    scheduler: Any = PNDMScheduler.from_config(
        oracle.trained.config, timestep_spacing="trailing", skip_prk_steps=True, set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    x = start
    for timestep in scheduler.timesteps:
        x = scheduler.step(oracle(x, timestep.expand(1), None, NOTHING), timestep, x).prev_sample
    torch.testing.assert_close(run(oracle, "pndm", steps, (2, 50)), x, atol=2e-4, rtol=2e-4)


def test_euler_is_the_first_order_for_a_flow() -> None:
    oracle = Oracle(trained("flow"))
    made = run(oracle, "euler", 20, (2, 50)), run(oracle, "ddim", 20, (2, 50))
    torch.testing.assert_close(*made, atol=1e-3, rtol=0)  # which takes the time 1 for 0.9999


def known_answer(scheduler: Any, prediction: str, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Sample with a denoiser that knows the answer, from the state the sampler is said to be in."""
    alpha, sigma = marginal(scheduler, scheduler.timesteps[0])
    x = alpha * clean + sigma * row_noise(clean.shape[1:], generators)
    extras = {"generator": generators} if accepts_generator(scheduler) else {}
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(x, timestep)
        x = scheduler.step(exact_prediction(scheduler, x, timestep, clean), timestep, x, **extras).prev_sample
    return x


@pytest.mark.parametrize(
    "prediction",
    [
        pytest.param(each, marks=pytest.mark.integration if each in ("epsilon", "sample") else ())
        for each in PREDICTION_TYPES
    ],
)
@pytest.mark.parametrize("spacing", ["even", "karras"])
def test_who_knows_the_answer_arrives_there(prediction: str, spacing: str) -> None:
    """From any step on, with every sampler: to 1e-5, of latents of deviation 2."""
    clean = 2 * noise(2, 3, 5)
    for name in FLOW_SCHEDULERS if prediction == "flow" else SCHEDULERS:
        if spacing == "karras" and (prediction == "flow" or name not in KARRAS):
            continue
        for options in other_schedules(prediction)[:: 3 if prediction == "epsilon" else 5]:
            steps = 30 if name == "pndm" else 10  # fewer of pndm magnify rounding, by 1 / alpha of the last step
            for start, stop_at in ((0, 0), (3, 0), (steps - 1, 0), (2, 0.4)):
                scheduler = sampling_scheduler(trained(prediction, 100, **options), name, spacing, stop_at)
                set_timesteps(scheduler, steps, start)
                made = known_answer(scheduler, prediction, clean, [generator("test", i) for i in range(2)])
                where = f"{name} {options} from {start} to {stop_at}"
                torch.testing.assert_close(made, clean, atol=1e-5, rtol=0, msg=lambda text, at=where: f"{at}: {text}")


@pytest.mark.parametrize(("name", "prediction"), mostly_integration(EVERY))
def test_the_marginal_is_that_of_the_state(name: str, prediction: str) -> None:
    """With the exact answer of data that is normal, every state on the way has the marginal's mean and deviation."""
    oracle = Oracle(trained(prediction, beta_schedule="squaredcos_cap_v2" if prediction == "flow" else "linear"))
    scheduler = sampling_scheduler(oracle.trained, name)
    set_timesteps(scheduler, 60)
    generators = [generator("test", 1)]
    x = row_noise((2, 20000), generators) * scheduler.init_noise_sigma
    extras = {"generator": generators} if accepts_generator(scheduler) else {}
    for count, timestep in enumerate(scheduler.timesteps):
        alpha, sigma = (float(each) for each in marginal(scheduler, timestep))
        if count % 12 == 0:
            spread = (alpha**2 * DEVIATION**2 + sigma**2) ** 0.5
            assert abs(float(x.mean()) - alpha * MEAN) < 0.04 * max(1, spread)
            assert abs(float(x.std()) / spread - 1) < 0.04
        answer = oracle(scheduler.scale_model_input(x, timestep), timestep.expand(1), None, NOTHING)
        x = scheduler.step(answer, timestep, x, **extras).prev_sample


def error(oracle: Oracle, name: str, steps: int, spacing: str = "even") -> float:
    """How far the samples are from the exact solution, or for a random sampler the mean and deviation from theirs."""
    if name in RANDOM:
        made = run(oracle, name, steps, (2, 50000), spacing)
        return max(abs(float(made.mean()) - MEAN), abs(float(made.std()) - DEVIATION))
    made = run(oracle, name, steps, (2, 300), spacing)
    return float((made - oracle.exact(row_noise((2, 300), [generator("test", 1)]))).abs().max())


# Largest errors allowed in 20 and in 80 steps: half as much again as measured on the cosine schedule and on the flow.
BOUNDS = {
    ("ddpm", "v_prediction"): (0.11, 0.035),
    ("ddim", "v_prediction"): (0.20, 0.051),
    ("dpm++2m", "v_prediction"): (0.003, 0.002),
    ("dpm++2m-sde", "v_prediction"): (0.033, 0.008),
    ("dpm++2s", "v_prediction"): (0.086, 0.009),
    ("unipc", "v_prediction"): (0.002, 0.001),
    ("euler", "v_prediction"): (0.20, 0.051),
    ("euler-a", "v_prediction"): (0.11, 0.035),
    ("heun", "v_prediction"): (5.1, 0.08),  # its first step multiplies what it corrects by the highest noise level
    ("lms", "v_prediction"): (0.013, 0.001),
    ("deis", "v_prediction"): (0.042, 0.003),
    ("pndm", "v_prediction"): (3.2, 0.042),  # as heun
    ("euler", "flow"): (0.20, 0.050),
    ("heun", "flow"): (0.009, 0.0005),
    ("ddim", "flow"): (0.20, 0.050),
    ("dpm++2m", "flow"): (0.027, 0.004),
    ("dpm++2m-sde", "flow"): (0.044, 0.006),
    ("dpm++2s", "flow"): (0.063, 0.005),
    ("unipc", "flow"): (0.020, 0.0017),
    ("deis", "flow"): (0.018, 0.0005),
}


@pytest.mark.parametrize(("name", "prediction"), EVERY)
def test_the_exact_solution_is_approached(name: str, prediction: str) -> None:
    oracle = Oracle(trained(prediction))
    assert error(oracle, name, 20) < BOUNDS[name, prediction][0]
    assert error(oracle, name, 80) < BOUNDS[name, prediction][1]


ORDERS = {"ddim": 1, "euler": 1, "dpm++2s": 1.5, "lms": 1.8, "deis": 1.8, "heun": 2, "pndm": 2}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_is_that_of_the_method(name: str) -> None:
    oracle = Oracle(trained())
    errors = [error(oracle, name, steps) for steps in (20, 80)]
    assert np.log2(errors[0] / errors[1]) / 2 > 0.95 * ORDERS[name]


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_prediction_makes_no_difference(name: str, prediction: str) -> None:
    other = run(Oracle(trained(prediction, beta_schedule="linear")), name, 10, (2, 300))
    torch.testing.assert_close(
        run(Oracle(trained(beta_schedule="linear")), name, 10, (2, 300)), other, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", mostly_integration(KARRAS))
def test_karras_spacing_approaches_it_too(name: str) -> None:
    """Of the linear schedule, whose highest noise level is 157: from there noise alone is off by 0.006."""
    bound = 0.12 if ORDERS.get(name) == 1 or name in RANDOM else 0.025
    assert error(Oracle(trained(beta_schedule="linear")), name, 80, "karras") < bound


@pytest.mark.parametrize(("name", "prediction"), mostly_integration(EVERY))
def test_what_stops_early_is_the_mean_of_what_is_open(name: str, prediction: str) -> None:
    """Data of variance v, at alpha clean + sigma noise, is estimated with variance (alpha v)^2 / (alpha^2 v + sigma^2).

    The steps of a coarse sampler leave the state itself a little off; a hundred are enough for all of them.
    """
    oracle = Oracle(trained(prediction))
    made = run(oracle, name, 100, (2, 20000), stop_at=0.5)
    alpha, sigma = oracle.level(torch.tensor([499]))
    spread = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2).sqrt()
    assert spread < 0.7 * DEVIATION
    assert abs(float(made.mean()) - MEAN) < 0.03
    assert abs(float(made.std() / spread) - 1) < 0.04
    assert oracle.calls == len(evaluation_steps(name, 100))


@pytest.mark.integration
@pytest.mark.parametrize(("name", "prediction"), EVERY)
def test_frames_that_hang_together_are_sampled_so(name: str, prediction: str) -> None:
    frames = torch.arange(6.0)
    covariance = 0.5 * torch.exp(-(frames[:, None] - frames).abs() / 3) + 0.1 * torch.eye(6)
    schedule = "squaredcos_cap_v2" if prediction == "flow" else "linear"
    oracle = Oracle(trained(prediction, beta_schedule=schedule), covariance.double())
    if name not in RANDOM:
        start = row_noise((2, 6), [generator("test", 1)])
        assert (run(oracle, name, 60, (2, 6)) - oracle.exact(start)).abs().max() < 0.15
        return
    scheduler, generators = sampling_scheduler(oracle.trained, name), [generator("test", i) for i in range(2000)]
    made = sample_plain(oracle, scheduler, (2, 6), generators, 60).reshape(-1, 6)
    assert (made.mean(0) - MEAN).abs().max() < 0.07
    torch.testing.assert_close(made.T.cov(), covariance, atol=0.12, rtol=0)


@pytest.mark.parametrize(
    ("name", "class_name", "wrong"),
    [
        ("ddpm", "DDPMScheduler", {"clip_sample": True}),
        ("ddim", "DDIMScheduler", {"clip_sample": True, "timestep_spacing": "trailing"}),
        ("ddim", "DDIMScheduler", {"clip_sample": False, "timestep_spacing": "leading"}),
        ("dpm++2m", "DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}),
        ("dpm++2m", "DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}),
        ("unipc", "UniPCMultistepScheduler", {"timestep_spacing": "leading"}),
        ("euler", "EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
        ("lms", "LMSDiscreteScheduler", {"timestep_spacing": "leading"}),
        ("deis", "DEISMultistepScheduler", {"timestep_spacing": "leading"}),
        ("pndm", "PNDMScheduler", {"timestep_spacing": "trailing", "skip_prk_steps": True, "set_alpha_to_one": True}),
    ],
)
def test_the_bounds_would_notice_a_wrong_option(name: str, class_name: str, wrong: dict[str, Any]) -> None:
    oracle, start = Oracle(trained()), row_noise((2, 300), [generator("test", 1)])
    scheduler = getattr(diffusers, class_name).from_config(oracle.trained.config, **wrong)
    scheduler.set_timesteps(80)
    x = start * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        answer = oracle(scheduler.scale_model_input(x, timestep), timestep.expand(1), None, NOTHING)
        x = scheduler.step(answer, timestep, x).prev_sample
    off = (x - oracle.exact(start)).abs().max() if name not in RANDOM else (x.std() - DEVIATION).abs()
    assert float(off) > BOUNDS[name, "v_prediction"][1]


def test_little_noise_is_left_where_much_was_before() -> None:
    """diffusers' ancestral step gives no number here."""
    made = run(Oracle(trained()), "euler-a", 3, (2, 300))
    assert made.isfinite().all()


def test_the_noise_of_a_step_is_the_row_s_own() -> None:
    """A row's noise must not depend on its neighbors, whatever a sampler's step draws."""
    for name in RANDOM:
        made = {}
        for rows in ([0, 1, 2], [2], [1, 0]):
            generators = [generator("test", 7, row) for row in rows]
            oracle = Oracle(trained(beta_schedule="linear"))
            samples = sample_plain(oracle, sampling_scheduler(oracle.trained, name), (2, 9), generators, 5)
            made.update({(row, len(rows)): each for row, each in zip(rows, samples, strict=True)})
        torch.testing.assert_close(made[2, 3], made[2, 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(made[0, 3], made[0, 2], atol=1e-5, rtol=0)
        assert (made[0, 3] - made[1, 3]).abs().max() > 0.1
