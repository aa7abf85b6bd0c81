"""How fast a model generates on one thread: `python benchmarks/generation.py [--model starter] [--seconds 10]`.

Time is that of the processor, which other jobs of the machine do not add to. Loading is not counted.
"""

from __future__ import annotations

import argparse
import time

import torch

import codecdiff


def main() -> None:
    """Generate one clip to warm up and some to measure, and print the median speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clips", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = codecdiff.load(options.model, device="cpu")
    seconds = []
    for seed in range(options.clips + 1):
        start = time.process_time()
        pipe("a fast tune in G major on piano with drums", audio_length_in_s=options.seconds, seed=seed)
        seconds.append(time.process_time() - start)
    middle = sorted(seconds[1:])[options.clips // 2]
    parameters = [sum(p.numel() for p in stage.denoiser.parameters()) for stage in pipe.stages]
    print(f"{options.seconds:g} s of audio in {middle:.1f} s of one core: {options.seconds / middle:.1f} x real time")
    print("parameters:", ", ".join(f"{stage.name} {n:,}" for stage, n in zip(pipe.stages, parameters, strict=True)))


if __name__ == "__main__":
    main()
