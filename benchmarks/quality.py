"""What each preset of quality costs: evaluations of the networks, and their arithmetic.

python benchmarks/quality.py [--model starter] [--seconds 10]
"""

from __future__ import annotations

import argparse
from typing import get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

import codecdiff
from codecdiff import Pipeline
from codecdiff.diffusion import num_passes, set_timesteps
from codecdiff.pipeline import Stage, stage_shapes
from codecdiff.pipeline.conditions import encode_prompts
from codecdiff.pipeline.generation import Quality


def flops_of(pipeline: Pipeline, stage: Stage, i: int, frames: int) -> int:
    """Return the arithmetic of one prediction of a stage for one sample."""
    denoiser, length = stage.denoiser, stage_shapes(pipeline.codec, pipeline.splitter, frames)[i][1]
    context = torch.zeros(1, denoiser.context_channels, length) if denoiser.context_channels else None
    condition = encode_prompts(pipeline.conditioner, ["a slow waltz"], "cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(torch.zeros(1, denoiser.channels, length), torch.tensor([1]), context, condition)
    return counter.get_total_flops()


def predictions_of(pipeline: Pipeline, stage: Stage) -> int:
    """Return how many predictions a sampling run of a stage takes for one sample."""
    scheduler, sampling = stage.scheduler, stage.sampling
    set_timesteps(scheduler, sampling.num_inference_steps)
    first, last = (1000 * fraction for fraction in sampling.guidance_interval)
    fractions = scheduler.timesteps * 1000 / scheduler.config.num_train_timesteps
    guided = int(((fractions >= first) & (fractions <= last)).sum())
    return len(fractions) - guided + guided * num_passes(sampling.guidance_scale, pipeline.conditioner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    pipeline = codecdiff.load(options.model, device="cpu")
    frames = pipeline.frames(options.seconds)
    costs = [flops_of(pipeline, stage, i, frames) for i, stage in enumerate(pipeline.stages)]
    for quality in get_args(Quality):
        stages = pipeline.sampled_stages(pipeline.generation_config.merge(quality=quality))
        counts = [predictions_of(pipeline, stage) for stage in stages]
        total = sum(count * cost for count, cost in zip(counts, costs, strict=True)) / 1e9
        print(f"{quality}: {' + '.join(map(str, counts))} predictions, {total:,.0f} GFLOP")


if __name__ == "__main__":
    main()
