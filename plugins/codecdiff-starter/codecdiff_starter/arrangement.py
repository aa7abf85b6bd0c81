"""The parts of a track, written note by note: melody, accompaniment, bass and drums.

Each writer takes the facts, the spans of the harmony and a function that returns a random generator by name, and
returns notes in beats. What a style plays is in `styles`; here it becomes music.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from codecdiff_starter.facts import CLASSES, Facts
from codecdiff_starter.harmony import Chord, Span, nearest_pitch, step, voice, write_harmony
from codecdiff_starter.instruments import TONES
from codecdiff_starter.styles import STYLES, WALKING, Groove, Style, family

Random = Callable[..., np.random.Generator]

RHYTHMS = {  # manner -> beats of a span -> lengths of the notes, in beats; negative ones are rests
    "lyrical": {
        4: ((2, 1, 1), (1, 1, 2), (1.5, 0.5, 2), (1, 1, 1, 1), (2, 1.5, 0.5), (1.5, 0.5, 1, 1), (3, 0.5, 0.5)),
        3: ((2, 1), (1, 1, 1), (1.5, 0.5, 1), (1, 0.5, 0.5, 1), (2, 0.5, 0.5)),
        2: ((1, 1), (1.5, 0.5), (0.5, 0.5, 1), (1, 0.5, 0.5), (0.75, 0.25, 1)),
    },
    "even": {
        4: (
            (1, 0.5, 0.5, 1, 1),
            (0.5, 0.5, 0.5, 0.5, 1, 1),
            (1.5, 0.5, 1, 1),
            (1, 1, 0.5, 0.5, 1),
            (0.5, 0.5, 1, 0.5, 0.5, 1),
            (1, 0.5, 0.5, 0.5, 0.5, 1),
        ),
        3: ((1, 0.5, 0.5, 1), (0.5, 0.5, 0.5, 0.5, 1), (1.5, 0.5, 1), (1, 1, 0.5, 0.5)),
        2: ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 1), (1, 0.5, 0.5), (0.75, 0.25, 0.5, 0.5)),
    },
    "syncopated": {
        4: (
            (0.5, 1, 0.5, 1, 1),
            (0.75, 0.75, 0.5, 1, 1),
            (1.5, 1.5, 1),
            (-0.5, 0.5, 0.5, 1, 0.5, 1),
            (1, 0.5, 1, 0.5, 1),
            (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1),
            (0.75, 0.75, 0.5, 0.5, 0.5, 1),
            (0.5, 1, 1, 0.5, 1),
        ),
        3: ((1.5, 1.5), (0.5, 1, 0.5, 1), (1, 0.5, 1, 0.5)),
        2: ((0.75, 0.75, 0.5), (0.25, 0.5, 0.25, 1), (-0.25, 0.25, 0.5, 0.5, 0.5), (0.5, 0.25, 0.75, 0.5)),
    },
    "swing": {
        4: (
            (0.5, 0.5, 1, 0.5, 0.5, 1),
            (1, 0.5, 1, 0.5, 1),
            (-0.5, 0.5, 0.5, 0.5, 1, 1),
            (1.5, 0.5, 0.5, 0.5, 1),
            (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1),
            (-0.5, 0.5, 1, 0.5, 0.5, 1),
        ),
        3: ((0.5, 0.5, 0.5, 0.5, 1), (1.5, 0.5, 1), (-0.5, 0.5, 1, 1), (1, 0.5, 1, 0.5)),
        2: ((0.5, 0.5, 1), (0.5, 0.5, 0.5, 0.5), (1.5, 0.5), (1, 0.5, 0.5)),
    },
}
CADENCES = {4: ((2, 2), (1, 1, 2), (1, 3), (4,)), 3: ((3,), (1, 2), (2, 1)), 2: ((2,), (0.5, 1.5), (1, 1))}
SHAPES = ("abac", "aabc", "abcd", "aaba", "abbc")  # which motif each span of a phrase has; the last is a cadence
ARCH = (0, 1, 3, 1)  # how far the spans of a phrase lie above its register, in steps of the scale
REGISTERS = {  # MIDI pitch around which an instrument plays melodies
    "piano": 74,
    "flute": 77,
    "strings": 71,
    "nylon guitar": 68,
    "steel guitar": 68,
    "electric guitar": 68,
    "organ": 70,
    "trumpet": 70,
    "clarinet": 69,
    "vibraphone": 69,
    "saxophone": 67,
}
CHORD_REGISTERS = {"piano": 59, "electric piano": 60, "organ": 61, "strings": 59, "pad": 58}  # guitars: 57
ARPEGGIO_REGISTERS = {"celesta": 69, "vibraphone": 60, "piano": 57, "electric piano": 57, "organ": 57}  # guitars: 50
BASS_REGISTER = 35
STRUM_BEATS = 0.03  # between two strings of a guitar
LOUD = {"X": 1.0, "x": 0.8, "o": 0.5}
FILLS = {  # the last beats of a phrase on the kit: drums -> pattern of two beats
    "straight": (
        {"snare": "xoxXxxXX"},
        {"high tom": "Xx......", "mid tom": "..Xx....", "low tom": "....XxXx"},
        {"snare": "X..X....", "mid tom": "......X.", "low tom": ".......X"},
        {"snare": "X.x.....", "high tom": "....Xx..", "low tom": "......Xx"},
    ),
    "swung": (
        {"snare": "x.xXxX"},
        {"snare": "X.x...", "high tom": "...x.x", "low tom": ".....X"},
        {"high tom": "X.x...", "mid tom": "...X..", "low tom": ".....X"},
    ),
    "brushes": ({"brush tap": "xoxXxxXX"}, {"brush slap": "X.....X.", "brush tap": "..xox..."}),
}


class Note(NamedTuple):
    """One note of a part, as it is written."""

    instrument: str
    pitch: int  # MIDI pitch, 0 for drums
    start: float  # beats
    beats: float
    accent: float = 0.8  # 0 to 1


def choose(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """Draw one of the options."""
    return options[int(rng.integers(len(options)))]


def tonic_of(facts: Facts) -> int:
    """Return the pitch class of the key, 0 for C."""
    return CLASSES["key"].index(facts.key)


def harmony(facts: Facts, beats: float, rng: np.random.Generator) -> list[Span]:
    """Write at least `beats` beats of chords: a span is a bar, or half a bar of a slow 4/4."""
    style = STYLES[facts.style]
    length = 2 if (facts.tempo, facts.meter) == ("slow", "4/4") else facts.beats_per_bar
    return write_harmony(style.harmony, facts.mode, style.sevenths, span_beats=length, beats=beats, rng=rng)


# The lead


def melody(facts: Facts, spans: list[Span], instrument: str, random: Random) -> list[Note]:
    """Write the lead: each phrase has motifs that come back with it, strong beats on chord tones, and a cadence."""
    tonic, notes = tonic_of(facts), []
    pitch = nearest_pitch(REGISTERS[instrument] + int(random("register").integers(-2, 3)), (0, 4, 7), tonic)
    home = pitch
    for span in spans:
        rng = random("phrase", span.phrase)
        motifs = _motifs(facts, span.beats, rng)
        shape = choose(SHAPES, rng)
        is_cadence = span.place == 3 or span.is_last
        motif = motifs["cadence"] if is_cadence else motifs[shape[span.place]]
        varied = random("variation", span.phrase, span.repeat, span.place)
        line = _sung(span, motif, pitch, home, tonic, is_cadence)
        if span.repeat and not is_cadence:
            line = _ornamented(line, span, tonic, varied)
        if line:
            pitch = line[-1][2]
        notes += [note for each in line for note in _voiced(facts, span, instrument, each)]
    return notes + _left_hand(facts, spans, instrument, random)


Motif = list[tuple[float, int]]  # length in beats (a rest if negative), step of the scale


def _motifs(facts: Facts, beats: int, rng: np.random.Generator) -> dict[str, Motif]:
    """Draw the motifs a, b, c, d of a phrase and its cadence."""
    rhythms = RHYTHMS[STYLES[facts.style].rhythm][beats]
    drawn = {letter: _motif(choose(rhythms, rng), rng) for letter in "abcd"}
    return drawn | {"cadence": _motif(choose(CADENCES[beats], rng), rng)}


def _motif(rhythm: Sequence[float], rng: np.random.Generator) -> Motif:
    """Assign each note of a rhythm a step: mostly to a neighbor, mostly on in one direction, sometimes a leap."""
    direction, motif = int(rng.choice((-1, 1))), []
    for length in rhythm:
        size = int(rng.choice((1, 2, 3, 4), p=(0.68, 0.2, 0.07, 0.05)))
        motif.append((length, direction * size))
        if size > 2 or rng.random() < 0.35:
            direction = -direction  # a leap turns back
    return motif


def _sung(
    span: Span, motif: Motif, before: int, home: int, tonic: int, is_cadence: bool
) -> list[tuple[float, float, int]]:
    """Sing a motif over a span, after the pitch `before` -> (start, beats, pitch) of every note."""
    line, pitch, start = [], before, span.start
    goal = step(home, ARCH[span.place], span.chords[0], tonic)
    for i, (length, steps) in enumerate(motif):
        if length < 0:
            start -= length
            continue
        chord = span.chord_at(start)
        if i == 0:
            steps = int(np.clip(round((goal - pitch) / 2), -3, 3)) or (1 if steps > 0 else -1)
        elif abs(step(pitch, steps, chord, tonic) - goal) > 6:
            steps = -steps
        moved = step(pitch, steps, chord, tonic)
        is_strong = (start - span.start) % 1 == 0 and (length >= 1 or (start - span.start) % 2 == 0)
        if is_strong:
            moved = nearest_pitch(moved + (0.4 if steps > 0 else -0.4), chord.tones, tonic)
        if is_cadence and start + length >= span.start + span.beats - 1e-6:
            tones = (chord.root,) if chord.root == 0 or span.is_last else chord.tones[:3]
            moved = nearest_pitch(pitch + (0.4 if steps > 0 else -0.4), tones, tonic)
        pitch = moved
        line.append((start, length, pitch))
        start += length
    return line


def _ornamented(
    line: list[tuple[float, float, int]], span: Span, tonic: int, rng: np.random.Generator
) -> list[tuple[float, float, int]]:
    """Vary what comes back: some notes of a beat or more turn to a neighbor on their way to the next."""
    varied: list[tuple[float, float, int]] = []
    for (start, length, pitch), after in zip(line, [*line[1:], None], strict=True):
        if length >= 1 and after and rng.random() < 0.5:
            towards = 1 if after[2] >= pitch else -1
            neighbor = step(pitch, towards if rng.random() < 0.7 else -towards, span.chord_at(start), tonic)
            half = length / 2
            varied += [(start, half, pitch), (start + half, half, neighbor)]
        else:
            varied.append((start, length, pitch))
    return varied


def _voiced(facts: Facts, span: Span, instrument: str, sung: tuple[float, float, int]) -> Iterator[Note]:
    """Yield a note of the melody and what the same player adds below it: an octave, or a third or sixth."""
    start, length, pitch = sung
    place = (start - span.start) % span.beats
    accent = 0.95 if place == 0 else 0.85 if place % 1 == 0 else 0.75
    low, high = TONES[instrument].low, TONES[instrument].high
    while pitch > high:
        pitch -= 12
    sounding = length if instrument in ("strings", "organ") else 0.92 * length
    yield Note(instrument, pitch, start, sounding, accent)
    if instrument == "strings" and pitch - 12 >= low:
        yield Note(instrument, pitch - 12, start, sounding, 0.65)
    elif family(instrument) in ("piano", "guitar", "organ", "vibraphone") and length >= 1 and place % 2 == 0:
        below = nearest_pitch(pitch - 4, span.chord_at(start).tones, tonic_of(facts))
        if below < pitch:
            yield Note(instrument, below, start, sounding, 0.6)


def _left_hand(facts: Facts, spans: list[Span], instrument: str, random: Random) -> list[Note]:
    """Accompany a melody with the same instrument, if it can, where nobody else plays chords or a bass."""
    is_missed = "none" in (facts.accompaniment, facts.bass)
    if not is_missed or family(instrument) not in ("piano", "guitar", "organ", "strings"):
        return []
    tonic, notes = tonic_of(facts), []
    is_alone = facts.accompaniment == "none"
    low = TONES[instrument].low
    rng = random("left hand")
    is_broken = family(instrument) in ("piano", "guitar") and is_alone
    pattern = choose(((0, 2, 3, 2), (0, 2, 4, 2), (0, 2, 3, 4)), rng)
    quick = 0.5 if rng.random() < 0.7 or facts.tempo == "fast" else 0.25
    for span in spans:
        for start, beats, chord in span.changes:
            root = nearest_pitch(max(low + 4, 46), (chord.root,), tonic)
            if not is_broken:
                notes.append(Note(instrument, root, start, beats, 0.55))
                if is_alone and instrument != "strings":
                    notes += [Note(instrument, p, start, beats, 0.45) for p in voice(chord, tonic, 59)]
                continue
            tones = _ladder_of(chord, root, tonic)
            for i in range(round(beats / quick)):
                accent = 0.6 if i == 0 else 0.45
                notes.append(Note(instrument, tones[pattern[i % 4]], start + i * quick, 1.5 * quick, accent))
    return notes


def _ladder_of(chord: Chord, root: int, tonic: int) -> list[int]:
    """Return six pitches of a chord from its root up."""
    pitches = [root]
    while len(pitches) < 6:
        following = [p for p in range(pitches[-1] + 1, pitches[-1] + 13) if (p - tonic) % 12 in chord.tones[:3]]
        pitches.append(following[0])
    return pitches


# The accompaniment


def _steps(
    options: Sequence[str], spans: Sequence[Span], facts: Facts, random: Random
) -> Iterator[tuple[str, float, float, Span]]:
    """Yield (letter, start, beats until the next letter, span) of the letters of patterns of one bar, bar after bar.

    Sections of the form each have their own of the patterns.
    """
    bar, end = facts.beats_per_bar, spans[-1].start + spans[-1].beats
    for number in range(math.ceil(end / bar)):
        pattern = choose(options, random("pattern", span_at(spans, number * bar).phrase[0]))
        size = bar / len(pattern)
        places = [i for i, letter in enumerate(pattern) if letter != "."]
        for i, after in pairwise([*places, len(pattern)]):
            start = number * bar + i * size
            if start < end - 1e-9:
                yield pattern[i], start, (after - i) * size, span_at(spans, start)


def span_at(spans: Sequence[Span], beat: float) -> Span:
    """Return the span that a beat lies in, or the last."""
    return spans[min(int((beat + 1e-9) / spans[0].beats), len(spans) - 1)]


def accompany(facts: Facts, spans: list[Span], instrument: str, random: Random) -> list[Note]:
    """Write the accompaniment: held chords, the chords of the style's pattern, or arpeggios."""
    if facts.accompaniment == "pad":
        return _held(facts, spans, instrument)
    if facts.accompaniment == "arpeggio":
        return _picked(facts, spans, instrument, random)
    return _comped(facts, spans, instrument, random)


