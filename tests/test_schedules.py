"""Schedules, noise levels and what may be combined, against papers, diffusers and the tables of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from oracle import EVERY, KARRAS, Oracle, other_schedules, run, trained

from codecdiff import Pipeline
from codecdiff.config import SamplingConfig
from codecdiff.diffusion import schedulers
from codecdiff.diffusion.noise_schedule import (
    BETA_SCHEDULES,
    PREDICTION_TYPES,
    evaluation_steps,
    even_timesteps,
    max_inference_steps,
    noise_levels,
    prediction_type_of,
    scheduler_from_config,
    scheduler_to_config,
    set_timesteps,
    start_step,
    training_scheduler,
)
from codecdiff.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, UNSUPPORTED, sampling_scheduler
from codecdiff.pipeline.stage import Stage

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside diffusers' DEIS


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
def test_any_number_of_steps_ends_in_as_much_noise(schedule: str) -> None:
    left = [
        float(training_scheduler(num_train_timesteps=steps, beta_schedule=schedule).alphas_cumprod[-1])
        for steps in (50, 100, 1000)
    ]
    assert max(left) < 0.006  # a start from noise alone is then wrong by less than a tenth of the signal
    if schedule != "squaredcos_cap_v2":
        assert max(left) < 10 * min(left)


def test_the_betas_are_their_formulas() -> None:
    place = np.linspace(0, 1, 1000)
    expected = {
        "linear": 1e-4 + 0.0199 * place,
        "scaled_linear": (1e-2 + (0.02**0.5 - 1e-2) * place) ** 2,
        "sigmoid": 1e-4 + 0.0199 / (1 + np.exp(6 - 12 * place)),
    }
    for schedule, betas in expected.items():
        np.testing.assert_allclose(training_scheduler(beta_schedule=schedule).betas, betas, rtol=1e-4)
        np.testing.assert_allclose(
            training_scheduler(beta_schedule=schedule, num_train_timesteps=100).betas[-1], 10 * betas[-1], rtol=1e-4
        )


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
def test_zero_terminal_snr_moves_and_stretches_the_signal(schedule: str) -> None:
    """Algorithm 1 of Lin et al. (2023): sqrt(abar) is moved to end at 0, and stretched to begin as before."""
    before = training_scheduler(beta_schedule=schedule).alphas_cumprod.double().sqrt()
    after = training_scheduler(beta_schedule=schedule, zero_terminal_snr=True).alphas_cumprod.double().sqrt()
    expected = (before - before[-1]) * before[0] / (before[0] - before[-1])
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-3)
    assert after[-1] == 0


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_a_scheduler_comes_back_from_its_description(prediction: str) -> None:
    for options in other_schedules(prediction):
        scheduler = trained(prediction, 50, **options)
        again = scheduler_from_config(scheduler_to_config(scheduler))
        assert type(again) is type(scheduler)
        assert scheduler_to_config(again) == scheduler_to_config(scheduler)
        assert prediction_type_of(again) == prediction
        if prediction != "flow":
            assert torch.equal(again.betas, scheduler.betas)


def test_a_scheduler_for_sampling_alone_is_not_built_for_training() -> None:
    with pytest.raises(ValueError, match=r"Unknown training scheduler 'LCMScheduler'\. Available: DDPMScheduler, Flow"):
        scheduler_from_config({"class": "LCMScheduler", "num_train_timesteps": 100})


def test_what_cannot_be_combined_is_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"prediction_type": "flow", "beta_schedule": "linear"}, "schedule of its own"),
        ({"prediction_type": "flow", "zero_terminal_snr": True}, "schedule of its own"),
        ({"prediction_type": "epsilon", "zero_terminal_snr": True}, "another prediction_type than epsilon"),
        ({"beta_schedule": "linear", "num_train_timesteps": 20}, "needs more than 20"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            training_scheduler(**options)
    for name in ("ddpm", "euler-a", "lms", "pndm"):
        with pytest.raises(ValueError, match=f"'{name}' cannot sample a flow model. Available: euler"):
            sampling_scheduler(trained("flow"), name)
    for name in ("ddpm", "pndm"):
        with pytest.raises(ValueError, match=f"'{name}' supports only timestep_spacing=even"):
            sampling_scheduler(trained(), name, "karras")
    with pytest.raises(ValueError, match="A flow model supports only timestep_spacing=even"):
        sampling_scheduler(trained("flow"), "euler", "karras")
    with pytest.raises(ValueError, match=r"Unknown timestep_spacing 'log'\. Available: even, karras"):
        sampling_scheduler(trained(), "ddim", "log")


def test_every_scheduler_of_diffusers_is_used_or_refused_by_name() -> None:
    tables = (*SCHEDULERS.values(), *FLOW_SCHEDULERS.values())
    classes = {schedulers._scheduler_class(name) for name, _ in tables}
    used = {base.__name__ for each in classes for base in each.__mro__} | {"DDIMScheduler"}  # the first order of dpm++
    there = {name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")}
    assert there == (used & there) | UNSUPPORTED.keys()
    assert not used & UNSUPPORTED.keys()


@pytest.mark.parametrize("name", ["lcm", "LCMScheduler", "edm-euler", "ipndm"])
def test_a_refusal_says_why(name: str) -> None:
    reason = {"edm-euler": "scales of EDM", "ipndm": "neither the noise schedule nor v"}.get(
        name, "model distilled for it"
    )
    with pytest.raises(ValueError, match=f"Unsupported scheduler '{name}': .*{reason}.* Available: ddpm, ddim"):
        sampling_scheduler(trained(), name)


@pytest.mark.parametrize(
    ("twin", "own", "options"),
    [
        ("DDPMParallelScheduler", "DDPMScheduler", {}),
        ("DDIMParallelScheduler", "DDIMScheduler", {}),
        ("CogVideoXDDIMScheduler", "DDIMScheduler", {"snr_shift_scale": 1.0}),
    ],
)
def test_what_is_refused_as_a_twin_takes_the_same_steps(twin: str, own: str, options: dict[str, Any]) -> None:
    common = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False}
    first, second = getattr(diffusers, twin)(**common, **options), getattr(diffusers, own)(**common)
    latents, answer = torch.randn(2, 1, 8, 16, generator=torch.Generator().manual_seed(0)).unbind()
    for scheduler in (first, second):
        scheduler.set_timesteps(20)
    assert first.timesteps.tolist() == second.timesteps.tolist()
    for step in first.timesteps:
        steps = [s.step(answer, step, latents, generator=torch.Generator().manual_seed(1)) for s in (first, second)]
        torch.testing.assert_close(steps[0].prev_sample, steps[1].prev_sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("total", [10, 100, 250])
def test_even_steps_are_as_many_as_asked(total: int) -> None:
    """diffusers' own come one too many, the last of them at full noise, where rounding decides: 29 of 100, for one."""
    for steps in range(1, total + 1):
        chosen = even_timesteps(total, steps).tolist()
        assert len(set(chosen)) == steps
        assert chosen == sorted(chosen, reverse=True)
        assert chosen[0] == total - 1
        assert chosen[-1] >= 0
        gaps = -np.diff([*chosen, -1])
        assert np.abs(gaps - total / steps).max() <= 1


