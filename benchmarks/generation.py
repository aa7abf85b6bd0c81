"""How fast a model generates on one thread: `python benchmarks/generation.py [--model starter] [--seconds 10]`.

With `--takes 16`, also how many times as fast so many waveforms of a prompt are in one batch as one by one, in the same
process, and how much they differ. Time is that of the processor, which other jobs of the machine do not add to. Loading
is not counted.
"""

from __future__ import annotations

import argparse
import time

import torch

import codecdiff


def compare_batches(pipe: codecdiff.Pipeline, seconds: float, takes: int) -> None:
    """Generate takes in one batch and one by one, and print the ratio of times and the difference of codes."""
    times, codes = [], []
    for batch_size in (takes, 1):
        start = time.process_time()
        words = {"audio_length_in_s": seconds, "num_waveforms_per_prompt": takes, "batch_size": batch_size}
        codes.append(pipe("a slow piece in A minor for flute", seed=0, **words).codes)
        times.append(time.process_time() - start)
    differing = float((codes[0] != codes[1]).float().mean())
    print(f"{takes} takes of {seconds:g} s: {times[0]:.1f} s in one batch, {times[1]:.1f} s one by one: ", end="")
    print(f"{times[1] / times[0]:.2f} times as fast; {differing:.2%} of the codes differ")


def main() -> None:
    """Generate one clip to warm up and some to measure, and print the median speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--takes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = codecdiff.load(options.model, device="cpu")
    seconds = []
    for seed in range(options.clips + 1):
        start = time.process_time()
        pipe("a fast tune in G major on piano with drums", audio_length_in_s=options.seconds, seed=seed)
        seconds.append(time.process_time() - start)
    middle = sorted(seconds[1:])[options.clips // 2]
    if options.takes > 1:
        compare_batches(pipe, options.seconds, options.takes)
    parameters = [sum(p.numel() for p in stage.denoiser.parameters()) for stage in pipe.stages]
    print(f"{options.seconds:g} s of audio in {middle:.1f} s of one core: {options.seconds / middle:.1f} x real time")
    print("parameters:", ", ".join(f"{stage.name} {n:,}" for stage, n in zip(pipe.stages, parameters, strict=True)))


if __name__ == "__main__":
    main()