def _held(facts: Facts, spans: list[Span], instrument: str) -> list[Note]:
    tonic, notes, voicing = tonic_of(facts), [], []
    for span in spans:
        for start, beats, chord in span.changes:
            voicing = voice(chord, tonic, CHORD_REGISTERS[instrument], voicing)
            notes += [Note(instrument, pitch, start, beats, 0.8) for pitch in voicing]
    return notes


def _picked(facts: Facts, spans: list[Span], instrument: str, random: Random) -> list[Note]:
    tonic, notes, options = tonic_of(facts), [], STYLES[facts.style].arpeggios[facts.meter]
    register = ARPEGGIO_REGISTERS.get(instrument, 50)
    for letter, start, beats, span in _steps(options, spans, facts, random):
        chord = span.chord_at(start)
        pitch = _ladder_of(chord, nearest_pitch(register, (chord.root,), tonic), tonic)[int(letter)]
        pitch -= 12 * (pitch > TONES[instrument].high)
        accent = 0.9 if start == span.start else 0.75 if start % 1 == 0 else 0.65
        notes.append(Note(instrument, pitch, start, 2 * beats, accent))
    return notes


def _comped(facts: Facts, spans: list[Span], instrument: str, random: Random) -> list[Note]:
    tonic, notes, voicing = tonic_of(facts), [], []
    options = STYLES[facts.style].chords[facts.meter]
    before: Chord | None = None
    is_guitar = family(instrument) == "guitar"
    for letter, start, beats, span in _steps(options, spans, facts, random):
        if letter == "-":
            continue
        chord = span.chord_at(start)
        if chord is not before:
            before = chord
            voicing = voice(chord, tonic, CHORD_REGISTERS.get(instrument, 57), voicing)
        root = nearest_pitch(45, (chord.root,), tonic)
        full = [root, *voicing] if is_guitar and root < voicing[0] else voicing
        pitches = {"B": [root], "u": voicing[-2:]}.get(letter, full)
        length = {"c": min(beats, 0.4), "u": min(beats, 0.4)}.get(letter, beats)
        accent = {"u": 0.6, "c": 0.75}.get(letter, 0.85) + (0.1 if start == span.start else 0)
        for i, pitch in enumerate(pitches[::-1] if letter == "u" else pitches):
            delay = i * STRUM_BEATS if is_guitar else 0.0
            notes.append(Note(instrument, pitch, start + delay, length - delay, accent))
    return notes


