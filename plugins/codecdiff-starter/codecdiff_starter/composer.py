"""A composer: short tracks of music whose description is true by construction, written and played by rule.

    facts = random_facts(np.random.default_rng(0))
    audio = compose(facts, seed=0, seconds=12.0)  # (t,) at 44.1 kHz
    texts = captions(facts, np.random.default_rng(0))

A track is a pure function of its facts, its seed and its seconds (to within rounding, between machines and versions of
numpy). Every part starts at once and plays throughout, so any few seconds of a track show all its facts.
`python -m codecdiff_starter.composer FOLDER` writes a data set.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from scipy.signal import butter, oaconvolve, sosfilt

from codecdiff_starter.facts import (
    CLASSES,
    PARTS,
    Facts,
    captions,
    held_out,
    held_out_facts,
    random_facts,
    training_facts,
)
from codecdiff_starter.instruments import INSTRUMENTS, SAMPLE_RATE, Audio, times

__all__ = [
    "CLASSES",
    "COMPOSER_VERSION",
    "SAMPLE_RATE",
    "Facts",
    "captions",
    "compose",
    "held_out",
    "held_out_facts",
    "mix",
    "random_facts",
    "stems",
    "training_facts",
    "write_dataset",
]

COMPOSER_VERSION = 2  # changes whenever the same facts and seed would make another track or other captions

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones above the tonic
HALF_CADENCES = ((0, 5, 3, 4), (0, 3, 0, 4), (0, 2, 3, 4), (0, 3, 5, 4))  # four chords, as degrees of the scale
AUTHENTIC_CADENCES = ((0, 3, 4, 0), (5, 3, 4, 0), (0, 5, 4, 0), (3, 0, 4, 0))
RHYTHMS = {  # beats of a chord -> lengths of the notes of a motif, in beats
    2: ((1, 1), (1.5, 0.5), (0.5, 0.5, 1), (1, 0.5, 0.5), (0.75, 0.25, 1), (0.5, 0.5, 0.5, 0.5)),
    3: ((1, 1, 1), (2, 1), (1.5, 0.5, 1), (1, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)),
    4: ((1, 1, 1, 1), (1.5, 0.5, 1, 1), (1, 0.5, 0.5, 2), (2, 1, 1), (1, 1, 0.5, 0.5, 1), (1.5, 1.5, 1)),
}
CADENCE_RHYTHMS = {2: ((2,), (0.5, 1.5), (1, 1)), 3: ((3,), (1, 2), (2, 1)), 4: ((2, 2), (1, 1, 2), (1, 3))}
ARPEGGIOS = ((0, 1, 2, 3, 2, 1), (0, 1, 2, 3), (0, 2, 1, 2), (0, 2, 1, 3))  # which chord tone, from the lowest
BASS_LINES = {"plucked": ((0, 2), (0, 1, 2, 1), (0, 0, 2, 2)), "synth": ((0, 0), (0, 0, 0, 3), (0, 3), (0, 0, 2, 0))}
REGISTERS = {"piano": 72, "flute": 74, "strings": 67, "guitar": 64, "pad": 58, "arpeggio": 66, "bass": 37}  # MIDI pitch
LEVELS = {  # dB, relative to the lead
    "piano": 0.0,
    "flute": 0.0,
    "strings": 0.0,
    "guitar": 0.0,
    "pad": -6.0,
    "arpeggio": -6.0,
    "plucked": -2.0,
    "synth": -2.0,
    "brushes": -8.0,
    "kit": -3.0,
}
LOUDNESS = {"soft": (-30.0, -30.0), "loud": (-16.0, -16.0), "swelling": (-30.0, -15.0)}  # lowest, highest dBFS
VELOCITY = {"soft": 0.3, "loud": 0.9, "swelling": 0.6}  # how hard the notes are struck


class Span(NamedTuple):
    """A stretch of one chord."""

    start: float  # beats
    beats: int
    chord: int  # degree of the scale, 0 is the tonic
    place: int  # in the phrase of four spans


class Note(NamedTuple):
    """One note of a part, before it is played."""

    instrument: str
    start: float  # beats
    beats: float
    frequency: float  # Hz
    accent: float = 1.0  # relative velocity


def compose(facts: Facts, seed: int, seconds: float) -> Audio:
    """Write and play the track with these facts -> (t,) audio, t = round(seconds * 44100), peak below 1."""
    return mix(stems(facts, seed, seconds), facts, seed)


def stems(facts: Facts, seed: int, seconds: float) -> dict[str, Audio]:
    """Write and play every part of a track by itself -> its parts by name, each (t,) audio at its level in the mix.

    A part does not depend on which others there are: with another lead or without the drums it is the same track.
    """
    writers = {"lead": melody, "accompaniment": accompany, "bass": bass_line, "drums": beat}
    spans = harmony(facts, seconds * facts.bpm / 60, _rng(seed, "harmony"))
    played: dict[str, Audio] = {}
    for part in PARTS:
        if (name := getattr(facts, part)) != "none":
            rng = _rng(seed, part)
            audio = perform(writers[part](facts, spans, rng), facts, seconds, rng)
            level = 10 ** ((LEVELS[name] + rng.normal(0, 1)) / 20)
            played[part] = audio * np.float32(level / (np.sqrt(np.mean(audio**2)) + 1e-9))
    return played


def mix(parts: dict[str, Audio], facts: Facts, seed: int) -> Audio:
    """Put the parts of `stems` into one room, at the loudness the dynamics ask for -> (t,) audio."""
    dry = np.stack(list(parts.values())).sum(axis=0)
    audio = _limited(_in_room(dry, _rng(seed, "room")), facts)
    fade = np.linspace(1, 0, round(0.04 * SAMPLE_RATE), dtype=np.float32)[-len(audio) :]
    audio[-len(fade) :] *= fade
    return audio


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([COMPOSER_VERSION, seed, *purpose.encode()])


def _choose(options: Any, rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


# The score


def harmony(facts: Facts, beats: float, rng: np.random.Generator) -> list[Span]:
    """Write at least `beats` of chords: phrases of four with half and authentic cadences in turn, closing on the tonic.

    A chord lasts a bar, or half a bar of a slow 4/4.
    """
    length = 2 if (facts.tempo, facts.meter) == ("slow", "4/4") else facts.beats_per_bar
    count = max(1, math.ceil(beats / length))
    pairs = ((*_choose(HALF_CADENCES, rng), *_choose(AUTHENTIC_CADENCES, rng)) for _ in itertools.count())
    chords = list(itertools.islice(itertools.chain.from_iterable(pairs), count))
    chords[-2:] = (4, 0)[-count:]
    return [Span(i * length, length, chord, 3 if i == count - 1 else i % 4) for i, chord in enumerate(chords)]


def _semitones(facts: Facts, degree: int, chord: int) -> int:
    """Semitones above the tonic; the dominant of a minor key has the raised leading note."""
    octave, step = divmod(degree, 7)
    raised = facts.mode == "minor" and chord == 4 and step == 6
    return 12 * octave + SCALES[facts.mode][step] + raised


def _frequency(facts: Facts, degree: int, chord: int, register: int) -> float:
    """Frequency in Hz of a degree of the scale above the tonic nearest to `register`, a MIDI pitch."""
    tonic = CLASSES["key"].index(facts.key)
    base = tonic + 12 * round((register - tonic) / 12)
    return 440 * 2 ** ((base + _semitones(facts, degree, chord) - 69) / 12)


def _nearest(degree: float, classes: tuple[int, ...]) -> int:
    """Return the degree nearest to `degree` that is one of `classes` in some octave."""
    candidates = range(math.floor(degree) - 7, math.ceil(degree) + 8)
    return min((d for d in candidates if (d % 7) in classes), key=lambda d: abs(d - degree))


def _tones(chord: int) -> tuple[int, ...]:
    return chord % 7, (chord + 2) % 7, (chord + 4) % 7


def melody(facts: Facts, spans: list[Span], rng: np.random.Generator) -> list[Note]:
    """Write the lead: a motif, its repetition on the next chord, an answer and a close; strong beats on chord tones."""
    beats = spans[0].beats
    motif, answer = (_motif(_choose(RHYTHMS[beats], rng), rng) for _ in range(2))
    close = _motif(_choose(CADENCE_RHYTHMS[beats], rng), rng)
    notes, degree = [], _choose((0, 2, 4), rng)
    for span in spans:
        start = span.start
        for length, step in (motif, motif, answer, close)[span.place]:
            step = step if abs(degree + step - 2) <= 5 else -step
            degree += step
            if (start - span.start) % 2 == 0:
                degree = _nearest(degree + 0.4 * step, _tones(span.chord))  # rather on than back
            if span.place == 3 and start + length == span.start + span.beats:
                degree = _nearest(degree, (span.chord,))
            notes += _voiced(facts, span, start, length, degree)
            start += length
    return notes


def _motif(rhythm: tuple[float, ...], rng: np.random.Generator) -> list[tuple[float, int]]:
    """Assign each note of a rhythm a step of the scale: mostly to a neighbor, sometimes a leap."""
    return [(length, int(rng.choice((-3, -2, -1, 1, 2, 3), p=(0.05, 0.15, 0.3, 0.3, 0.15, 0.05)))) for length in rhythm]


def _voiced(facts: Facts, span: Span, start: float, length: float, degree: int) -> list[Note]:
    """Return a note of the melody with what the lead's own hands add: an octave below, or a third and the root."""

    def note(degree: int, beats: float, accent: float) -> Note:
        return Note(facts.lead, start, beats, _frequency(facts, degree, span.chord, REGISTERS[facts.lead]), accent)

    notes = [note(degree, length, 1.0 if start == span.start else 0.85)]
    if facts.lead == "strings":
        notes.append(note(degree - 7, length, 0.6))
    if facts.lead in ("piano", "guitar") and start == span.start:
        notes.append(note(_nearest(degree - 3, _tones(span.chord)), length, 0.6))
        notes.append(note(_nearest(-7, (span.chord,)), span.beats, 0.6))
    return notes


