"""How near a codec's music is to the original: run `python benchmarks/codec_quality.py FOLDER --codec NAME`.

Takes the middle 20 s of every recording in a folder and three composed tracks with held-out combinations of parts, and
prints for each, and on average: ViSQOL MOS-LQO (if the package visqol-python is installed), the mean absolute
difference of log-mel spectra (dB), the added tuning error (median and mean, cents), the F1 of onsets, the difference of
loudness (dB), the signal-to-noise ratio (dB), and how many times faster than real time one thread encodes and decodes.
`--model NAME` measures the codec of a model, `--codec NAME weights=FILE` a codec with options.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soxr
import torch
from codecdiff_starter.composer import compose
from codecdiff_starter.facts import held_out_facts

import codecdiff
from codecdiff import Codec
from codecdiff.config import build
from codecdiff.data.audio import read_audio
from codecdiff.data.metadata import find_tracks

RATE = 44100  # Hz
SECONDS = 20.0
NUM_COMPOSED = 3
COMPOSED_SEED = 9000
VISQOL_RATE = 48000  # Hz, of its mode for music
PITCH_WINDOW, PITCH_HOP = 8192, 2048  # audio samples
PITCH_RANGE = (80.0, 4000.0)  # Hz
PITCH_DEPTH = 40.0  # dB below the loudest peak of a frame: partials of the original further down do not count
PARTIALS = 20  # loudest of a frame that count
PITCH_LIMIT = 50.0  # cents, more than which no error counts
ONSET_TOLERANCE = 0.05  # seconds


def recordings(folder: Path) -> dict[str, np.ndarray]:
    """Read the middle 20 s of every file in a folder: name -> (t,) audio."""
    samples = round(SECONDS * RATE)
    clips = {track.name: read_audio(track.file, RATE, 1)[0].numpy() for track in find_tracks(folder)}
    return {name: clip[max(0, (len(clip) - samples) // 2) :][:samples] for name, clip in clips.items()}


def composed() -> dict[str, np.ndarray]:
    """Compose the held-out tracks: name -> (t,) audio."""
    facts = held_out_facts(NUM_COMPOSED, seed=COMPOSED_SEED)
    return {f"composed {i}": compose(each, COMPOSED_SEED + i, SECONDS) for i, each in enumerate(facts)}


def mel_distance(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean absolute difference of 80 mel bands in dB, down to 80 dB below the loudest band of each signal."""
    levels = [
        librosa.power_to_db(librosa.feature.melspectrogram(y=each, sr=RATE, n_mels=80)) for each in (original, decoded)
    ]
    return float(np.abs(levels[0] - levels[1]).mean())


def spectral_peaks(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f,) spectrum in dB -> frequencies (Hz) and levels of its peaks, by the parabola through three bins."""
    bins = np.flatnonzero((levels[1:-1] > levels[:-2]) & (levels[1:-1] >= levels[2:])) + 1
    below, here, above = levels[bins - 1], levels[bins], levels[bins + 1]
    return (bins + 0.5 * (below - above) / (below - 2 * here + above)) * RATE / PITCH_WINDOW, here


def tuning_errors(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Distance in cents from each loud partial of the original, in each frame, to the nearest partial of the other."""

    def spectra(audio: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(audio, PITCH_WINDOW)[::PITCH_HOP] * np.hanning(PITCH_WINDOW)
        return 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)) + 1e-9)

    errors: list[np.ndarray] = []
    for levels, others in zip(spectra(original), spectra(decoded), strict=True):
        (partials, loudness), (candidates, other_loudness) = spectral_peaks(levels), spectral_peaks(others)
        candidates = candidates[other_loudness > others.max() - PITCH_DEPTH - 10]
        is_inside = (partials > PITCH_RANGE[0]) & (partials < PITCH_RANGE[1])
        counts = is_inside & (loudness > levels.max() - PITCH_DEPTH)
        partials, loudness = partials[counts], loudness[counts]
        if levels.max() < 0 or not len(candidates) or not len(partials):
            continue
        partials = partials[np.argsort(-loudness)[:PARTIALS]]
        nearest = candidates[np.abs(candidates[None] - partials[:, None]).argmin(1)]
        errors.append(np.minimum(np.abs(1200 * np.log2(nearest / partials)), PITCH_LIMIT))
    return np.concatenate(errors) if errors else np.zeros(1)


