import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
import soundfile
from codecdiff_starter.composer import (
    CLASSES,
    SAMPLE_RATE,
    Facts,
    captions,
    compose,
    harmony,
    held_out,
    held_out_facts,
    melody,
    random_facts,
    stems,
    training_facts,
    write_dataset,
)
from codecdiff_starter.facts import BPM, PARTS
from codecdiff_starter.instruments import INSTRUMENTS, damped, steady, times
from scipy.signal import butter, sosfilt

FULL = Facts(
    lead="flute",
    accompaniment="pad",
    bass="plucked",
    drums="kit",
    tempo="medium",
    bpm=104,
    meter="4/4",
    key="G",
    mode="major",
    dynamics="loud",
)
PIECES = [random_facts(np.random.default_rng([5, i])) for i in range(6)]


def rms(audio):
    return np.sqrt(np.mean(np.square(audio, dtype=np.float64)))


@pytest.mark.parametrize("facts", PIECES[:3])
def test_a_piece_is_a_function_of_facts_and_seed(facts):
    assert np.array_equal(compose(facts, 3, 2.0), compose(facts, 3, 2.0))
    assert not np.allclose(compose(facts, 3, 2.0), compose(facts, 4, 2.0), atol=1e-3)


@pytest.mark.parametrize("facts", PIECES)
def test_audio_is_finite_unclipped_and_without_offset(facts):
    audio = compose(facts, 0, 4.0)
    assert audio.dtype == np.float32
    assert audio.shape == (round(4.0 * SAMPLE_RATE),)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() < 0.99
    assert abs(audio.mean()) < 0.003 * rms(audio)
    assert audio[-1] == 0


@pytest.mark.parametrize("seconds", [1 / SAMPLE_RATE, 0.01, 0.7])
def test_the_shortest_pieces_are_pieces(seconds):
    audio = compose(FULL, 0, seconds)
    assert len(audio) == round(seconds * SAMPLE_RATE)
    assert np.isfinite(audio).all()