def test_steps_stop_where_they_are_told() -> None:
    assert even_timesteps(1000, 13, 0.4).tolist() == list(range(999, 398, -50))
    assert (
        even_timesteps(1000, 10, 0.1).tolist()
        == even_timesteps(1000, 10).tolist()
        == even_timesteps(1000, 10, 0.05).tolist()
    )
    assert even_timesteps(1000, 1, 0.4).tolist() == [999]
    for total, stop_at in ((100, 0.4), (250, 0.99), (10, 0.0), (10, 1.0)):
        most = max_inference_steps(total, stop_at)
        chosen = even_timesteps(total, most, stop_at).tolist()
        assert chosen == list(range(total - 1, total - 1 - most, -1))
        assert len(set(even_timesteps(total, most + 1, stop_at).tolist())) < most + 1


def test_a_karras_run_stops_there_too() -> None:
    scheduler = sampling_scheduler(trained(), "euler", "karras", 0.4)
    set_timesteps(scheduler, 12)
    assert scheduler.timesteps[-1] == 399
    torch.testing.assert_close(scheduler.sigmas[-2], noise_levels(trained())[399])


def test_a_run_starts_at_the_share_of_noise_it_is_asked_for() -> None:
    def starts(steps: int, stop_at: float) -> list[int]:
        scheduler = sampling_scheduler(trained(), "ddim", final_timestep_fraction=stop_at)
        return [start_step(scheduler, steps, strength) for strength in (1.0, 0.7, 0.4, 0.001)]

    assert starts(10, 0) == [0, 3, 6, 9]
    assert starts(13, 0.4) == [0, 6, 12, 12]


