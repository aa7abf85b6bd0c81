"""What an adapter of eight tracks changes: the validation loss on held-out music of their style.

python benchmarks/adapter.py OUTPUT [--sound radio|plain] [--style waltz] [--others 24] [key=value ...]

Twelve tracks of one style are composed, eight to train on and four for validation; with --sound radio they sound as
from an old radio: from 300 to 3,400 Hz, over noise. With --others, so many tracks of any style are added to the
training music without that sound, so that the adapter has to read it in the caption. Then `codecdiff train --adapter`
runs with the settings that are left over, such as train.max_train_steps=300. Printed is the validation loss of each
stage, beside that of the model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import soundfile
from codecdiff.recipes.adapter import train  # pyright: ignore[reportMissingImports]  # ../recipes, as installed
from codecdiff_starter.composer import SAMPLE_RATE, compose
from codecdiff_starter.facts import captions, training_facts
from scipy.signal import butter, sosfilt

from codecdiff.cli.train import config_file
from codecdiff.training import read_logs

SECONDS, TRAINING, VALIDATION, SEED = 20.0, 8, 4, 77_000


def radio(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(t, ch) -> the same in the band of an old radio, 40 dB above noise in it."""
    band = butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    filtered = sosfilt(band, audio + 0.003 * rng.standard_normal(audio.shape), axis=0)
    return filtered / np.abs(filtered).max() * 0.8


def write_tracks(folder: Path, style: str, sound: str, others: int) -> Path:
    """Compose tracks of one style into a folder, and others of any style, if they are not there."""
    if (folder / "metadata.jsonl").exists():
        return folder
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(SEED), []
    for i in range(TRAINING + VALIDATION + others):
        is_other = i >= TRAINING + VALIDATION
        facts = next(drawn for drawn in iter(lambda: training_facts(rng), None) if is_other or drawn.style == style)
        audio, is_radio = compose(facts, SEED + i, SECONDS).reshape(-1, 1), sound == "radio" and not is_other
        audio = radio(audio, rng) if is_radio else audio
        soundfile.write(folder / f"{i:02d}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
        text = captions(facts, rng)[0] + (", from an old radio" if is_radio else "")
        named = {"bpm": facts.bpm, "meter": facts.meter, "key": facts.key, "mode": facts.mode}
        split = "train" if i < TRAINING or is_other else "validation"
        rows.append({"file_name": f"{i:02d}.flac", "text": text, "split": split, **named})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--style", default="waltz")
    parser.add_argument("--sound", choices=("radio", "plain"), default="radio")
    parser.add_argument("--others", type=int, default=0)
    options, settings = parser.parse_known_args()
    music = write_tracks(options.output / "music", options.style, options.sound, options.others)
    start, cpu = time.monotonic(), time.process_time()
    named = [f"start_from={options.model}", f"data.audio={music}", f"output={options.output}", *settings]
    train(config_file("adapter"), named)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes, {(time.process_time() - cpu) / 60:.1f} of them on a core")
    for name, rows in read_logs(options.output / "adapter", ["primary", "secondary"]).items():
        spec = json.loads((options.output / "adapter" / name / "stage.json").read_text(encoding="utf-8"))
        base, loss = spec["training"]["base_validation_loss"], rows[-1]["validation_loss"]
        print(f"{name}: {base:.4f} without, {loss:.4f} with the adapter: {100 * (loss / base - 1):+.1f} %")


if __name__ == "__main__":
    main()