def onset_f1(original: np.ndarray, decoded: np.ndarray) -> float:
    """F1 of the onsets that librosa finds, each of which matches one within 50 ms."""
    expected, found = (librosa.onset.onset_detect(y=each, sr=RATE, units="time") for each in (original, decoded))
    free, hits = list(found), 0
    for onset in expected:
        near = [each for each in free if abs(each - onset) <= ONSET_TOLERANCE]
        if near:
            free.remove(min(near, key=lambda each: abs(each - onset)))
            hits += 1
    return 2 * hits / max(1, len(expected) + len(found))


def decibels(ratio: float) -> float:
    """Return a ratio of powers in dB."""
    return 10 * float(np.log10(ratio + 1e-12))


def visqol() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """Return ViSQOL's score in its mode for music, or None if its package is not installed."""
    try:
        from visqol import VisqolApi  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    api = VisqolApi()
    api.create(mode="audio")

    def score(original: np.ndarray, decoded: np.ndarray) -> float:
        reference, degraded = (
            soxr.resample(each, RATE, VISQOL_RATE).astype(np.float64) for each in (original, decoded)
        )
        return float(api.measure_from_arrays(reference, degraded, VISQOL_RATE).moslqo)

    return score


def measure(
    codec: Codec, clip: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float] | None
) -> dict[str, float]:
    """Return all figures of a (t,) clip."""
    audio, seconds = torch.from_numpy(clip)[None, None], len(clip) / RATE
    start = time.process_time()
    codes = codec.encode(audio)
    middle = time.process_time()
    decoded = codec.decode(codes)[0, 0, : len(clip)].numpy()
    end = time.process_time()
    errors = tuning_errors(clip, decoded)
    return {
        **({"ViSQOL": score(clip, decoded)} if score else {}),
        "mel L1, dB": mel_distance(clip, decoded),
        "tuning median, cents": float(np.median(errors)),
        "tuning mean, cents": float(errors.mean()),
        "onset F1": onset_f1(clip, decoded),
        "loudness, dB": decibels(float(np.square(decoded).mean() / np.square(clip).mean())),
        "SNR, dB": decibels(float(np.square(clip).mean() / np.square(clip - decoded).mean())),
        "encode, x": seconds / (middle - start),
        "decode, x": seconds / (end - middle),
    }


def print_row(name: str, figures: dict[str, float]) -> None:
    """Print one line of the table."""
    print(
        f"{name[:30]:30}" + "".join(f"{value:>{max(9, len(key) + 2)}.3f}" for key, value in figures.items()), flush=True
    )


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every figure."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def read_codec(model: str | None, name: str, options: list[str]) -> Any:
    """Return the codec of a model, or a codec by name with options key=value."""
    if model:
        return codecdiff.load(model).codec
    codec = build("codecs", {"name": name, **dict(option.split("=", 1) for option in options)})
    if not codec.is_fitted:
        sys.exit(
            f"{name} has to be fitted to music before it can be measured: use --model FOLDER, a model with this codec."
        )
    return codec


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="recordings")
    parser.add_argument("--codec", default="starter-neural", help="its name")
    parser.add_argument("--model", help="measure the codec of this model")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("options", nargs="*", help="of the codec, as key=value")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    codec, score = read_codec(args.model, args.codec, args.options), visqol()
    sets = {"recordings": recordings(args.folder) if args.folder else {}, "composed": composed()}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for kind, clips in sets.items():
        results[kind] = {}
        for name, clip in clips.items():
            results[kind][name] = measure(codec, clip, score)
            if sum(map(len, results.values())) == 1:
                print(" " * 30 + "".join(f"{key:>{max(9, len(key) + 2)}}" for key in results[kind][name]))
            print_row(name, results[kind][name])
    for kind, rows in results.items():
        if rows:
            print_row(f"mean of {kind}", mean(list(rows.values())))
    print_row("mean of all", mean([row for rows in results.values() for row in rows.values()]))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
