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
    held_out,
    held_out_facts,
    random_facts,
    score,
    stems,
    training_facts,
    write_dataset,
)
from codecdiff_starter.facts import BPM, PARTS
from codecdiff_starter.harmony import PROGRESSIONS, SCALES, chord_of
from codecdiff_starter.loudness import loudness
from codecdiff_starter.styles import STYLES, family, players, styles_of
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
    style="pop",
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
    assert np.abs(audio).max() <= 0.85
    assert -21 < loudness(audio) < -13
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
    **{lead: ("lead", [lead]) for lead in CLASSES["lead"]},
    r"\bpad\b": ("accompaniment", ["pad"]),
    r"(plucked|upright|electric) bass": ("bass", ["plucked"]),
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
    **{rf"\b{style}\b": ("style", [style]) for style in STYLES if style != "waltz"},
    r"\bdance\b": ("style", ["disco"]),
}
BACKING = {  # the same of the accompaniment, whose player is no lead
    r"sustained pad chords": ["pad"],
    r"(?:\b(piano|guitar|organ|strings|vibraphone|bell) )?\barpeggios?": ["arpeggio"],
    r"(?:\b(piano|guitar|organ|strings|vibraphone|bell) )?\bchords": ["chords"],
    r"strummed (guitar)": ["chords"],
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
    for pattern, classes in BACKING.items():
        for match in re.finditer(pattern, stated):
            yield "accompaniment", classes
            if match.lastindex:
                yield "player of the accompaniment", [match[1]]
        stated = re.sub(pattern, "", stated)
    yield from (claim for pattern, claim in CLAIMS.items() if re.search(pattern, stated))
    yield from (("player of the bass", [f"{kind} bass"]) for kind in re.findall(r"(upright|electric) bass", stated))
    for kind in re.findall(r"(acoustic|electric) guitar", stated):
        guitars = ["electric guitar"] if kind == "electric" else ["nylon guitar", "steel guitar"]
        yield "player of the lead", guitars
    if re.search("alone|solo|unaccompanied", caption):
        yield from ((name, ["none"]) for name in PARTS[1:])
    for key in re.findall(r"\b([A-G](?:#|b| sharp| flat)?) (?:major|minor)", caption):
        yield "key", [key.replace(" sharp", "#").replace(" flat", "b")]
    for bpm in re.findall(r"(\d+) bpm", caption):
        yield "bpm", [int(bpm)]


def fact(facts, name):
    if not name.startswith("player of"):
        return getattr(facts, name)
    player = facts.players[name.split()[-1]]
    return family(player) if "accompaniment" in name else player


@pytest.mark.parametrize("count", [300, pytest.param(2500, marks=pytest.mark.integration)])
def test_captions_claim_only_what_is_true(count):
    rng = np.random.default_rng(0)
    claimed = set()
    for _ in range(count):
        facts = random_facts(rng)
        for caption in captions(facts, rng):
            for name, classes in claims(caption):
                assert fact(facts, name) in classes, (caption, facts)
                claimed.add((name, fact(facts, name)))
    if count < 2500:  # too few for everything to be claimed
        return
    assert claimed >= {(name, value) for name, classes in CLASSES.items() for value in classes} - {("style", "waltz")}
    assert len({value for name, value in claimed if name == "player of the accompaniment"}) >= 5


def test_captions_read_well():
    rng = np.random.default_rng(1)
    drawn = [caption for _ in range(300) for caption in captions(random_facts(rng), rng)]
    assert not [text for text in drawn if re.search(r"  | ,|^\W|\W$|[{}]|\ba [aeiou]|\ban [^aeiou]|none", text)]
    assert len(set(drawn)) > 0.7 * len(drawn)
    assert max(len(text.split()) for text in drawn) < 40


def test_facts_refuse_what_there_is_not():
    with pytest.raises(ValueError, match=r"No lead 'kazoo'\. There are: piano, flute, strings, guitar"):
        dataclasses.replace(FULL, lead="kazoo")
    with pytest.raises(ValueError, match="medium track has 94 to 122"):
        dataclasses.replace(FULL, bpm=30)
    with pytest.raises(ValueError, match=r"in 4/4 with drums 'kit' has no style 'waltz'\. There are: pop"):
        dataclasses.replace(FULL, style="waltz")


def test_held_out_combinations_are_few_and_balanced():
    products = itertools.product(*(CLASSES[part] for part in PARTS))
    combinations = [dataclasses.replace(FULL, **dict(zip(PARTS, parts, strict=True))) for parts in products]
    kept = [facts for facts in combinations if held_out(facts)]
    assert (len(kept), len(combinations)) == (36, 324)
    for part in PARTS:
        counts = [sum(getattr(facts, part) == value for facts in kept) for value in CLASSES[part]]
        assert len(set(counts)) == 1
    assert not held_out(dataclasses.replace(FULL, lead="piano", accompaniment="none", bass="none", drums="none"))


def test_training_and_held_out_pieces_are_disjoint():
    rng = np.random.default_rng(0)
    assert not any(held_out(training_facts(rng)) for _ in range(300))
    drawn = held_out_facts(36, seed=1)
    assert all(map(held_out, drawn))
    assert drawn[:7] == held_out_facts(7, seed=1)
    for name, classes in CLASSES.items():
        counts = {sum(getattr(facts, name) == value for facts in drawn) for value in classes}
        assert counts == {36 // len(classes)} or name == "style"


@pytest.mark.parametrize("facts", PIECES)
def test_pieces_close_with_a_cadence_and_keep_to_their_chords(facts):
    track = score(facts, 0, 20.0)
    tonic = CLASSES["key"].index(facts.key)
    assert track.chords[0].pitch_classes[0] == track.chords[-1].pitch_classes[0] == tonic
    assert track.chords[-2].numeral in ("V", "V/vi") or track.chords[-3].numeral == "V"
    scale = {(tonic + degree) % 12 for degree in SCALES[facts.mode]} | {(tonic + 11) % 12}
    pitches = [note.pitch for note in track.notes if note.part in ("lead", "accompaniment")]
    inside = [pitch % 12 in scale for pitch in pitches]
    assert np.mean(inside) > 0.8


def test_all_progressions_are_chords_and_their_scales_have_seven_tones():
    for modes in PROGRESSIONS.values():
        for mode, roles in modes.items():
            phrases = [phrase.split() for phrases in roles.values() for phrase in phrases]
            assert {len(phrase) for phrase in phrases} == {4}
            for numeral in {name for phrase in phrases for span in phrase for name in span.split(",")}:
                for sevenths in (False, True):
                    chord = chord_of(numeral, mode, sevenths)
                    assert len(set(chord.scale)) == 7
                    assert set(chord.tones) <= set(chord.scale)
    assert chord_of("V/vi", "major", False).tones == (4, 8, 11, 2)
    assert chord_of("ii°", "minor", True).tones == (2, 5, 8, 0)
    with pytest.raises(ValueError, match="Invalid chord 'H'"):
        chord_of("H", "major", False)


@pytest.mark.parametrize("facts", PIECES)
def test_notes_of_the_score_lie_on_the_beat_of_the_caption(facts):
    track = score(facts, 1, 20.0)
    starts = np.array([note.start for note in track.notes if note.part in ("bass", "drums", "lead")])
    beats = np.arange(60.0, 181.0, 1.0)
    on_beat = np.array([np.abs(np.exp(2j * np.pi * starts * bpm / 60).mean()) for bpm in beats])
    assert on_beat[facts.bpm - 60] > 2 * np.median(on_beat)
    others = np.abs(beats / facts.bpm - 1) < 0.2
    assert beats[others][np.argmax(on_beat[others])] == pytest.approx(facts.bpm, abs=1)
    assert track.bars[1] - track.bars[0] == pytest.approx(60 / facts.bpm * facts.beats_per_bar)


def test_the_score_lists_what_every_part_plays():
    track = score(FULL, 0, 8.0)
    assert {note.part: note.instrument for note in track.notes if note.part != "drums"} == {
        "lead": "flute", "accompaniment": "pad", "bass": "electric bass"
    }  # fmt: skip
    starts = [note.start for note in track.notes]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] < 8
    assert all(note.pitch == 0 for note in track.notes if note.part == "drums")
    assert all(0 < note.velocity <= 1 and note.seconds > 0 for note in track.notes)
    assert FULL.instruments == ["flute", "pad", "bass", "drums"]


@pytest.mark.parametrize("style", STYLES)
def test_every_band_of_a_style_plays_and_leaves_the_lead_its_instrument(style):
    parts = itertools.product(*(CLASSES[part] for part in PARTS))
    for lead, accompaniment, bass, drums in parts:
        band = players(lead=lead, accompaniment=accompaniment, bass=bass, drums=drums, style=style)
        assert family(band["lead"]) == lead
        assert ("accompaniment" in band) == (accompaniment != "none")
        assert "accompaniment" not in band or family(band["accompaniment"]) != lead
    fitting = [
        (tempo, meter, drums)
        for tempo, meter, drums in itertools.product(BPM, CLASSES["meter"], CLASSES["drums"])
        if style in styles_of(tempo, meter, drums)
    ]
    assert fitting
    for tempo, meter, drums in fitting[:2]:
        facts = dataclasses.replace(FULL, style=style, tempo=tempo, bpm=BPM[tempo][0], meter=meter, drums=drums)
        for accompaniment in CLASSES["accompaniment"]:
            for mode in SCALES:
                varied = dataclasses.replace(facts, accompaniment=accompaniment, mode=mode)
                assert {note.part for note in score(varied, 0, 10.0).notes} == set(varied.players)


def test_seeds_and_styles_are_varied():
    pieces = [random_facts(np.random.default_rng([3, i])) for i in range(300)]
    assert {facts.style for facts in pieces} == set(STYLES)
    melodies = {tuple(n.pitch for n in score(FULL, seed, 8.0).notes if n.part == "lead") for seed in range(20)}
    assert len(melodies) == 20


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
    assert in_scale[CLASSES["key"].index(key)] == max(in_scale) > 0.75  # secondary dominants leave the scale


def onset_correlation(audio, hop=441):
    """Autocorrelation of rises in energy, by lag in hundredths of a second, smoothed over neighbors."""
    energy = np.log(1e-4 + np.square(audio[: len(audio) // hop * hop]).reshape(-1, hop).mean(1))
    rises = np.maximum(np.diff(energy), 0)
    rises -= rises.mean()
    correlation = np.correlate(rises, rises, "full")[len(rises) - 1 :]
    return np.convolve(correlation / correlation[0], [0.5, 1, 0.5], "same")


@pytest.mark.parametrize("tempo", BPM)
@pytest.mark.parametrize("meter", CLASSES["meter"])
def test_tempo_and_meter_are_heard_in_the_drums(tempo, meter):
    style = "pop" if "pop" in styles_of(tempo, meter, "kit") else styles_of(tempo, meter, "kit")[0]
    facts = dataclasses.replace(FULL, tempo=tempo, bpm=BPM[tempo][1], meter=meter, style=style)
    drums = stems(facts, 0, 20.0)["drums"]
    beat = 6000 / facts.bpm
    onsets = onset_correlation(drums)
    assert onsets[round(beat)] > onsets[round(0.75 * beat)] + 0.15
    low = np.square(sosfilt(butter(4, 120, fs=SAMPLE_RATE, output="sos"), drums))

    def kicked(beats):
        starts = np.arange(0, 18 * SAMPLE_RATE, beats * 60 / facts.bpm * SAMPLE_RATE).astype(int)
        return np.mean([low[start : start + SAMPLE_RATE // 12].mean() for start in starts])

    assert kicked(facts.beats_per_bar) > 1.3 * kicked(7 - facts.beats_per_bar)


def test_dynamics_are_heard():
    soft, loud, swelling = (compose(dataclasses.replace(FULL, dynamics=d), 0, 8.0) for d in CLASSES["dynamics"])
    assert loudness(soft) == pytest.approx(-18, abs=0.5)
    assert loudness(loud) == pytest.approx(-14, abs=0.7)
    windows = [rms(window) for window in swelling.reshape(16, -1)]
    assert max(windows) > 2.5 * min(windows)


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
        assert (row["text"], row["license"]) == (row["captions"][0], "Apache-2.0")
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
