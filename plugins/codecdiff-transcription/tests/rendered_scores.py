"""Scores with known notes, rendered as harmonic tones: what transcription is checked against."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SAMPLE_RATE = 22_050  # Hz
BEAT = 0.5  # s
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major and natural minor
PROGRESSIONS = ((0, 5, 3, 4), (0, 3, 4, 0), (0, 4, 5, 3))  # degrees, a bar of four beats each


class Tone(NamedTuple):
    """A note of a score: seconds, MIDI number, amplitude."""

    start: float
    end: float
    pitch: int
    amplitude: float


class Score(NamedTuple):
    """Notes, and what they are: key and chords 0...23 as `codecdiff_eval` numbers keys, and the melody's pitches."""

    tones: list[Tone]
    key: int
    chords: list[int]
    melody: list[int]


def write_score(seed: int) -> Score:
    """Write four bars of a melody over chords and bass; mostly notes of the chord, on a random tonic."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    tonic, minor = draw(12), draw(2)
    scale, tones, chords, melody = SCALES[minor], [], [], []
    for bar, degree in enumerate(PROGRESSIONS[draw(3)]):
        start = 4 * bar * BEAT
        steps = [scale[(degree + third) % 7] + 12 * ((degree + third) // 7) for third in (0, 2, 4)]
        chord = (tonic + steps[0]) % 12 + 12 * (steps[1] - steps[0] == 3)
        chords += [chord] if chords[-1:] != [chord] else []
        tones += [Tone(start, start + 4 * BEAT, 48 + tonic + step, 0.08) for step in steps]
        tones += [
            Tone(start + half * BEAT, start + (half + 2) * BEAT, 36 + tonic + steps[0] % 12, 0.12) for half in (0, 2)
        ]
        beat = 0.0
        while beat < 4:
            length = min((0.5, 1, 1)[draw(3)], 4 - beat)
            step = steps[draw(3)] % 12 if draw(3) else scale[draw(7)]
            melody.append(72 + tonic + step - 12 * (tonic > 6))
            tones.append(Tone(start + beat * BEAT, start + (beat + length) * BEAT, melody[-1], 0.15))
            beat += length
    return Score(tones, tonic + 12 * minor, chords, melody)


def render(tones: list[Tone], seconds: float) -> Tensor:
    """Render tones as (t,) audio: six partials that decay, at a soft attack and release."""
    audio = torch.zeros(round(seconds * SAMPLE_RATE))
    for start, end, pitch, amplitude in tones:
        time = torch.arange(round((end - start) * SAMPLE_RATE)) / SAMPLE_RATE
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        partials = sum(torch.sin(2 * torch.pi * hertz * k * time) / k**1.5 for k in range(1, 7) if hertz * k < 10_000)
        envelope = torch.exp(-1.5 * time) * (time / 0.01).clamp(max=1) * ((end - start - time) / 0.03).clamp(0, 1)
        first = round(start * SAMPLE_RATE)
        tone = (amplitude * partials * envelope)[: len(audio) - first]
        audio[first : first + len(tone)] += tone
    return audio


def true_roll(tones: list[Tone], num_frames: int, frames_per_second: float) -> Tensor:
    """Return (f, 88): 1 where a note sounds."""
    roll = torch.zeros(num_frames, 88)
    for tone in tones:
        roll[round(tone.start * frames_per_second) : round(tone.end * frames_per_second), tone.pitch - 21] = 1
    return roll
