"""What only a GPU can show of the paper's model: `python benchmarks/gpu.py [parity training sampling ...]`.

ceilings  what this card reaches: a large matrix product in bfloat16, a large copy
parity    the same numbers on the card as on the CPU; in bfloat16, compiled and replayed as a CUDA graph as without
training  seconds, TFLOP/s and memory of a training step of both large U-Nets, beside what `--plan` counts
sampling  seconds for 29 s of music by both large U-Nets, in float32 and bfloat16
encoding  how many times real time the codec encodes

Weights are random: speed does not depend on them. `--small` runs all of it in small, on a CPU too, to try the script.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from codecdiff_unet import UNet
from codecdiff_unet.released import ROLES, SIZES, Architecture
from torch import Tensor

import codecdiff
from codecdiff import Condition, Entry, Pipeline, config
from codecdiff.plans import kept, step_of
from codecdiff.schedules import training_scheduler
from codecdiff.stages import Stage
from codecdiff.training import StageInput, StageTrainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FRAMES, TOKENS = 2496, 64  # 29 s, as in recipes/configs/paper.yaml; tokens of a caption


def wait() -> None:
    """Wait until the card has done all it was told."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], repeats: int = 5, warmups: int = 2) -> float:
    """Give the median seconds of some work, once it is warm."""

    def once() -> float:
        wait()
        began = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - began

    for _ in range(warmups):
        work()
    return median(once() for _ in range(repeats))


def forget() -> None:
    """Give back the card's memory, and count its peak anew."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """Give the most memory that tensors held since `forget`, in GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else float("nan")


def half(enabled: bool = True) -> Any:
    """Give autocast to bfloat16, or nothing."""
    return torch.autocast(DEVICE, torch.bfloat16) if enabled else nullcontext()


def error(result: Tensor, reference: Tensor) -> float:
    """Give |result - reference| / |reference|."""
    result, reference = result.double().cpu(), reference.double().cpu()
    return float((result - reference).norm() / reference.norm())


def unet(role: str, size: str, **options: Any) -> UNet:
    """Build a U-Net of a released shape with random weights, where it computes; weights away from zero."""
    with torch.device(DEVICE):
        torch.manual_seed(0)
        return UNet(**{**Architecture(*SIZES[size], *ROLES[role]).options, **options})


def given(role: str, rows: int, frames: int) -> dict[str, Any]:
    """Give the inputs of a U-Net of a role."""
    channels, context = ROLES[role]
    torch.manual_seed(1)
    told = {"text": torch.randn(rows, TOKENS, 1024), "vector": torch.randn(rows, 1, 1024)}
    masks = {name: torch.ones(tokens.shape[:2], dtype=torch.bool) for name, tokens in told.items()}
    return {
        "noisy": torch.randn(rows, channels, frames).to(DEVICE),
        "timestep": torch.randint(0, 100, (rows,)).to(DEVICE),
        "context": torch.randn(rows, context, frames).to(DEVICE) if context else None,
        "condition": Condition({name: Entry(told[name], masks[name]) for name in told}).to(DEVICE),
    }


def ceilings(small: bool) -> None:
    """Print the rates that this card reaches."""
    n = 256 if small else 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    print(f"bf16 matrix product {n}: {2 * n**3 / timed(lambda: a @ b, 20) / 1e12:.0f} TFLOP/s")
    x = torch.randn(n * n * 4, device=DEVICE)
    y = torch.empty_like(x)
    print(f"copy: {2 * x.numel() * 4 / timed(lambda: y.copy_(x), 20) / 1e12:.2f} TB/s")


def on_cpu(inputs: dict[str, Any]) -> dict[str, Any]:
    """Move the inputs of a U-Net to the CPU."""
    return {key: value if value is None else value.to("cpu") for key, value in inputs.items()}


