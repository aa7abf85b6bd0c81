"""The diffusion process against the paper's equations, diffusers' own schedulers and an exact solution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import UNET, lively, noise
from torch import Tensor

from codecdiff import Condition, Denoiser, Entry, config
from codecdiff.diffusion import (
    SAMPLERS,
    coefficients,
    diffuse,
    generator,
    row_noise,
    sample,
    sampler,
    stage_loss,
    target,
    training_scheduler,
    v_target,
)

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
        assert options.timestep_spacing == "trailing"
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


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_a_perfect_answer_costs_nothing(prediction: str) -> None:
    scheduler, clean, eps = training_scheduler(steps=100, prediction=prediction), noise(3, 4, 7), noise(3, 4, 7, seed=1)
    answer = target(prediction, clean, eps, *coefficients_at(STEPS, clean))
    given: dict[str, Any] = {"mask": torch.ones(3, 1, 7), "context": None, "condition": NOTHING, "noise": eps}
    loss, zero = stage_loss(lambda *_: answer, scheduler, clean, timestep=STEPS, **given)
    assert float(loss) == 0
    torch.testing.assert_close(zero, answer.abs().mean())
    loss, zero = stage_loss(lambda *_: torch.zeros_like(clean), scheduler, clean, timestep=STEPS, loss="l2", **given)
    torch.testing.assert_close(loss, zero)
    torch.testing.assert_close(zero, answer.square().mean())


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


class Oracle(Denoiser):
    """The best denoiser of data that is normal with this mean and deviation: its answer is exact."""

    channels, context_channels, condition_widths = 2, 0, {}

    def __init__(self, prediction: str = "v_prediction"):
        super().__init__()
        self.abar, self.prediction = training_scheduler().alphas_cumprod.double(), prediction

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        abar = self.abar[timestep.long()].view(-1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        x = noisy.double()
        gain = alpha * DEVIATION**2 / (abar * DEVIATION**2 + sigma**2)
        clean = MEAN + gain * (x - alpha * MEAN)
        eps = (x - alpha * clean) / sigma
        return target(self.prediction, clean, eps, alpha, sigma).float()


MEAN, DEVIATION = 1.5, 0.6


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_every_sampler_reaches_the_distribution(name: str, prediction: str) -> None:
    scheduler = sampler(training_scheduler(prediction=prediction), name)
    made = sample(
        Oracle(prediction),
        scheduler,
        (2, 2000),
        context=None,
        condition=NOTHING,
        steps=100,
        guidance=1.0,
        generators=[generator(i) for i in range(2)],
    )
    assert abs(float(made.mean()) - MEAN) < 0.05
    assert abs(float(made.std()) - DEVIATION) < 0.05


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddpm"])
def test_every_deterministic_sampler_follows_the_exact_solution(name: str) -> None:
    """The probability flow of a normal distribution maps noise z to mean + deviation * z (Song et al., 2021)."""
    made = sample(
        Oracle(),
        sampler(training_scheduler(), name),
        (2, 500),
        context=None,
        condition=NOTHING,
        steps=100,
        guidance=1.0,
        generators=[generator(1)],
    )
    exact = MEAN + DEVIATION * row_noise((2, 500), [generator(1)])
    assert float((made - exact).abs().max()) < 0.1


@pytest.fixture(scope="module")
def network() -> Denoiser:
    torch.manual_seed(0)
    return lively(config.build("denoisers", UNET, channels=4, context_channels=2, condition_widths={"text": 6}))


def told(rows: int, tokens: int = 3) -> Condition:
    each = [Entry(noise(1, 5, 6, seed=i)[:, :tokens], torch.ones(1, tokens, dtype=torch.bool)) for i in range(rows)]
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


def test_guidance_has_nothing_to_say_without_a_prompt(network: Denoiser) -> None:
    null = told(2).null()
    plain = run(network, "ddim", [0, 1], 1.0, null)
    torch.testing.assert_close(run(network, "ddim", [0, 1], 4.0, null), plain, atol=1e-4, rtol=1e-4)


def test_a_generator_is_a_function_of_its_key() -> None:
    draws = {key: row_noise((3,), [generator(*key)]) for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**40, 1), (-1,)]}
    assert all(torch.equal(row_noise((3,), [generator(*key)]), draw) for key, draw in draws.items())
    assert len({tuple(draw.flatten().tolist()) for draw in draws.values()}) == len(draws)


def test_unknown_names_are_explained() -> None:
    with pytest.raises(ValueError, match=r"No sampler called 'heun'\. There are: ddpm, ddim"):
        sampler(training_scheduler(), "heun")
    with pytest.raises(ValueError, match=r"No prediction called 'v'\. There are: v_prediction"):
        training_scheduler(prediction="v")
    with pytest.raises(ValueError, match=r"No schedule called 'cosine'\. There are: squaredcos_cap_v2"):
        training_scheduler(schedule="cosine")
