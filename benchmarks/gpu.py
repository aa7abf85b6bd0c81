"""What only a GPU can show of the paper's model: `python benchmarks/gpu.py [parity training sampling ...]`.

ceilings  what this card reaches: a large matrix product in bfloat16, a large copy
parity    the same numbers on the card as on the CPU; in bfloat16, compiled and replayed as a CUDA graph as without
training  seconds, TFLOP/s and memory of a training step of both large U-Nets, beside what `--plan` counts
sampling  seconds for 29 s of music by both large U-Nets, in float32 and bfloat16
waterfall the same for one waveform, and for `fast`, as each way to run faster is added to those before
encoding  how many times real time the codec encodes
layouts   convolutions on frames as they are, and in the layout that cuDNN wants
profile   where the card's time of a training step goes
embedders what judges hear on the card and on the CPU

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
from torch.nn import functional

import codecdiff
from codecdiff import Condition, ConditionTokens, Pipeline, config
from codecdiff.diffusion.loss import StageInput
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.execution import Execution, compile_layers
from codecdiff.pipeline.stage import Stage
from codecdiff.profiling.plan import count_step, resident_size
from codecdiff.testing.tiny import write_tiny
from codecdiff.training.trainer import StageTrainer

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
        "condition": Condition({name: ConditionTokens(told[name], masks[name]) for name in told}).to(DEVICE),
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
    options: dict[str, Any] = {"seed": 3, "num_waveforms_per_prompt": 2}
    prompt, length = [{"text": "a fast tune in G major on piano"}], model.frames(4)
    here = torch.cat(list(model.generate_codes(prompt, length, **options)))
    there = torch.cat(list(model.to(DEVICE).generate_codes(prompt, length, **options))).cpu()
    print(f"starter model, codes that CPU and {DEVICE} agree on: {(here == there).double().mean():.4f}")
    with half():
        there = torch.cat(list(model.generate_codes(prompt, length, **options))).cpu()
    print(f"starter model, codes that CPU and {DEVICE} in bfloat16 agree on: {(here == there).double().mean():.4f}")


def graph_error(network: UNet, inputs: dict[str, Any]) -> float:
    """Capture `UNet.denoise` with its cues kept in a CUDA graph, replay it on other noise, and compare."""
    cues = network.features(inputs["timestep"], inputs["condition"])
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
    return StageTrainer(Stage(role, unet(role, size, **options), training_scheduler(num_train_timesteps=100)))


WAYS = (  # of training: role, crops in a batch, whether activations are computed again, whether compiled
    ("primary", 4, True, False),
    ("primary", 4, False, False),
    ("primary", 12, False, False),
    ("secondary", 12, False, False),
    ("primary", 24, True, False),
    ("primary", 4, False, True),
    ("primary", 32, False, True),
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


def step_inputs(role: str, rows: int, frames: int) -> StageInput:
    """Give the input of a training step."""
    inputs = given(role, rows, frames)
    clean = inputs["noisy"]
    return StageInput(range(rows), clean, torch.ones_like(clean), inputs["context"], inputs["condition"])


def in_half(trainer: StageTrainer, network: Any) -> StageTrainer:
    """Let a trainer run a network in autocast to bfloat16."""

    def run(*arguments: Any) -> Tensor:
        with half():
            return network(*arguments)

    trainer.network = run
    return trainer


def step(role: str, size: str, rows: int, frames: int, checkpoint: bool, compiled: bool) -> str:
    """Say what a training step takes, and what was planned."""
    forget()
    trainer, batch = trainer_of(role, size, checkpoint=checkpoint), step_inputs(role, rows, frames)
    clean = batch.x_start
    with torch.device("meta"):
        blank = StageInput(
            range(rows),
            torch.empty(clean.shape),
            torch.ones(clean.shape),
            None if batch.context is None else torch.empty(batch.context.shape),
            batch.condition.to("meta"),
        )
        shadow = UNet(**{**Architecture(*SIZES[size], *ROLES[role]).options, "checkpoint": checkpoint})
    planner = StageTrainer(Stage(role, shadow, training_scheduler(num_train_timesteps=100)))
    planned = count_step(planner, blank, mixed=True)
    memory = (sum(resident_size(planner).values()) + planned.activations) / 1e9
    if compiled:
        compile_layers(trainer.denoiser.repeated_layers())
    in_half(trainer, trainer.denoiser)
    losses: list[float] = []
    seconds = timed(lambda: losses.append(trainer.step(batch)), repeats=6, warmups=3)
    flops = planned.forward + planned.backward + planned.recomputed
    return (
        f"{seconds:.3f} s a step, {rows * frames / seconds:,.0f} frames/s, {flops / seconds / 1e12:.0f} TFLOP/s, "
        f"{peak():.1f} GB (planned {memory:.1f}), loss {losses[0]:.3f} to {losses[-1]:.3f}"
    )


SHAPES = ((4, 576, 576, 2496), (4, 1152, 576, 2496), (4, 1152, 1152, 624), (4, 2304, 2304, 156))  # b, c, c', l


def layouts(small: bool) -> None:
    """Print what a convolution takes forward and backward: of (b, c, l), and of the same channels last."""
    for rows, inputs, outputs, frames in [(2, 8, 8, 64)] if small else SHAPES:
        x = torch.randn(rows, inputs, 1, frames, device=DEVICE, dtype=torch.bfloat16)
        weight = torch.randn(outputs, inputs, 1, 3, device=DEVICE, dtype=torch.bfloat16)
        first = [tensor[:, :, 0].contiguous().requires_grad_() for tensor in (x, weight)]
        last = [tensor.contiguous(memory_format=torch.channels_last).requires_grad_() for tensor in (x, weight)]
        ways = {
            "channels first": (first, lambda x, weight: functional.conv1d(x, weight, padding=1)),
            "channels last": (last, lambda x, weight: functional.conv2d(x, weight, padding=(0, 1))),
        }
        for name, (tensors, convolve) in ways.items():
            gradient = torch.randn_like(convolve(*tensors))
            seconds = timed(lambda t=tensors, c=convolve, g=gradient: torch.autograd.grad(c(*t), t, g), 10, 3)
            print(f"{rows, inputs, outputs, frames} {name}: {1000 * seconds:.3f} ms", flush=True)


def profile(small: bool) -> None:
    """Print a step of the large primary, its forward and backward pass, and the kernels that take longest."""
    size, rows, frames = ("small", 2, 64) if small else ("large", 4, FRAMES)
    trainer, batch = trainer_of("primary", size), step_inputs("primary", rows, frames)
    in_half(trainer, trainer.denoiser)
    print(f"a step: {timed(lambda: trainer.step(batch)):.3f} s")
    print(f"forward and backward: {timed(lambda: trainer.loss(batch).backward()):.3f} s")
    with torch.profiler.profile() as profiler:
        trainer.step(batch)
        wait()
    by = "self_cuda_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=70))


def embedders(small: bool) -> None:
    """Print relative errors of embedders on the card against the CPU, on small random models."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("clap-music", "mert")
        models = [{"name": name, "model": str(write_tiny(name, Path(folder) / name))} for name in names]
        for spec in ({"name": "logmel"}, *models):
            embedder = config.build("embedders", spec)
            audio = 0.3 * torch.randn(3, round(12 * embedder.sample_rate), generator=torch.Generator().manual_seed(0))
            here = embedder.embed(audio)
            print(f"{spec['name']}: {error(embedder.to(DEVICE).embed(audio.to(DEVICE)), here):.1e}", flush=True)