@torch.no_grad()
def parity(small: bool) -> None:
    """Print relative errors of every faster way against the plain one in float32."""
    frames = 320
    network, inputs = unet("secondary", "small").eval(), given("secondary", 2, frames)
    plain = network(**inputs)
    print(f"CPU against {DEVICE}, float32: {error(plain, network.to('cpu')(**on_cpu(inputs))):.1e}")
    network.to(DEVICE)
    with half():
        print(f"bfloat16: {error(network(**inputs), plain):.1e}")
    for name in ("small",):
        network = unet("secondary", name).eval()
        plain = network(**inputs)
        compiled = torch.compile(network)
        print(f"compiled, {name}, float32: {error(compiled(**inputs), plain):.1e}")
        with half():
            print(f"compiled, {name}, bfloat16 against bfloat16: {error(compiled(**inputs), network(**inputs)):.1e}")
        del compiled
    if DEVICE == "cuda":
        print(f"CUDA graph against plain calls, bfloat16: {graph_error(network, inputs):.1e}")
    model = codecdiff.load("starter")
    options: dict[str, Any] = {"seed": 3, "takes": 2}
    prompt, length = [{"text": "a fast tune in G major on piano"}], model.frames(4)
    here = torch.cat(list(model.generate_codes(prompt, length, **options)))
    there = torch.cat(list(model.to(DEVICE).generate_codes(prompt, length, **options))).cpu()
    print(f"starter model, codes that CPU and {DEVICE} agree on: {(here == there).double().mean():.4f}")
    with half():
        there = torch.cat(list(model.generate_codes(prompt, length, **options))).cpu()
    print(f"starter model, codes that CPU and {DEVICE} in bfloat16 agree on: {(here == there).double().mean():.4f}")


def graph_error(network: UNet, inputs: dict[str, Any]) -> float:
    """Capture `UNet.denoise` with its cues kept in a CUDA graph, replay it on other noise, and compare."""
    cues = network.cues(inputs["timestep"], inputs["condition"])
    noisy, context = inputs["noisy"].clone(), inputs["context"]
    with half():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                network.denoise(noisy, context, cues)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = network.denoise(noisy, context, cues)
        noisy.copy_(torch.randn_like(noisy))
        replayed.fill_(float("nan"))
        graph.replay()
        wait()
        return error(replayed, network.denoise(noisy, context, cues))


def trainer_of(role: str, size: str, **options: Any) -> StageTrainer:
    """Give the trainer of a large U-Net."""
    return StageTrainer(Stage(role, unet(role, size, **options), training_scheduler(steps=100)), steps=1000)


WAYS = (  # of training: role, crops in a batch, whether activations are computed again, whether compiled
    ("primary", 4, True, False),
    ("primary", 4, False, False),
    ("primary", 12, False, False),
    ("secondary", 12, False, False),
    ("primary", 24, True, False),
    ("primary", 12, False, True),
)


def training(small: bool) -> None:
    """Print what a training step takes."""
    size, frames = ("small", 64) if small else ("large", FRAMES)
    for role, rows, checkpoint, compiled in WAYS[:2] if small else WAYS:
        name = f"{role}, {rows} crops{', checkpointed' * checkpoint}{', compiled' * compiled}"
        try:
            print(f"{name}: {step(role, size, rows, frames, checkpoint, compiled)}", flush=True)
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory", flush=True)
        forget()


def step(role: str, size: str, rows: int, frames: int, checkpoint: bool, compiled: bool) -> str:
    """Say what a training step takes, and what was planned."""
    forget()
    trainer, inputs = trainer_of(role, size, checkpoint=checkpoint), given(role, rows, frames)
    clean = inputs["noisy"]
    batch = StageInput(range(rows), clean, torch.ones_like(clean), inputs["context"], inputs["condition"])
    with torch.device("meta"):
        blank = StageInput(
            range(rows),
            torch.empty(clean.shape),
            torch.ones(clean.shape),
            None if batch.context is None else torch.empty(batch.context.shape),
            batch.condition.to("meta"),
        )
        shadow = UNet(**{**Architecture(*SIZES[size], *ROLES[role]).options, "checkpoint": checkpoint})
    planner = StageTrainer(Stage(role, shadow, training_scheduler(steps=100)), steps=1000)
    planned = step_of(planner, blank, mixed=True)
    memory = (sum(kept(planner).values()) + planned.activations) / 1e9
    network = torch.compile(trainer.denoiser) if compiled else trainer.denoiser

    def half_network(*arguments: Any) -> Tensor:
        with half():
            return network(*arguments)

    trainer.network = half_network
    losses: list[float] = []
    seconds = timed(lambda: losses.append(trainer.step(batch)), repeats=6, warmups=3)
    flops = planned.forward + planned.backward + planned.recomputed
    return (
        f"{seconds:.3f} s a step, {rows * frames / seconds:,.0f} frames/s, {flops / seconds / 1e12:.0f} TFLOP/s, "
        f"{peak():.1f} GB (planned {memory:.1f}), loss {losses[0]:.3f} to {losses[-1]:.3f}"
    )


