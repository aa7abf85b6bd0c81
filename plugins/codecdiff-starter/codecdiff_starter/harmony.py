"""The harmony of a track: phrases of four spans, each of one or two chords, in a form that repeats and varies.

Chords are Roman numerals of the mode, upper case for major and lower case for minor: "V/vi" is the dominant of the
sixth degree. Phrases `ask` (they end open, on the dominant), `answer` (they close on the tonic) or lead `away`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones above the tonic
NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
PROGRESSIONS: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {  # harmony -> mode -> role -> phrases
    "song": {
        "major": {
            "ask": ("I V vi IV,V", "I vi IV V", "I IV I V", "I iii IV V", "I IV ii V", "I V/vi vi IV,V", "I vi ii V"),
            "answer": ("I IV V I", "I V/IV IV,V I", "vi IV V I", "I vi IV,V I", "ii V I,IV I", "I IV I,V I"),
            "away": ("vi iii IV V", "IV V/V V V", "IV I V/V V", "V/vi vi V/V V", "IV iv I V", "ii V/vi vi V"),
        },
        "minor": {
            "ask": ("i VI iv V", "i iv VI V", "i VII VI V", "i iv i V", "i VI i V", "i V/iv iv V"),
            "answer": ("i iv V i", "VI iv V i", "i VI iv,V i", "iv i V i", "i V/iv iv,V i", "i VII VI,V i"),
            "away": ("iv VII III V", "VI iv i V", "III VII iv V", "VI iv V/V V", "iv i VI V", "V/iv iv i V"),
        },
    },
    "jazz": {
        "major": {
            "ask": ("I vi ii V", "I V/ii ii V", "I,vi ii,V iii,V/ii ii,V", "I V/ii V/V ii,V", "I IV iii,V/ii ii,V"),
            "answer": ("ii V I,IV I", "I V/ii ii,V I", "iii,V/ii ii V I", "IV iv iii,V I", "ii,V iii,V/ii ii,V I"),
            "away": ("V/IV IV V/V V", "V/vi V/ii V/V V", "IV V/vi vi ii,V", "vi V/V ii V"),
        },
        "minor": {
            "ask": ("i VI ii° V", "i iv ii° V", "i V/iv iv V", "i,VI ii°,V i,VI ii°,V"),
            "answer": ("iv ii°,V i i", "i VI ii°,V i", "iv i ii°,V i", "VI V/V V i"),
            "away": ("iv VII III V", "V/iv iv V/V V", "VI iv ii° V"),
        },
    },
    "classical": {
        "major": {
            "ask": ("I IV ii V", "I V I V", "I vi ii V", "I V/ii ii V", "I ii I,IV V", "I IV I V"),
            "answer": ("I IV V I", "vi ii V I", "I ii I,V I", "I V/IV IV,V I", "IV I V I", "I V/V V I"),
            "away": ("V I V/V V", "V/ii ii V/V V", "vi V/vi vi V", "IV I V/V V"),
        },
        "minor": {
            "ask": ("i iv ii° V", "i V i V", "i VI iv V", "i V/iv iv V"),
            "answer": ("i iv V i", "VI ii° V i", "i V/iv iv,V i", "iv i V i", "i ii° i,V i"),
            "away": ("III VII i V", "V/iv iv V/V V", "VI iv i V", "iv i V/V V"),
        },
    },
    "blues": {
        "major": {
            "ask": ("I IV I I", "I I I V/IV"),
            "answer": ("V IV I I", "ii V I I"),
            "away": ("IV IV I I,V", "IV iv I V/ii"),
        },
        "minor": {"ask": ("i i i V/iv", "i iv i i"), "answer": ("VI V i i", "iv V i i"), "away": ("iv iv i i,V",)},
    },
    "vamp": {
        "major": {
            "ask": ("I IV I V", "I ii I IV,V", "I I IV V"),
            "answer": ("I IV I,V I", "IV V I I", "ii V I I"),
            "away": ("IV I ii V", "vi V/V ii V"),
        },
        "minor": {
            "ask": ("i i iv V", "i iv i V", "i VII iv V"),
            "answer": ("i iv V i", "iv V i i", "i VI,V i i"),
            "away": ("VI VII i V", "iv i VI V"),
        },
    },
}  # fmt: skip
FORMS = {  # sections of two phrases each: the melody of a letter comes back with it
    "song": ("A1 A2 A1 A2 B1 B2 A1 A2", "A1 A2 B1 B2", "A1 A2 B1 A2"),
    "jazz": ("A1 A2 A1 A2 B1 B2 A1 A2", "A1 A2 B1 A2"),
    "classical": ("A1 A2 B1 A2", "A1 A2 A1 A2 B1 B2 A1 A2"),
    "blues": ("A1 B1 A2",),
    "vamp": ("A1 A2 A1 A2 B1 A2",),
}
ROLES = {"A1": "ask", "A2": "answer", "B1": "away", "B2": "ask"}


class Chord(NamedTuple):
    """A chord in a key: pitches in semitones above the tonic."""

    numeral: str
    root: int
    intervals: tuple[int, ...]  # above the root, ascending
    scale: tuple[int, ...]  # the seven pitches of its scale, from 0 to 11

    @property
    def tones(self) -> tuple[int, ...]:
        """The chord's pitches, from 0 to 11."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


