"""Make the bundle of sampled instruments out of FluidR3: `python -m codecdiff_starter.extract_instruments SF2`.

Debian has the SoundFont in the package `fluid-soundfont-gm` (MIT license, Frank Wen), at
/usr/share/sounds/sf2/FluidR3_GM.sf2. A few keys of every instrument are played and cut short; the rest of a note is a
loop, made seamless by a cross-fade, that fades as the whole sample did. All samples together are one Ogg/Vorbis file,
and a table says where each lies and how it is played. The audio is the same each time; the file differs by its serial
number.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, sosfiltfilt

from codecdiff_starter.instruments import Sample, blended, hold
from codecdiff_starter.loudness import loudness
from codecdiff_starter.soundfont import SAMPLE_RATE, Audio, SoundFont

FOLDER = Path(__file__).parent / "sounds"
GAP = 2048  # samples of silence between two samples: a long block of Vorbis
VORBIS_QUALITY = 0.5
BLOCK = 65_536  # samples written at once
PEAK = 0.6  # of every sample in the file
PITCH_SECONDS = 1.0  # of a tone, over which its pitch is measured


class Source(NamedTuple):
    """Where an instrument comes from and how much of it is kept."""

    program: int
    keys: tuple[int, ...]  # that are sampled
    seconds: float  # of the lowest key; shorter towards the highest
    sustained: bool = False
    bank: int = 0
    sample: str = ""  # how the name of the sample begins, where a key has several
    lowpass: float = 0.0  # Hz


SOURCES = {
    "piano": Source(0, (34, 42, 50, 58, 66, 74, 84), 2.4),
    "electric piano": Source(4, (40, 52, 62, 74), 1.6),
    "celesta": Source(8, (60, 72, 84), 1.0),
    "vibraphone": Source(11, (57, 66, 78), 1.2),
    "organ": Source(16, (48, 72), 1.0, sustained=True),
    "nylon guitar": Source(24, (40, 50, 59, 69, 78), 1.6),
    "steel guitar": Source(25, (40, 50, 59, 69), 1.5),
    "electric guitar": Source(27, (40, 50, 59, 69), 1.3),
    "upright bass": Source(32, (28, 36, 41), 1.3),
    "electric bass": Source(33, (28, 34, 39, 46), 1.3),
    "synth bass": Source(39, (30, 42), 1.0, sustained=True),
    "strings": Source(48, (47, 58, 64, 73, 80), 1.8, sustained=True),
    "trumpet": Source(56, (60, 67, 74, 80), 0.9, sustained=True),
    "saxophone": Source(66, (51, 56, 62, 69, 75), 1.1, sustained=True),
    "clarinet": Source(71, (52, 59, 65, 72, 80), 0.8, sustained=True),
    "flute": Source(73, (61, 67, 74, 80, 86), 1.0, sustained=True),
    "pad": Source(89, (48, 60, 72), 2.0, sustained=True, sample="Synth Strings", lowpass=1800.0),
}
DRUMS = {  # name -> bank 128's program, key, seconds
    "kick": (0, 36, 0.3),
    "snare": (0, 38, 0.42),
    "rim": (0, 37, 0.25),
    "clap": (0, 39, 0.35),
    "closed hat": (0, 42, 0.25),
    "foot hat": (0, 44, 0.2),
    "open hat": (0, 46, 0.6),
    "ride": (0, 51, 1.2),
    "crash": (0, 49, 1.8),
    "low tom": (0, 43, 0.6),
    "mid tom": (0, 47, 0.55),
    "high tom": (0, 50, 0.5),
    "tambourine": (0, 54, 0.3),
    "shaker": (0, 82, 0.25),
    "conga": (0, 63, 0.4),
    "brush kick": (40, 36, 0.38),
    "brush tap": (40, 38, 0.32),
    "brush slap": (40, 39, 0.5),
    "brush swirl": (40, 40, 0.6),
    "808 kick": (25, 36, 0.42),
    "808 snare": (25, 40, 0.15),
}


def measured_pitch(audio: Audio, near: float) -> float:
    """Return the MIDI pitch of a tone within 60 cents of `near`: the mean over its first harmonics, by their power.

    The mean of a vibrato, or of several players, is the pitch that is perceived.
    """
    size = 2**19
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), size)) ** 2
    frequency = 440 * 2 ** ((near - 69) / 12)
    total = weighted = 0.0
    for harmonic in range(1, max(2, min(7, int(5000 / frequency)))):
        center = harmonic * frequency * size / SAMPLE_RATE
        bins = np.arange(round(center * 2 ** (-0.6 / 12)), round(center * 2 ** (0.6 / 12)))
        strong = power[bins] * (power[bins] > 0.05 * power[bins].max())
        total += strong.sum()
        weighted += (strong * 12 * np.log2(bins / center)).sum()
    return near + weighted / total


def _trimmed(audio: Audio) -> Audio:
    """Cut off what comes before the sound, and keep 1 ms of it to fade in."""
    begin = int(np.argmax(np.abs(audio) > 0.01 * np.abs(audio).max()))
    return audio[max(0, begin - 44) :].copy()


def _level(audio: Audio) -> float:
    """Return the loudness in LUFS of half a second from the beginning."""
    return loudness(audio[: SAMPLE_RATE // 2])


def _decay_rate(audio: Audio, start: int, end: int) -> float:
    """Return how fast a tone fades between two samples, in nepers per second, at least 0."""
    size = 1024
    rms = np.sqrt(np.mean(audio[start : end - (end - start) % size].reshape(-1, size) ** 2, axis=1))
    slope = np.polyfit(np.arange(len(rms)) * size / SAMPLE_RATE, np.log(rms + 1e-7), 1)[0]
    return max(0.0, -float(slope))


def _find_loop(audio: Audio, shortest: int, overlap: int) -> tuple[int, float]:
    """Find where a loop that ends with the audio had best begin -> the place, and how alike both places are."""
    tail = audio[-overlap:]
    candidates = np.arange(max(overlap, round(0.3 * len(audio))), len(audio) - shortest)
    heads = np.lib.stride_tricks.sliding_window_view(audio, overlap)[candidates - overlap]
    likeness = heads @ tail / np.sqrt((heads**2).sum(1) * (tail**2).sum() + 1e-12)
    best = int(np.argmax(likeness - 0.05 * (candidates / len(audio))))  # of equals the longer loop
    return int(candidates[best]), round(max(0.0, float(likeness[best])), 3)


def tone(font: SoundFont, source: Source, key: int) -> tuple[Audio, dict[str, Any]]:
    """Sample one key of an instrument -> audio at PEAK, its line of the table."""
    zone = font.zone(source.bank, source.program, key, source.sample)
    shorter = 2 ** (-(key - source.keys[0]) / 60)
    seconds = source.seconds * shorter
    played = _trimmed(font.play(zone, key, 2 * seconds + 0.5))
    if source.lowpass:
        low = butter(2, source.lowpass, fs=SAMPLE_RATE, output="sos")
        played = np.asarray(sosfiltfilt(low, played), np.float32)
    end = min(round(seconds * SAMPLE_RATE), len(played) - 1)
    held, decay = end // 2, 0.0
    if not source.sustained:
        decay = _decay_rate(played, held, end)
        fading = np.maximum(0, np.arange(len(played)) - held) / SAMPLE_RATE
        played = (played * np.exp(decay * fading)).astype(np.float32)
    level = _level(played * np.exp(-decay * np.maximum(0, np.arange(len(played)) - held) / SAMPLE_RATE))
    overlap = round((0.03 if not source.sustained else 0.06) * SAMPLE_RATE)
    audio = played[:end]
    loop, likeness = _find_loop(audio, max(2 * overlap, round(0.12 * SAMPLE_RATE)), overlap)
    held_tone = hold(Sample(blended(audio, loop, overlap, likeness), key, loop, held, decay), key, PITCH_SECONDS)
    pitch = measured_pitch(held_tone[round(0.05 * SAMPLE_RATE) :], key)
    peak = float(np.abs(audio).max())
    gain = round(peak / PEAK * 10 ** ((-20 - level) / 20), 4)
    looped = {"loop": loop, "overlap": overlap, "likeness": likeness}
    row = {"pitch": round(pitch, 3), **looped, "held": held, "decay": round(decay, 3), "gain": gain}
    return audio * (PEAK / peak), row


def _tuned(audio: Audio) -> Audio:
    """Shift a drum to the nearest semitone, by the power of its spectrum below 1 kHz."""
    size = 2**17
    power = np.abs(np.fft.rfft(audio, size)) ** 2
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    loudest = int(np.argmax(np.where((frequencies > 50) & (frequencies < 1000), power, 0)))
    around = slice(max(1, loudest - 20), loudest + 21)
    pitch = 69 + 12 * np.log2(np.average(frequencies[around], weights=power[around]) / 440)
    return soxr.resample(audio, SAMPLE_RATE * 2 ** ((round(pitch) - pitch) / 12), SAMPLE_RATE)


def hit(font: SoundFont, program: int, key: int, seconds: float) -> tuple[Audio, dict[str, Any]]:
    """Sample one stroke of a drum kit, tuned to a semitone -> audio at PEAK, its line of the table."""
    audio = _tuned(_trimmed(font.play(font.zone(128, program, key), key, seconds)))
    fade = np.linspace(1, 0, len(audio) // 2, dtype=np.float32) ** 2
    audio[-len(fade) :] *= fade
    peak = float(np.abs(audio).max())
    level = loudness(audio[: SAMPLE_RATE // 5])
    return audio * (PEAK / peak), {"gain": round(peak / PEAK * 10 ** ((-20 - level) / 20), 4)}


def extract(font: SoundFont, folder: Path) -> None:
    """Write the bundle into a folder: instruments.ogg and instruments.json."""
    sounds: list[Audio] = []
    table: dict[str, Any] = {"sample rate": SAMPLE_RATE, "instruments": {}, "drums": {}}
    begin = GAP

    def keep(audio: Audio, row: dict[str, Any]) -> dict[str, Any]:
        nonlocal begin
        sounds.extend([np.zeros(GAP, np.float32), audio])
        placed = {"start": begin, "length": len(audio), **row}
        begin += len(audio) + GAP
        return placed

    for name, source in SOURCES.items():
        table["instruments"][name] = [keep(*tone(font, source, key)) for key in source.keys]
    for name, (program, key, seconds) in DRUMS.items():
        table["drums"][name] = keep(*hit(font, program, key, seconds))
    audio = np.concatenate([*sounds, np.zeros(GAP, np.float32)])
    folder.mkdir(parents=True, exist_ok=True)
    options = {"format": "OGG", "subtype": "VORBIS", "compression_level": 1 - VORBIS_QUALITY}
    with soundfile.SoundFile(folder / "instruments.ogg", "w", SAMPLE_RATE, 1, **options) as file:
        for at in range(0, len(audio), BLOCK):
            file.write(audio[at : at + BLOCK])
    rows = json.dumps(table, indent=1)
    (folder / "instruments.json").write_text(rows + "\n", encoding="utf-8")


def main() -> None:
    """Write the bundle from the command line."""
    parser = argparse.ArgumentParser(description="Make the bundle of sampled instruments out of FluidR3.")
    parser.add_argument("soundfont", type=Path, help="FluidR3_GM.sf2, of Debian's package fluid-soundfont-gm")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the bundle goes")
    options = parser.parse_args()
    extract(SoundFont.read(options.soundfont), options.folder)


if __name__ == "__main__":
    main()
