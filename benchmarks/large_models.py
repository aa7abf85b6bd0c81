"""What the paper's large model costs on this machine: run `python benchmarks/large_models.py [--frames 2496]`.

Prints for one forward pass of each U-Net at batch 1, in float32 and in bfloat16, the seconds and the most memory it
took, in a process of its own; then the same for a whole generation with random weights. The operations are counted
without computing anything. Memory is all that the process holds: Python, torch, weights and activations.

    python benchmarks/large_models.py forward primary float32     one of the processes; prints seconds and gigabytes
    python benchmarks/large_models.py generate
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from codecdiff_unet import UNet
from codecdiff_unet.released import ROLES, SIZES, Architecture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codecdiff import Condition, ConditionTokens, Pipeline, config
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.pipeline.stage import Stage
from codecdiff.testing.tiny import write_tiny

FRAMES = 2496  # 29 s
TOKENS = 60  # of a caption
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def peak() -> float:
    """Give the most memory this process has held so far, in gigabytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def large(role: str) -> UNet:
    """Build a large U-Net, on the default device and in the default precision."""
    return UNet(**Architecture(*SIZES["large"], *ROLES[role]).options).requires_grad_(False).eval()


def inputs(unet: UNet, frames: int) -> tuple[Tensor, Tensor, Tensor | None, Condition]:
    """Give noise, a step, context and a condition for one row."""
    context = torch.randn(1, unet.context_channels, frames) if unet.context_channels else None
    real = {"vector": torch.ones(1, 1, dtype=torch.bool), "text": torch.ones(1, TOKENS, dtype=torch.bool)}
    condition = Condition({name: ConditionTokens(torch.randn(*mask.shape, 1024), mask) for name, mask in real.items()})
    return torch.randn(1, unet.channels, frames), torch.tensor([50]), context, condition


@torch.no_grad()
def operations(role: str, frames: int) -> int:
    """Count the floating-point operations of one forward pass, a multiplication and an addition being two."""
    with torch.device("meta"):
        unet = large(role)
        given = inputs(unet, frames)
    with FlopCounterMode(display=False) as counter:
        unet(*given)
    return counter.get_total_flops()


@torch.no_grad()
def forward(role: str, frames: int) -> float:
    """Run one forward pass; give its seconds."""
    unet = large(role)
    given = inputs(unet, frames)
    began = time.perf_counter()
    result = unet(*given)
    seconds = time.perf_counter() - began
    assert result.shape == given[0].shape
    assert result.isfinite().all()
    return seconds


def pipeline(folder: Path) -> Pipeline:
    """Build the paper's model with random weights: DAC's and the U-Nets' shapes in full, a small text encoder."""
    codec = config.build("codecs", {"name": "dac", "model": str(write_tiny("dac", folder / "dac", size="44khz"))})
    splitter = config.build("splitters", "coarse-first", num_codebooks=codec.num_codebooks, levels=codec.levels)
    text = config.build("conditioners", {"name": "t5", "model": str(write_tiny("t5", folder / "t5"))})
    model = Pipeline(codec, splitter, text, [])
    for i, name in enumerate(model.stage_names):
        denoiser = model.new_denoiser(i, {"name": "unet", "absent_widths": {"chroma": 12}})
        model.stages.append(Stage(name, denoiser.requires_grad_(False), training_scheduler(num_train_timesteps=100)))
    return model


def generate(frames: int) -> float:
    """Make the audio of one prompt in two steps a stage, guided; give its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        model = pipeline(Path(folder))
    seconds = frames * model.codec.hop_length / model.sample_rate
    began = time.perf_counter()
    audio = model("a calm piano", audio_length_in_s=seconds, num_inference_steps=2).audios
    elapsed = time.perf_counter() - began
    assert audio.shape == (1, 1, frames * model.codec.hop_length)
    assert audio.isfinite().all()
    return elapsed


def measured(*arguments: str) -> tuple[float, float]:
    """Run this script in a process of its own with these arguments; give its seconds and gigabytes."""
    command = [sys.executable, __file__, *arguments]
    seconds, gigabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(gigabytes)


def table(frames: int) -> None:
    """Print what everything costs."""
    print(f"{frames} frames, batch 1, {torch.get_num_threads()} threads")
    for role in ("primary", "secondary"):
        print(f"forward {role}: {operations(role, frames) / 1e9:.0f} GFLOP")
        for dtype in DTYPES:
            seconds, gigabytes = measured("forward", role, dtype, "--frames", str(frames))
            print(f"forward {role} {dtype}: {seconds:.1f} s, {gigabytes:.2f} GB", flush=True)
    seconds, gigabytes = measured("generate", "--frames", str(frames))
    print(f"generate, 2 steps a stage, guided: {seconds:.1f} s, {gigabytes:.2f} GB")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the paper's large model.")
    parser.add_argument("what", nargs="?", choices=["table", "forward", "generate"], default="table")
    parser.add_argument("role", nargs="?", choices=ROLES, default="primary")
    parser.add_argument("dtype", nargs="?", choices=DTYPES, default="float32")
    parser.add_argument("--frames", type=int, default=FRAMES)
    arguments = parser.parse_args()
    if arguments.what == "table":
        return table(arguments.frames)
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[arguments.dtype])
    seconds = forward(arguments.role, arguments.frames) if arguments.what == "forward" else generate(arguments.frames)
    print(f"{seconds:.3f} {peak():.3f}")


if __name__ == "__main__":
    main()
