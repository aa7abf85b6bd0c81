"""Prompt adherence: rules of agreement, chance and upper bound; and the estimators, which are slow."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric
from codecdiff_eval.metrics.adherence import (
    MAJOR,
    MINOR,
    NOTHING,
    OCTAVES,
    SAMPLE_RATE,
    fit_instrument_probes,
    instrument_accuracy,
    key,
    key_agreement,
    key_estimator,
    key_mirex,
    key_of_chroma,
    mode,
    tempo,
    tempo_agreement,
    tempo_estimator,
    tempo_octave,
)
from codecdiff_eval.metrics.bootstrap import rate_interval
from codecdiff_eval.results import EmbeddingConfig, MetricResult, hash_of
from torch import Tensor

from codecdiff.conditioners import parse_key, parse_tempo

CONFIG = EmbeddingConfig({"name": "by ear"}, "", SAMPLE_RATE, None, None, None)


def estimated(values: Sequence[float], prompts: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> ClipEmbeddings:
    """Clips of which one number each was estimated."""
    names = names or [f"{i}" for i in range(len(values))]
    vectors = torch.tensor(values, dtype=torch.float64)[:, None]
    return ClipEmbeddings(
        CONFIG, names, [hash_of(n.encode()) for n in names], vectors, torch.ones(len(values)).long(), prompts
    )


def tempos(values: Sequence[float | None]) -> list[dict[str, Any]]:
    return [{} if value is None else {"tempo": value} for value in values]


def keys(values: Sequence[int | None]) -> list[dict[str, Any]]:
    names = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
    return [{} if v is None else {"key": names[v % 12], "mode": "minor" if v >= 12 else "major"} for v in values]


def test_tempos_agree_to_within_four_per_cent_and_with_octaves_up_to_threefold():
    asked = torch.full((8,), 100.0)
    read = torch.tensor([100.0, 104.0, 104.1, 95.9, 200.0, 34.0, 150.0, NOTHING])
    assert tempo_agreement(read, asked).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert tempo_agreement(read, asked, OCTAVES).tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


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
    assert parse_key(text) == number


def test_a_mode_given_apart_counts_unless_the_key_says_its_own():
    assert parse_key("Eb", "minor") == 15
    assert parse_key("Eb major", "minor") == 3
    for text in ("H", "", "C dorian", "major", "120"):
        with pytest.raises(ValueError, match=r"Invalid key \'.*\': expected e\.g\. "):
            parse_key(text)


def test_tempos_are_read_as_they_are_written():
    assert [parse_tempo(text) for text in (120, "98.5", "98 BPM", " 60bpm")] == [120, 98.5, 98, 60]
    for text in ("fast", "", "-3", "0", "nan"):
        with pytest.raises(ValueError, match=r"Invalid tempo \'.*\': expected beats"):
            parse_tempo(text)


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
    numbers = torch.tensor([parse_key(read)]).double(), torch.tensor([parse_key(asked)]).double()
    assert key_agreement(*numbers, rule="mirex").item() == pytest.approx(mirex)
    assert key_agreement(*numbers).item() == (read == asked)
    assert key_agreement(*numbers, rule="mode").item() == (("m" in read) == ("m" in asked))


def test_the_rules_of_keys_do_not_change_when_all_is_transposed():
    keys = torch.cartesian_prod(torch.arange(24.0), torch.arange(24.0))
    up = torch.where(keys >= 12, 12 + (keys + 5) % 12, (keys + 5) % 12)
    expected = key_agreement(keys[:, 0], keys[:, 1], "mirex")
    torch.testing.assert_close(key_agreement(up[:, 0], up[:, 1], "mirex"), expected)
    assert expected.sum() == pytest.approx(24 * (1 + 2 * 0.5 + 0.3 + 0.2))
    assert key_agreement(torch.tensor([NOTHING]), torch.tensor([3.0]), "mirex").item() == 0


def test_a_profile_is_recognised_as_its_own_key_whatever_its_loudness():
    for tonic in range(12):
        assert key_of_chroma(3 * torch.tensor(MAJOR).roll(tonic) + 1) == tonic
        assert key_of_chroma(torch.tensor(MINOR).roll(tonic)) == tonic + 12
    scale = torch.zeros(12)
    scale[[9, 11, 0, 2, 4, 5, 8]] = torch.tensor([3.0, 1, 1, 1, 2, 1, 1])
    assert key_of_chroma(scale) == parse_key("Am")


def test_a_tempo_metric_stands_between_chance_and_upper_bound():
    requested = [60.0 + 10 * (i % 10) for i in range(40)]
    clips = estimated([tempo if i % 4 else 2 * tempo for i, tempo in enumerate(requested)], tempos(requested))
    result = tempo(clips, estimated(requested, tempos(requested)), resamples=50)
    assert result.value == pytest.approx(0.75)
    assert result.chance is not None
    assert result.chance.value == pytest.approx(0.075, abs=0.04)  # one in ten, of those that were kept
    assert result.upper_bound is not None
    assert result.upper_bound.value == 1
    assert 0.5 < result.interval.low < 0.75 < result.interval.high <= 1
    assert result.per_clip["0"] == 0
    assert result.per_clip["1"] == 1
    assert tempo_octave(clips, resamples=50).value == 1
    assert result.warnings == ()


def test_a_track_counts_once_however_many_clips_are_cut_of_it():
    values = [60.0, 90.0] * 6
    names = [f"{i}" + (f"#t={k}.000" if k else "") for i in range(12) for k in range(3)]
    thrice = estimated([v for v in values for _ in range(3)], tempos([60.0] * 36), names)
    results = tempo(estimated(values, tempos([60.0] * 12))), tempo(thrice)
    assert results[0].value == results[1].value == 0.5
    assert results[0].interval == results[1].interval
    assert results[1].interval.over == "12 evaluated tracks"


def test_only_clips_whose_prompts_request_something_count():
    clips = estimated([0, 3, 3, 1, 3, 4], keys([None, 3, 15, None, 3, 4]))
    result = key_mirex(clips, resamples=10)
    assert result.config.num_clips == 4
    assert result.value == pytest.approx((1 + 0.2 + 1 + 1) / 4)
    assert list(result.per_clip) == ["1", "2", "4", "5"]
    assert key(clips, resamples=10).value == 0.75
    assert mode(clips, resamples=10).value == 0.75
    with pytest.raises(ValueError, match="6 clips have 5 prompts"):
        replace(clips, prompts=clips.prompts[1:])
    with pytest.raises(ValueError, match="Only 1 clips have a prompt that requests it"):
        key(estimated([0, 3], keys([None, 3])))


def test_a_metric_that_means_nothing_says_so():
    always = tempo(estimated([120.0] * 20, tempos([120.0] * 20)), resamples=10)
    assert always.value == 1
    assert always.warnings[0].startswith("Not above chance")
    exact = rate_interval(20, 20)  # all resamples are equal, which does not make the rate certain
    assert (always.interval.low, always.interval.high) == (exact.low, exact.high)
    assert exact.low == pytest.approx(0.832, abs=0.001)
    silent = estimated([NOTHING] * 20, tempos([60.0, 120.0] * 10))
    assert "does not exceed chance on real music" in tempo(silent, silent, resamples=10).warnings[1]


def band(n: int, seed: int, noise: float = 1.0, played: Sequence[Any] | None = None) -> ClipEmbeddings:
    """n clips of four windows: each instrument, present or not, moves a dimension of its own; prompts say which."""
    generator = torch.Generator().manual_seed(seed)
    plays = torch.rand(n, 3, generator=generator) < 0.5
    vectors = 3.0 * plays[:, None] + noise * torch.randn(n, 4, 3, generator=generator)
    names = [f"{seed}/{i}" for i in range(n)]
    truth = [[name for name, on in zip(("flute", "harp", "tuba"), row, strict=True) if on] for row in plays.tolist()]
    prompts = [{} if each is None else {"instruments": list(each)} for each in (played or truth)]
    hashes = [hash_of(name.encode()) for name in names]
    return ClipEmbeddings(CONFIG, names, hashes, vectors.flatten(0, 1).double(), torch.full((n,), 4), prompts)


def played_in(clips: ClipEmbeddings) -> list[Any]:
    return [dict(prompt)["instruments"] for prompt in clips.prompts if not isinstance(prompt, str)]


def measure_instruments(probes: dict, clips: ClipEmbeddings, real: ClipEmbeddings | None = None) -> MetricResult:
    metric = Metric("instruments", partial(instrument_accuracy, probes=probes), "higher", compares="prompts")
    return metric(clips, real, resamples=30)


def test_requested_instruments_are_found_and_others_are_not():
    probes = fit_instrument_probes(band(80, 0))
    assert list(probes) == ["flute", "harp", "tuba"]
    clips = band(40, 1)
    result = measure_instruments(probes, clips, band(40, 2))
    assert result.value > 0.95
    assert result.chance is not None
    assert result.chance.value == pytest.approx(0.5, abs=0.03)
    assert result.upper_bound is not None
    assert result.upper_bound.value > 0.95
    assert result.config.options["instruments"] == ["flute", "harp", "tuba"]
    elsewhere = measure_instruments(fit_instrument_probes(band(80, 4)), clips)
    assert [line.split(":")[0] for line in result.config.differences(elsewhere.config)] == ["options.probes"]
    wrong = measure_instruments(probes, band(40, 3, played=played_in(clips)))
    assert wrong.value == pytest.approx(0.5, abs=0.12)
    assert wrong.warnings[0].startswith("Not above chance")


def test_instruments_are_measured_by_balanced_accuracy_among_clips_that_request_some():
    probes = fit_instrument_probes(band(80, 0))
    played = played_in(band(30, 1, noise=0.1))
    clips = band(30, 1, noise=0.1, played=[None if i < 5 else {*played[i], "tuba"} for i in range(30)])
    result = measure_instruments(probes, clips)
    assert result.config.num_clips == 25
    assert result.value == 1  # tuba is requested of all, so it says nothing and is left out
    assert result.config.options["instruments"] == ["flute", "harp"]
    with pytest.raises(ValueError, match="requested of all clips or of none"):
        measure_instruments(probes, band(30, 1, played=[{"tuba"}] * 30))


def test_a_rare_instrument_has_no_probe():
    clips = band(80, 0)
    rare = [[*names, *(["oud"] if i < 3 else [])] for i, names in enumerate(played_in(clips))]
    assert "oud" not in fit_instrument_probes(band(80, 0, played=rare))
    with pytest.raises(ValueError, match=r"at least 8 clips .* 8 that do not, .* among these 80 clips\. .* 32 or more"):
        fit_instrument_probes(band(80, 0, played=[{"voice"}] * 80))
    with pytest.raises(ValueError, match="no common grid"):
        fit_instrument_probes(replace(clips, lengths=torch.tensor([3, 5] * 40)))


def test_without_librosa_its_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"pip install 'codecdiff-eval\[adherence\]'"):
        tempo_estimator()


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
    assert tempo_estimator().estimate(clicks) == pytest.approx(bpm, rel=0.02)


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
    assert key_estimator().estimate(audio) == parse_key(key)


@pytest.mark.slow
def test_silence_has_no_tempo_and_no_key_and_an_estimator_says_what_it_is():
    pytest.importorskip("librosa")
    clips = [("silent", torch.zeros(SAMPLE_RATE)), ("chord", chord([60, 64, 67], 3.0))]
    found = {}
    for estimator in (tempo_estimator(), key_estimator()):
        config = EmbeddingConfig.of(estimator, estimator.description, clip_seconds=3.0)
        found[config.embedder["name"]] = ClipEmbeddings.embed(estimator, config, clips)
    tempos, keys = found["librosa-tempo"], found["librosa-key"]
    assert float(tempos.vectors[0]) == float(keys.vectors[0]) == NOTHING
    assert float(keys.vectors[1]) == parse_key("C")
    assert list(tempos.names) == ["silent", "chord"]
    assert tempos.config.embedder["librosa"]
    assert (tempos.config.sample_rate, tempos.config.clip_seconds) == (22_050, 3.0)