# The bass


def bass_line(facts: Facts, spans: list[Span], instrument: str, random: Random) -> list[Note]:
    """Write the bass: the style's pattern, or a walk of quarter notes; the root where a chord begins."""
    tonic, options = tonic_of(facts), STYLES[facts.style].bass[facts.meter]
    if WALKING in options and random("walks").random() < 1 / len(options):
        return _walk(facts, spans, instrument, random("walk"))
    options = [pattern for pattern in options if pattern != WALKING]
    notes, chord = [], None
    for letter, start, beats, span in _steps(options, spans, facts, random):
        for begin, length in _split(start, beats, span):
            is_new = span.chord_at(begin) is not chord
            chord = span.chord_at(begin)
            if letter == "-":
                continue
            root = _root(chord, tonic)
            token = "R" if is_new and begin % 1 == 0 else letter
            pitch = _bass_pitch(token, root, chord, _chord_after(spans, begin + length), tonic)
            accent = 0.95 if begin == span.start else 0.8
            notes.append(Note(instrument, pitch, begin, 0.92 * length, accent))
    return notes


def _split(start: float, beats: float, span: Span) -> list[tuple[float, float]]:
    """Cut a long note where the chord of the span changes -> (start, beats) of its parts."""
    cuts = [change for change, _, _ in span.changes if start < change < start + beats]
    edges = [start, *cuts, start + beats]
    return [(a, b - a) for a, b in pairwise(edges)]