def paper(folder: Path, size: str) -> Pipeline:
    """Build the paper's model with random weights; of the text encoder, a small one."""
    from codecdiff_dac import random_weights as dac
    from codecdiff_t5 import random_weights as t5

    codec = config.build("codecs", {"name": "dac", "model": str(dac.random_model(folder / "dac", size="44khz"))})
    splitter = config.build("splitters", "coarse-first", num_codebooks=codec.num_codebooks, levels=codec.levels)
    model = Pipeline(
        codec, splitter, config.build("conditioners", {"name": "t5", "model": str(t5.random_model(folder / "t5"))}), []
    )
    width, multipliers = SIZES[size]
    for i, name in enumerate(model.stage_names):
        spec = {"name": "unet", "absent_widths": {"chroma": 12}, "width": width, "multipliers": list(multipliers)}
        with torch.device(DEVICE):
            denoiser = model.new_denoiser(i, spec)
        model.stages.append(Stage(name, denoiser.requires_grad_(False), training_scheduler(steps=100)))
    return model.to(DEVICE)


def sampling(small: bool) -> None:
    """Print how long music takes to make in 20 steps a stage, guided; the paper takes 100."""
    with tempfile.TemporaryDirectory() as folder:
        model = paper(Path(folder), "small" if small else "large")
    frames, steps = (64, 2) if small else (FRAMES, 20)
    seconds = frames * model.codec.hop_length / model.sample_rate
    list(model.generate_codes([""], 64, steps=2))
    for takes in (1,) if small else (1, 8):
        for name, enabled in {"float32": False, "bfloat16": True}.items():
            if takes > 1 and not enabled:
                continue
            forget()
            wait()
            began = time.perf_counter()
            with half(enabled):
                codes = list(model.generate_codes(["a calm piano"], frames, steps=steps, takes=takes))
            wait()
            took = time.perf_counter() - began
            rate = takes * seconds / took
            print(
                f"{takes} x {seconds:.0f} s, {name}: {took:.1f} s, {rate:.2f} x real time, {peak():.1f} GB", flush=True
            )
    began = time.perf_counter()
    audio = model.decode(codes[:1])
    assert audio.isfinite().all()
    print(f"decoding {seconds:.0f} s: {time.perf_counter() - began:.2f} s")


@torch.no_grad()
def encoding(small: bool) -> None:
    """Print the speed of DAC's encoder, with random weights, on segments of 29 s."""
    from codecdiff_dac import random_weights as dac

    with tempfile.TemporaryDirectory() as folder:
        codec = config.build("codecs", {"name": "dac", "model": str(dac.random_model(Path(folder), size="44khz"))})
    codec.to(DEVICE)
    for rows in (1,) if small else (1, 4, 16):
        seconds = 1 if small else 29
        audio = 0.1 * torch.randn(rows, 1, round(seconds * codec.sample_rate), device=DEVICE)
        forget()
        took = timed(lambda audio=audio: codec.encode(audio), repeats=3, warmups=1)
        print(f"{rows} x {seconds} s: {rows * seconds / took:,.0f} x real time, {peak():.1f} GB", flush=True)


PARTS = {part.__name__: part for part in (ceilings, parity, training, sampling, encoding)}


def main() -> None:
    """Read the command line; a part that fails is told, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}", flush=True)
    for name in arguments.parts or PARTS:
        print(f"\n{name}", flush=True)
        began = time.perf_counter()
        try:
            PARTS[name](arguments.small)
        except Exception:  # an expensive machine: the others still run
            traceback.print_exc()
        forget()
        print(f"({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
