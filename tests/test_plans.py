"""A plan is true: counted for real on small configurations, and by the published figures for the paper's."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import UNET, noise
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from codecdiff import Codec, Condition, ConditionTokens, Pipeline, config
from codecdiff.cli.train import recipe_command
from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.config.schema import DataConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import TrainingCrops, split_tracks
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.encoding.job import EncodeConfig
from codecdiff.data.metadata import find_tracks
from codecdiff.diffusion.loss import StageInput
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.pipeline.stage import Stage
from codecdiff.profiling.flops import LOWER, WHOLE, MixedPrecision, OperationCounter, size_of
from codecdiff.profiling.plan import (
    PAPER_HOURS,
    TrainingAudio,
    blank_input,
    count_step,
    resident_size,
    store_size,
    training_audio,
)
from codecdiff.training.experiment import new_pipeline, new_stage
from codecdiff.training.trainer import StageTrainer

LAYERS = ["none", "linear", "text"]


def trainer_on(device: str, **options: Any) -> StageTrainer:
    spec = {**UNET, "width": 32, "layers": LAYERS, **options}
    with torch.device(device):
        supplied = {"channels": 8, "context_channels": 4, "condition_widths": {"text": 16}}
        unet = config.build("denoisers", spec, **supplied)
    return StageTrainer(Stage("secondary", unet, training_scheduler(num_train_timesteps=100)))


def input_on(device: str, rows: int = 4, frames: int = 256) -> StageInput:
    clean, context, tokens = noise(rows, 8, frames), noise(rows, 4, frames), noise(rows, 10, 16)
    condition = Condition({"text": ConditionTokens(tokens, torch.ones(rows, 10, dtype=torch.bool))}).to(device)
    return StageInput(range(rows), clean.to(device), torch.ones_like(clean).to(device), context.to(device), condition)


def allocated(run: Callable[[], Any]) -> int:
    """Give the most bytes that the allocator of the CPU handed out during `run`, beyond those it had before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    assert seen.profiler
    assert seen.profiler.kineto_results
    events: list[Any] = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


def attention_on_the_cpu(query: Any, key: Any, *rest: Any, **options: Any) -> int:
    """FLOPs of q k^T and of the weights times v: torch counts attention on a GPU alone."""
    b, heads, n, d = query
    return 2 * b * heads * n * key[2] * (d + d)


def its_backward_pass(grad: Any, query: Any, key: Any, *rest: Any, **options: Any) -> int:
    """FLOPs of the weights once more, and of the gradients of weights, q, k and v."""
    return 5 * attention_on_the_cpu(query, key) // 2


OF_THE_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_on_the_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: its_backward_pass,
}


@pytest.mark.integration
@pytest.mark.parametrize("checkpoint", [False, True])
def test_flops_are_those_of_a_real_step(checkpoint: bool) -> None:
    real, inputs = trainer_on("cpu", checkpoint=checkpoint), input_on("cpu")
    with FlopCounterMode(display=False, custom_mapping=OF_THE_CPU) as counter:
        loss = real.loss(inputs)
        forward = counter.get_total_flops()
        loss.backward()
    backward = counter.get_total_flops() - forward
    counted = count_step(trainer_on("cpu", checkpoint=checkpoint), inputs)
    assert (counted.forward, counted.backward + counted.recomputed) == (forward, backward)
    planned = count_step(trainer_on("meta", checkpoint=checkpoint), input_on("meta"))
    assert (planned.forward, planned.backward + planned.recomputed) == (forward, backward)
    assert bool(planned.recomputed) == checkpoint
    assert planned.recomputed <= planned.forward