def accompany(facts: Facts, spans: list[Span], rng: np.random.Generator) -> list[Note]:
    """Write the accompaniment: each chord held in close position, or broken into quick notes."""
    name, register = facts.accompaniment, REGISTERS[facts.accompaniment]
    pattern, quick = _choose(ARPEGGIOS, rng), 0.25 if facts.tempo == "slow" else 0.5  # beats
    notes = []
    for span in spans:
        tones = sorted(_nearest(0, (tone,)) for tone in _tones(span.chord))
        tones.append(tones[0] + 7)
        frequencies = [_frequency(facts, tone, span.chord, register) for tone in tones]
        if name == "pad":
            notes += [Note(name, span.start, span.beats, frequency) for frequency in frequencies]
            continue
        for i in range(round(span.beats / quick)):
            frequency = frequencies[pattern[i % len(pattern)]]
            notes.append(Note(name, span.start + i * quick, quick, frequency, 1.0 if i == 0 else 0.8))
    return notes


def bass_line(facts: Facts, spans: list[Span], rng: np.random.Generator) -> list[Note]:
    """Write the bass: the root on the chord's first beat, then a figure of root, third, fifth and octave."""
    pattern, step = _choose(BASS_LINES[facts.bass], rng), 0.5 if facts.bass == "synth" else 1.0  # beats
    notes = []
    for span in spans:
        root = _nearest(0, (span.chord,))
        frequencies = [_frequency(facts, root + d, span.chord, REGISTERS["bass"]) for d in (0, 2, 4, 7)]
        for i in range(round(span.beats / step)):
            frequency = frequencies[pattern[i % len(pattern)]]
            notes.append(Note(facts.bass, span.start + i * step, 0.85 * step, frequency, 1.0 if i == 0 else 0.85))
    return notes


