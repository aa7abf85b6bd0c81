"""The diffusion process against the paper's equations, diffusers' own schedulers and an exact solution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import UNET, lively, noise
from torch import Tensor

from codecdiff import Condition, ConditionTokens, Denoiser, config
from codecdiff.diffusion.loss import StageInput, add_noise, min_snr_weight, prediction_target, stage_loss, velocity
from codecdiff.diffusion.noise_schedule import (
    PREDICTION_TYPES,
    coefficients,
    prediction_type_of,
    training_scheduler,
)
from codecdiff.diffusion.sampling import SamplingInput, sample_stage
from codecdiff.diffusion.schedulers import SCHEDULERS, sampling_scheduler
from codecdiff.rng import generator, row_noise

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside diffusers' DEIS

NOTHING = Condition({})
STEPS = torch.tensor([0, 40, 99])


def coefficients_at(steps: Tensor, like: Tensor, scheduler: Any = None) -> tuple[Tensor, Tensor]:
    return coefficients(scheduler or training_scheduler(num_train_timesteps=100), steps, like)


def inputs_of(clean: Tensor, mask: Tensor) -> StageInput:
    """Inputs without context or conditions."""
    return StageInput(range(len(clean)), clean, mask, None, NOTHING)


def test_the_cosine_schedule_has_the_paper_s_values() -> None:
    scheduler = training_scheduler(num_train_timesteps=100)
    betas, abar = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    expected = torch.tensor([6.3128e-4, 1.11694e-3, 1.60290e-3, 0.55538, 0.74994, 0.999], dtype=torch.float64)
    torch.testing.assert_close(betas[[0, 1, 2, 97, 98, 99]], expected, rtol=1e-5, atol=0)
    expected = torch.tensor([0.999369, 0.493844, 2.4286e-4, 2.43e-7], dtype=torch.float64)
    torch.testing.assert_close(abar[[0, 49, 98, 99]], expected, rtol=1e-3, atol=0)


def test_nothing_is_clipped() -> None:
    assert training_scheduler().config.clip_sample is False
    for name in SCHEDULERS:
        options = sampling_scheduler(training_scheduler(), name).config
        assert not options.get("clip_sample", False)
        assert not options.get("thresholding", False)
        assert options.get("timestep_spacing", "trailing") == "trailing"
        assert options.prediction_type == "v_prediction"


def test_the_forward_process_and_velocity_are_those_of_diffusers() -> None:
    scheduler, clean, eps = training_scheduler(num_train_timesteps=100), noise(3, 4, 7), noise(3, 4, 7, seed=1)
    alpha, sigma = coefficients_at(STEPS, clean)
    torch.testing.assert_close(add_noise(clean, eps, alpha, sigma), scheduler.add_noise(clean, eps, STEPS))
    torch.testing.assert_close(velocity(clean, eps, alpha, sigma), scheduler.get_velocity(clean, eps, STEPS))


def test_signal_and_noise_come_back_from_the_velocity() -> None:
    """Equations 5 and 6 of DiscoDiff."""
    clean, eps = noise(3, 4, 7).double(), noise(3, 4, 7, seed=1).double()
    alpha, sigma = coefficients_at(STEPS, clean)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    x, v = add_noise(clean, eps, alpha, sigma), velocity(clean, eps, alpha, sigma)
    torch.testing.assert_close(alpha * x - sigma * v, clean)
    torch.testing.assert_close(sigma * x + alpha * v, eps)


def test_signal_and_noise_come_back_from_the_flow() -> None:
    scheduler, clean, eps = (
        training_scheduler(num_train_timesteps=100, prediction_type="flow"),
        noise(3, 4, 7),
        noise(3, 4, 7, seed=1),
    )
    alpha, sigma = coefficients_at(STEPS, clean, scheduler)
    torch.testing.assert_close(sigma.flatten(), torch.tensor([0.01, 0.41, 1.0]))
    torch.testing.assert_close(alpha, 1 - sigma)
    x, flow = add_noise(clean, eps, alpha, sigma), prediction_target("flow", clean, eps, alpha, sigma)
    torch.testing.assert_close(x - sigma * flow, clean)
    torch.testing.assert_close(x + alpha * flow, eps)


def test_a_step_of_ddpm_draws_from_the_posterior() -> None:
    """Eq. 7 of Ho et al. (2020): q(x_s | x_t, clean), and its variance beta (1 - abar_s) / (1 - abar_t)."""
    scheduler = sampling_scheduler(training_scheduler(num_train_timesteps=100), "ddpm")
    clean, x = noise(1, 2, 1).double(), noise(1, 2, 1, seed=1).double()
    for t in (1, 50, 99):
        abar, before = scheduler.alphas_cumprod[t].double(), scheduler.alphas_cumprod[t - 1].double()
        beta = 1 - abar / before
        mean = (before.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - before) * x) / (1 - abar)
        velocity = (abar.sqrt() * x - clean) / (1 - abar).sqrt()
        rows = velocity.float().expand(40000, 2, 1), torch.tensor(t), x.float().expand(40000, 2, 1)
        made = scheduler.step(*rows, generator=[generator("test", t)] * 40000).prev_sample.double()
        variance = beta * (1 - before) / (1 - abar)
        torch.testing.assert_close(made.mean(0, keepdim=True), mean, atol=4 * float(variance / 40000) ** 0.5, rtol=0)
        torch.testing.assert_close(made.var(0), variance.expand(2, 1), rtol=0.04, atol=0)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_a_perfect_answer_costs_nothing(prediction: str) -> None:
    scheduler, clean, eps = (
        training_scheduler(num_train_timesteps=100, prediction_type=prediction),
        noise(3, 4, 7),
        noise(3, 4, 7, seed=1),
    )
    answer = prediction_target(prediction, clean, eps, *coefficients_at(STEPS, clean, scheduler))
    inputs = inputs_of(clean, torch.ones(3, 1, 7))
    options: dict[str, Any] = {"noise": eps, "timestep": STEPS}
    loss, zero = stage_loss(lambda *_: answer, scheduler, inputs, **options)
    assert float(loss) == 0
    torch.testing.assert_close(zero, answer.abs().mean())
    loss, zero = stage_loss(lambda *_: torch.zeros_like(clean), scheduler, inputs, loss="l2", **options)
    torch.testing.assert_close(loss, zero)
    torch.testing.assert_close(zero, answer.square().mean())


def test_min_snr_weights_are_their_formulas() -> None:
    """Section 3.4 of Hang et al. (2023)."""
    scheduler = training_scheduler(num_train_timesteps=100)
    alpha, sigma = coefficients_at(torch.arange(100), torch.zeros(100), scheduler)
    snr = alpha**2 / sigma**2
    bound = torch.minimum(snr, torch.tensor(5.0))
    torch.testing.assert_close(min_snr_weight("v_prediction", alpha, sigma, 5), bound / (snr + 1))
    torch.testing.assert_close(min_snr_weight("epsilon", alpha, sigma, 5), bound / snr)
    torch.testing.assert_close(min_snr_weight("sample", alpha, sigma, 5), bound)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_min_snr_weighs_the_error_of_the_sample(prediction: str) -> None:
    """Whatever is predicted, the weighted loss is min(snr, 5) times the squared error of the clean sample."""
    scheduler, clean, eps = (
        training_scheduler(num_train_timesteps=100, prediction_type=prediction),
        noise(3, 4, 7),
        noise(3, 4, 7, seed=1),
    )
    alpha, sigma = coefficients_at(STEPS, clean, scheduler)
    assert prediction_type_of(scheduler) == prediction
    wrong = noise(3, 4, 7, seed=2)  # of the answer; of the clean sample it is as much as its derivative says
    derivative = {"epsilon": sigma / alpha, "sample": torch.ones(3, 1, 1)}.get(prediction, sigma)
    if prediction == "flow":
        derivative = sigma
    answer = prediction_target(prediction, clean, eps, alpha, sigma) + wrong
    inputs = inputs_of(clean, torch.ones(3, 1, 7))
    loss, _ = stage_loss(lambda *_: answer, scheduler, inputs, noise=eps, timestep=STEPS, loss="l2", snr_gamma=5.0)
    bound = ((alpha / sigma) ** 2).clamp_max(5)
    torch.testing.assert_close(loss, (bound * (derivative * wrong) ** 2).mean(), rtol=1e-3, atol=1e-5)


def test_padding_carries_no_loss() -> None:
    scheduler, clean, eps = training_scheduler(num_train_timesteps=100), noise(2, 4, 6), noise(2, 4, 6, seed=1)
    mask = torch.ones(2, 4, 6)
    mask[1, :, 2:] = 0
    steps = torch.tensor([30, 60])

    def loss(wrong: Tensor) -> Tensor:
        answer = scheduler.get_velocity(clean, eps, steps) + wrong
        return stage_loss(lambda *_: answer, scheduler, inputs_of(clean, mask), noise=eps, timestep=steps)[0]

    assert float(loss(5 * (1 - mask))) == 0
    torch.testing.assert_close(loss(mask), torch.tensor(1.0))
    torch.testing.assert_close(loss(torch.ones(2, 4, 6) * (torch.arange(6) < 1)), mask[..., 0].sum() / mask.sum())


def test_the_denoiser_is_asked_what_it_is_asked_in_sampling() -> None:
    scheduler, clean, eps, context = (
        training_scheduler(num_train_timesteps=100),
        noise(3, 4, 7),
        noise(3, 4, 7, seed=1),
        noise(3, 2, 7),
    )
    asked: list[Any] = []

    def denoiser(*inputs: Any) -> Tensor:
        asked.extend(inputs)
        return inputs[0]

    inputs = StageInput(range(3), clean, torch.ones(3, 4, 7), context, NOTHING)
    stage_loss(denoiser, scheduler, inputs, noise=eps, timestep=STEPS)
    torch.testing.assert_close(asked[0], scheduler.add_noise(clean, eps, STEPS))
    assert asked[1] is STEPS
    assert asked[2] is context
    assert asked[3] is NOTHING


@pytest.fixture(scope="module")
def network() -> Denoiser:
    torch.manual_seed(0)
    return lively(config.build("denoisers", UNET, channels=4, context_channels=2, condition_widths={"text": 6}))


def told(rows: int, tokens: int = 3) -> Condition:
    each = [
        ConditionTokens(noise(1, 5, 6, seed=i)[:, :tokens], torch.ones(1, tokens, dtype=torch.bool))
        for i in range(rows)
    ]
    return Condition.cat([Condition({"text": entry}) for entry in each])


def run(
    network: Denoiser, name: str, rows: list[int], guidance: float = 2.0, condition: Condition | None = None
) -> Tensor:
    generators = [generator("test", 5, row) for row in rows]
    inputs = SamplingInput(
        row_noise((4, 9), generators),
        generators,
        noise(4, 2, 9)[rows],
        (told(4) if condition is None else condition).rows(rows),
    )
    scheduler = sampling_scheduler(training_scheduler(num_train_timesteps=100), name)
    return sample_stage(network, scheduler, inputs, num_inference_steps=4, guidance_scale=guidance)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_sample_does_not_depend_on_its_batch(network: Denoiser, name: str) -> None:
    together = run(network, name, [0, 1, 2])
    for rows in ([1], [2, 1]):
        torch.testing.assert_close(run(network, name, rows)[-1], together[1], atol=2e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_guidance_is_its_formula(network: Denoiser) -> None:
    """With one step of DDIM the sample is linear in the prediction, so the formula holds for samples too."""

    def one(guidance: float, condition: Condition) -> Tensor:
        scheduler = sampling_scheduler(training_scheduler(num_train_timesteps=100), "ddim")
        inputs = SamplingInput(
            row_noise((4, 9), [generator("test", 5)]), [generator("test", 5)], noise(1, 2, 9), condition
        )
        return sample_stage(network, scheduler, inputs, num_inference_steps=1, guidance_scale=guidance)

    condition = told(1)
    conditional, null = one(1.0, condition), one(1.0, condition.null())
    assert (conditional - null).abs().max() > 0.01
    torch.testing.assert_close(one(3.0, condition), null + 3 * (conditional - null), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one(0.0, condition), null, atol=1e-4, rtol=1e-4)


def test_guidance_of_one_is_the_conditional_pass(network: Denoiser) -> None:
    """1 is taken without the null, and next to 1 with it."""
    torch.testing.assert_close(
        run(network, "ddim", [0, 1], 1.0), run(network, "ddim", [0, 1], 1 + 1e-6), atol=1e-4, rtol=0
    )


def test_guidance_has_nothing_to_say_without_a_prompt(network: Denoiser) -> None:
    null = told(2).null()
    plain = run(network, "ddim", [0, 1], 1.0, null)
    torch.testing.assert_close(run(network, "ddim", [0, 1], 4.0, null), plain, atol=1e-4, rtol=1e-4)


def test_unknown_names_are_explained() -> None:
    with pytest.raises(ValueError, match=r"Unknown scheduler 'hune'\. Available: ddpm, ddim"):
        sampling_scheduler(training_scheduler(), "hune")
    with pytest.raises(ValueError, match=r"Unknown prediction_type 'v'\. Available: v_prediction"):
        training_scheduler(prediction_type="v")
    with pytest.raises(ValueError, match=r"Unknown beta_schedule 'cosine'\. Available: squaredcos_cap_v2"):
        training_scheduler(beta_schedule="cosine")
