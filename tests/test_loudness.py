"""Generated audio is safe to play: loudness, true peaks, and what is wrong with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pyloudnorm import Meter
from scipy.signal import lfilter
from small import noise
from torch import Tensor

from codecdiff import GenerationConfig, Inpaint, Pipeline
from codecdiff.data.loudness import HIGHEST, _filtered, integrated_loudness, make_playable, true_peak
from codecdiff.errors import UserError
from codecdiff.pipeline import GenerationRequest
from codecdiff.pipeline.output import write_waveform

RATE = 44_100
SHORT: dict[str, Any] = {"audio_length_in_s": 0.1}


def sine(hertz: float, seconds: float = 2.0, phase: float = 0.0) -> Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE)) / RATE + phase)[None]


def spiky() -> Tensor:
    """(1, t) soft noise with a loud click every quarter of a second."""
    audio = 0.1 * noise(1, 4 * RATE)
    audio[:, :: RATE // 4] = 3
    return audio


def test_the_meter_is_that_of_the_standard() -> None:
    assert integrated_loudness(sine(997), RATE) == pytest.approx(-3.01, abs=0.06)
    both = sine(997).repeat(2, 1)
    assert integrated_loudness(both, RATE) == pytest.approx(0.0, abs=0.06)
    assert integrated_loudness(torch.zeros(1, RATE), RATE) == -math.inf


@pytest.mark.parametrize(("rate", "seconds"), [(RATE, 0.01), (RATE, 0.4), (RATE, 2.0), (8_000, 15.0), (8_000, 31.7)])
def test_loudness_is_that_of_pyloudnorm(rate: int, seconds: float) -> None:
    """Which filters sample by sample: here in blocks, at whose bounds nothing may change."""
    audio = noise(2, round(seconds * rate)).cumsum(1) * 1e-2 + 0.3  # with low frequencies, which ring for long
    samples = audio.T.double().numpy()
    meter = Meter(rate, block_size=min(0.4, (len(samples) - 0.5) / rate))
    expected = samples
    for each in meter._filters.values():
        expected = each.passband_gain * lfilter(each.b, each.a, expected, axis=0)
    np.testing.assert_allclose(_filtered(samples, rate, meter._filters), expected, rtol=0, atol=1e-9)
    assert integrated_loudness(audio, rate) == pytest.approx(meter.integrated_loudness(samples), abs=1e-7)


def test_a_true_peak_lies_between_the_samples() -> None:
    audio = sine(RATE / 4, phase=math.pi / 4)  # whose samples reach 0.707
    assert audio[:, :1000].max() < 0.7072
    assert true_peak(audio)[1000:-1000].max() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("level", [-14.0, -20.0, -30.0])
@pytest.mark.parametrize("gain", [1e-2, 1.0, 5.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_is_brought_to_a_level(level: float, gain: float, channels: int) -> None:
    audio = gain * torch.cat([sine(220), sine(330)])[:channels] / 2
    playable = make_playable(audio, RATE, level)
    assert integrated_loudness(playable, RATE) == pytest.approx(level, abs=0.05)
    assert playable.shape == audio.shape
    ratio = playable[:, 1000:-1000] / audio[:, 1000:-1000]
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)  # one gain: nothing is limited


def test_peaks_are_limited_and_by_6_db_at_most() -> None:
    audio = spiky()
    playable = make_playable(audio, RATE, -14.0)
    assert true_peak(playable).max() <= HIGHEST * 1.0001
    assert integrated_loudness(playable, RATE) < -14.5
    quiet = (audio.abs() < 0.2).flatten()
    gain = (playable / audio).flatten()[quiet]
    assert gain.max() == pytest.approx(2 * HIGHEST / float(true_peak(audio).max()), rel=0.01)
    drums = torch.where(audio == 3, 1.0, audio)  # which 6 dB are enough for
    assert true_peak(make_playable(drums, RATE, -18.0)).max() <= HIGHEST * 1.0001
    assert integrated_loudness(make_playable(drums, RATE, -18.0), RATE) == pytest.approx(-18, abs=0.3)


@pytest.mark.parametrize("samples", [1, 2, 3, 100, 17_639, 17_640, 17_641])
@pytest.mark.parametrize("level", [-14.0, None, "off"])
def test_audio_may_be_short(samples: int, level: Any) -> None:
    audio = make_playable(2 * sine(440, phase=1.0)[:, :samples], RATE, level)
    assert audio.shape == (1, samples)
    assert 0 < audio.abs().max() <= 1


@pytest.mark.parametrize("level", [-14.0, None, "off"])
def test_silence_is_a_warning(level: Any) -> None:
    with pytest.warns(UserWarning, match="generated audio is silent"):
        assert not make_playable(torch.zeros(2, 100), RATE, level).any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("level", [-14.0, None, "off"])
def test_what_is_not_finite_is_an_error(value: float, level: Any) -> None:
    audio = sine(220)
    audio[0, 5] = value
    with pytest.raises(UserError, match="NaN or infinite samples"):
        make_playable(audio, RATE, level)


def test_clipping_is_a_warning_and_an_edit_is_lowered_no_more_than_needed() -> None:
    with pytest.warns(UserWarning, match=r"\d\.\d\d% of the generated samples exceed full scale"):
        assert make_playable(spiky(), RATE, "off").max() == 1
    with pytest.warns(UserWarning, match=r"whole audio is turned down by 9\.\d dB: otherwise it would clip"):
        kept = make_playable(spiky(), RATE, None)
    torch.testing.assert_close(kept, spiky() / float(true_peak(spiky()).max()))
    half = 2 * RATE
    spikes = spiky()[:, 1000:]
    audio = torch.cat([0.1 * noise(1, half), 0.5 * spikes[:, :half]], dim=1)  # only the new half would clip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(make_playable(sine(220), RATE, None), sine(220))
        assert torch.equal(make_playable(sine(220), RATE, "off"), sine(220))
        edited = make_playable(audio, RATE, None, torch.arange(2 * half) >= half)
    torch.testing.assert_close(edited[:, : half - RATE // 100], audio[:, : half - RATE // 100], rtol=1e-3, atol=1e-6)
    assert true_peak(edited).max() <= 1.0001 * HIGHEST
    is_new = torch.arange(half + spikes.shape[1]) >= half
    with pytest.warns(UserWarning, match=r"turned down by 4\.\d dB"):  # the limiter's 6 dB are not enough
        edited = make_playable(torch.cat([audio[:, :half], spikes], 1), RATE, None, is_new)
    assert float(edited[0, 0] / audio[0, 0]) == pytest.approx(2 * HIGHEST / float(true_peak(spikes).max()), rel=1e-2)


def test_a_pipeline_changes_the_level_and_no_code(make_pipeline: Callable[..., Pipeline]) -> None:
    pipe = make_pipeline()
    plain, soft = (pipe("drums", loudness=level, **SHORT) for level in ("off", -30))
    assert torch.equal(plain.codes, soft.codes)
    assert torch.equal(plain.audios, pipe.decode(plain.codes.split(1), 800).clamp(-1, 1))
    assert integrated_loudness(soft.audios[0], 8000) == pytest.approx(-30, abs=0.1)
    edited = pipe.edit(soft.audios[0], Inpaint(regions=((0.02, 0.05),)), seed=1)
    decoded = pipe.decode(edited.codes.split(1), 800)
    gain = float(edited.audios.norm() / decoded.norm())
    torch.testing.assert_close(edited.audios, gain * decoded)  # one gain for all of it
    assert gain <= 1


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
@pytest.mark.parametrize("loudness", [-9.0, "off"])
def test_lossy_coding_does_not_raise_peaks_over_the_limit(suffix: str, loudness: Any, tmp_path: Path) -> None:
    audio = make_playable(noise(1, 2 * RATE), RATE, -9.0)
    assert true_peak(audio).max() == pytest.approx(HIGHEST, rel=1e-3)
    request = GenerationRequest(codecdiff="0.1", model="", prompt={}, generation=GenerationConfig(loudness=loudness))
    write_waveform(file := tmp_path / f"a.{suffix}", audio, RATE, request)
    decoded = torch.from_numpy(soundfile.read(file, dtype="float32", always_2d=True)[0].T)
    if loudness == "off":  # negative control: it is written as it is
        assert true_peak(decoded).max() > 1.01 * HIGHEST
    else:
        assert 0.7 * HIGHEST < true_peak(decoded).max() <= HIGHEST
    assert GenerationRequest.from_file(file).prompt == {}


def test_clipping_that_rounds_to_nothing_is_no_warning() -> None:
    audio = 0.5 * torch.ones(1, 100_000)
    audio[0, :4] = 1.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_playable(audio, RATE, "off").max() == 1
    audio[0, :6] = 1.1
    with pytest.warns(UserWarning, match=r"0\.01% of the generated samples exceed full scale"):
        make_playable(audio, RATE, "off")