def _root(chord: Chord, tonic: int) -> int:
    return nearest_pitch(BASS_REGISTER, (chord.root,), tonic)


def _chord_after(spans: list[Span], beat: float) -> Chord:
    """Return the chord that sounds at a beat, or the last."""
    return span_at(spans, beat).chord_at(beat + 1e-9)


def _bass_pitch(letter: str, root: int, chord: Chord, following: Chord, tonic: int) -> int:
    """Return the pitch of a letter of a bass pattern."""
    third, fifth = chord.intervals[1], chord.intervals[2]
    if letter == "a":
        target = _root(following, tonic)
        return step(target, -1 if target >= root else 1, following, tonic)
    above = {"R": 0, "3": third, "5": fifth, "6": step(root, 5, chord, tonic) - root, "8": 12}[letter]
    pitch = root + above
    return pitch - 12 if letter == "5" and pitch > BASS_REGISTER + 9 else pitch


def _walk(facts: Facts, spans: list[Span], instrument: str, rng: np.random.Generator) -> list[Note]:
    """Walk in quarter notes: the root, tones of the chord and its scale, and a neighbor of the next root."""
    tonic, notes = tonic_of(facts), []
    for span in spans:
        for start, beats, chord in span.changes:
            pitch, count = _root(chord, tonic), max(1, round(beats))
            target = _root(_chord_after(spans, start + beats), tonic)
            direction = 1 if target >= pitch or pitch < 33 else -1
            for i in range(count):
                if i == 0:
                    moved = pitch
                elif i == count - 1:
                    moved = target + int(rng.choice((-1, 1, 2 if direction < 0 else -2)))
                else:
                    moved = nearest_pitch(
                        pitch + direction * 3.4, chord.tones if rng.random() < 0.7 else chord.scale, tonic
                    )
                pitch = int(np.clip(moved, 28, 52))
                notes.append(Note(instrument, pitch, start + i, 0.9, 0.9 if i % 2 == 0 else 0.8))
    return notes


