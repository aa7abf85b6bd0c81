"""Editing: what is kept comes back bit for bit, and everything else is made to go with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small import noise

from codecdiff import Codec, Condition, Denoiser, Pipeline
from codecdiff.codecs import CodecWrapper
from codecdiff.config import SamplingConfig
from codecdiff.diffusion.colored_noise import colored
from codecdiff.diffusion.noise_schedule import coefficients, training_scheduler
from codecdiff.diffusion.sampling import SamplingInput, StageMask, sample_stage
from codecdiff.diffusion.schedulers import sampling_scheduler
from codecdiff.errors import InvalidValue
from codecdiff.pipeline.editing import (
    EditMask,
    Extend,
    Inpaint,
    Refine,
    Restore,
    Vary,
    levels_mask,
    outside_mask,
    parse_levels,
)
from codecdiff.rng import generator, row_noise

Make = Callable[..., Pipeline]
PATTERNS: list[Any] = ["coarse-first", {"name": "grouped", "stages": "0|1-2|3"}, "parallel", "delayed", "flattened"]
FRAMES = 20


def some_codes(takes: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randint(64, (takes, 4, FRAMES), generator=torch.Generator().manual_seed(seed))


def some_mask(takes: int = 1, seed: int = 2) -> torch.Tensor:
    return noise(takes, 4, FRAMES, seed=seed) > 0


def made(pipeline: Pipeline, *prompts: str, **options: Any) -> torch.Tensor:
    return torch.cat(list(pipeline.generate_codes(prompts or ("drums",), FRAMES, **options)))


@pytest.mark.parametrize("splitter", PATTERNS, ids=str)
@pytest.mark.parametrize("sampler", ["dpm++2m", "ddpm", "euler", "heun"])
def test_kept_codes_come_back_bit_for_bit(make_pipeline: Make, splitter: Any, sampler: str) -> None:
    pipeline = make_pipeline(splitter)
    for stage in pipeline.stages:
        stage.scheduler = sampler
    codes, mask = some_codes(2), some_mask(2)
    known = EditMask.from_codes(pipeline.codec, codes).keep(mask)
    edited = made(pipeline, num_waveforms_per_prompt=2, edit=known)
    assert torch.equal(edited[mask], codes[mask])
    assert (edited[~mask] != codes[~mask]).float().mean() > 0.5


@pytest.mark.parametrize("splitter", PATTERNS, ids=str)
def test_keeping_everything_gives_the_source_and_nothing_a_generation(make_pipeline: Make, splitter: Any) -> None:
    pipeline = make_pipeline(splitter)
    known = EditMask.from_codes(pipeline.codec, some_codes())
    assert torch.equal(made(pipeline, edit=known.keep(torch.tensor(True))), known.codes)
    assert torch.equal(made(pipeline, edit=known), made(pipeline))


@pytest.mark.parametrize("sampler", ["dpm++2m", "euler", "heun"])
@pytest.mark.parametrize(("color", "strength"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_what_is_kept_is_seen_under_the_noise_it_began_with(sampler: str, color: float, strength: float) -> None:
    """Without fresh noise, kept frames follow alpha * clean + sigma * noise with one noise, which is coloured."""
    clean, trained, seen = noise(1, 2, 24), training_scheduler(num_train_timesteps=100, beta_schedule="linear"), []

    class Spy(Denoiser):
        channels, context_channels, condition_widths = 2, 0, {}

        def forward(self, noisy: Any, timestep: Any, context: Any, condition: Any) -> torch.Tensor:
            alpha, sigma = coefficients(trained, timestep.long(), noisy)
            seen.append((noisy - alpha * clean) / sigma)
            return 0.3 * noisy

    kept = (torch.arange(24) < 12).expand(1, 2, 24)
    mask = StageMask(clean, kept, strength=strength)
    inputs = SamplingInput(
        row_noise((2, 24), [generator("test", 7)]), [generator("test", 7)], None, Condition({}), mask=mask
    )
    scheduler = sampling_scheduler(trained, sampler)
    sample_stage(Spy(), scheduler, inputs, num_inference_steps=20, guidance_scale=1.0, noise_color=color)
    assert len(seen) >= 20 * strength
    expected = colored(row_noise((2, 24), [generator("test", 7)]), color)
    for implied in seen:
        torch.testing.assert_close(implied[..., :12], expected[..., :12], atol=2e-2, rtol=0)


@pytest.mark.parametrize("color", [0.0, 1.0])
def test_the_rest_is_made_to_go_with_what_is_kept(make_pipeline: Make, color: float) -> None:
    pipeline = make_pipeline("parallel")
    pipeline.stages[0].noise_color = color
    first, second = (EditMask.from_codes(pipeline.codec, some_codes(seed=seed)) for seed in (1, 3))
    mask = (torch.arange(FRAMES) < 10)[None, None]
    one, other = (made(pipeline, edit=known.keep(mask)) for known in (first, second))
    assert not torch.equal(one[..., 10:], other[..., 10:])
    same = (
        first.keep(mask),
        EditMask.from_codes(pipeline.codec, torch.where(mask, first.codes, second.codes)).keep(mask),
    )
    assert torch.equal(made(pipeline, edit=same[0]), made(pipeline, edit=same[1]))  # what is not kept is not read


@pytest.mark.integration
@pytest.mark.parametrize("sampler", ["dpm++2m", "ddim", "euler", "heun"])
def test_a_smaller_strength_stays_nearer_to_the_source(make_pipeline: Make, sampler: str) -> None:
    pipeline = make_pipeline()
    for stage in pipeline.stages:
        stage.sampling = SamplingConfig(scheduler=sampler, num_inference_steps=20, guidance_scale=1.0)
    known = EditMask.from_codes(pipeline.codec, some_codes())

    def far(strength: float) -> float:
        codes = made(pipeline, edit=replace(known, strength=strength))
        return float((pipeline.codec.embed(codes) - known.latents).square().mean())

    distances = [far(strength) for strength in (0.05, 0.4, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.3 * distances[-1]
    assert torch.equal(made(pipeline, edit=replace(known, strength=1.0)), made(pipeline))


def test_a_take_of_an_edit_does_not_depend_on_its_batch(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    known = EditMask.from_codes(pipeline.codec, some_codes()).keep(some_mask()).repeat(3)
    together = made(pipeline, num_waveforms_per_prompt=3, edit=known)
    assert torch.equal(made(pipeline, num_waveforms_per_prompt=3, edit=known, batch_size=1), together)
    assert torch.equal(
        made(pipeline, num_waveforms_per_prompt=1, edit=known.select([2]), first_sample_index=2), together[2:]
    )
    assert not torch.equal(together[0], together[1])


def test_projections_are_known_as_they_are(make_pipeline: Make, dac: Codec) -> None:
    pipeline = make_pipeline(target="continuous", snap_context=False)
    audio = 0.1 * noise(1, 1, FRAMES * dac.hop_length)
    known = EditMask.from_audio(pipeline.codec, audio, "continuous")
    torch.testing.assert_close(known.latents, pipeline.codec.encode_continuous(audio))
    assert torch.equal(known.codes, pipeline.codec.encode(audio))
    assert not torch.allclose(known.latents, pipeline.codec.embed(known.codes), atol=0.01)
    seen: list[torch.Tensor] = []
    secondary = pipeline.stages[1].denoiser
    secondary.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    secondary.prepare_for_sampling = lambda *_: secondary  # type: ignore[method-assign]
    refined = made(pipeline, edit=known.keep(levels_mask(pipeline.codec, [0])))
    assert torch.equal(refined[:, 0], known.codes[:, 0])
    torch.testing.assert_close(seen[0][:1], known.latents[:, 0])


def test_padding_of_a_pattern_is_neither_kept_nor_missing(make_pipeline: Make) -> None:
    pipeline = make_pipeline({"name": "delayed", "delay": 2})
    known = EditMask.from_codes(pipeline.codec, some_codes()).keep(torch.tensor(True))
    (stage,) = known.stage_masks(pipeline.splitter)
    assert stage.x_start.shape[-1] == FRAMES + 6
    assert stage.keep_mask.sum() == known.latents.numel()
    assert stage.keeps_all
    assert not known.keep(some_mask()).stage_masks(pipeline.splitter)[0].keeps_all


def test_a_negative_prompt_is_what_guidance_leads_away_from(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    plain = made(pipeline, "drums", guidance_scale=2.0)
    assert torch.equal(made(pipeline, "drums", guidance_scale=2.0, negative_prompt=""), plain)
    assert not torch.equal(made(pipeline, "drums", guidance_scale=2.0, negative_prompt="piano"), plain)
    away = made(pipeline, "drums", guidance_scale=5.0, negative_prompt="drums")  # away from itself leads nowhere
    assert (away == made(pipeline, "drums", guidance_scale=1.0)).float().mean() > 0.98


def test_every_edit_is_its_mask(dac: Codec) -> None:
    source = EditMask.from_codes(dac, some_codes())

    def kept(edit: Any) -> torch.Tensor:
        return edit.apply(source, dac).keep_mask[0]

    level, frame = torch.arange(4)[:, None], torch.arange(FRAMES)
    seconds = 1 / dac.frame_rate
    assert torch.equal(kept(Refine(keep=(0, 2))), ((level == 0) | (level == 2)).expand(4, FRAMES))
    assert torch.equal(kept(Restore(levels=3)), (level < 3).expand(4, FRAMES))
    region = Inpaint(regions=((2.5 * seconds, 4 * seconds), (10 * seconds, 11 * seconds)))
    assert torch.equal(kept(region), ((frame < 2) | ((frame >= 4) & (frame != 10))).expand(4, FRAMES))
    assert torch.equal(kept(Extend(seconds=2.5 * seconds)), (torch.arange(FRAMES + 3) < FRAMES).expand(4, FRAMES + 3))
    varied = Vary(strength=0.4).apply(source, dac)
    assert not varied.keep_mask.any()
    assert varied.strength == 0.4


def test_levels_are_numbers_and_ranges() -> None:
    assert parse_levels("0") == (0,)
    assert parse_levels("0-2,5") == (0, 1, 2, 5)
    with pytest.raises(ValueError, match=r"Invalid levels 'some': expected numbers and ranges"):
        parse_levels("some")


def test_edits_that_make_no_sense_are_explained(dac: Codec) -> None:
    source = EditMask.from_codes(dac, some_codes())
    with pytest.raises(ValueError, match="Invalid level 4, 7: the codec has 0 to 3"):
        Refine(keep=(0, 7, 4)).apply(source, dac)
    with pytest.raises(ValueError, match="Invalid levels=4: this codec has 4: none is left to restore"):
        Restore(levels=4).apply(source, dac)
    for region in ((1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1e9, 2e9), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match=r"Invalid region .* expected it to start before it ends, within"):
            Inpaint(regions=(region,)).apply(source, dac)
    for strength in (0, -1, 1.5, float("nan")):
        with pytest.raises(InvalidValue, match="Invalid strength="):
            Vary(strength=strength)
        with pytest.raises(ValueError, match="expected more than 0 and at most 1"):
            replace(source, strength=strength)


def test_some_levels_of_a_region_are_generated_and_nothing_else(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    second = 1 / pipeline.codec.frame_rate
    source = EditMask.from_codes(pipeline.codec, some_codes())
    edit = Inpaint.model_validate_json(Inpaint(regions=((4 * second, 9 * second),), levels=(1, 3)).model_dump_json())
    mask = edit.apply(source, pipeline.codec).keep_mask[0]
    expected = torch.ones(4, FRAMES, dtype=torch.bool)
    expected[1, 4:9] = expected[3, 4:9] = False
    assert torch.equal(mask, expected)
    edited = made(pipeline, edit=edit.apply(source, pipeline.codec))
    assert torch.equal(edited[0][expected], source.codes[0][expected])
    with pytest.raises(ValueError, match="Invalid level 9"):
        Inpaint(regions=((0, second),), levels=(9,)).apply(source, pipeline.codec)


def test_known_codes_of_another_shape_are_refused(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    known = EditMask.from_codes(pipeline.codec, some_codes()[..., :19])
    with pytest.raises(ValueError, match=r"codes of the edit have shape \(1, 4, 19\), expected \(1, 4, 20\)"):
        made(pipeline, edit=known)
    with pytest.raises(
        ValueError, match=r"The keep_mask of codes \(1, 4, 20\) has shape \(1, 4, 3\), not \(1, 4, 20\)"
    ):
        EditMask(some_codes(), pipeline.codec.embed(some_codes()), some_mask()[..., :3])


def test_regions_cover_the_frames_they_touch(dac: Codec) -> None:
    """A frame that a region only begins in is made anew as a whole."""
    rate = dac.frame_rate
    with pytest.warns(UserWarning, match=r"The audio ends at 0\.\d+ s, and the region .* to 99 s is cut there"):
        mask = outside_mask([(0.0, 0.5 / rate), (18.2 / rate, 99.0)], dac, FRAMES)[0, 0]
    assert mask.tolist() == [False] + [True] * 17 + [False] * 2


def test_channels_that_are_mixed_are_noted(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline, audio = make_pipeline(), np.full((4000, 2), 0.1)
    for channels in (1, 2):
        soundfile.write(tmp_path / f"{channels}.wav", audio[:, :channels], 8000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Vary(strength=0.5).apply_to_audio(tmp_path / "1.wav", pipeline.codec, pipeline.target)
    with pytest.warns(UserWarning, match=r"2\.wav' is stereo, and the model is mono: the channels are mixed"):
        Vary(strength=0.5).apply_to_audio(tmp_path / "2.wav", pipeline.codec, pipeline.target)


def test_the_source_is_heard_in_pieces_when_it_is_long(make_pipeline: Make, dac: Codec, tmp_path: Path) -> None:
    audio = 0.1 * noise(1, 1, 700 * dac.hop_length)
    known = EditMask.from_audio(make_pipeline().codec, audio)
    assert known.frames == 700
    assert (known.codes != dac.encode(audio)).float().mean() < 1e-3


def test_a_region_that_ends_where_a_frame_does_takes_no_other(dac: Codec) -> None:
    class Fifty(CodecWrapper):
        @property
        def frame_rate(self) -> float:
            return 50.0

    mask = outside_mask([(0.58, 0.6), (0.54, 0.56)], Fifty(dac), 40)[0, 0]
    assert (~mask).nonzero().flatten().tolist() == [27, 29]
