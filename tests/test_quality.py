"""Presets of quality, and the kinds of guidance that they may name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import noise
from torch import Tensor

import codecdiff
from codecdiff import Pipeline
from codecdiff.cli.inspect import describe
from codecdiff.config import SamplingConfig
from codecdiff.diffusion import training_scheduler
from codecdiff.diffusion.guidance import combine_predictions, guided_prediction
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.generation import Quality
from codecdiff.pipeline.provenance import GenerationRequest

Make = Callable[..., Pipeline]
GROUPS = [(3.0, ["text"])]
SHORT: Any = {"audio_length_in_s": 0.2, "seed": 3, "loudness": "off"}


def predictions() -> tuple[Tensor, Tensor]:
    """Return a prediction with the condition and one without, of two rows."""
    return noise(2, 3, 7), noise(2, 3, 7, seed=1)


def test_plain_guidance_is_the_default_and_changes_no_bit() -> None:
    both = predictions()
    assert torch.equal(guided_prediction(both, GROUPS, SamplingConfig()), combine_predictions(both, GROUPS))


def test_projected_guidance_adds_nothing_along_the_conditional_prediction() -> None:
    conditional, none = predictions()
    added = guided_prediction((conditional, none), GROUPS, SamplingConfig(guidance_method="apg")) - conditional
    assert (added * conditional).flatten(1).sum(1).abs().max() < 1e-4
    plain = 2 * (conditional - none)
    along = (plain * conditional).flatten(1).sum(1) / conditional.flatten(1).square().sum(1)
    assert torch.allclose(added, plain - along[:, None, None] * conditional, atol=1e-5)


def test_cfg_zero_star_leads_away_from_the_scaled_prediction() -> None:
    conditional, none = predictions()
    scale = (conditional * none).flatten(1).sum(1) / none.flatten(1).square().sum(1)
    scaled = scale[:, None, None] * none
    made = guided_prediction((conditional, none), GROUPS, SamplingConfig(guidance_method="cfg-zero-star"))
    assert torch.allclose(made, scaled + 3 * (conditional - scaled), atol=1e-5)


def test_rescaling_gives_the_deviation_of_the_conditional_prediction_back() -> None:
    both = predictions()
    made, half = (guided_prediction(both, GROUPS, SamplingConfig(guidance_rescale=r)) for r in (1, 0.5))
    plain = combine_predictions(both, GROUPS)
    assert torch.allclose(made.flatten(1).std(1), both[0].flatten(1).std(1), atol=1e-5)
    assert torch.allclose(half, (made + plain) / 2, atol=1e-5)


def rows_of(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    """Return how many rows the first stage computes in each step."""
    rows: list[int] = []
    stage, forward = pipe.stages[0], type(pipe.stages[0].denoiser).forward

    def counted(self: Any, noisy: Tensor, *others: Any) -> Tensor:
        if noisy.shape[1] == stage.denoiser.channels and others[1] is None:
            rows.append(len(noisy))
        return forward(self, noisy, *others)

    with monkeypatch.context() as patch:
        patch.setattr(type(stage.denoiser), "forward", counted)
        patch.setattr(type(stage.denoiser), "prepare_for_sampling", lambda self, timesteps, condition: self)
        pipe("a tone", **SHORT, **options)
    return rows


def test_outside_the_interval_nothing_is_guided_and_one_row_is_computed(
    make_pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipeline()
    steps: Any = {"num_inference_steps": 10}
    assert rows_of(pipe, monkeypatch, **steps) == [2] * 10
    rows = rows_of(pipe, monkeypatch, **steps, guidance_interval=(0.3, 0.8))
    assert rows[0] == rows[-1] == 1
    assert rows.count(2) in (5, 6)
    never = pipe("a tone", **SHORT, guidance_interval=(0, 0), num_inference_steps=4).audios
    assert torch.allclose(never, pipe("a tone", **SHORT, guidance_scale=1.0, num_inference_steps=4).audios, atol=1e-5)


def test_a_preset_is_overridden_by_other_options(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    own = pipe("a tone", **SHORT).audios
    assert torch.equal(pipe("a tone", **SHORT, quality="balanced").audios, own)
    stages = pipe.sampled_stages(pipe.generation_config.merge(quality="paper"))
    assert {(s.sampling.scheduler, s.sampling.num_inference_steps) for s in stages} == {("ddpm", 100)}
    pipe("a tone", **SHORT, quality="fast")
    assert pipe.num_timesteps == 2 * 4  # steps of two stages
    pipe("a tone", **SHORT, quality="fast", num_inference_steps=2)
    assert pipe.num_timesteps == 2 * 2
    assert [stage.sampling.num_inference_steps for stage in pipe.stages] == [3, 3]  # as before
    with pytest.raises(InvalidValue, match="Invalid quality='best'"):
        pipe("a tone", **SHORT, quality="best")  # pyright: ignore[reportArgumentType]


def test_presets_are_saved_with_the_model_and_recorded(make_pipeline: Make, tmp_path: Path) -> None:
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "plain")
    pipe.presets = {"fast": {"primary": SamplingConfig(num_inference_steps=2, guidance_method="apg")}}
    pipe.save_pretrained(tmp_path / "model")
    again = codecdiff.load(tmp_path / "model")
    assert again.fingerprint != codecdiff.load(tmp_path / "plain").fingerprint
    primary, secondary = again.sampled_stages(again.generation_config.merge(quality="fast"))
    assert (primary.sampling.num_inference_steps, primary.sampling.guidance_method) == (2, "apg")
    assert primary.sampling.scheduler == again.stages[0].sampling.scheduler  # what the preset leaves out
    assert secondary.sampling.num_inference_steps == 4  # the usual preset
    out = again("a tone", **SHORT, quality="fast")
    (file,) = out.save(tmp_path / "out.flac")
    request = GenerationRequest.from_file(file)
    assert request.generation.quality == "fast"
    assert request.stages["primary"].num_inference_steps == 2
    request.check_model(again.fingerprint)
    assert torch.equal(next(again.generate_request(request)), out.audios[0])
    (tmp_path / "model" / "presets.json").write_text('{"presets": {"best": {}}}')
    with pytest.raises(InvalidValue, match=r"presets\.json"):
        codecdiff.load(tmp_path / "model")


def test_the_interval_of_guidance_is_in_order(make_pipeline: Make) -> None:
    with pytest.raises(InvalidValue, match="first end not above the second"):
        make_pipeline()("a", guidance_interval=(0.8, 0.2), **SHORT)


def test_the_usual_presets_suit_a_flow(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    for stage in pipe.stages:
        stage.train_scheduler = training_scheduler(prediction_type="flow", num_train_timesteps=100)
        stage.sampling = SamplingConfig(scheduler="euler", num_inference_steps=6)
    steps_of: dict[Quality, int] = {"paper": 100, "fast": 4}
    for quality, steps in steps_of.items():
        config = pipe.generation_config.merge(quality=quality)
        assert [stage.sampling.num_inference_steps for stage in pipe.sampled_stages(config)] == [steps] * 2
        assert pipe.sampled_stages(config)[0].sampling.scheduler == "euler"
    assert pipe("a", quality="fast", **SHORT).audios.isfinite().all()


def test_a_file_says_how_its_guidance_differs(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    options = pipe.generation_config
    fast, plain = (pipe.request("", o) for o in (options.merge(quality="fast"), options))
    assert fast.stages["primary"].guidance_interval == (0.3, 0.8)
    shown = json.loads(plain.comment())["stages"]["primary"]
    assert list(shown) == ["scheduler", "num_inference_steps", "guidance_scale"]
    assert describe(fast)["quality"] == "fast"
    assert "interval 0.3 to 0.8" in describe(fast)["primary"]
