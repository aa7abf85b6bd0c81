"""Long music in windows, and loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import noise
from torch import Tensor

from codecdiff import Inpaint, Pipeline
from codecdiff.errors import InvalidValue
from codecdiff.pipeline import cascade
from codecdiff.pipeline.conditions import music_start
from codecdiff.pipeline.provenance import GenerationRequest
from codecdiff.pipeline.windows import Window, decode_loop, length_note, plan_windows, window_frames

Make = Callable[..., Pipeline]


@pytest.mark.parametrize(("length", "size"), [(100, 30), (31, 30), (30, 30), (7, 30), (1000, 40)])
def test_windows_cover_every_frame_once_and_overlap(length: int, size: int) -> None:
    windows = plan_windows(length, size)
    new = torch.cat([window.frames[window.is_new] for window in windows])
    assert torch.equal(new, torch.arange(length))
    for window in windows:
        assert len(window.frames) == min(size, length)
        assert (window.frames.diff() == 1).all()
    for window in windows[1:]:
        assert (~window.is_new).sum() >= size // 4


def test_the_seam_of_a_loop_is_new_inside_and_known_outside() -> None:
    *_, seam = plan_windows(100, 40, loop=True)
    assert seam.frames.tolist() == [*range(80, 100), *range(20)]
    assert seam.is_new.nonzero().flatten().tolist() == list(range(15, 25))
    assert len(plan_windows(7, 40, loop=True)[-1].frames) == 6


def test_only_long_music_is_sampled_in_windows() -> None:
    assert window_frames(60, 87, None) >= 60 * 87
    assert window_frames(61, 87, None) == 30 * 87
    assert window_frames(10, 87, 5) == 5 * 87
    assert length_note(600, 5, None) == (
        "The model was trained on clips of 5 s; 600 s of music is generated in overlapping windows of 30 s."
    )
    assert not length_note(8, 5, None)
    assert not length_note(5, 5, None)


def planned(pipe: Pipeline, frames: int) -> list[Window]:
    """Return the windows of half a second of a pattern whose stages have all frames."""
    plan = plan_windows(frames, window_frames(frames / pipe.codec.frame_rate, pipe.codec.frame_rate, 0.5))
    assert len(plan) > 2
    return plan


class Inputs:
    """What every call of `sample_stage` was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[Any] = []
        self.results: list[Tensor] = []
        original = cascade.sample_stage

        def spy(denoiser: Any, scheduler: Any, inputs: Any, **options: Any) -> Tensor:
            self.calls.append(inputs)
            self.results.append(original(denoiser, scheduler, inputs, **options))
            return self.results[-1]

        monkeypatch.setattr(cascade, "sample_stage", spy)


@pytest.mark.parametrize("splitter", ["coarse-first", "delayed", "flattened"])
def test_a_window_keeps_what_the_one_before_it_made(
    make_pipeline: Make, monkeypatch: pytest.MonkeyPatch, splitter: str
) -> None:
    pipe, seen = make_pipeline(splitter), Inputs(monkeypatch)
    frames = pipe.frames(1.2)
    (codes,) = pipe.generate_codes(["a tone"], frames, window_in_s=0.5)
    assert codes.shape == (1, pipe.codec.num_codebooks, frames)
    windows = len(seen.calls) // len(pipe.stages)
    assert windows == 3
    assert pipe.num_timesteps == 3 * len(seen.calls)
    first, second = seen.results[:2]
    kept = seen.calls[1].mask.keep_mask[0, 0]
    assert torch.equal(seen.calls[1].mask.x_start[..., kept], first[..., -int(kept.sum()) :])
    assert torch.equal(second[..., kept], first[..., -int(kept.sum()) :])
    assert not torch.equal(second[..., ~kept], seen.calls[1].mask.x_start[..., ~kept])


