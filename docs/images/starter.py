"""Draw six prompts in docs/results.md: what the starter model plays beside what the composer does, never trained on."""

from io import BytesIO
from pathlib import Path

import librosa
import matplotlib
import numpy as np
import torch
from codecdiff_starter.clips import compose_clips
from codecdiff_starter.composer import SAMPLE_RATE
from PIL import Image

from codecdiff import Pipeline

SECONDS, SEED, COUNT = 6.0, 12, 6

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def main() -> None:
    """Generate, compose, and write `starter.png` beside this file."""
    composed = compose_clips(COUNT, SECONDS, SEED, unseen=True)
    pipe = Pipeline.from_pretrained("starter")
    out = pipe(composed.prompts, audio_length_in_s=SECONDS, seed=SEED)
    figure, axes = pyplot.subplots(COUNT, 4, figsize=(11, 12), dpi=72, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.13, rect=(0, 0, 1, 0.985))
    for row, prompt, generated, real in zip(axes, composed.prompts, out.audios, composed.audio, strict=True):
        clips = [torch.as_tensor(clip).mean(0).numpy() for clip in (generated, real)]
        for column, clip in enumerate(clips):
            draw_mel(row[column], clip)
            draw_chroma(row[2 + column], clip)
        row[0].text(0, 1.05, prompt, transform=row[0].transAxes, fontsize=8).set_in_layout(False)
        row[0].set_ylabel("Hz", fontsize=8)
    names = ("generated", "composed") * 2
    for axis, name in zip(axes[-1], names, strict=True):
        axis.set_xlabel(f"seconds, {name}", fontsize=8)
    figure.savefig(buffer := BytesIO())
    Image.open(buffer).convert("RGB").quantize(96).save(Path(__file__).with_name("starter.png"), optimize=True)


def draw_mel(axis, audio: np.ndarray) -> None:
    """Draw the mel spectrogram of a clip, 70 dB deep."""
    mel = librosa.feature.melspectrogram(y=audio, sr=SAMPLE_RATE, n_mels=96, fmax=16_000, hop_length=1024)
    decibels = librosa.power_to_db(mel, ref=np.max, top_db=70)
    axis.imshow(decibels, origin="lower", aspect="auto", cmap="magma", extent=(0, SECONDS, 0, 96))
    ticks, bands = (200, 1_000, 4_000, 16_000), librosa.mel_frequencies(98, fmax=16_000)[1:-1]
    axis.set_yticks(np.interp(ticks, bands, np.arange(96)), [f"{tick:,}" for tick in ticks], fontsize=7)
    axis.tick_params(axis="x", labelsize=7)


def draw_chroma(axis, audio: np.ndarray) -> None:
    """Draw the strength of the twelve pitch classes."""
    low = librosa.resample(audio, orig_sr=SAMPLE_RATE, target_sr=22_050)
    chroma = librosa.feature.chroma_cqt(y=low, sr=22_050, hop_length=1024)
    axis.imshow(chroma, origin="lower", aspect="auto", cmap="magma", extent=(0, SECONDS, -0.5, 11.5))
    axis.set_yticks(range(0, 12, 2), ("C", "D", "E", "F♯", "G♯", "A♯"), fontsize=7)
    axis.tick_params(axis="x", labelsize=7)


if __name__ == "__main__":
    main()