def beat(facts: Facts, spans: list[Span], rng: np.random.Generator) -> list[Note]:
    """Write the drums, bar by bar: a groove of the kit, or brushes that sweep every beat and tap the backbeat."""
    groove = _kit(facts, rng) if facts.drums == "kit" else _brushes(facts, rng)
    tuning = rng.uniform(0.9, 1.1)
    end = spans[-1].start + spans[-1].beats
    bars = range(math.ceil(end / facts.beats_per_bar))
    return [
        hit._replace(start=hit.start + bar * facts.beats_per_bar, frequency=hit.frequency * tuning)
        for bar in bars
        for hit in groove
    ]


def _kit(facts: Facts, rng: np.random.Generator) -> list[Note]:
    """Write one bar of kick, snare and hi-hat."""
    kicks = _choose({4: ((0, 2), (0, 2, 2.5), (0, 1.5, 2)), 3: ((0,), (0, 2.5))}[facts.beats_per_bar], rng)
    snares = (1, 3) if facts.beats_per_bar == 4 else _choose(((1, 2), (2,)), rng)
    hats = [Note("hat", 0.5 * i, 0.5, 9000, 0.6 if i % 2 else 1.0) for i in range(2 * facts.beats_per_bar)]
    return [Note("kick", k, 0.5, 50) for k in kicks] + [Note("snare", s, 0.5, 190) for s in snares] + hats


