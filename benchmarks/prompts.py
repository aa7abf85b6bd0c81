"""What a text encoder takes of a training run, and what is left of that once features are kept on disk.

python benchmarks/prompts.py [--size base] [--steps 10]

A T5 encoder of random weights, of that size of Flan-T5, conditions a small U-Net on clips of noise with captions. One
process trains with it, others with `cached` around it: the first encodes, the next reads all features. Each prints its
memory (resident set) after the last step, its peak, and its losses, which have to be the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from codecdiff.testing.tiny import write_tiny

CAPTIONS = 24
UNET = {"name": "unet", "width": 32, "multipliers": [1, 2], "layers": ["none", "text"], "heads": 2, "head_dim": 16}
UNET |= {"groups": 4, "vector": "vector"}


def write_music(folder: Path) -> None:
    import numpy as np
    import soundfile

    folder.mkdir()
    rng, words = np.random.default_rng(0), ["calm", "fast", "happy", "loud", "slow"]
    rows = []
    for i in range(CAPTIONS):
        soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 16_000), 8000)
        rows.append({"file_name": f"{i}.wav", "text": f"a {words[i % 5]} song for {words[i % 3]} piano and drum {i}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def resident() -> float:
    """Give the resident set of this process, in GB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9


def train(home: Path, conditioner: dict[str, Any], steps: int) -> dict[str, Any]:
    from codecdiff.config.schema import ExperimentConfig
    from codecdiff.training.batch import StageData
    from codecdiff.training.experiment import new_pipeline, new_stage, open_data, prepare_prompts
    from codecdiff.training.trainer import StageTrainer

    given: dict[str, Any] = {"codec": {"name": "dac", "model": str(home / "dac")}}
    given |= {"splitter": {"name": "coarse-first"}, "denoiser": UNET, "conditioner": conditioner}
    given |= {"data": {"audio": home / "music"}, "train": {"train_batch_size": 8, "crop_seconds": 1.0}}
    experiment = ExperimentConfig.model_validate(given)
    began = time.monotonic()
    pipeline = new_pipeline(experiment)
    store = open_data(experiment, pipeline, home / "store", home / "model")
    prepare_prompts(pipeline, store)
    prepared = time.monotonic() - began
    stage, settings = new_stage(experiment, pipeline, 0)
    trainer = StageTrainer(stage, settings)
    data = StageData(store, pipeline, 0, settings, experiment.data)
    losses = [trainer.step(data.step(step)) for step in range(steps)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    seconds = time.monotonic() - began - prepared
    return {"resident": resident(), "peak": peak, "prepared": prepared, "seconds": seconds, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="of Flan-T5, with random weights")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--train", nargs=2, metavar=("HOME", "CONDITIONER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(Path(options.train[0]), json.loads(options.train[1]), options.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_tiny("dac", home / "dac")
        write_tiny("t5", home / "t5", size=options.size)
        write_music(home / "music")
        t5 = {"name": "t5", "model": str(home / "t5")}
        cached = {"name": "cached", "folder": str(home / "prompts"), "conditioner": t5}
        none = {"name": "words"}
        losses = []
        for name, conditioner in (("words", none), ("t5", t5), ("cached, first", cached), ("cached, again", cached)):
            if name == "t5":
                shutil.rmtree(home / "model")
            words = [
                sys.executable,
                __file__,
                "--steps",
                str(options.steps),
                "--train",
                folder,
                json.dumps(conditioner),
            ]
            told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            losses.append(told.pop("losses"))
            print(f"{name:<16}" + ", ".join(f"{key} {value:.2f}" for key, value in told.items()))
        assert losses[1] == losses[2] == losses[3], "the losses differ"
        print(f"losses of {options.steps} steps with T5, with its cache filled and read: the same to the last bit")


if __name__ == "__main__":
    main()
