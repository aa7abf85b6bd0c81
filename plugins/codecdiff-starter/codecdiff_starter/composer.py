"""A composer: short tracks of music whose description is true by construction, written by rule, played on samples.

    facts = random_facts(np.random.default_rng(0))
    audio = compose(facts, seed=0, seconds=12.0)  # (t,) at 44.1 kHz
    texts = captions(facts, np.random.default_rng(0))
    notes = score(facts, seed=0, seconds=12.0).notes  # what was played, and when

A track is a pure function of its facts, its seed and its seconds (to within rounding, between machines and versions of
numpy). Every part starts at once and plays throughout, so any few seconds of a track show all its facts.
`python -m codecdiff_starter.composer FOLDER` writes a data set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from scipy.signal import butter, oaconvolve, sosfilt

from codecdiff.errors import InvalidValue
from codecdiff.files import read_json
from codecdiff.rng import numpy_generator
from codecdiff_starter.arrangement import Note, accompany, bass_line, beat, harmony, melody
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
from codecdiff_starter.harmony import Span
from codecdiff_starter.instruments import SAMPLE_RATE, Audio, Strike, play
from codecdiff_starter.loudness import limited, loudness
from codecdiff_starter.styles import STYLES

__all__ = [
    "CLASSES",
    "COMPOSER_VERSION",
    "PARTS",
    "SAMPLE_RATE",
    "Facts",
    "Score",
    "ScoredChord",
    "ScoredNote",
    "captions",
    "compose",
    "held_out",
    "held_out_facts",
    "mix",
    "random_facts",
    "score",
    "stems",
    "training_facts",
    "write_dataset",
]

COMPOSER_VERSION = 3  # changes whenever the same facts and seed would make another track or other captions
LICENSE = "Apache-2.0"  # of the music, as of the program

WRITERS = {"lead": melody, "accompaniment": accompany, "bass": bass_line, "drums": beat}
LEVELS = {  # LU, relative to the lead
    "lead": 0.0,
    "pad": -8.0,
    "arpeggio": -6.5,
    "chords": -6.0,
    "bass": -7.0,
    "kit": -4.0,
    "brushes": -7.0,
}
DRUM_LEVELS = {  # dB, of drums that are equally loud in LUFS
    "kick": 1.0,
    "snare": 0.0,
    "rim": -7.0,
    "clap": -4.0,
    "closed hat": -11.0,
    "foot hat": -13.0,
    "open hat": -12.0,
    "ride": -10.0,
    "crash": -7.0,
    "low tom": -1.0,
    "mid tom": -1.0,
    "high tom": -1.0,
    "tambourine": -11.0,
    "shaker": -13.0,
    "conga": -6.0,
    "brush kick": -1.0,
    "brush tap": -2.0,
    "brush slap": -1.0,
    "brush swirl": -7.0,
    "808 kick": 1.0,
    "808 snare": -1.0,
}
LOUDNESS = {"soft": -18.0, "loud": -14.0, "swelling": -16.0}  # LUFS of the track
SWELL = 12.0  # dB, from the softest to the loudest moment of a swelling track
VELOCITY = {"soft": 0.5, "loud": 0.95, "swelling": 0.75}  # how hard the notes are struck
PHRASING = 0.12  # how much harder the middle of a phrase is played than its ends
PEAK = 0.82  # no sample is larger
REVERB = {"lead": 1.0, "accompaniment": 1.0, "bass": 0.15, "drums": 0.5}  # how much of a part the room reflects
UNEVEN = {"lead": 0.006, "accompaniment": 0.005, "bass": 0.004, "drums": 0.002}  # seconds, of a part's timing


class ScoredNote(NamedTuple):
    """A note as it is played: times in seconds, `pitch` a MIDI pitch (0 for drums, which `instrument` names)."""

    part: str
    instrument: str
    pitch: int
    start: float
    seconds: float
    velocity: float  # 0 to 1


class ScoredChord(NamedTuple):
    """A chord: its Roman numeral in the key, when it sounds in seconds, and its pitch classes (0 for C)."""

    numeral: str
    start: float
    seconds: float
    pitch_classes: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """What a track plays: notes in order of their start, chords, and the times of beats and bars in seconds."""

    facts: Facts
    seconds: float
    notes: tuple[ScoredNote, ...]
    chords: tuple[ScoredChord, ...]
    beats: tuple[float, ...]
    bars: tuple[float, ...]


def compose(facts: Facts, seed: int, seconds: float) -> Audio:
    """Write and play the track with these facts -> (t,) audio, t = round(seconds * 44100), peak below 1."""
    return mix(stems(facts, seed, seconds), facts, seed)


def score(facts: Facts, seed: int, seconds: float) -> Score:
    """Write the track with these facts: what `compose` plays, note by note."""
    spans = _harmony(facts, seed, seconds)
    beat_seconds, tonic = 60 / facts.bpm, CLASSES["key"].index(facts.key)
    notes = [note for part in facts.players for note in _performed(facts, spans, part, seed, seconds)]
    chords = [
        ScoredChord(c.numeral, start * beat_seconds, beats * beat_seconds, tuple((tonic + t) % 12 for t in c.tones))
        for span in spans
        for start, beats, c in span.changes
        if start * beat_seconds < seconds
    ]
    beats = np.arange(0, seconds, beat_seconds)
    return Score(
        facts,
        seconds,
        tuple(sorted(notes, key=lambda note: note.start)),
        tuple(chords),
        tuple(beats.tolist()),
        tuple(beats[:: facts.beats_per_bar].tolist()),
    )


def stems(facts: Facts, seed: int, seconds: float) -> dict[str, Audio]:
    """Write and play every part of a track by itself -> its parts by name, each (t,) audio at its level in the mix.

    The accompaniment, the bass and the drums do not depend on which other parts there are, except that the
    accompaniment takes another instrument than the lead. A lead that can fills in for those that are missing.
    """
    spans = _harmony(facts, seed, seconds)
    played: dict[str, Audio] = {}
    for part in facts.players:
        notes = _performed(facts, spans, part, seed, seconds)
        audio = play((Strike(*note[1:], DRUM_LEVELS.get(note.instrument, 0.0)) for note in notes), seconds)
        name = {"accompaniment": facts.accompaniment, "drums": facts.drums}.get(part, part)
        level = LEVELS[name] + _rng(seed, part, "level").normal(0, 1)
        played[part] = audio * np.float32(10 ** ((level - 20 - loudness(audio)) / 20))
    return played


def mix(parts: dict[str, Audio], facts: Facts, seed: int) -> Audio:
    """Put the parts of `stems` into one room, at the loudness the dynamics ask for -> (t,) audio."""
    dry = np.stack(list(parts.values())).sum(axis=0)
    wet = np.stack([audio * np.float32(REVERB[part]) for part, audio in parts.items()]).sum(axis=0)
    audio = _mastered(dry + _echo(wet, _rng(seed, "room")), facts)
    fade = np.linspace(1, 0, round(0.04 * SAMPLE_RATE), dtype=np.float32)[-len(audio) :]
    audio[-len(fade) :] *= fade
    return audio


def _rng(seed: int, *purpose: int | str) -> np.random.Generator:
    return numpy_generator("codecdiff_starter.composer", COMPOSER_VERSION, seed, *purpose)


def _harmony(facts: Facts, seed: int, seconds: float) -> list[Span]:
    return harmony(facts, seconds * facts.bpm / 60, _rng(seed, "harmony"))


# The performance


def _performed(facts: Facts, spans: list[Span], part: str, seed: int, seconds: float) -> list[ScoredNote]:
    """Write a part and play it as people do, with swing, and with slightly uneven timing and force."""
    notes: list[Note] = WRITERS[part](facts, spans, facts.players[part], partial(_rng, seed, part))
    rng, beat_seconds = _rng(seed, part, "performance"), 60 / facts.bpm
    late, force = rng.normal(0, UNEVEN[part], len(notes)), rng.normal(0, 0.04, len(notes))
    phrase_beats = 4 * spans[0].beats
    performed = []
    for note, delay, push in zip(notes, np.clip(late, -0.012, 0.012), force, strict=True):
        start = max(0.0, swung(note.start, facts) * beat_seconds + delay)
        end = swung(note.start + note.beats, facts) * beat_seconds
        rise = 1 + PHRASING * np.sin(np.pi * (note.start % phrase_beats) / phrase_beats)
        velocity = float(np.clip(VELOCITY[facts.dynamics] * rise * note.accent + push, 0.1, 1))
        if start < seconds:
            performed.append(ScoredNote(part, note.instrument, note.pitch, start, max(0.04, end - start), velocity))
    return performed


def swung(beat: float, facts: Facts) -> float:
    """Return when a beat of the score is played, in beats: the second half of a swung unit comes late."""
    style = STYLES[facts.style]
    late = style.swing - 0.5
    if facts.tempo == "fast":
        late *= 0.6
    unit = 2 * style.swung
    place = beat % unit / unit
    moved = place * (1 + 2 * late) if place < 0.5 else place + (1 - place) * 2 * late
    return beat + (moved - place) * unit


def _echo(audio: Audio, rng: np.random.Generator) -> Audio:
    """Return the sound of a room around audio (t,): noise that decays."""
    t = np.arange(round(0.9 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    noise = rng.standard_normal(len(t)) * np.exp(-t * 6.9 / rng.uniform(0.4, 0.9)) * np.clip(t * 80, 0, 1)
    band = np.asarray(sosfilt(butter(1, (200, 5000), "bandpass", fs=SAMPLE_RATE, output="sos"), noise))
    response = (band * (rng.uniform(0.15, 0.3) / np.linalg.norm(band))).astype(np.float32)
    return oaconvolve(audio, response)[: len(audio)]


def _mastered(audio: Audio, facts: Facts) -> Audio:
    """Remove inaudibly low frequencies, and bring audio to the loudness of the dynamics, without peaks."""
    audio = np.asarray(sosfilt(butter(1, 25, "highpass", fs=SAMPLE_RATE, output="sos"), audio), np.float32)
    if facts.dynamics == "swelling":
        bar = 60 / facts.bpm * facts.beats_per_bar  # seconds
        period = bar * max(1, round(4 / bar))  # a swell is a whole number of bars, about four seconds
        t = np.arange(len(audio), dtype=np.float32) / SAMPLE_RATE
        audio *= 10 ** (SWELL / 20 * (-0.5 - 0.5 * np.cos(2 * np.pi * t / np.float32(period))))
    for _ in range(2):  # peaks that are turned down leave less
        audio = limited(audio * np.float32(10 ** ((LOUDNESS[facts.dynamics] - loudness(audio)) / 20)), PEAK)
    return audio


# Data sets


def write_dataset(
    folder: str | Path,
    *,
    count: int,
    seconds: float = 12.0,
    seed: int = 0,
    held_out: bool = False,
    num_workers: int | None = None,
    report: Callable[[int], None] = lambda count: None,
) -> Path:
    """Write `count` tracks as 16-bit FLAC with `metadata.jsonl`, an audio folder as Hugging Face `datasets` reads it.

    A row holds `text`, all its `captions`, every fact, the `instruments`, the `seed` that makes the track again, and
    the license. `report` receives the number of tracks that are written.
    Tracks depend on (seed, index) alone. Training tracks are never of a held-out combination; with `held_out` all are,
    balanced as in `held_out_facts`. The same data set is not written twice; the folder of any other raises
    `ValueError`.
    """
    folder = Path(folder)
    recipe = {"version": COMPOSER_VERSION, "count": count, "seconds": seconds, "seed": seed, "held_out": held_out}
    _claim(folder, recipe)
    metadata = folder / "metadata.jsonl"
    if metadata.exists():
        return folder
    facts = held_out_facts(count, seed) if held_out else [None] * count
    with mapping(num_workers or os.cpu_count() or 1) as each:
        rows = []
        for row in each(partial(_write_track, folder, seconds, seed), range(count), facts):
            rows.append(row)
            report(len(rows))
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
    held = read_json(note) if note.exists() else None
    if held is None and folder.exists() and any(folder.iterdir()):
        raise InvalidValue(f"{folder} is not empty and was not written by the composer. Choose another folder.")
    if held not in (None, recipe):
        raise InvalidValue(f"{folder} holds another data set, {held}, not {recipe}. Choose another folder.")
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
    row = {"file_name": name, "text": texts[0], "captions": texts, **asdict(facts)}
    return row | {"instruments": facts.instruments, "seed": track_seed, "license": LICENSE}


def main() -> None:
    """Write a data set from the command line."""
    from codecdiff.cli.console import err, progress

    parser = argparse.ArgumentParser(
        prog="python -m codecdiff_starter.composer",
        description="Write a data set of short tracks with captions.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, help="folder to write to: new, or of the same data set")
    parser.add_argument("--count", type=int, default=200, help="number of tracks (%(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="seconds of each track (%(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same tracks (%(default)s)")
    parser.add_argument("--held-out", action="store_true", help="only combinations that are never trained on")
    parser.add_argument("--num-workers", type=int, default=None, help="processes; one per core by default")
    options = vars(parser.parse_args())
    with progress("Composing tracks", options["count"]) as report:
        folder = write_dataset(**options, report=report)
    err.print(f"Written: {folder}", soft_wrap=True)


if __name__ == "__main__":
    from codecdiff.cli.console import errors_as_sentences

    with errors_as_sentences():
        main()