def _brushes(facts: Facts, rng: np.random.Generator) -> list[Note]:
    """Write one bar of brushes, the upbeats late as in swing, over a feathered kick."""
    backbeats = (1, 3) if facts.beats_per_bar == 4 else (1, 2)
    swung = [b + 2 / 3 for b in _choose(((1, 3), (1,), (0, 1)), rng) if b < facts.beats_per_bar]
    sweeps = [Note("sweep", b, 1.0, 3200, 0.8) for b in range(facts.beats_per_bar)]
    taps = [Note("tap", b, 0.5, 3000) for b in backbeats] + [Note("tap", b, 0.5, 3000, 0.6) for b in swung]
    return [*sweeps, *taps, Note("kick", 0, 0.5, 55, 0.5)]


# The performance


def perform(notes: list[Note], facts: Facts, seconds: float, rng: np.random.Generator) -> Audio:
    """Play notes with slightly uneven timing and force -> (t,) audio."""
    audio = np.zeros(len(times(seconds)), dtype=np.float32)
    beat_seconds = 60 / facts.bpm
    for note in notes:
        start = round(SAMPLE_RATE * max(0.0, note.start * beat_seconds + rng.normal(0, 0.005)))
        velocity = float(np.clip(VELOCITY[facts.dynamics] * note.accent + rng.normal(0, 0.04), 0.1, 1))
        sound = INSTRUMENTS[note.instrument](note.frequency, note.beats * beat_seconds, velocity, rng)
        loud = np.float32(note.accent * rng.uniform(0.85, 1.15))
        audio[start : start + len(sound)] += loud * sound[: max(0, len(audio) - start)]
    return audio


def _in_room(audio: Audio, rng: np.random.Generator) -> Audio:
    """Add the sound of a small room, noise that decays, and remove inaudibly low frequencies."""
    t = times(0.7)
    echo = rng.standard_normal(len(t)) * np.exp(-t * 6.9 / rng.uniform(0.35, 0.7)) * np.clip(t * 100, 0, 1)
    echo = np.asarray(sosfilt(butter(1, (200, 5000), "bandpass", fs=SAMPLE_RATE, output="sos"), echo))
    response = (echo * (rng.uniform(0.2, 0.35) / np.linalg.norm(echo))).astype(np.float32)
    response[0] += 1
    audible = np.asarray(sosfilt(butter(1, 20, "highpass", fs=SAMPLE_RATE, output="sos"), audio), np.float32)
    return oaconvolve(audible, response)[: len(audio)]