@pytest.mark.parametrize("facts", [FULL, *PIECES])
def test_every_stated_part_is_heard_throughout(facts):
    parts = stems(facts, 0, 12.0)
    assert set(parts) == {part for part in PARTS if getattr(facts, part) != "none"}
    for audio in parts.values():
        windows = audio.reshape(6, -1)
        assert min(map(rms, windows)) > 0.3 * rms(audio)
        assert rms(audio[: SAMPLE_RATE // 2]) > 0.3 * rms(audio)
        assert rms(audio) > 0.2 * max(map(rms, parts.values()))


def test_a_part_does_not_depend_on_the_others():
    alone = dataclasses.replace(FULL, lead="piano", bass="none", drums="none")
    assert np.array_equal(stems(FULL, 0, 3.0)["accompaniment"], stems(alone, 0, 3.0)["accompaniment"])


CLAIMS = {  # what a reader takes from a caption: (pattern, fact, classes for which it is true)
    r"piano": ("lead", ["piano"]),
    r"flute": ("lead", ["flute"]),
    r"strings": ("lead", ["strings"]),
    r"guitar": ("lead", ["guitar"]),
    r"\bpad\b": ("accompaniment", ["pad"]),
    r"arpeggio": ("accompaniment", ["arpeggio"]),
    r"(plucked|upright) bass": ("bass", ["plucked"]),
    r"synth bass": ("bass", ["synth"]),
    r"brush": ("drums", ["brushes"]),
    r"kit|kick": ("drums", ["kit"]),
    r"\bdrums\b": ("drums", ["kit", "brushes"]),
    r"slow": ("tempo", ["slow"]),
    r"medium|moderate": ("tempo", ["medium"]),
    r"fast|quick": ("tempo", ["fast"]),
    r"waltz|triple|3/4": ("meter", ["3/4"]),
    r"common|4/4": ("meter", ["4/4"]),
    r"major": ("mode", ["major"]),
    r"minor": ("mode", ["minor"]),
    r"soft|quiet": ("dynamics", ["soft"]),
    r"loud": ("dynamics", ["loud"]),
    r"swelling": ("dynamics", ["swelling"]),
}


MISSING = {
    "backing chords": PARTS[1],
    "chordal backing": PARTS[1],
    "bass": "bass",
    "drums": "drums",
    "percussion": "drums",
}
LISTED = r"(?:without|but no) ((?:{0})(?:(?:, (?:{0}))* or (?:{0}))?)".format("|".join(MISSING))


def claims(caption):
    for missing in re.findall(LISTED, caption):
        yield from ((part, ["none"]) for phrase, part in MISSING.items() if phrase in missing)
    stated = re.sub(LISTED, "", caption)
    assert not re.search(r"without|\bno\b", stated), caption
    yield from (claim for pattern, claim in CLAIMS.items() if re.search(pattern, stated))
    if re.search("alone|solo|unaccompanied", caption):
        yield from ((name, ["none"]) for name in PARTS[1:])
    for key in re.findall(r"\b([A-G](?:#|b| sharp| flat)?) (?:major|minor)", caption):
        yield "key", [key.replace(" sharp", "#").replace(" flat", "b")]
    for bpm in re.findall(r"(\d+) bpm", caption):
        yield "bpm", [int(bpm)]


def test_captions_claim_only_what_is_true():
    rng = np.random.default_rng(0)
    claimed = set()
    for _ in range(1500):
        facts = random_facts(rng)
        for caption in captions(facts, rng):
            for name, classes in claims(caption):
                assert getattr(facts, name) in classes, (caption, facts)
                claimed.add((name, getattr(facts, name)))
    assert claimed >= {(name, value) for name, classes in CLASSES.items() for value in classes}


def test_captions_read_well():
    rng = np.random.default_rng(1)
    drawn = [caption for _ in range(300) for caption in captions(random_facts(rng), rng)]
    assert not [text for text in drawn if re.search(r"  | ,|^\W|\W$|[{}]|\ba [aeiou]|\ban [^aeiou]|none", text)]
    assert len(set(drawn)) > 0.7 * len(drawn)
    assert max(len(text.split()) for text in drawn) < 40


def test_facts_refuse_what_there_is_not():
    with pytest.raises(ValueError, match=r"No lead 'kazoo'\. There are: piano, flute, strings, guitar"):
        dataclasses.replace(FULL, lead="kazoo")
    with pytest.raises(ValueError, match="medium track has 96 to 116"):
        dataclasses.replace(FULL, bpm=30)


def test_held_out_combinations_are_few_and_balanced():
    products = itertools.product(*(CLASSES[part] for part in PARTS))
    combinations = [dataclasses.replace(FULL, **dict(zip(PARTS, parts, strict=True))) for parts in products]
    kept = [facts for facts in combinations if held_out(facts)]
    assert (len(kept), len(combinations)) == (12, 108)
    for part in PARTS:
        counts = [sum(getattr(facts, part) == value for facts in kept) for value in CLASSES[part]]
        assert len(set(counts)) == 1
    assert not held_out(dataclasses.replace(FULL, lead="piano", accompaniment="none", bass="none", drums="none"))


def test_training_and_held_out_pieces_are_disjoint():
    rng = np.random.default_rng(0)
    assert not any(held_out(training_facts(rng)) for _ in range(300))
    drawn = held_out_facts(24, seed=1)
    assert all(map(held_out, drawn))
    assert drawn[:7] == held_out_facts(7, seed=1)
    for name, classes in CLASSES.items():
        assert {sum(getattr(facts, name) == value for facts in drawn) for value in classes} == {24 // len(classes)}


@pytest.mark.parametrize("facts", PIECES)
def test_pieces_close_with_a_cadence_and_keep_to_the_scale(facts):
    spans = harmony(facts, 32, np.random.default_rng(0))
    assert [span.chord for span in spans[-2:]] == [4, 0]
    assert sum(span.beats for span in spans) >= 32
    scale = {"major": {0, 2, 4, 5, 7, 9, 11}, "minor": {0, 2, 3, 5, 7, 8, 10, 11}}[facts.mode]
    notes = melody(facts, spans, np.random.default_rng(0))
    pitches = np.array([69 + 12 * np.log2(note.frequency / 440) for note in notes])
    assert np.allclose(pitches, pitches.round(), atol=1e-6)
    assert {round(pitch - CLASSES["key"].index(facts.key)) % 12 for pitch in pitches} <= scale


@pytest.mark.parametrize("key", ["C", "Eb", "F#", "A"])
def test_the_key_is_heard(key):
    parts = stems(dataclasses.replace(FULL, key=key), 2, 12.0)
    audio = parts["lead"] + parts["accompaniment"]
    power = np.abs(np.fft.rfft(audio)) ** 2
    frequency = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    tonal = (frequency > 100) & (frequency < 1500)
    classes = np.round(69 + 12 * np.log2(frequency[tonal] / 440)).astype(int) % 12
    chroma = np.bincount(classes, power[tonal], minlength=12)
    in_scale = [np.roll(chroma, -tonic)[[0, 2, 4, 5, 7, 9, 11]].sum() / chroma.sum() for tonic in range(12)]
    assert in_scale[CLASSES["key"].index(key)] == max(in_scale) > 0.9


def onset_correlation(audio, hop=441):
    """Autocorrelation of rises in energy, by lag in hundredths of a second, smoothed over neighbours."""
    energy = np.log(1e-4 + np.square(audio[: len(audio) // hop * hop]).reshape(-1, hop).mean(1))
    rises = np.maximum(np.diff(energy), 0)
    rises -= rises.mean()
    correlation = np.correlate(rises, rises, "full")[len(rises) - 1 :]
    return np.convolve(correlation / correlation[0], [0.5, 1, 0.5], "same")


@pytest.mark.parametrize("tempo", BPM)
@pytest.mark.parametrize("meter", CLASSES["meter"])
def test_tempo_and_meter_are_heard_in_the_drums(tempo, meter):
    facts = dataclasses.replace(FULL, tempo=tempo, bpm=BPM[tempo][1], meter=meter)
    drums = stems(facts, 0, 20.0)["drums"]
    beat = 6000 / facts.bpm
    onsets = onset_correlation(drums)
    assert onsets[round(beat)] > onsets[round(0.75 * beat)] + 0.3
    kicks = onset_correlation(sosfilt(butter(4, 120, fs=SAMPLE_RATE, output="sos"), drums))
    assert kicks[round(facts.beats_per_bar * beat)] > kicks[round((7 - facts.beats_per_bar) * beat)] + 0.1


def test_dynamics_are_heard():
    soft, loud, swelling = (compose(dataclasses.replace(FULL, dynamics=d), 0, 5.0) for d in CLASSES["dynamics"])
    assert rms(loud) > 3 * rms(soft)
    windows = [rms(window) for window in swelling.reshape(10, -1)]
    assert max(windows) > 3 * min(windows)


def test_damped_sums_decaying_sines():
    frequencies, amplitudes, decays = np.array([220.0, 1234.5]), np.array([1.0, 0.5]), np.array([2.0, 9.0])
    t = times(1.0).astype(np.float64)[:, None]
    expected = (amplitudes * np.exp(-decays * t) * np.sin(2 * np.pi * frequencies * t)).sum(1)
    assert np.allclose(damped(frequencies, amplitudes, decays, 1.0), expected, atol=1e-4)


def test_steady_keeps_its_pitch():
    t = np.arange(1, SAMPLE_RATE + 1) / SAMPLE_RATE
    expected = np.sin(2 * np.pi * 440 * t) + 0.5 * np.sin(2 * np.pi * 880 * t)
    assert np.allclose(steady(440.0, (1.0, 0.5), SAMPLE_RATE, 0.0), expected, atol=2e-3)


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("seconds", [0.02, 0.6])
def test_notes_begin_and_end_in_silence(name, seconds):
    frequency = {"hat": 9000.0, "sweep": 3200.0, "tap": 3000.0}.get(name, 220.0)
    note = INSTRUMENTS[name](frequency, seconds, 0.8, np.random.default_rng(0))
    assert note.dtype == np.float32
    assert name in ("kick", "snare", "hat", "tap") or len(note) >= round(seconds * SAMPLE_RATE)
    assert np.abs(note[[0, -1]]).max() < 0.01 * np.abs(note).max()


@pytest.mark.integration
def test_a_data_set_does_not_depend_on_workers(tmp_path):
    one = write_dataset(tmp_path / "one", count=3, seconds=0.5, seed=7, num_workers=1)
    two = write_dataset(tmp_path / "two", count=3, seconds=0.5, seed=7, num_workers=2)
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


def test_a_row_of_metadata_makes_the_piece_again(tmp_path):
    folder = write_dataset(tmp_path, count=2, seconds=0.5, seed=7, held_out=True, num_workers=1)
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        facts = Facts(**{field.name: row[field.name] for field in dataclasses.fields(Facts)})
        assert held_out(facts)
        assert row["text"] == row["captions"][0]
        audio, sample_rate = soundfile.read(folder / row["file_name"], dtype="float32")
        assert sample_rate == SAMPLE_RATE
        assert np.allclose(audio, compose(facts, row["seed"], 0.5), atol=2 / 2**15)


def test_a_data_set_is_not_overwritten(tmp_path):
    write_dataset(tmp_path / "set", count=1, seconds=0.2, num_workers=1)
    before = (tmp_path / "set" / "000000.flac").stat().st_mtime_ns
    write_dataset(tmp_path / "set", count=1, seconds=0.2, num_workers=1)
    assert (tmp_path / "set" / "000000.flac").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another data set"):
        write_dataset(tmp_path / "set", count=1, seconds=0.2, seed=1, num_workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not written by the composer"):
        write_dataset(tmp_path / "other", count=1, num_workers=1)
