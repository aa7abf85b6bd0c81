"""The diffusion process against the paper's equations, diffusers' own schedulers and an exact solution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import UNET, lively, noise
from torch import Tensor

from codecdiff import Condition, ConditionTokens, Denoiser, config
from codecdiff.diffusion.loss import diffuse, min_snr_weight, stage_loss, target, v_target
from codecdiff.diffusion.noise_schedule import (
    PREDICTIONS,
    SAMPLERS,
    coefficients,
    prediction_of,
    sampler,
    training_scheduler,
)
from codecdiff.diffusion.sampling import sample
from codecdiff.rng import generator, row_noise

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside diffusers' DEIS

NOTHING = Condition({})
STEPS = torch.tensor([0, 40, 99])


def coefficients_at(steps: Tensor, like: Tensor, scheduler: Any = None) -> tuple[Tensor, Tensor]:
    return coefficients(scheduler or training_scheduler(steps=100), steps, like)


def test_the_cosine_schedule_has_the_paper_s_values() -> None:
    scheduler = training_scheduler(steps=100)
    betas, abar = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    expected = torch.tensor([6.3128e-4, 1.11694e-3, 1.60290e-3, 0.55538, 0.74994, 0.999], dtype=torch.float64)
    torch.testing.assert_close(betas[[0, 1, 2, 97, 98, 99]], expected, rtol=1e-5, atol=0)
    expected = torch.tensor([0.999369, 0.493844, 2.4286e-4, 2.43e-7], dtype=torch.float64)
    torch.testing.assert_close(abar[[0, 49, 98, 99]], expected, rtol=1e-3, atol=0)


def test_nothing_is_clipped() -> None:
    assert training_scheduler().config.clip_sample is False
    for name in SAMPLERS:
        options = sampler(training_scheduler(), name).config
        assert not options.get("clip_sample", False)
        assert not options.get("thresholding", False)
        assert options.get("timestep_spacing", "trailing") == "trailing"
        assert options.prediction_type == "v_prediction"


def test_the_forward_process_and_velocity_are_those_of_diffusers() -> None:
    scheduler, clean, eps = training_scheduler(steps=100), noise(3, 4, 7), noise(3, 4, 7, seed=1)
    alpha, sigma = coefficients_at(STEPS, clean)
    torch.testing.assert_close(diffuse(clean, eps, alpha, sigma), scheduler.add_noise(clean, eps, STEPS))
    torch.testing.assert_close(v_target(clean, eps, alpha, sigma), scheduler.get_velocity(clean, eps, STEPS))


def test_signal_and_noise_come_back_from_the_velocity() -> None:
    """Equations 5 and 6 of DiscoDiff."""
    clean, eps = noise(3, 4, 7).double(), noise(3, 4, 7, seed=1).double()
    alpha, sigma = coefficients_at(STEPS, clean)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    x, v = diffuse(clean, eps, alpha, sigma), v_target(clean, eps, alpha, sigma)
    torch.testing.assert_close(alpha * x - sigma * v, clean)
    torch.testing.assert_close(sigma * x + alpha * v, eps)


def test_signal_and_noise_come_back_from_the_flow() -> None:
    scheduler, clean, eps = training_scheduler(steps=100, prediction="flow"), noise(3, 4, 7), noise(3, 4, 7, seed=1)
    alpha, sigma = coefficients_at(STEPS, clean, scheduler)
    torch.testing.assert_close(sigma.flatten(), torch.tensor([0.01, 0.41, 1.0]))
    torch.testing.assert_close(alpha, 1 - sigma)
    x, velocity = diffuse(clean, eps, alpha, sigma), target("flow", clean, eps, alpha, sigma)
    torch.testing.assert_close(x - sigma * velocity, clean)
    torch.testing.assert_close(x + alpha * velocity, eps)


def test_a_step_of_ddpm_draws_from_the_posterior() -> None:
    """Eq. 7 of Ho et al. (2020): q(x_s | x_t, clean), and its variance beta (1 - abar_s) / (1 - abar_t)."""
    scheduler = sampler(training_scheduler(steps=100), "ddpm")
    clean, x = noise(1, 2, 1).double(), noise(1, 2, 1, seed=1).double()
    for t in (1, 50, 99):
        abar, before = scheduler.alphas_cumprod[t].double(), scheduler.alphas_cumprod[t - 1].double()
        beta = 1 - abar / before
        mean = (before.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - before) * x) / (1 - abar)
        velocity = (abar.sqrt() * x - clean) / (1 - abar).sqrt()
        rows = velocity.float().expand(40000, 2, 1), torch.tensor(t), x.float().expand(40000, 2, 1)
        made = scheduler.step(*rows, generator=[generator(t)] * 40000).prev_sample.double()
        variance = beta * (1 - before) / (1 - abar)
        torch.testing.assert_close(made.mean(0, keepdim=True), mean, atol=4 * float(variance / 40000) ** 0.5, rtol=0)
        torch.testing.assert_close(made.var(0), variance.expand(2, 1), rtol=0.04, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_answer_costs_nothing(prediction: str) -> None:
    scheduler, clean, eps = training_scheduler(steps=100, prediction=prediction), noise(3, 4, 7), noise(3, 4, 7, seed=1)
    answer = target(prediction, clean, eps, *coefficients_at(STEPS, clean, scheduler))
    given: dict[str, Any] = {"mask": torch.ones(3, 1, 7), "context": None, "condition": NOTHING, "noise": eps}
    loss, zero = stage_loss(lambda *_: answer, scheduler, clean, timestep=STEPS, **given)
    assert float(loss) == 0
    torch.testing.assert_close(zero, answer.abs().mean())
    loss, zero = stage_loss(lambda *_: torch.zeros_like(clean), scheduler, clean, timestep=STEPS, loss="l2", **given)
    torch.testing.assert_close(loss, zero)
    torch.testing.assert_close(zero, answer.square().mean())


def test_min_snr_weights_are_their_formulas() -> None:
    """Section 3.4 of Hang et al. (2023)."""
    scheduler = training_scheduler(steps=100)
    alpha, sigma = coefficients_at(torch.arange(100), torch.zeros(100), scheduler)
    snr = alpha**2 / sigma**2
    bound = torch.minimum(snr, torch.tensor(5.0))
    torch.testing.assert_close(min_snr_weight("v_prediction", alpha, sigma, 5), bound / (snr + 1))
    torch.testing.assert_close(min_snr_weight("epsilon", alpha, sigma, 5), bound / snr)
    torch.testing.assert_close(min_snr_weight("sample", alpha, sigma, 5), bound)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_the_error_of_the_sample(prediction: str) -> None:
    """Whatever is predicted, the weighted loss is min(snr, 5) times the squared error of the clean sample."""
    scheduler, clean, eps = training_scheduler(steps=100, prediction=prediction), noise(3, 4, 7), noise(3, 4, 7, seed=1)
    alpha, sigma = coefficients_at(STEPS, clean, scheduler)
    assert prediction_of(scheduler) == prediction
    wrong = noise(3, 4, 7, seed=2)  # of the answer; of the clean sample it is as much as its derivative says
    derivative = {"epsilon": sigma / alpha, "sample": torch.ones(3, 1, 1)}.get(prediction, sigma)
    if prediction == "flow":
        derivative = sigma
    answer = target(prediction, clean, eps, alpha, sigma) + wrong
    given: dict[str, Any] = {"mask": torch.ones(3, 1, 7), "context": None, "condition": NOTHING, "noise": eps}
    loss, _ = stage_loss(lambda *_: answer, scheduler, clean, timestep=STEPS, loss="l2", min_snr=5.0, **given)
    bound = ((alpha / sigma) ** 2).clamp_max(5)
    torch.testing.assert_close(loss, (bound * (derivative * wrong) ** 2).mean(), rtol=1e-3, atol=1e-5)


def test_padding_carries_no_loss() -> None:
    scheduler, clean, eps = training_scheduler(steps=100), noise(2, 4, 6), noise(2, 4, 6, seed=1)
    mask = torch.ones(2, 4, 6)
    mask[1, :, 2:] = 0
    steps = torch.tensor([30, 60])

    def loss(wrong: Tensor) -> Tensor:
        answer = scheduler.get_velocity(clean, eps, steps) + wrong
        given: dict[str, Any] = {"context": None, "condition": NOTHING, "noise": eps, "timestep": steps}
        return stage_loss(lambda *_: answer, scheduler, clean, mask=mask, **given)[0]

    assert float(loss(5 * (1 - mask))) == 0
    torch.testing.assert_close(loss(mask), torch.tensor(1.0))
    torch.testing.assert_close(loss(torch.ones(2, 4, 6) * (torch.arange(6) < 1)), mask[..., 0].sum() / mask.sum())


def test_the_denoiser_is_asked_what_it_is_asked_in_sampling() -> None:
    scheduler, clean, eps, context = (
        training_scheduler(steps=100),
        noise(3, 4, 7),
        noise(3, 4, 7, seed=1),
        noise(3, 2, 7),
    )
    asked: list[Any] = []

    def denoiser(*inputs: Any) -> Tensor:
        asked.extend(inputs)
        return inputs[0]

    mask = torch.ones(3, 4, 7)
    stage_loss(denoiser, scheduler, clean, mask=mask, context=context, condition=NOTHING, noise=eps, timestep=STEPS)
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
    return sample(
        network,
        sampler(training_scheduler(steps=100), name),
        (4, 9),
        context=noise(4, 2, 9)[rows],
        condition=(told(4) if condition is None else condition).rows(rows),
        steps=4,
        guidance=guidance,
        generators=[generator(5, row) for row in rows],
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(network: Denoiser, name: str) -> None:
    together = run(network, name, [0, 1, 2])
    for rows in ([1], [2, 1]):
        torch.testing.assert_close(run(network, name, rows)[-1], together[1], atol=2e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_guidance_is_its_formula(network: Denoiser) -> None:
    """With one step of DDIM the sample is linear in the prediction, so the formula holds for samples too."""

    def one(guidance: float, condition: Condition) -> Tensor:
        scheduler = sampler(training_scheduler(steps=100), "ddim")
        context, start = noise(1, 2, 9), [generator(5)]
        options: dict[str, Any] = {"context": context, "steps": 1, "guidance": guidance, "generators": start}
        return sample(network, scheduler, (4, 9), condition=condition, **options)

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


def test_a_generator_is_a_function_of_its_key() -> None:
    draws = {key: row_noise((3,), [generator(*key)]) for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**40, 1), (-1,)]}
    assert all(torch.equal(row_noise((3,), [generator(*key)]), draw) for key, draw in draws.items())
    assert len({tuple(draw.flatten().tolist()) for draw in draws.values()}) == len(draws)


def test_unknown_names_are_explained() -> None:
    with pytest.raises(ValueError, match=r"No sampler called 'hune'\. There are: ddpm, ddim"):
        sampler(training_scheduler(), "hune")
    with pytest.raises(ValueError, match=r"No prediction called 'v'\. There are: v_prediction"):
        training_scheduler(prediction="v")
    with pytest.raises(ValueError, match=r"No schedule called 'cosine'\. There are: squaredcos_cap_v2"):
        training_scheduler(schedule="cosine")