class Span(NamedTuple):
    """A stretch of one or two chords; four spans are a phrase."""

    start: float  # beats
    beats: int
    chords: tuple[Chord, ...]
    phrase: str  # A1, A2, B1 or B2
    place: int  # in the phrase, 0 to 3
    repeat: int  # how often the phrase was played before
    is_last: bool

    def chord_at(self, beat: float) -> Chord:
        """Return the chord that sounds at a beat of the track."""
        part = int((beat - self.start) / self.beats * len(self.chords))
        return self.chords[min(max(part, 0), len(self.chords) - 1)]

    @property
    def changes(self) -> list[tuple[float, float, Chord]]:
        """When each chord begins, how many beats it lasts, and the chord."""
        length = self.beats / len(self.chords)
        return [(self.start + i * length, length, chord) for i, chord in enumerate(self.chords)]


@lru_cache(maxsize=512)
def chord_of(numeral: str, mode: str, sevenths: bool) -> Chord:
    """Return the chord of a Roman numeral in a mode, with its seventh if `sevenths`, or if it leads to another chord.

    Raises `ValueError` for what is not a numeral.
    """
    name, _, target = numeral.partition("/")
    match = re.fullmatch(r"([IViv]+)(°?)", name)
    if match is None or match[1].upper() not in NUMERALS:
        raise ValueError(f"Invalid chord {numeral!r}: expected a Roman numeral, as V, ii° or V/vi.")
    scale = SCALES[mode]
    root = scale[NUMERALS.index(match[1].upper())]
    if target:
        root = (scale[NUMERALS.index(target.strip("°").upper())] + 7) % 12
    is_minor = match[1].islower()
    third, fifth = (3 if is_minor else 4), (6 if match[2] else 7)
    is_dominant = match[1] == "V"
    intervals: tuple[int, ...] = (0, third, fifth)
    if sevenths or target:
        intervals += (10 if is_minor or is_dominant or match[1] == "VII" else 11,)
    return Chord(numeral, root, intervals, _scale_of(root, intervals, scale, is_dominant))


def _scale_of(root: int, intervals: Sequence[int], scale: Sequence[int], is_dominant: bool) -> tuple[int, ...]:
    """Bend the scale of the key to a chord: a tone outside it takes the place of the neighbor that it alters."""
    bent = set(scale)
    for interval in intervals:
        tone = (root + interval) % 12
        if tone not in bent:
            is_raised = interval in (4, 7) if is_dominant else False
            bent.discard((tone - 1) % 12 if is_raised else (tone + 1) % 12)
            bent.add(tone)
    return tuple(sorted(bent))


def write_harmony(
    harmony: str, mode: str, sevenths: bool, *, span_beats: int, beats: float, rng: np.random.Generator
) -> list[Span]:
    """Write spans of at least `beats` beats, closing with a cadence: the dominant, then the tonic."""
    count = max(1, math.ceil(beats / span_beats - 1e-9))
    progressions = PROGRESSIONS[harmony][mode]
    form = str(rng.choice(FORMS[harmony])).split()
    numerals = {phrase: str(rng.choice(progressions[role])).split() for phrase, role in ROLES.items()}
    tonic, dominant = ("I", "V") if mode == "major" else ("i", "V")
    spans = []
    for i in range(count):
        round_, section = divmod(i // 4, len(form))
        phrase = form[section]
        names = numerals[phrase][i % 4].split(",")
        if i == count - 1:
            names = [tonic]
        elif i == count - 2 and dominant not in names[-1:]:
            names = [names[0], dominant] if names[0] != tonic and span_beats > 2 else [dominant]
        chords = tuple(chord_of(name, mode, sevenths) for name in names)
        repeat = round_ + form[:section].count(phrase)
        spans.append(Span(i * span_beats, span_beats, chords, phrase, i % 4, repeat, i == count - 1))
    return spans


def voice(chord: Chord, tonic: int, center: float, before: Sequence[int] = ()) -> list[int]:
    """Return MIDI pitches of a chord in close position near `center`, moving as little as can be from `before`."""
    classes = [(tonic + tone) % 12 for tone in chord.tones]
    if len(classes) > 3 and len(before) != 3:
        classes = [classes[0], classes[1], classes[3]] if center < 52 else classes
    options = []
    for lowest in classes:
        for octave in range(2, 7):
            bottom = 12 * octave + lowest
            pitches = sorted(bottom + (other - lowest) % 12 for other in classes)
            options.append(pitches)

    def cost(pitches: list[int]) -> float:
        away = abs(sum(pitches) / len(pitches) - center)
        pairs = zip(pitches, before, strict=False)
        return away + 0.4 * sum(abs(a - b) for a, b in pairs)

    return min(options, key=cost)


def step(pitch: int, steps: int, chord: Chord, tonic: int) -> int:
    """Return the MIDI pitch some steps of the chord's scale above or below a pitch."""
    ladder = _ladder(chord.scale, tonic)
    place = int(np.argmin(np.abs(ladder - pitch)))
    return int(ladder[place + steps])


@lru_cache(maxsize=256)
def _ladder(classes: tuple[int, ...], tonic: int) -> np.ndarray:
    """Return all MIDI pitches of some pitch classes above the tonic, ascending."""
    wanted = {(tonic + each) % 12 for each in classes}
    return np.array([pitch for pitch in range(-24, 152) if pitch % 12 in wanted])


def nearest_pitch(pitch: float, classes: Sequence[int], tonic: int) -> int:
    """Return the MIDI pitch nearest to `pitch` of some pitch classes above the tonic."""
    ladder = _ladder(tuple(classes), tonic)
    return int(ladder[np.argmin(np.abs(ladder - pitch))])
