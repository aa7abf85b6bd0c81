"""What clips are like as signals, against sounds whose figures are known; and what a codec does to them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import load_metric
from codecdiff_eval.metrics import codec_quality as quality
from codecdiff_eval.metrics.adherence import NOTHING, SAMPLE_RATE
from codecdiff_eval.metrics.signal import (
    full_scale_estimator,
    pulse_strength,
    touches_full_scale,
    tuning_error_cents,
    tuning_estimator,
)
from codecdiff_eval.results import EmbeddingConfig, hash_of
from torch import Tensor


def sine(hertz: float, seconds: float = 2.0, rate: int = SAMPLE_RATE) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def white(seconds: float = 4.0, rate: int = SAMPLE_RATE) -> Tensor:
    return 0.1 * torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(0))


def test_a_pulse_is_one_for_onsets_that_repeat_and_near_zero_for_noise():
    every_half_second = (torch.arange(600) % 50 == 0).double()  # at 100 frames a second
    assert pulse_strength(every_half_second, 100) == pytest.approx(1, abs=0.01)
    noise = torch.rand(600, generator=torch.Generator().manual_seed(1))
    assert pulse_strength(noise, 100) < 0.2
    assert pulse_strength(torch.ones(600), 100) == 0
    jittered = every_half_second.roll(0) + 0.5 * noise.double()
    assert pulse_strength(noise, 100) < pulse_strength(jittered, 100) < 1


@pytest.mark.parametrize("cents", [-40, -3, 0, 8, 25])
def test_the_tuning_error_of_a_mistuned_tone_is_how_far_it_is_mistuned(cents: int):
    assert tuning_error_cents(sine(440 * 2 ** ((300 + cents) / 1200)), SAMPLE_RATE) == pytest.approx(
        abs(cents), abs=0.5
    )


def test_louder_partials_count_more_for_the_tuning_error():
    tuned, off = sine(440), sine(880 * 2 ** (30 / 1200))
    assert tuning_error_cents(tuned + 0.1 * off, SAMPLE_RATE) == pytest.approx(0, abs=0.5)
    assert tuning_error_cents(0.1 * tuned + off, SAMPLE_RATE) == pytest.approx(30, abs=0.5)


def test_noise_is_as_far_from_the_grid_as_chance_and_silence_says_nothing():
    assert tuning_error_cents(white(), SAMPLE_RATE) == pytest.approx(25, abs=3)
    assert tuning_estimator().embed(torch.zeros(1, SAMPLE_RATE)).item() == NOTHING


def test_a_clip_touches_full_scale_if_one_sample_does():
    quiet, loud = sine(440), sine(440)
    loud[7] = -1
    assert not touches_full_scale(quiet)
    assert touches_full_scale(loud)
    assert not touches_full_scale(0.99 * loud)
    assert full_scale_estimator().embed(torch.stack([quiet, loud])).flatten().tolist() == [0, 1]


def estimated(values: list[float], name: str) -> ClipEmbeddings:
    names = [f"{name}{i}" for i in range(len(values))]
    config = EmbeddingConfig({"name": "by ear"}, "", SAMPLE_RATE, None, None, None)
    vectors, lengths = torch.tensor(values)[:, None], torch.ones(len(values)).long()
    return ClipEmbeddings(config, names, [hash_of(n.encode()) for n in names], vectors, lengths)


def test_a_metric_of_clips_alone_is_their_mean_beside_that_of_the_reference():
    metric = load_metric("tuning-error")
    result = metric(estimated([4, 6, NOTHING, 8], "a"), estimated([1, 3], "b"))
    assert (result.value, result.direction, result.config.num_clips) == (6, "lower", 3)
    assert list(result.per_clip.values()) == [4, 6, 8]
    assert result.upper_bound is not None
    assert result.upper_bound.value == 2
    assert result.config.reference == ""
    assert metric(estimated([4, 6], "a")).upper_bound is None
    with pytest.raises(ValueError, match="All clips are silent"):
        metric(estimated([NOTHING], "a"))


def test_a_mel_distance_is_the_gain_in_decibels_and_zero_for_equals():
    audio = white(rate=44_100)
    assert quality.mel_distance(audio, audio, 44_100) == 0
    assert quality.mel_distance(audio, audio / 2, 44_100) == pytest.approx(20 * math.log10(2), abs=0.2)


def test_the_stft_distance_of_a_gain_is_known():
    """Spectral convergence of half the amplitude is 1/2, and the logarithms differ by log 2."""
    audio = white(1.0, 44_100)
    assert quality.stft_distance(audio, audio, 44_100) == 0
    assert quality.stft_distance(audio, audio / 2, 44_100) == pytest.approx(0.5 + math.log(2), rel=1e-3)


@pytest.mark.parametrize(
    ("expected", "found", "f1"),
    [
        ([1, 2, 3], [1, 2, 3], 1),
        ([1, 2, 3], [1.04, 2.06, 3], 2 / 3),
        ([1, 2], [], 0),
        ([], [], 1),
        ([1.0], [0.97, 1.01], 2 / 3),
        ([1.0, 1.04], [0.99, 1.0, 1.05], 4 / 5),
    ],
)
def test_events_are_matched_once_within_the_tolerance(expected: list[float], found: list[float], f1: float):
    assert quality.event_f1(expected, found, 0.05) == pytest.approx(f1)


def test_events_match_as_in_an_exhaustive_search():
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = (sorted(random.uniform(0, 1, random.integers(0, 7))) for _ in range(2))

        def most(i: int, used: frozenset[int], a: Any = a, b: Any = b) -> int:
            if i == len(a):
                return 0
            options = [j for j in range(len(b)) if j not in used and abs(a[i] - b[j]) <= 0.1]
            return max([most(i + 1, used), *(1 + most(i + 1, used | {j}) for j in options)])

        total = len(a) + len(b)
        assert quality.event_f1(a, b, 0.1) == pytest.approx(2 * most(0, frozenset()) / total if total else 1)


def test_a_codec_that_loses_nothing_is_perfect_and_silent_pairs_count_for_nothing():
    music = [sine(440, 1.0, 44_100) + white(1.0, 44_100), sine(330, 1.0, 44_100)]
    pairs = [*((each, each.clone()) for each in music), (torch.zeros(44_100), torch.zeros(44_100))]
    simple = {"mel distance, dB": 0, "added tuning error, cents": 0, "added clips at full scale": 0}
    kept = {name: quality.METRICS[name] for name in simple}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "METRICS", kept)
        results = quality.codec_quality(pairs, 44_100)
    assert {result.name: result.value for result in results} == simple


def test_metrics_of_packages_that_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    audio = sine(440, 1.0, 44_100)
    names = [result.name for result in quality.codec_quality([(audio, audio)], 44_100)]
    assert names == list(quality.METRICS)[:4]


@pytest.mark.slow
def test_visqol_hears_noise():
    pytest.importorskip("visqol")
    music = sum(sine(f, 3.0, 44_100) for f in (220, 277, 330))
    assert isinstance(music, Tensor)
    best, worse = (quality.visqol_score(music, music + level * white(3.0, 44_100), 44_100) for level in (0, 1.0))
    assert best > 4.5 > worse >= 1