def _limited(audio: Audio, facts: Facts) -> Audio:
    """Bring audio to the loudness of the dynamics and bend peaks above 0.6 gently below 1."""
    bar = 60 / facts.bpm * facts.beats_per_bar  # seconds
    period = bar * max(1, round(4 / bar))  # a swell is a whole number of bars, about four seconds
    low, high = LOUDNESS[facts.dynamics]
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * times(len(audio) / SAMPLE_RATE) / np.float32(period))
    gain = 10 ** ((low + (high - low) * swell) / 20) / (np.sqrt(np.mean(audio**2)) + 1e-9)
    level = audio * gain
    loud = np.abs(level) > 0.6
    level[loud] = np.copysign(0.6 + 0.38 * np.tanh((np.abs(level[loud]) - 0.6) / 0.38), level[loud])
    return level.astype(np.float32)


# Data sets


def write_dataset(
    folder: str | Path,
    *,
    count: int,
    seconds: float = 12.0,
    seed: int = 0,
    held_out: bool = False,
    num_workers: int | None = None,
) -> Path:
    """Write `count` tracks as 16-bit FLAC with `metadata.jsonl`, an audio folder as Hugging Face `datasets` reads it.

    A row holds `text`, all its `captions`, every fact, and the `seed` that makes the track again. Tracks depend on
    (seed, index) alone. Training tracks are never of a held-out combination; with `held_out` all are, balanced as
    in `held_out_facts`. The same data set is not written twice; the folder of any other raises `ValueError`.
    """
    folder = Path(folder)
    recipe = {"version": COMPOSER_VERSION, "count": count, "seconds": seconds, "seed": seed, "held_out": held_out}
    _claim(folder, recipe)
    metadata = folder / "metadata.jsonl"
    if metadata.exists():
        return folder
    facts = held_out_facts(count, seed) if held_out else [None] * count
    with mapping(num_workers or os.cpu_count() or 1) as each:
        rows = list(each(partial(_write_track, folder, seconds, seed), range(count), facts))
    unfinished = metadata.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.replace(metadata)
    return folder


@contextmanager
def mapping(num_workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a `map` that works in this many processes; with 1, in this one."""
    if num_workers == 1:
        yield map
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=8)


def _claim(folder: Path, recipe: dict[str, Any]) -> None:
    """Note in the folder what it holds; raise `ValueError` if it holds something else."""
    note = folder / "composer.json"
    held = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    if held is None and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and was not written by the composer. Choose another folder.")
    if held not in (None, recipe):
        raise ValueError(f"{folder} holds another data set, {held}, not {recipe}. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(recipe) + "\n", encoding="utf-8")


def _write_track(folder: Path, seconds: float, seed: int, index: int, facts: Facts | None) -> dict[str, Any]:
    """Write the track with this index and return its row of metadata."""
    rng = np.random.default_rng([COMPOSER_VERSION, seed, index])
    facts = facts or training_facts(rng)
    track_seed = int(rng.integers(2**31))
    name = f"{index:06d}.flac"
    soundfile.write(folder / name, compose(facts, track_seed, seconds), SAMPLE_RATE, subtype="PCM_16")
    texts = captions(facts, rng)
    return {"file_name": name, "text": texts[0], "captions": texts, **asdict(facts), "seed": track_seed}


def main() -> None:
    """Write a data set from the command line."""
    parser = argparse.ArgumentParser(description="Write a data set of short tracks with captions.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="tracks")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each track")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="only combinations that are never trained on")
    parser.add_argument("--num-workers", type=int, default=None, help="processes; one per core by default")
    write_dataset(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