@pytest.mark.parametrize(("name", "prediction"), EVERY)
def test_every_sampler_goes_through_the_levels_of_training(name: str, prediction: str) -> None:
    for options in other_schedules(prediction):
        scheduler = sampling_scheduler(trained(prediction, 100, **options), name)
        set_timesteps(scheduler, 29)
        levels = noise_levels(trained(prediction, 100, **options))
        told = scheduler.timesteps.long()
        assert torch.equal(scheduler.timesteps, told.to(scheduler.timesteps.dtype))
        assert (told.min(), told.max()) == (2, 99)
        if hasattr(scheduler, "sigmas"):
            met = (
                levels[told].clamp_max(0.9999)
                if prediction == "flow" and name not in ("euler", "heun")
                else levels[told]
            )
            last = slice(1, None) if options.get("zero_terminal_snr") else slice(None)  # infinite in training
            torch.testing.assert_close(scheduler.sigmas[:-1][last], met[last], rtol=1e-4, atol=0)
            assert scheduler.sigmas[-1] == 0
            assert scheduler.sigmas[0] > 0.99
            assert scheduler.sigmas.isfinite().all()


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
def test_karras_levels_are_those_of_diffusers(schedule: str) -> None:
    scheduler = trained(beta_schedule=schedule)
    options = {"timestep_spacing": "trailing", "use_karras_sigmas": True, "trained_betas": scheduler.betas.tolist()}
    theirs = EulerDiscreteScheduler(num_train_timesteps=1000, sigma_min=float(noise_levels(scheduler)[0]), **options)
    theirs.set_timesteps(30)
    for name in KARRAS:
        ours = sampling_scheduler(scheduler, name, "karras")
        set_timesteps(ours, 30)
        if name != "heun":
            torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=2e-5, atol=0)
            torch.testing.assert_close(ours.timesteps, theirs.timesteps.float(), rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize(("name", "prediction"), EVERY)
def test_evaluations_are_counted(name: str, prediction: str) -> None:
    for steps in (1, 2, 3, 10, 29):
        oracle = Oracle(trained(prediction))
        run(oracle, name, steps, (1, 1))
        assert oracle.calls == len(evaluation_steps(name, steps))


def test_the_documentation_has_the_evaluations() -> None:
    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w+-]+)` \|.*\| (N[\w +-]*|2 N - 1) \|$", text, re.MULTILINE)
    formulas = {"N": lambda n: n, "N + 1": lambda n: n + 1, "2 N - 1": lambda n: 2 * n - 1}
    assert [name for name, _ in rows] == list(SCHEDULERS)
    for name, formula in rows:
        assert [len(evaluation_steps(name, n)) for n in (2, 7, 50)] == [formulas[formula](n) for n in (2, 7, 50)]


@pytest.mark.parametrize("prediction", ["v_prediction", pytest.param("flow", marks=pytest.mark.integration)])
def test_a_stage_keeps_how_it_is_sampled(
    make_pipeline: Callable[..., Pipeline], tmp_path: Path, prediction: str
) -> None:
    pipeline = make_pipeline()
    spacing = "even" if prediction == "flow" else "karras"
    for i, stage in enumerate(pipeline.stages):
        scheduler = trained(prediction, 100)
        pipeline.stages[i] = Stage(
            stage.name,
            stage.denoiser,
            scheduler,
            SamplingConfig(
                scheduler="heun",
                num_inference_steps=4,
                guidance_scale=2.0,
                timestep_spacing=spacing,
                final_timestep_fraction=0.6,
            ),
        )
    pipeline.save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert [stage.to_config() for stage in again.stages] == [stage.to_config() for stage in pipeline.stages]
    assert prediction_type_of(again.stages[0].train_scheduler) == prediction
    assert again.stages[0].sampling == pipeline.stages[0].sampling
    made = again("a tone", audio_length_in_s=0.5).audios
    assert made.isfinite().all()
    assert torch.equal(made, pipeline("a tone", audio_length_in_s=0.5).audios)
    with pytest.raises(
        ValueError, match=r"expected 1 to 41 .* num_train_timesteps=100 and final_timestep_fraction=0\.6"
    ):
        pipeline("a tone", audio_length_in_s=0.5, num_inference_steps=42)
    pipeline.stages[0].sampling.final_timestep_fraction = 0.0
    assert not torch.equal(made, pipeline("a tone", audio_length_in_s=0.5).audios)
    pipeline.stages[0].sampling.timestep_spacing, pipeline.stages[0].scheduler = "even", "euler"
    assert not torch.equal(made, pipeline("a tone", audio_length_in_s=0.5).audios)
