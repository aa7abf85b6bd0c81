"""Long music: peak memory against duration, and the seams of windows.

python benchmarks/long_form.py [--model starter] [--seconds 60 600] [--quality fast] [--clips 8]

Each duration runs in a process of its own. Seams: how much the spectrum changes from frame to frame within 50 ms of
where a window begins to be new (`frame_change`), against the same music elsewhere. As these places may be on beats, the
same is measured of music that is generated at once, and the ratio of the two is that of the seams. The end of loops is
compared with their inside. Intervals of 95 % are over clips.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from codecdiff_eval.audio_features import FRAMES_PER_SECOND, frame_change

import codecdiff
from codecdiff.pipeline.windows import plan_windows, window_frames

PROMPTS = (
    "a slow waltz on piano",
    "a fast tune in G major on piano with drums",
    "loud strings",
    "guitar, medium tempo",
)
NEAR = round(0.05 * FRAMES_PER_SECOND)  # spectral frames on either side of a seam


def measure(model: str, seconds: float, quality: Any) -> None:
    """Generate codes and audio once, and print time and peak memory."""
    pipe = codecdiff.load(model, device="cpu")
    start = time.process_time()
    (codes,) = pipe.generate_codes([PROMPTS[0]], pipe.frames(seconds), quality=quality)
    sampled, used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, time.process_time() - start
    pipe.decode([codes])
    decoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:g} s: {sampled:.2f} GB to sample, {decoded:.2f} GB with audio, {used:.0f} s of a core to sample")


def interval(values: torch.Tensor) -> str:
    """(n,) -> their mean, with its 95 % interval."""
    return f"{float(values.mean()):.2f} ± {1.96 * float(values.std()) / len(values) ** 0.5:.2f}"


def near_to_elsewhere(audio: torch.Tensor, sample_rate: int, places: Sequence[float]) -> torch.Tensor:
    """(n, t) -> (n,) the change of the spectrum near these places, in seconds, in that elsewhere."""
    change = frame_change(audio, sample_rate)
    near = torch.zeros(change.shape[1], dtype=torch.bool)
    for place in places:
        near[round(place * FRAMES_PER_SECOND) - NEAR : round(place * FRAMES_PER_SECOND) + NEAR] = True
    return change[:, near].mean(1) / change[:, ~near].mean(1)


def seams(model: str, quality: str, clips: int) -> None:
    """Print how much more the spectrum changes at seams than elsewhere."""
    pipe = codecdiff.load(model, device="cpu")
    rate, seconds, window = pipe.codec.frame_rate, 20.0, 10.0
    plan = plan_windows(pipe.frames(seconds), window_frames(seconds, rate, window))
    edges = [float(w.frames[w.is_new][0]) / rate for w in plan[1:]]
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(clips)]
    options = {"quality": quality, "loudness": "off", "seed": 7}
    windowed, whole = (
        near_to_elsewhere(
            pipe(prompts, audio_length_in_s=seconds, window_in_s=size, **options).audios.mean(1),
            pipe.sample_rate,
            edges,
        )
        for size in (window, seconds)
    )
    print(f"seams of windows: {interval(windowed)} of the change elsewhere; at once, there: {interval(whole)}")
    draws = torch.randint(clips, (1000, clips), generator=torch.Generator().manual_seed(0))
    ratios = (windowed[draws].mean(1) / whole[draws].mean(1)).quantile(torch.tensor([0.025, 0.975]))
    low, high = ratios.tolist()
    ratio = float(windowed.mean() / whole.mean())
    print(f"seams relative to music generated at once: {ratio:.2f} ({low:.2f} to {high:.2f})")
    loops = pipe(prompts, audio_length_in_s=8.0, loop=True, **options).audios.mean(1)
    middle = loops.shape[1] // 2
    change, plain = frame_change(loops.roll(middle, 1), pipe.sample_rate), frame_change(loops, pipe.sample_rate)
    at = round(middle / pipe.sample_rate * FRAMES_PER_SECOND)
    ratios = change[:, at - NEAR : at + NEAR].mean(1) / plain[:, NEAR:-NEAR].mean(1)
    print(f"ends of loops: {interval(ratios)} of the change inside")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, nargs="*", default=[60, 600])
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--alone", action="store_true", help="measure one duration in this process")
    options = parser.parse_args()
    if options.alone:
        return measure(options.model, options.seconds[0], options.quality)
    common = ["--model", options.model, "--quality", options.quality]
    for seconds in options.seconds:
        subprocess.run([sys.executable, __file__, "--alone", "--seconds", str(seconds), *common], check=True)
    if options.clips:
        seams(options.model, options.quality, options.clips)


if __name__ == "__main__":
    main()