# The drums


def beat(facts: Facts, spans: list[Span], kit: str, random: Random) -> list[Note]:
    """Write the drums, bar by bar: a groove of the style, fills before new phrases and crashes after them."""
    style = STYLES[facts.style]
    grooves = (style.kit if kit == "kit" else style.brushes)[facts.meter]
    bar, notes = facts.beats_per_bar, []
    end = spans[-1].start + spans[-1].beats
    for number in range(math.ceil(end / bar)):
        start = number * bar
        first, last = span_at(spans, start), span_at(spans, start + bar - 1e-6)
        groove: Groove = choose(grooves, random("groove", first.phrase[0]))
        rng = random("bar", number)
        filled = 0.0
        if last.place == 3 and not last.is_last and rng.random() < (0.9 if last.phrase[1] == "2" else 0.5):
            filled = 1.0 if rng.random() < 0.5 or bar == 3 else 2.0
        notes += _groove(groove, start, bar, bar - filled)
        if filled:
            notes += _fill(style, kit, start + bar - filled, filled, rng)
        if kit == "kit" and number and first.place == 0 and first.phrase[1] == "1":
            notes.append(Note("crash", 0, start, 1.0, 0.75))
    return notes


def _groove(groove: Groove, start: float, bar: int, until: float) -> list[Note]:
    """Play a groove's bar up to a beat of it."""
    return [
        Note(drum, 0, start + i * bar / len(pattern), 0.5, LOUD[letter])
        for drum, pattern in groove.items()
        for i, letter in enumerate(pattern)
        if letter != "." and (i * bar / len(pattern) < until or "kick" in drum)
    ]


def _fill(style: Style, kit: str, start: float, beats: float, rng: np.random.Generator) -> list[Note]:
    """Play the last beats of a fill of two."""
    kind = "brushes" if kit == "brushes" else "swung" if style.swing > 0.6 else "straight"
    fill = choose(FILLS[kind], rng)
    return [
        Note(drum, 0, start + i * 2 / len(pattern) - (2 - beats), 0.5, LOUD[letter])
        for drum, pattern in fill.items()
        for i, letter in enumerate(pattern)
        if letter != "." and i * 2 / len(pattern) >= 2 - beats
    ]
