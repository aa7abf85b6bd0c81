"""How closely music follows controls: python benchmarks/controls.py MODEL FOLDER [--count 64] [--controls chroma ...].

Every file of a folder with captions is described by its caption and its controls, and a model generates from both, and
from the caption alone, with the same noise. Each result is compared with the file, by tools that the controls are not
made with, or not alone:

chroma: correlation of the pitch classes that Basic Pitch transcribes, in windows of 0.23 s
beats: F1 of the beats that librosa tracks, each of which matches one within 70 ms

Beside them: the codec's reconstruction of the file, which is the most that a model can reach, and the next file.
Intervals are 95 %, of the mean over files; "less caption alone" is the mean of differences of pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import librosa
import numpy as np
import soxr
import torch
from codecdiff_eval.metrics.bootstrap import bootstrap
from codecdiff_transcription.embedder import NoteRoll
from codecdiff_transcription.model import NUM_NOTES
from codecdiff_transcription.notes import fold_octaves
from torch import Tensor

import codecdiff
from codecdiff.data.audio import read_audio
from codecdiff.data.metadata import find_tracks
from codecdiff.diffusion.guidance import parse_guidance_scale

WINDOW = 5  # frames of a piano roll
TOLERANCE = 0.07  # seconds
RATE = NoteRoll.sample_rate


def chroma(roll: Tensor) -> Tensor:
    """(w, 176) piano roll -> (12 * n,) pitch classes in windows."""
    folded = fold_octaves(roll[: len(roll) // WINDOW * WINDOW, :NUM_NOTES].double())
    return folded.unflatten(0, (-1, WINDOW)).mean(1).flatten()


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two vectors, 0 if one is constant."""
    value = torch.corrcoef(torch.stack([a, b]))[0, 1]
    return float(value.nan_to_num())


def beat_f1(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the F1 of beats in seconds."""
    free, hits = list(found), 0
    for beat in expected:
        near = [each for each in free if abs(each - beat) <= TOLERANCE]
        if near:
            free.remove(min(near, key=lambda each: abs(each - beat)))
            hits += 1
    return 2 * hits / max(1, len(expected) + len(found))


def describe(clips: Tensor) -> list[tuple[Tensor, np.ndarray]]:
    """(b, t) audio at RATE -> the pitch classes and the beats of every clip."""
    embedder = NoteRoll()
    beats = (librosa.beat.beat_track(y=clip.numpy(), sr=RATE, units="time", trim=False)[1] for clip in clips)
    return [(chroma(embedder.embed(clip[None])[0]), each) for clip, each in zip(clips, beats, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--controls", nargs="+", default=["chroma", "beats"])
    parser.add_argument("--guidance-scale", nargs="+", default=[])
    options = parser.parse_args()
    pipe = codecdiff.load(options.model)
    tracks = find_tracks(options.folder)[: options.count]
    files = [read_audio(track.file, pipe.sample_rate, 1, seconds=options.seconds)[0] for track in tracks]
    guidance = parse_guidance_scale(options.guidance_scale)

    def clip(audio: Tensor) -> Tensor:
        whole = torch.zeros(round(options.seconds * RATE))
        part = torch.from_numpy(soxr.resample(audio.numpy(), pipe.sample_rate, RATE))[: len(whole)]
        whole[: len(part)] = part
        return whole

    def generate(names: list[str]) -> Tensor:
        prompts = [
            {"text": track.captions[0], "controls": {name: str(track.file) for name in names}} for track in tracks
        ]
        settings = {"audio_length_in_s": options.seconds, "guidance_scale": guidance, "loudness": "off", "seed": 0}
        return torch.stack([clip(audio.mean(0)) for audio in pipe(prompts, **settings).audios])

    reference = describe(torch.stack([clip(file) for file in files]))
    codes = [pipe.codec.encode(file[None, None]) for file in files]
    results = {
        "controls": describe(generate(options.controls)),
        "caption alone": describe(generate([])),
        "codec": describe(torch.stack([clip(pipe.codec.decode(each)[0, 0]) for each in codes])),
        "next file": reference[1:] + reference[:1],
    }
    for i, (title, compare) in enumerate({"chroma": correlation, "beats": beat_f1}.items()):
        scores = {
            name: torch.tensor([compare(a[i], b[i]) for a, b in zip(reference, result, strict=True)])
            for name, result in results.items()
        }
        ceiling = float(scores["codec"].mean())
        for name, values in scores.items():
            mean = bootstrap(lambda x: float(x.mean()), values)
            gain = bootstrap(lambda x: float(x.mean()), values - scores["caption alone"])
            print(
                f"{title:8} {name:14} {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}), {mean.value / ceiling:.2f} "
                f"of the codec; less caption alone {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
            )


if __name__ == "__main__":
    main()