def paper(folder: Path, size: str) -> Pipeline:
    """Build the paper's model with random weights; of the text encoder, a small one."""
    codec = config.build("codecs", {"name": "dac", "model": str(write_tiny("dac", folder / "dac", size="44khz"))})
    splitter = config.build("splitters", "coarse-first", num_codebooks=codec.num_codebooks, levels=codec.levels)
    text = config.build("conditioners", {"name": "t5", "model": str(write_tiny("t5", folder / "t5"))})
    model = Pipeline(codec, splitter, text, [])
    width, multipliers = SIZES[size]
    for i, name in enumerate(model.stage_names):
        spec = {"name": "unet", "absent_widths": {"chroma": 12}, "width": width, "multipliers": list(multipliers)}
        with torch.device(DEVICE):
            denoiser = model.new_denoiser(i, spec)
        model.stages.append(Stage(name, denoiser.requires_grad_(False), training_scheduler(num_train_timesteps=100)))
    return model.to(DEVICE)


def sampling(small: bool) -> None:
    """Print how long music takes to make in 20 steps a stage, guided; the paper takes 100."""
    with tempfile.TemporaryDirectory() as folder:
        model = paper(Path(folder), "small" if small else "large")
    frames, steps = (64, 2) if small else (FRAMES, 20)
    seconds = frames * model.codec.hop_length / model.sample_rate
    codes = list(model.generate_codes([""], 64, num_inference_steps=2))
    for takes in (1,) if small else (1, 8):
        for name, enabled in {"float32": False, "bfloat16": True}.items():
            if takes > 1 and not enabled:
                continue
            forget()
            wait()
            began = time.perf_counter()
            with half(enabled):
                codes = list(
                    model.generate_codes(
                        ["a calm piano"], frames, num_inference_steps=steps, num_waveforms_per_prompt=takes
                    )
                )
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