@pytest.mark.integration
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_activations_are_what_the_allocator_hands_out(checkpoint: bool, mixed: bool) -> None:
    real, meta = trainer_on("cpu", checkpoint=checkpoint), trainer_on("meta", checkpoint=checkpoint)
    counter, inputs, modes = OperationCounter(), input_on("cpu"), ExitStack()

    def autocast(*inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return real.denoiser(*inputs)

    def imitated(*inputs: Any) -> Tensor:
        with MixedPrecision(whole=frozenset()):  # on the CPU, what networks do is nowhere lifted to float32
            return meta.denoiser(*inputs)

    if mixed:
        real.network, meta.network = autocast, imitated
    real.loss(inputs)  # what is only made once
    most = allocated(lambda: real.loss(inputs).backward())
    with counter, modes:
        loss = meta.loss(input_on("meta"))
        if mixed:
            modes.enter_context(MixedPrecision(cache=False, whole=frozenset()))
        torch.autograd.backward(get_gradient_edge(loss))
    assert counter.peak == pytest.approx(most, rel=0.07)
    gradients = size_of(parameter for parameter in meta.denoiser.parameters())
    assert counter.used == pytest.approx(gradients, rel=0.01)  # everything else is released
    if not mixed:
        whole = count_step(trainer_on("meta", checkpoint=checkpoint), input_on("meta"))
        assert most - gradients <= 1.07 * whole.activations <= 1.2 * most


@pytest.mark.integration
def test_a_lower_precision_and_checkpointing_save_memory() -> None:
    sizes = [
        count_step(trainer_on("meta", checkpoint=checkpoint), input_on("meta"), mixed=mixed).activations
        for checkpoint, mixed in [(False, False), (False, True), (True, False), (True, True)]
    ]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("has_mask", [False, True])
def test_attention_takes_on_the_meta_device_what_it_takes_in_one_kernel(mixed: bool, has_mask: bool) -> None:
    def run(device: str) -> tuple[int, ...]:
        q, k, v = (torch.zeros(2, 4, n, 32, device=device, requires_grad=True) for n in (256, 100, 100))
        mask = torch.ones(2, 1, 1, 100, dtype=torch.bool, device=device) if has_mask else None
        with OperationCounter(device) as counter:
            with MixedPrecision() if mixed else ExitStack():
                seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            forward = counter.flops
            seen.float().sum().backward()
        return forward, counter.flops, counter.peak

    (*flops, peak), (*real, most) = run("meta"), run("cpu")
    assert flops == real == [4 * 2 * 4 * 256 * 100 * 32, 14 * 2 * 4 * 256 * 100 * 32]
    assert peak == pytest.approx(most, rel=0.02)


def test_what_is_kept_is_what_a_trainer_holds_after_a_step() -> None:
    trainer = trainer_on("cpu")
    trainer.step(input_on("cpu"))
    state = [value for values in trainer.optimizer.state.values() for value in values.values()]
    assert (
        resident_size(trainer)
        == resident_size(trainer_on("meta"))
        == {
            "weights": size_of([*trainer.denoiser.parameters(), *trainer.denoiser.buffers()]),
            "gradients": size_of(p.grad for p in trainer.denoiser.parameters() if p.grad is not None),
            "moments of AdamW": size_of(state),
            "averaged weights": size_of([*trainer.ema.parameters(), *trainer.ema.buffers()]),
        }
    )


def test_a_blank_input_has_the_shapes_of_a_real_one(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    for i, stage in enumerate(pipeline.stages):
        inputs = blank_input(pipeline, i, 3, 20)
        assert inputs.x_start.shape == inputs.valid_mask.shape == (3, stage.denoiser.channels, 20)
        assert (0 if inputs.context is None else inputs.context.shape[1]) == stage.denoiser.context_channels
        assert inputs.condition.widths == stage.denoiser.condition_widths


RUNS: dict[Any, Callable[..., Any]] = {
    torch.conv1d: lambda f, x: f(x, x),
    torch.conv2d: lambda f, x: f(x.unsqueeze(0), x.unsqueeze(0)),
    torch.conv3d: lambda f, x: f(x.expand(4, 4, 4, 4, 4), x.expand(4, 4, 4, 4, 4)),
    torch.conv_transpose1d: lambda f, x: f(x, x),
    torch.einsum: lambda f, x: f("abc,abd->cd", x, x),
    functional.prelu: lambda f, x: f(x, x.flatten().narrow(0, 0, 1)),
    functional.scaled_dot_product_attention: lambda f, x: f(x, x, x),
    functional.group_norm: lambda f, x: f(x, 2),
    functional.layer_norm: lambda f, x: f(x, x.shape[-1:]),
    functional.rms_norm: lambda f, x: f(x, x.shape[-1:]),
    functional.interpolate: lambda f, x: f(x, scale_factor=2),
    **dict.fromkeys([torch.mm, Tensor.mm, functional.linear], lambda f, x: f(x.select(0, 0), x.select(0, 0))),
    **dict.fromkeys([torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm], lambda f, x: f(x, x)),
    **dict.fromkeys([torch.pow, Tensor.pow, Tensor.__pow__], lambda f, x: f(x, 2)),
    **dict.fromkeys([torch.softmax, torch.log_softmax, torch.cumsum], lambda f, x: f(x, 1)),
    **dict.fromkeys([Tensor.softmax, Tensor.log_softmax, Tensor.cumsum], lambda f, x: f(x, 1)),
    **dict.fromkeys([functional.softmax, functional.log_softmax], lambda f, x: f(x, 1)),
}  # how to call what takes more than a tensor


@pytest.mark.parametrize("function", sorted([*LOWER, *WHOLE, functional.silu, functional.gelu, torch.mean], key=str))
def test_mixed_precision_is_that_of_torch_on_a_gpu(function: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def result(x: Tensor) -> torch.dtype:
        return RUNS.get(function, lambda f, x: f(x))(function, x).dtype

    for dtype in (torch.float32, torch.bfloat16):
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        with FakeTensorMode():
            x = torch.empty(4, 4, 4, dtype=dtype, device="cuda")  # no GPU is needed to be told the type of a result
            torch.set_autocast_enabled("cuda", True)
            try:
                told = result(x)
            finally:
                torch.set_autocast_enabled("cuda", False)
        with MixedPrecision():
            assert result(torch.empty(4, 4, 4, dtype=dtype, device="meta")) is told


@pytest.mark.parametrize("target", ["codes", "continuous"])
def test_a_store_has_the_size_that_was_planned(
    target: Any, dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path: Path
) -> None:
    store = encode_tracks(find_tracks(music), tmp_path / "store", dac, codec_spec, EncodeConfig(target=target))[0]
    size = sum(np.load(file).nbytes for file in (tmp_path / "store" / "shards").iterdir())
    assert store_size(dac, target, store.frames) == size


def test_music_is_measured_where_there_is_any(dac: Codec, store: CodeStore, music: Path, tmp_path: Path) -> None:
    frames, data = 10, DataConfig(audio=music, validation_fraction=0.34)
    encoded = measure(data, store.folder, dac)
    assert encoded.num_crops(frames) == len(TrainingCrops(store, split_tracks(store, 0.34)[0], frames))
    assert encoded.frames == store.frames
    plain = measure(data, tmp_path, dac)
    assert plain.frames == store.frames
    assert plain.seconds == pytest.approx(encoded.seconds)
    assert plain.num_crops(frames) == pytest.approx(encoded.num_crops(frames), rel=0.1)
    assumed = measure(DataConfig(audio=tmp_path / "none", validation_fraction=0.5), tmp_path, dac)
    assert assumed.seconds == pytest.approx(3600 * PAPER_HOURS)
    assert assumed.num_crops(frames) == pytest.approx(0.5 * assumed.seconds * dac.frame_rate / frames)
    assert "does not exist yet" in assumed.source


def measure(data: DataConfig, store: Path, codec: Codec) -> TrainingAudio:
    return training_audio(data, store, codec, PAPER_HOURS)


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    import runpy

    return runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "discodiff.py"))


PAPER = Path(__file__).parent.parent / "recipes" / "configs" / "paper.yaml"


def test_the_papers_configuration_is_the_papers(recipe: dict[str, Any]) -> None:
    experiment = config.load_config(recipe["Experiment"], PAPER)
    pipeline = new_pipeline(experiment, skeleton=True)
    codec, conditioner = pipeline.codec, pipeline.conditioner
    assert isinstance(conditioner, CachedConditioner)
    assert (codec.sample_rate, codec.num_codebooks, codec.codebook_size, codec.codebook_dim) == (44100, 9, 1024, 8)
    assert (pipeline.stage_names, conditioner.widths) == (["primary", "secondary"], {"text": 1024, "vector": 1024})
    assert all(tensor.is_meta for part in (codec, conditioner.conditioner) for tensor in part.parameters())
    jobs = [new_stage(experiment, pipeline, i, "meta") for i in (0, 1)]
    counts = [sum(parameter.numel() for parameter in stage.denoiser.parameters()) for stage, _ in jobs]
    assert counts == [1_235_493_844, 1_235_636_748]
    for stage, train in jobs:
        assert all(parameter.is_meta for parameter in stage.denoiser.parameters())
        assert round(train.crop_seconds * codec.frame_rate) == pipeline.frames(experiment.seconds) == 2496
        assert (train.loss, train.dropout, train.lr_scheduler) == ("l1", 0.2, "constant")
        assert 0.99 < train.ema_decay < 1
        assert stage.train_scheduler.config.num_train_timesteps == stage.sampling.num_inference_steps == 100
        assert (stage.train_scheduler.config.prediction_type, stage.sampling.scheduler) == ("v_prediction", "ddpm")
        assert stage.train_scheduler.betas[:3].tolist() == pytest.approx([6.3128e-4, 1.11694e-3, 1.60290e-3], rel=1e-4)
    assert experiment.mixed_precision == "bf16"
    primary = jobs[0][0].denoiser
    inputs = blank_input(pipeline, 0, 1, 2496)
    with torch.no_grad(), OperationCounter() as counter:
        primary(inputs.x_start, torch.zeros(1, device="meta"), None, inputs.condition)
    assert counter.flops == pytest.approx(632e9, rel=0.002)


@pytest.mark.slow
def test_the_plan_in_the_documentation_is_the_one_that_is_printed(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PAPER.parent.parent.parent)
    page = Path("docs/configuration.md").read_text(encoding="utf-8")
    words = ["--config", "paper", "--plan", "--devices", "8", "--device", "h100"]
    assert " ".join(["codecdiff train", *words]) in page
    recipe_command(recipe["train"]).main(words, standalone_mode=False)
    assert capsys.readouterr().out in page
