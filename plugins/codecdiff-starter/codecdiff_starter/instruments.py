"""The instruments of the composer: each makes one note.

Every instrument has the signature `(frequency, seconds, velocity, rng) -> (t,) float32 audio`, with the frequency in
Hz, the time until the note is released in seconds and the velocity from 0 to 1. The audio outlasts `seconds` by the
instrument's release (a drum rings as long as it rings) and ends in silence. Levels are balanced in the mix, not here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

Audio = NDArray[np.float32]
Floats = NDArray[np.floating]
Instrument = Callable[[float, float, float, np.random.Generator], Audio]

SAMPLE_RATE = 44_100  # Hz
TABLE_BITS = 14  # a period of a steady tone is tabulated at 2 ** 14 points
HIGHEST = 14_000.0  # Hz, above which no partial is made


def times(seconds: float) -> Audio:
    """Return the times of the samples of `seconds`, in seconds, (t,)."""
    return np.arange(max(1, round(seconds * SAMPLE_RATE)), dtype=np.float32) / np.float32(SAMPLE_RATE)


def damped(frequencies: Floats, amplitudes: Floats, decays: Floats, seconds: float) -> Audio:
    """Sum decaying sines: frequencies in Hz, amplitudes, decay rates in 1/s, each (p,) -> (t,) audio.

    A decaying sine is a geometric sequence of complex numbers, z ** (r + 256 q) = z ** r * (z ** 256) ** q, so the
    sum over partials at all samples is the product of two small matrices.
    """
    num_samples = len(times(seconds))
    num_groups = -(-num_samples // (8 * 256))  # of 8 rows each: a product this small is not spread over threads
    log_z = (-decays + 2j * np.pi * frequencies)[:, None] / SAMPLE_RATE
    block = np.exp(log_z * np.arange(256))
    starts = amplitudes[:, None] * np.exp(log_z * 256 * np.arange(8 * num_groups))
    left = np.concatenate([np.imag(starts), np.real(starts)]).T.astype(np.float32)
    right = np.concatenate([np.real(block), np.imag(block)]).astype(np.float32)
    return (left.reshape(num_groups, 8, -1) @ right).reshape(-1)[:num_samples]


@lru_cache(maxsize=256)
def _period(amplitudes: tuple[float, ...]) -> Audio:
    spectrum = np.zeros(2 ** (TABLE_BITS - 1) + 1, dtype=complex)
    spectrum[1 : len(amplitudes) + 1] = -0.5j * np.asarray(amplitudes) * 2**TABLE_BITS
    return np.fft.irfft(spectrum).astype(np.float32)


def steady(frequency: float | Audio, amplitudes: tuple[float, ...], num_samples: int, phase: float) -> Audio:
    """Play harmonics of the given amplitudes at a frequency in Hz, fixed or (t,), from `phase` in cycles -> (t,)."""
    step = np.asarray(frequency, np.float64) * (2**32 / SAMPLE_RATE)
    steps = np.broadcast_to(step.astype(np.uint32), num_samples)
    cycles = np.cumsum(steps, dtype=np.uint32) + np.uint32(phase * 2**32)  # the overflow is the wrap of the phase
    return _period(amplitudes)[cycles >> np.uint32(32 - TABLE_BITS)]


@lru_cache(maxsize=32)
def _noise_bank(low: int, high: int) -> Audio:
    white = np.random.default_rng([low, high]).standard_normal(8 * SAMPLE_RATE)
    band = np.asarray(sosfilt(butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos"), white))
    return (band / band.std()).astype(np.float32)


def noise(low: int, high: int, num_samples: int, rng: np.random.Generator) -> Audio:
    """Return noise between two frequencies in Hz, of unit power, (t,): a random stretch of eight seconds made once."""
    bank = _noise_bank(low, high)
    start = int(rng.integers(len(bank)))
    return np.take(bank, np.arange(start, start + num_samples), mode="wrap")


def _enveloped(audio: Floats, attack: float, release: float) -> Audio:
    """Fade in over `attack` and out over the last `release` seconds with raised cosines."""
    audio = audio.astype(np.float32)
    fade_in = 0.5 - 0.5 * np.cos(np.pi * times(attack) / attack)
    fade_out = 0.5 + 0.5 * np.cos(np.pi * times(release) / release)
    audio[: len(fade_in)] *= fade_in[: len(audio)]
    audio[-len(fade_out) :] *= fade_out[-len(audio) :]
    return audio


def _touched(audio: Audio, low: int, high: int, level: float, decay: float, rng: np.random.Generator) -> Audio:
    """Add the sound of the hammer or the finger at the start: noise from `low` to `high` Hz, fading by `decay` 1/s."""
    t = times(0.04)[: len(audio)]
    audio[: len(t)] += np.float32(level) * noise(low, high, len(t), rng) * np.exp(-t * decay)
    return audio


def _num_harmonics(frequency: float, most: int) -> int:
    return max(1, min(most, int(HIGHEST / frequency)))


def piano(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Strike stiff strings at an eighth of their length: two, slightly apart in pitch, fading at two rates."""
    n = np.arange(1, _num_harmonics(frequency, 24) + 1)
    partials = n * frequency * np.sqrt(1 + 2.5e-4 * (frequency / 262) * n**2)
    amplitudes = np.abs(np.sin(np.pi * n / 8.3)) * n ** -(1.9 - 0.9 * velocity)
    decays = (0.5 + 0.35 * n) * np.sqrt(frequency / 262)
    partials, amplitudes = np.append(partials, 1.0006 * partials), np.append(0.6 * amplitudes, 0.4 * amplitudes)
    audio = damped(partials, amplitudes, np.append(2.5 * decays, decays), seconds + 0.2)
    return _enveloped(_touched(audio, 300, 2500, 0.06 * velocity, 150, rng), 0.003, 0.2)


