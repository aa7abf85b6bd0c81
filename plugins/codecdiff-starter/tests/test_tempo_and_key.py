"""Tempo, meter and key of a prompt, as a denoiser reads them."""

import warnings
from typing import Any

import pytest
import torch
from codecdiff_starter.composer import CLASSES, captions, random_facts, score
from codecdiff_starter.tempo_and_key import TempoAndKey, stated_tempo

from codecdiff.conditioners import requested_key
from codecdiff.rng import numpy_generator
from codecdiff.testing import check_conditioner

BEAT = 3  # place of the wave that goes around once in a beat


def waves(prompt: Any) -> torch.Tensor:
    """Return frequencies, phases and amplitudes (3, 7)."""
    return TempoAndKey().encode([prompt])["beat"].tokens[0, 0].reshape(3, -1)


def test_it_passes_the_checks_of_conditioners() -> None:
    check_conditioner(TempoAndKey(usual_bpm=100.0))
    check_conditioner(TempoAndKey(), ["piano, 90 bpm", {"text": "a waltz in G major", "bpm": 90}, {"key": "A minor"}])


@pytest.mark.parametrize(
    ("prompt", "tempo"),
    [
        ("piano, 92 bpm", 92),
        ("a slow tune at 140.5 BPM", 140.5),
        ("Fast guitar", 135),
        ("an adagio for strings", 60),
        ("flute", 90),
        ({"text": "slow", "bpm": "120"}, 120),
        ({"bpm": 77}, 77),
        ("", None),
        ({"key": "C", "mode": "major"}, None),
    ],
)
def test_the_tempo_that_a_prompt_states(prompt: Any, tempo: float | None) -> None:
    assert stated_tempo(prompt, usual_bpm=90) == tempo


def test_words_are_no_tempo_unless_there_is_a_usual_one() -> None:
    prompts = ["a fast tune", "a fast tune, 90 bpm"]
    assert [stated_tempo(prompt) for prompt in prompts] == [None, 90]
    assert TempoAndKey().encode(prompts)["beat"].mask.tolist() == [[False], [True]]
    assert TempoAndKey(usual_bpm=100).encode(prompts)["beat"].mask.tolist() == [[True], [True]]
    with pytest.raises(ValueError, match="usual_bpm=0"):
        TempoAndKey(usual_bpm=0)


@pytest.mark.parametrize(
    ("prompt", "tonic", "mode"),
    [
        ("a tune in C# major", 1, 0),
        ("D flat minor, slow", 1, 1),
        ({"text": "in C major", "key": "G", "mode": "minor"}, 7, 1),
        ({"key": "Bbm"}, 10, 1),
    ],
)
def test_a_key_is_a_tonic_and_a_mode(prompt: Any, tonic: int, mode: int) -> None:
    features = TempoAndKey().encode([prompt])["key"].tokens[0, 0]
    assert (features[:12].argmax(), features[12:].argmax()) == (tonic, mode)
    assert features.count_nonzero() == 2
    assert features.square().mean() == pytest.approx(1)


@pytest.mark.parametrize("prompt", ["piano", "a major success", {"key": ""}, {"mode": "minor"}])
def test_no_key_is_absent(prompt: Any) -> None:
    assert not TempoAndKey().encode([prompt])["key"].mask.any()


@pytest.mark.parametrize("index", range(20))
def test_captions_of_the_composer_are_understood(index: int) -> None:
    rng = numpy_generator("test", index)
    facts = random_facts(rng)
    for caption in captions(facts, rng):
        if " bpm" in caption:
            assert stated_tempo(caption) == facts.bpm
        if (key := requested_key(caption)) is not None:
            assert (CLASSES["key"][key % 12], CLASSES["mode"][key // 12]) == (facts.key, facts.mode)
        assert (key is not None) == (facts.mode in caption)


def test_waves_turn_with_the_beats_of_the_score() -> None:
    facts = random_facts(numpy_generator("test", 3))
    written = score(facts, 0, 30.0)
    frequency, phase, amplitude = waves({"bpm": facts.bpm, "meter": facts.meter})[:, BEAT]
    turns = frequency.double() * torch.tensor(written.beats, dtype=torch.float64) + phase
    torch.testing.assert_close(turns, turns.round(), atol=1e-4, rtol=0)
    bars = waves({"bpm": facts.bpm, "meter": facts.meter})[0, 2].double() * torch.tensor(written.bars).double()
    torch.testing.assert_close(bars, torch.arange(len(bars), dtype=torch.float64), atol=1e-4, rtol=0)
    assert amplitude == 1


def test_a_clip_from_the_middle_continues_the_beats() -> None:
    whole, later = waves({"bpm": 100, "meter": "3/4"}), waves({"bpm": 100, "meter": "3/4", "start": 7.3})
    assert torch.equal(whole[0], later[0])
    torch.testing.assert_close(later[1], torch.frac(whole[0] * 7.3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", ["a waltz, 90 bpm", "triple time, 90 bpm", {"bpm": 90, "meter": "3/4"}])
def test_bars_of_three_beats(prompt: Any) -> None:
    frequencies = waves(prompt)[0]
    assert torch.allclose(frequencies[BEAT] / frequencies[2], torch.tensor(3.0))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"bpm": 90, "start": "soon"}, "start='soon'"),
        ({"bpm": "quick"}, "Invalid tempo 'quick': expected beats per minute"),
        ({"bpm": 0}, "Invalid tempo '0'"),
        ({"text": "in C major", "key": "H"}, "Invalid key 'H': expected e.g. 'C# minor'"),
        ({"key": "D", "mode": "dorian"}, "Invalid mode 'dorian': expected major or minor"),
    ],
)
def test_a_field_that_is_no_tempo_or_key_is_refused_before_training(prompt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TempoAndKey().prepare([prompt])


@pytest.mark.parametrize(("name", "value"), [("meter", "7/8"), ("tempo", "lively"), ("mode", "minor")])
def test_a_field_that_changes_nothing_gets_a_note(name: str, value: str) -> None:
    with pytest.warns(UserWarning, match=rf"^{name}={value}: expected "):
        TempoAndKey().encode([{"text": "a tune", name: value}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TempoAndKey().encode([{"text": "", "meter": "3/4", "bpm": 90, "tempo": "slow", "key": "C", "mode": "minor"}])