def test_every_window_of_a_later_stage_sees_its_part_of_the_earlier_one(
    make_pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, seen = make_pipeline(snap_context=False), Inputs(monkeypatch)
    frames = pipe.frames(1.2)
    list(pipe.generate_codes(["a tone"], frames, window_in_s=0.5))
    plan = planned(pipe, frames)
    primary = torch.zeros(1, pipe.stages[0].denoiser.channels, frames)
    for window, result in zip(plan, seen.results, strict=False):
        primary[..., window.frames] = result
    for window, call in zip(plan, seen.calls[len(plan) :], strict=True):
        assert torch.equal(call.context, primary[..., window.frames])


@pytest.mark.filterwarnings("ignore:No (layer|condition)")
def test_the_tempo_runs_on_over_windows(make_pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecdiff_starter")
    pipe, seen = make_pipeline(conditioner={"name": "tempo-and-key"}), Inputs(monkeypatch)
    frames = pipe.frames(1.2)
    list(pipe.generate_codes([{"text": "a tone, 90 bpm", "start": 0.25}], frames, window_in_s=0.5))
    for window, call in zip(planned(pipe, frames) * 2, seen.calls, strict=True):
        frequencies, phases, _ = call.condition["beat"].tokens[0, 0].unflatten(0, (3, -1))
        start = 0.25 + float(window.frames[0]) / pipe.codec.frame_rate
        assert torch.allclose(phases, torch.frac(frequencies * start), atol=1e-4)
    assert len({float(call.condition["beat"].tokens[0, 0, 8]) for call in seen.calls}) == 3


def test_a_window_of_everything_changes_no_bit(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    (whole,) = pipe.generate_codes(["a tone"], 100)
    (one,) = pipe.generate_codes(["a tone"], 100, window_in_s=3600)
    assert torch.equal(whole, one)


def test_a_loop_is_decoded_around_its_ends(make_pipeline: Make, tmp_path: Path) -> None:
    pipe = make_pipeline()
    out = pipe("a tone", audio_length_in_s=0.99, loop=True, seed=2, loudness="off")
    frames, hop = out.codes.shape[-1], pipe.codec.hop_length
    assert out.audios.shape[-1] == frames * hop
    twice = pipe.decode([torch.cat([out.codes, out.codes, out.codes], -1)])[..., frames * hop : 2 * frames * hop]
    assert torch.allclose(out.audios[0], twice[0].clamp(-1, 1), atol=1e-4)
    plain = pipe.decode([out.codes])[0]
    assert not torch.allclose(plain[:, :hop], twice[0, :, :hop], atol=1e-3)
    (file,) = out.save(tmp_path / "loop.flac")
    assert torch.equal(next(pipe.generate_request(GenerationRequest.from_file(file))), out.audios[0])


def test_the_context_of_a_loop_may_be_longer_than_the_loop() -> None:
    codes = torch.arange(3)[None, None]
    assert torch.equal(decode_loop(lambda c: c.float(), codes, 50, 1), codes.float())


def test_windows_that_an_edit_keeps_are_not_sampled(make_pipeline: Make) -> None:
    pipe, steps = make_pipeline(), []
    source = noise(1, 2 * pipe.sample_rate, seed=5) / 10
    edit = Inpaint(regions=((0.1, 0.3),))
    options: Any = {"window_in_s": 0.5, "num_inference_steps": 2, "seed": 1}
    out = pipe.edit(source, edit, "a", callback_on_step_end=lambda *step: steps.append(step[1]), **options)
    assert len(steps) == pipe.num_timesteps == 2 * 2  # one window of each stage
    changed = (out.codes[0] != pipe.codec.encode(source[None])[0]).any(0).nonzero()
    frames = changed / pipe.codec.frame_rate
    assert 0.1 - 0.02 <= frames.min() <= frames.max() <= 0.3 + 0.02


def test_a_loop_is_refused_where_its_ends_do_not_meet(make_pipeline: Make) -> None:
    with pytest.raises(InvalidValue, match="delays codebooks"):
        make_pipeline("delayed")("a", audio_length_in_s=0.5, loop=True, num_inference_steps=1)
    pipe = make_pipeline()
    with pytest.raises(InvalidValue, match="makes no loop"):
        pipe.edit(noise(1, 8000), Inpaint(regions=((0.1, 0.3),)), "a", loop=True)


def test_a_start_that_is_no_number_is_refused() -> None:
    assert music_start({"text": "a tone", "start": "2.5"}) == 2.5
    with pytest.raises(InvalidValue, match="Invalid start 'soon' of a prompt: expected seconds"):
        music_start({"text": "a tone", "start": "soon"})