def guitar(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Pluck a string near the sound hole, over two resonances of the body."""
    n = np.arange(1, _num_harmonics(frequency, 28) + 1)
    partials = np.append(n * frequency * np.sqrt(1 + 4e-5 * n**2), (108, 204))
    amplitudes = np.append(
        np.abs(np.sin(np.pi * n * rng.uniform(0.17, 0.21))) * n ** -(1.35 - 0.6 * velocity), (0.12, 0.08)
    )
    decays = np.append(0.8 + 0.4 * n * (frequency / 196) ** 0.6, (18, 24))
    audio = damped(partials, amplitudes, decays, seconds + 0.12)
    return _enveloped(_touched(audio, 1200, 6000, 0.05, 300, rng), 0.002, 0.12)


def flute(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Blow a few harmonics, with a vibrato that sets in late, and breath around them."""
    t = times(seconds + 0.09)
    vibrato = np.sin(2 * np.pi * (rng.uniform(4.8, 5.6) * t + rng.random())) * np.clip(t * 3 - 0.3, 0, 1)
    harmonics = tuple(np.round([1, 0.25 + 0.4 * velocity, 0.12 + 0.25 * velocity, 0.1 * velocity, 0.06 * velocity], 2))
    tone = steady(frequency * (1 + 0.004 * vibrato), harmonics, len(t), rng.random()) * (1 + 0.12 * vibrato)
    breath = noise(1000, 7000, len(t), rng) * (0.035 + 0.12 * np.exp(-t * 25))
    return _enveloped(tone + breath, 0.05, 0.09)


def strings(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Bow with five players, a few cents apart, each with a vibrato of their own."""
    t = times(seconds + 0.16)
    n = np.arange(1, _num_harmonics(frequency, 24) + 1)
    body = (
        1 + 0.8 * np.exp(-(((n * frequency - 480) / 200) ** 2)) + 0.7 * np.exp(-(((n * frequency - 2800) / 900) ** 2))
    )
    harmonics = tuple(np.round(body * n ** -(1.5 - 0.5 * velocity) / (1 + (n * frequency / 5500) ** 2), 3))
    audio = 0.015 * noise(2000, 8000, len(t), rng)
    for cents in rng.normal(0, 6, 5):
        vibrato = np.sin(2 * np.pi * (rng.uniform(4.9, 6.3) * t + rng.random())) * np.float32(rng.uniform(0.001, 0.004))
        audio += 0.4 * steady(frequency * 2 ** (cents / 1200) * (1 + vibrato), harmonics, len(t), rng.random())
    return _enveloped(audio, min(0.09, 0.4 * seconds), 0.16)


def pad(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Hold three detuned, mellow oscillators under a slow tremolo."""
    t = times(seconds + 0.35)
    n = np.arange(1, 13)
    harmonics = tuple(np.round(n ** -(1.9 - 0.5 * velocity) / (1 + (n * frequency / 1800) ** 2), 3))
    audio = sum(
        steady(frequency * 2 ** (cents / 1200), harmonics, len(t), rng.random()) for cents in (-9, rng.normal(), 8)
    )
    tremolo = 1 + 0.15 * np.sin(2 * np.pi * (3.2 * t + rng.random()))
    return _enveloped(audio * tremolo, 0.12, 0.35)


def bell(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Strike a bar over a resonator, between an electric piano and a celesta: few partials, the high ones brief."""
    ratios = np.array([1.0, 2.002, 4.01, 6.3, 10.1])
    amplitudes = np.array([1.0, 0.25, 0.22, 0.12, 0.05]) * velocity ** np.array([0, 0.3, 0.7, 1, 1.3])
    decays = np.array([2.2, 3.5, 8, 18, 30]) * rng.uniform(0.9, 1.1)
    keep = ratios * frequency < HIGHEST
    return _enveloped(damped(ratios[keep] * frequency, amplitudes[keep], decays[keep], seconds + 0.5), 0.002, 0.5)


def plucked_bass(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Pull a long, thick string with the finger: a round tone after a short growl and a thump."""
    n = np.arange(1, 17)
    amplitudes = np.abs(np.sin(np.pi * n * 0.23)) * n ** -(1.5 - 0.5 * velocity)
    audio = damped(n * frequency * np.sqrt(1 + 1e-4 * n**2), amplitudes, 1.1 + 1.3 * n, seconds + 0.08)
    return _enveloped(_touched(audio, 300, 1800, 0.07, 120, rng), 0.005, 0.08)


def synth_bass(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Sound a sawtooth whose filter closes after the attack."""
    t = times(seconds + 0.04)
    n = np.arange(1, 49)
    dark, bright = (
        tuple(np.round(1 / n / (1 + (n * frequency / cutoff) ** 4), 3)) for cutoff in (260, 700 + 1200 * velocity)
    )
    phase = rng.random()
    opening = np.exp(-t * 7)
    audio = steady(frequency, dark, len(t), phase) * (1 - opening) + steady(frequency, bright, len(t), phase) * opening
    return _enveloped(audio, 0.004, 0.04)


def kick(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Kick a drum whose pitch falls to `frequency`, with the click of the beater."""
    t = times(0.32)
    cycles = frequency * (t + 1.6 / 28 * (1 - np.exp(-28 * t)))
    click = 0.25 * velocity * noise(1000, 5000, len(t), rng) * np.exp(-t * 350)
    return _enveloped(np.sin(2 * np.pi * cycles) * np.exp(-t * 13) + click, 0.001, 0.05)


def snare(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Hit a head with modes at `frequency` and above, and rattle its wires."""
    head = damped(np.array([1, 1.72]) * frequency, np.array([0.9, 0.5]), np.array([28, 36]), 0.22)
    wires = noise(900, 9000, len(head), rng) * np.exp(-times(0.22) * (24 - 8 * velocity))
    return _enveloped(head + np.float32(0.5) * wires, 0.001, 0.05)


def hat(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Hit a closed hi-hat: brief noise about `frequency`."""
    t = times(0.12)
    sizzle = noise(round(frequency * 0.75), 16_000, len(t), rng)
    return _enveloped(0.35 * sizzle * np.exp(-t * (70 - 30 * velocity)), 0.001, 0.03)


def sweep(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Draw a brush round the head: noise about `frequency` that swells and fades over `seconds`."""
    t = times(seconds)
    shape = np.float32(0.12) * np.sin(np.pi * t / np.float32(seconds)) ** 2
    return shape * noise(round(frequency / 2), round(frequency * 2), len(t), rng)


def tap(frequency: float, seconds: float, velocity: float, rng: np.random.Generator) -> Audio:
    """Strike the head with a brush: a softer, duller snare, its noise about `frequency`."""
    t = times(0.16)
    wires = noise(round(frequency / 3), round(frequency * 2), len(t), rng)
    return _enveloped(0.3 * wires * np.exp(-t * (38 - 10 * velocity)), 0.004, 0.05)


INSTRUMENTS: dict[str, Instrument] = {
    "piano": piano,
    "guitar": guitar,
    "flute": flute,
    "strings": strings,
    "pad": pad,
    "arpeggio": bell,
    "plucked": plucked_bass,
    "synth": synth_bass,
    "kick": kick,
    "snare": snare,
    "hat": hat,
    "sweep": sweep,
    "tap": tap,
}
