"""Whether music keeps to what was asked: rules of agreement, chance and ceiling; and the readers, which are slow."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codecdiff.adherence import (
    MAJOR,
    MINOR,
    SAMPLE_RATE,
    Reading,
    estimate_key,
    estimate_tempo,
    fit_instruments,
    instrument_score,
    key_agreement,
    key_number,
    key_of_chroma,
    key_score,
    read_keys,
    read_tempos,
    tempo_agreement,
    tempo_number,
    tempo_score,
)
from codecdiff.embedded import Embedded
from codecdiff.protocols import Hearing, digest_of

HEARING = Hearing({"name": "by ear"}, "", SAMPLE_RATE, None, None, None)


def heard(values: list[float]) -> Reading:
    names = [f"{i}" for i in range(len(values))]
    return Reading(HEARING, names, torch.tensor(values, dtype=torch.float64), names)


def test_tempos_agree_to_within_four_per_cent_and_with_octaves_up_to_threefold():
    asked = torch.full((8,), 100.0)
    read = torch.tensor([100.0, 104.0, 104.1, 95.9, 200.0, 34.0, 150.0, math.nan])
    assert tempo_agreement(read, asked).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert tempo_agreement(read, asked, octaves=True).tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("C", 0),
        ("c# minor", 13),
        ("Dbm", 13),
        ("B♭ major", 10),
        ("E flat", 3),
        ("F-sharp min", 18),
        ("Am", 21),
        ("G maj", 7),
        ("Cb", 11),
        ("b", 11),
        ("CM", 0),
        ("B sharp", 0),
    ],
)
def test_keys_are_read_as_musicians_write_them(text: str, number: int):
    assert key_number(text) == number


def test_a_mode_given_apart_counts_unless_the_key_says_its_own():
    assert key_number("Eb", "minor") == 15
    assert key_number("Eb major", "minor") == 3
    for text in ("H", "", "C dorian", "major", "120"):
        with pytest.raises(ValueError, match=r"is no key\. Say it as"):
            key_number(text)


def test_tempos_are_read_as_they_are_written():
    assert [tempo_number(text) for text in (120, "98.5", "98 BPM", " 60bpm")] == [120, 98.5, 98, 60]
    for text in ("fast", "", "-3", "0", "nan"):
        with pytest.raises(ValueError, match=r"is no tempo\. Say it in beats"):
            tempo_number(text)


@pytest.mark.parametrize(
    ("read", "asked", "mirex"),
    [
        ("C", "C", 1.0),
        ("G", "C", 0.5),
        ("F", "C", 0.5),
        ("Em", "Am", 0.5),
        ("Am", "C", 0.3),
        ("C", "Am", 0.3),
        ("Cm", "C", 0.2),
        ("A", "Am", 0.2),
        ("Em", "C", 0.0),
        ("D", "C", 0.0),
        ("Gm", "C", 0.0),
    ],
)
def test_keys_agree_by_the_rules_of_mirex(read: str, asked: str, mirex: float):
    numbers = torch.tensor([key_number(read)]).double(), torch.tensor([key_number(asked)]).double()
    assert key_agreement(*numbers, rule="mirex").item() == pytest.approx(mirex)
    assert key_agreement(*numbers).item() == (read == asked)
    assert key_agreement(*numbers, rule="mode").item() == (("m" in read) == ("m" in asked))


def test_the_rules_of_keys_do_not_change_when_all_is_transposed():
    keys = torch.cartesian_prod(torch.arange(24.0), torch.arange(24.0))
    up = torch.where(keys >= 12, 12 + (keys + 5) % 12, (keys + 5) % 12)
    expected = key_agreement(keys[:, 0], keys[:, 1], "mirex")
    torch.testing.assert_close(key_agreement(up[:, 0], up[:, 1], "mirex"), expected)
    assert expected.sum() == pytest.approx(24 * (1 + 2 * 0.5 + 0.3 + 0.2))
    assert key_agreement(torch.tensor([math.nan]), torch.tensor([3.0]), "mirex").item() == 0


def test_a_profile_is_recognised_as_its_own_key_whatever_its_loudness():
    for tonic in range(12):
        assert key_of_chroma(3 * torch.tensor(MAJOR).roll(tonic) + 1) == tonic
        assert key_of_chroma(torch.tensor(MINOR).roll(tonic)) == tonic + 12
    scale = torch.zeros(12)
    scale[[9, 11, 0, 2, 4, 5, 8]] = torch.tensor([3.0, 1, 1, 1, 2, 1, 1])
    assert key_of_chroma(scale) == key_number("Am")


def test_a_score_of_tempo_stands_between_chance_and_ceiling():
    asked: list[float | None] = [60.0 + 10 * (i % 10) for i in range(40)]
    read = [float(a or 0) if i % 4 else 2 * float(a or 0) for i, a in enumerate(asked)]
    ceiling = heard([float(a or 0) for a in asked])
    score = tempo_score(heard(read), asked, ceiling=(ceiling, asked), resamples=50)
    assert score.value == pytest.approx(0.75)
    assert score.chance is not None
    assert score.chance.value == pytest.approx(0.075, abs=0.04)  # one in ten, of those that were kept
    assert score.ceiling is not None
    assert score.ceiling.value == 1
    assert 0.5 < score.interval.low < 0.75 < score.interval.high <= 1
    assert score.per_clip["0"] == 0
    assert score.per_clip["1"] == 1
    assert tempo_score(heard(read), asked, octaves=True, resamples=50).value == 1
    assert score.warnings == ()


def test_a_recording_counts_once_however_many_clips_are_cut_of_it():
    read, asked = [60.0, 90.0] * 6, [60.0] * 12
    once = heard(read)
    names = [f"{i}" + (f"#t={k}.000" if k else "") for i in range(12) for k in range(3)]
    thrice = Reading(HEARING, names, once.values.repeat_interleave(3), names)
    scores = tempo_score(once, asked), tempo_score(thrice, [60.0] * 36)
    assert scores[0].value == scores[1].value == 0.5
    assert scores[0].interval == scores[1].interval
    assert scores[1].interval.over == "12 judged recordings"


def test_only_clips_of_which_something_was_asked_count():
    asked: list[int | None] = [None, 3, 15, None, 3, 4]
    score = key_score(heard([0, 3, 3, 1, 3, 4]), asked, rule="mirex", resamples=10)
    assert score.protocol.clips == 4
    assert score.value == pytest.approx((1 + 0.2 + 1 + 1) / 4)
    assert list(score.per_clip) == ["1", "2", "4", "5"]
    assert key_score(heard([0, 3, 3, 1, 3, 4]), asked, resamples=10).value == 0.75
    assert key_score(heard([0, 3, 3, 1, 3, 4]), asked, rule="mode", resamples=10).value == 0.75
    with pytest.raises(ValueError, match="facts of 5 were asked for"):
        key_score(heard([0, 3, 3, 1, 3, 4]), asked[1:])
    with pytest.raises(ValueError, match="Only 1 clips have a fact"):
        key_score(heard([0, 3]), [None, 3])


def test_a_score_that_tells_nothing_says_so():
    asked: list[float | None] = [120.0] * 20
    always = tempo_score(heard([120.0] * 20), asked, resamples=10)
    assert always.value == 1
    assert always.warnings[0].startswith("No better than chance")
    varied: list[float | None] = [60.0, 120.0] * 10
    deaf = heard([math.nan] * 20)
    assert "tells nothing here" in tempo_score(deaf, varied, ceiling=(deaf, varied), resamples=10).warnings[1]


def band(n: int, seed: int, noise: float = 1.0) -> tuple[Embedded, list[set[str]]]:
    """n clips of four windows: each instrument, present or not, moves a dimension of its own."""
    generator = torch.Generator().manual_seed(seed)
    plays = torch.rand(n, 3, generator=generator) < 0.5
    vectors = 3.0 * plays[:, None] + noise * torch.randn(n, 4, 3, generator=generator)
    names = [f"{seed}/{i}" for i in range(n)]
    digests = [digest_of(name.encode()) for name in names]
    made = Embedded(HEARING, names, digests, vectors.flatten(0, 1).double(), torch.full((n,), 4), names)
    return made, [
        {name for name, on in zip(("flute", "harp", "tuba"), row, strict=True) if on} for row in plays.tolist()
    ]


def test_instruments_asked_for_are_found_and_others_are_not():
    lessons, played = band(80, 0)
    probes = fit_instruments(lessons, played)
    assert list(probes) == ["flute", "harp", "tuba"]
    judged, asked = band(40, 1)
    score = instrument_score(probes, judged, asked, ceiling=band(40, 2), resamples=30)
    assert score.value > 0.95
    assert score.chance is not None
    assert score.chance.value == pytest.approx(0.5, abs=0.03)
    assert score.ceiling is not None
    assert score.ceiling.value > 0.95
    assert score.protocol.options["instruments"] == ["flute", "harp", "tuba"]
    elsewhere = instrument_score(fit_instruments(*band(80, 4)), judged, asked, resamples=30)
    assert [line.split(":")[0] for line in score.protocol.differences(elsewhere.protocol)] == ["options.probes"]
    wrong = instrument_score(probes, band(40, 3)[0], asked, resamples=30)
    assert wrong.value == pytest.approx(0.5, abs=0.12)
    assert wrong.warnings[0].startswith("No better than chance")


def test_an_instrument_is_judged_by_balanced_accuracy_among_clips_of_which_something_was_asked():
    probes = fit_instruments(*band(80, 0))
    judged, played = band(30, 1, noise=0.1)
    asked = [None if i < 5 else {*played[i], "tuba"} for i in range(30)]
    score = instrument_score(probes, judged, asked, resamples=10)
    assert score.protocol.clips == 25
    assert score.value == 1  # tuba was asked of all, so that it tells nothing and is left out
    assert score.protocol.options["instruments"] == ["flute", "harp"]
    with pytest.raises(ValueError, match="asked of all clips or of none"):
        instrument_score(probes, judged, [{"tuba"}] * 30)


def test_a_rare_instrument_has_no_probe():
    lessons, played = band(80, 0)
    rare = [{*names, *(["oud"] if i < 3 else [])} for i, names in enumerate(played)]
    assert "oud" not in fit_instruments(lessons, rare)
    with pytest.raises(ValueError, match="No instrument is played in at least 8 of 80"):
        fit_instruments(lessons, [{"voice"}] * 80)
    with pytest.raises(ValueError, match="no common grid"):
        fit_instruments(replace(lessons, lengths=torch.tensor([3, 5] * 40)), played)


def test_without_librosa_its_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"pip install 'codecdiff\[adherence\]'"):
        read_tempos([("a", torch.zeros(10))])


def chord(midi: list[int], seconds: float) -> Tensor:
    times = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = [torch.sin(2 * torch.pi * 440 * 2 ** ((m - 69) / 12) * times * h) / h for m in midi for h in (1, 2, 3)]
    return 0.1 * torch.stack(tones).sum(0)


@pytest.mark.slow  # librosa compiles for half a minute when it is first used
@pytest.mark.parametrize("bpm", [72, 97, 120, 143])
def test_the_tempo_of_clicks_is_found(bpm: int):
    pytest.importorskip("librosa")
    clicks = torch.zeros(10 * SAMPLE_RATE)
    burst = torch.hann_window(400) * torch.randn(400, generator=torch.Generator().manual_seed(0))
    for beat in range(int(10 * bpm / 60)):
        start = round(beat * 60 / bpm * SAMPLE_RATE)
        clicks[start : start + 400] += burst[: len(clicks) - start]
    assert estimate_tempo(clicks) == pytest.approx(bpm, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chords", "key"),
    [
        ([[60, 64, 67], [65, 69, 72], [67, 71, 74], [60, 64, 67]], "C"),
        ([[57, 60, 64], [62, 65, 69], [64, 68, 71], [57, 60, 64]], "Am"),
        ([[63, 67, 70], [68, 72, 75], [70, 74, 77], [63, 67, 70]], "Eb"),
    ],
)
def test_the_key_of_a_cadence_is_found(chords: list[list[int]], key: str):
    pytest.importorskip("librosa")
    audio = torch.cat([chord(notes, 1.5) for notes in chords])
    assert estimate_key(audio) == key_number(key)


@pytest.mark.slow
def test_silence_has_no_tempo_and_no_key_and_a_reading_says_who_heard():
    pytest.importorskip("librosa")
    clips = [("silent", torch.zeros(SAMPLE_RATE)), ("chord", chord([60, 64, 67], 3.0))]
    tempos, keys = read_tempos(clips, clip_seconds=3.0), read_keys(clips)
    assert math.isnan(tempos.values[0])
    assert math.isnan(keys.values[0])
    assert keys.values[1] == key_number("C")
    assert tempos.names == ["silent", "chord"]
    assert tempos.hearing.embedder["name"] == "librosa-tempo"
    assert tempos.hearing.embedder["librosa"]
    assert (tempos.hearing.sample_rate, tempos.hearing.clip_seconds) == (22_050, 3.0)