def waterfall(small: bool) -> None:
    """Print the seconds of 29 s of music, guided, 100 steps a stage, as each way to run faster is added."""
    with tempfile.TemporaryDirectory() as folder:
        model = paper(Path(folder), "small" if small else "large")
    seconds = (64 if small else FRAMES) * model.codec.hop_length / model.sample_rate
    options: dict[str, Any] = {"audio_length_in_s": seconds, "seed": 0, "loudness": None}
    steps = {"num_inference_steps": 2 if small else 100}

    def generate(**quality: Any) -> torch.Tensor:
        return model("a calm piano", **options, **quality).codes[0]

    plain, first = None, 0.0
    additions: dict[str, Callable[[], Any]] = {
        "float32": lambda: None,
        "weights in bfloat16": lambda: model.to(torch.bfloat16),
        "and CUDA graphs": lambda: setattr(model, "_execution", Execution(cuda_graphs=True)),
        "and fused kernels": model.compile,
    }
    for name, add in additions.items():
        add()
        took, codes = timed(lambda: generate(**steps), repeats=2, warmups=1), generate(**steps)
        plain, first = codes if plain is None else plain, first or took
        same = float((codes == plain).float().mean())
        print(f"{name}: {took:.3f} s, {first / took:.2f} x, codes as in float32: {same:.3f}", flush=True)
    print(f"quality=fast: {timed(lambda: generate(quality='fast'), repeats=2, warmups=1):.3f} s", flush=True)


@torch.no_grad()
def encoding(small: bool) -> None:
    """Print the speed of DAC's encoder, with random weights, on segments of 29 s."""
    with tempfile.TemporaryDirectory() as folder:
        codec = config.build("codecs", {"name": "dac", "model": str(write_tiny("dac", folder, size="44khz"))})
    codec.to(DEVICE)
    for rows in (1,) if small else (1, 4, 16):
        seconds = 1 if small else 29
        audio = 0.1 * torch.randn(rows, 1, round(seconds * codec.sample_rate), device=DEVICE)
        forget()
        took = timed(lambda audio=audio: codec.encode(audio), repeats=3, warmups=1)
        print(f"{rows} x {seconds} s: {rows * seconds / took:,.0f} x real time, {peak():.1f} GB", flush=True)


ALL = (ceilings, parity, training, sampling, waterfall, encoding, layouts, profile, embedders)
PARTS = {part.__name__: part for part in ALL}


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
        except Exception:  # whatever fails, on a machine that is lent by the minute the other parts still run
            traceback.print_exc()
        forget()
        print(f"({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
