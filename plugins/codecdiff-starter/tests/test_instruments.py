import json

import numpy as np
import pytest
from codecdiff_starter.instruments import SAMPLE_RATE, SOUNDS, TONES, Strike, bundle, drum_names, note, play
from codecdiff_starter.loudness import limited, loudness


def cents(audio, pitch):
    """How far a tone lies from a MIDI pitch, in cents: the mean of its harmonics' frequencies by their power."""
    size = 2**18
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), size)) ** 2
    bins = np.arange(1, len(power))
    semitones = 12 * np.log2(bins * SAMPLE_RATE / size / 440) + 69
    total = weighted = 0.0
    for harmonic in (1, 2, 3, 4):
        away = semitones - pitch - 12 * np.log2(harmonic)
        near = (np.abs(away) < 0.7) & (bins * SAMPLE_RATE / size < 6000)
        strong = np.where(near, power[1:], 0)
        strong = np.where(strong > 0.1 * strong.max(), strong, 0)
        total += strong.sum()
        weighted += (strong * away).sum()
    return 100 * weighted / total


@pytest.mark.parametrize("name", TONES)
def test_instruments_are_in_tune_across_their_range(name):
    tone = TONES[name]
    errors = [cents(note(name, pitch, 1.0)[2000:44000], pitch) for pitch in range(tone.low, tone.high + 1, 3)]
    assert np.abs(errors).max() < 5


@pytest.mark.parametrize("name", TONES)
@pytest.mark.parametrize("seconds", [0.02, 0.6, 5.0])
def test_notes_begin_and_end_in_silence_without_clicks(name, seconds):
    tone = TONES[name]
    for pitch in (tone.low, (tone.low + tone.high) // 2, tone.high):
        audio = note(name, pitch, seconds, 0.8)
        assert audio.dtype == np.float32
        assert len(audio) == pytest.approx((seconds + tone.release) * SAMPLE_RATE, abs=1)
        assert np.abs(audio[[0, -1]]).max() < 0.01 * np.abs(audio).max()
        held = note(name, pitch, seconds + 1, 0.8)[: len(audio)]
        steps, unbroken = np.abs(np.diff(audio, 2)), np.abs(np.diff(held, 2))
        released = round(seconds * SAMPLE_RATE)
        assert steps[released:].max() <= 1.01 * unbroken[max(0, released - 400) :].max()


@pytest.mark.parametrize("name", TONES)
def test_loops_are_seamless(name):
    for sample in bundle()[0][name]:
        seam = np.concatenate([sample.audio[-400:], sample.audio[sample.loop : sample.loop + 400]])
        steps = np.abs(np.diff(seam, 3))
        inside = np.abs(np.diff(sample.audio[sample.loop :], 3))
        assert steps[380:420].max() <= 1.5 * inside.max()


def test_long_notes_of_strings_go_on_and_those_of_a_piano_fade():
    held, struck = (note(name, 67, 6.0) for name in ("strings", "piano"))
    for audio, least, most in ((held, 0.5, 2.0), (struck, 0.0, 0.2)):
        parts = [np.sqrt(np.mean(audio[i * SAMPLE_RATE : (i + 1) * SAMPLE_RATE] ** 2)) for i in (1, 5)]
        assert least < parts[1] / parts[0] < most


def test_soft_notes_are_quieter_and_darker():
    for name in ("piano", "trumpet", "snare"):
        loud, soft = (note(name, 67, 0.5, velocity) for velocity in (1.0, 0.3))
        assert loudness(loud) > loudness(soft) + 6
        frequency = np.fft.rfftfreq(len(loud))
        centers = [np.average(frequency, weights=np.abs(np.fft.rfft(audio))) for audio in (loud, soft)]
        assert centers[0] > 1.05 * centers[1]


def test_notes_add_up_and_equal_ones_are_equal():
    one, two = Strike("flute", 74, 0.1, 0.3, 0.8), Strike("snare", 0, 0.25, 0.1, 0.6)
    apart = play([one], 1.0) + play([two], 1.0)
    np.testing.assert_allclose(play([one, two], 1.0), apart, atol=1e-6)
    assert np.array_equal(play([one, two], 1.0), play([one, two], 1.0))
    shifted = play([one._replace(start=0.2)], 1.0)
    np.testing.assert_allclose(shifted[4410:], play([one], 1.0)[:-4410], atol=1e-6)


def test_pitches_and_instruments_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="The flute has the MIDI pitches 60 to 91, not 40"):
        note("flute", 40, 1.0)
    with pytest.raises(LookupError, match=r"No instrument 'kazoo'\. There are: piano, .*snare"):
        note("kazoo", 60, 1.0)


def test_the_bundle_is_small_and_has_the_license_of_its_samples():
    license_ = (SOUNDS / "LICENSE.txt").read_text(encoding="utf-8")
    assert "Frank Wen" in license_
    assert "Permission is hereby granted, free of charge" in license_
    assert sum(file.stat().st_size for file in SOUNDS.iterdir()) < 1_000_000
    table = json.loads((SOUNDS / "instruments.json").read_text(encoding="utf-8"))
    assert set(table["instruments"]) == set(TONES)
    assert tuple(table["drums"]) == drum_names()


def test_loudness_is_that_of_the_standard():
    t = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    assert loudness(np.sin(2 * np.pi * 997 * t).astype(np.float32)) == pytest.approx(-3.01, abs=0.02)
    assert loudness(np.zeros(100, np.float32)) < -100


def test_the_limiter_keeps_what_is_below_the_ceiling():
    rng = np.random.default_rng(0)
    audio = (0.2 * rng.standard_normal(SAMPLE_RATE)).astype(np.float32)
    audio[20_000] = 3.0
    out = limited(audio, 0.84)
    assert np.abs(out).max() <= 0.8401
    loud = np.flatnonzero(np.abs(audio) > 0.84)
    far = np.abs(np.arange(len(audio))[:, None] - loud).min(axis=1) > 500
    assert far.mean() > 0.5
    np.testing.assert_allclose(out[far], audio[far], rtol=1e-6)
