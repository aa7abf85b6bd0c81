"""The instruments of the composer: sampled ones of FluidR3, played at any pitch.

    audio = note("flute", 74, seconds=1.5)  # (t,) at 44.1 kHz
    audio = play([Strike("piano", 60, 0.0, 1.0, 0.8), Strike("piano", 64, 0.5, 1.0, 0.6)], seconds=2.0)

A note is the nearest sample, resampled to its pitch. Past the end of the sample its loop goes on, fading as the
sample did, and after the note is released a short fade ends it. Soft notes are quieter and darker. All instruments
are equally loud in LUFS at the same velocity; the mix balances them. `sounds/` holds the samples
(`extract_instruments` makes them) under the license beside them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.signal import lfilter

Audio = NDArray[np.float32]

SAMPLE_RATE = 44_100  # Hz
SOUNDS = Path(__file__).parent / "sounds"
FADE_IN = 66  # samples, 1.5 ms
SWELL_SECONDS = 0.35  # after which a player's vibrato sets in


class Sample(NamedTuple):
    """One recorded tone or stroke; places are sample indices."""

    audio: Audio  # (t,)
    pitch: float = 0.0  # MIDI pitch as recorded
    loop: int = 0  # where the loop begins that ends with the audio
    held: int = 0  # from where the fading was taken out of the audio
    decay: float = 0.0  # nepers per second


@dataclass(frozen=True)
class Instrument:
    """How notes of one instrument are played, and the MIDI pitches it has."""

    low: int
    high: int
    release: float  # seconds
    cutoff: float = 2000.0  # Hz, of the filter that darkens soft notes
    tremolo: float = 0.0  # depth of a vibrato in loudness
    rate: float = 5.2  # Hz, of the vibrato
    is_immediate: bool = False  # whether the vibrato is a motor's, and not a player's that sets in late


TONES: dict[str, Instrument] = {
    "piano": Instrument(28, 92, 0.18, 1200),
    "electric piano": Instrument(36, 88, 0.15, 1200),
    "celesta": Instrument(57, 93, 0.4, 3000),
    "vibraphone": Instrument(53, 86, 0.35, 2000, tremolo=0.18, rate=4.5, is_immediate=True),
    "organ": Instrument(36, 84, 0.06, 3000, tremolo=0.06, rate=6.2, is_immediate=True),
    "nylon guitar": Instrument(40, 83, 0.12, 1200),
    "steel guitar": Instrument(40, 80, 0.12, 1500),
    "electric guitar": Instrument(40, 80, 0.1, 1500),
    "upright bass": Instrument(28, 57, 0.08, 600),
    "electric bass": Instrument(28, 55, 0.07, 600),
    "synth bass": Instrument(28, 52, 0.05, 800),
    "strings": Instrument(40, 88, 0.22, 1500),
    "trumpet": Instrument(55, 84, 0.09, 1800, tremolo=0.06),
    "saxophone": Instrument(46, 78, 0.09, 1500, tremolo=0.07),
    "clarinet": Instrument(50, 86, 0.08, 1800, tremolo=0.04),
    "flute": Instrument(60, 91, 0.1, 2500, tremolo=0.1),
    "pad": Instrument(40, 80, 0.4, 1000),
}
HARDNESS = 4000.0  # Hz: soft strokes on drums are darker


class Strike(NamedTuple):
    """A note as it is played: `pitch` is a MIDI pitch, 0 for drums; `start` and `seconds` until it is released."""

    instrument: str
    pitch: int
    start: float
    seconds: float
    velocity: float  # 0 to 1
    level: float = 0.0  # dB


@lru_cache(maxsize=1)
def bundle() -> tuple[dict[str, list[Sample]], dict[str, Sample]]:
    """Read the samples: of every instrument from the lowest, and of every drum."""
    table = json.loads((SOUNDS / "instruments.json").read_text(encoding="utf-8"))
    audio, _ = soundfile.read(SOUNDS / "instruments.ogg", dtype="float32")

    def sound(row: dict[str, float]) -> Audio:
        start, length = int(row["start"]), int(row["length"])
        return audio[start : start + length] * np.float32(row["gain"])

    def tone(row: dict[str, float]) -> Sample:
        loop = int(row["loop"])
        looped = blended(sound(row), loop, int(row["overlap"]), row["likeness"])
        return Sample(looped, row["pitch"], loop, int(row["held"]), row["decay"])

    tones = {name: [tone(row) for row in rows] for name, rows in table["instruments"].items()}
    return tones, {name: Sample(sound(row)) for name, row in table["drums"].items()}


def blended(audio: Audio, loop: int, overlap: int, likeness: float) -> Audio:
    """Cross-fade the end of a sample (t,) into what comes before its loop, so that the loop is seamless.

    `likeness` is the correlation of the two, which says how their powers add.
    """
    blend = np.linspace(0, 1, overlap, dtype=np.float32)
    weight = np.sqrt(blend**2 + (1 - blend) ** 2 + 2 * np.float32(likeness) * blend * (1 - blend))
    end = (audio[-overlap:] * (1 - blend) + audio[loop - overlap : loop] * blend) / weight
    return np.concatenate([audio[:-overlap], end.astype(np.float32)])


def drum_names() -> tuple[str, ...]:
    """Return the names of all drums."""
    return tuple(bundle()[1])


def hold(sample: Sample, pitch: float, seconds: float) -> Audio:
    """Hold a sample's loop for some seconds at a pitch -> (t,) audio."""
    ratio = 2 ** ((pitch - sample.pitch) / 12)
    count = math.ceil(seconds * SAMPLE_RATE * ratio) + 64
    repeats = max(0, -(-(count - len(sample.audio)) // (len(sample.audio) - sample.loop)))
    audio = np.concatenate([sample.audio, np.tile(sample.audio[sample.loop :], repeats)])[:count]
    if sample.decay and count > sample.held:
        fading = np.arange(count - sample.held, dtype=np.float32) * np.float32(-sample.decay / SAMPLE_RATE)
        audio[sample.held :] *= np.exp(fading)
    return soxr.resample(audio, SAMPLE_RATE * ratio, SAMPLE_RATE)[: round(seconds * SAMPLE_RATE)]


def _darkened(audio: Audio, cutoff: float) -> Audio:
    """Filter audio by one pole at a cutoff in Hz."""
    pole = math.exp(-2 * math.pi * cutoff / SAMPLE_RATE)
    numerator, denominator = np.array([1 - pole], np.float32), np.array([1, -pole], np.float32)
    return np.asarray(lfilter(numerator, denominator, audio)).astype(np.float32, copy=False)


def _vibrato(instrument: Instrument, count: int) -> Audio:
    """Return the loudness of a vibrato over time (t,), around 1."""
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    depth = instrument.tremolo * (1 if instrument.is_immediate else np.clip(2.5 * (t - SWELL_SECONDS), 0, 1))
    return np.asarray(1 + depth * np.sin(np.float32(2 * np.pi * instrument.rate) * t), np.float32)


def _struck(base: Audio, dark: Audio, strike: Strike, held: int, release: int) -> Audio:
    """Play one note out of the long bright and dark tone of its pitch, (t,) each; `release` in samples."""
    bright, gain = np.float32(strike.velocity), np.float32(strike.velocity**1.3 * 10 ** (strike.level / 20))
    length = min(len(base), held + release)
    sound = np.asarray(dark[:length] + (base[:length] - dark[:length]) * bright, np.float32)
    sound *= gain
    fade_in = np.linspace(0, 1, min(FADE_IN, length), dtype=np.float32)
    sound[: len(fade_in)] *= fade_in
    fade = min(release, length)
    sound[length - fade :] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
    return sound


def _pitched(name: str, pitch: int, strikes: list[Strike], audio: Audio) -> None:
    """Add all notes of one pitch of one instrument to audio (t,)."""
    instrument = TONES[name]
    longest = max(strike.seconds for strike in strikes) + instrument.release
    sample = min(bundle()[0][name], key=lambda sample: abs(sample.pitch - pitch))
    base = hold(sample, pitch, longest)
    if instrument.tremolo:
        base *= _vibrato(instrument, len(base))
    dark = _darkened(base, instrument.cutoff)
    for strike in strikes:
        held, release = round(strike.seconds * SAMPLE_RATE), round(instrument.release * SAMPLE_RATE)
        _add(_struck(base, dark, strike, held, release), strike.start, audio)


def _add(sound: Audio, start: float, audio: Audio) -> None:
    begin = round(start * SAMPLE_RATE)
    audio[begin : begin + len(sound)] += sound[: max(0, len(audio) - begin)]


def play(strikes: Iterable[Strike], seconds: float) -> Audio:
    """Play notes -> (t,) audio of `seconds`; what sounds longer is cut. Raises `LookupError` for other instruments."""
    audio = np.zeros(max(1, round(seconds * SAMPLE_RATE)), dtype=np.float32)
    groups: dict[tuple[str, int], list[Strike]] = defaultdict(list)
    for strike in strikes:
        groups[strike.instrument, strike.pitch].append(strike)
    drums = bundle()[1]
    for (name, pitch), group in groups.items():
        if name in TONES:
            _pitched(name, pitch, group, audio)
        elif name in drums:
            base = drums[name].audio
            dark = _darkened(base, HARDNESS)
            for strike in group:
                _add(_struck(base, dark, strike, len(base), 1), strike.start, audio)
        else:
            raise LookupError(f"No instrument {name!r}. There are: {', '.join([*TONES, *drums])}.")
    return audio


def note(instrument: str, pitch: int, seconds: float, velocity: float = 0.8) -> Audio:
    """Play one note, dry -> (t,) audio that ends in silence, longer than `seconds` by the release.

    Raises `LookupError` for an instrument that is not there, and `ValueError` for a pitch that it does not have.
    """
    tone = TONES.get(instrument)
    if tone and not tone.low <= pitch <= tone.high:
        raise ValueError(f"The {instrument} has the MIDI pitches {tone.low} to {tone.high}, not {pitch}.")
    length = seconds + tone.release if tone else seconds
    return play([Strike(instrument, pitch if tone else 0, 0.0, seconds, velocity)], length)
