"""Compiled layers and recorded steps: the same results as without, up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import noise

from codecdiff import Pipeline
from codecdiff.denoisers import fused
from codecdiff.execution import CudaGraphStep, Execution, compile_layers, require_compiler, with_cuda_graph
from codecdiff.interfaces import Condition, ConditionTokens, Denoiser

Make = Callable[..., Pipeline]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


def condition(denoiser: Denoiser) -> Condition:
    tokens = {name: noise(2, 3, width) for name, width in denoiser.condition_widths.items()}
    return Condition({name: ConditionTokens(each, torch.ones(2, 3, dtype=torch.bool)) for name, each in tokens.items()})


@pytest.mark.integration
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_compiled_layers_share_kernels_and_change_neither_result_nor_names(name: str, make_pipeline: Make) -> None:
    from torch._dynamo.utils import counters

    spec = {"unet": None, "dit": {"name": "dit", "width": 32, "depth": 3, "heads": 4}}[name]
    pipe = make_pipeline()
    plain, again = (
        (pipe.new_denoiser(1, spec) if spec else make_pipeline().stages[1].denoiser).requires_grad_(True)
        for _ in range(2)
    )
    again.load_state_dict(plain.state_dict())
    counters.clear()
    layers = again.repeated_layers()
    compile_layers(layers, backend="aot_eager")
    inputs = noise(2, plain.channels, 8), torch.tensor([3, 70]), noise(2, plain.context_channels, 8), condition(plain)
    results = []
    for denoiser in (plain, again):
        result = denoiser(*inputs)
        result.square().mean().backward()
        results.append((result, [parameter.grad for parameter in denoiser.parameters()]))
    (expected, gradients), (result, others) = results
    assert torch.allclose(result, expected, atol=1e-5)
    for a, b in zip(gradients, others, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.allclose(a, b, atol=1e-5)
    assert list(again.state_dict()) == list(plain.state_dict())
    assert 0 < counters["stats"]["unique_graphs"] <= len(layers)
    assert not counters["graph_break"]
    if name == "dit":
        assert counters["stats"]["unique_graphs"] == 1


def test_a_function_is_compiled_only_where_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or (lambda x: -x))
    double = fused(lambda x: 2 * x)
    assert double(torch.ones(1)) == 2
    with Execution(compiles=True).active():
        assert double(torch.ones(1)) == -1
        assert double(torch.ones(1)) == -1
    assert double(torch.ones(1)) == 2
    assert compiled == [{"dynamic": True}]


def test_steps_are_recorded_on_a_gpu_alone() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    with Execution(cuda_graphs=True).active():
        assert with_cuda_graph(step, torch.device("cpu")) is step
        assert isinstance(with_cuda_graph(step, torch.device("cuda")), CudaGraphStep)
    assert with_cuda_graph(step, torch.device("cuda")) is step


@needs_gpu
def test_a_recorded_step_equals_the_plain_one(make_pipeline: Make) -> None:
    pipe = make_pipeline().to("cuda")
    options: dict[str, Any] = {"audio_length_in_s": 0.5, "seed": 3, "num_inference_steps": 5}
    plain = pipe("a tone", **options)
    pipe._execution = Execution(cuda_graphs=True)
    assert all(map(torch.equal, pipe("a tone", **options).codes, plain.codes))


@pytest.mark.integration
def test_a_compiled_pipeline_generates_the_same_up_to_rounding(make_pipeline: Make) -> None:
    try:
        require_compiler(torch.device("cpu"))
    except ValueError as error:
        pytest.skip(str(error))
    pipe = make_pipeline()
    options: dict[str, Any] = {"audio_length_in_s": 0.25, "seed": 3}
    latents: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        latents.append(kwargs["latents"].clone())
        return {}

    pipe("a tone", callback_on_step_end=keep, **options)
    pipe.compile()("a tone", callback_on_step_end=keep, **options)
    half = len(latents) // 2
    assert half == 2 * 3
    for before, after in zip(latents[:half], latents[half:], strict=True):
        assert torch.allclose(before, after, atol=1e-4)


@pytest.mark.integration
def test_a_machine_without_a_compiler_is_told_so(tmp_path: Path) -> None:
    code = "import codecdiff; codecdiff.load('starter', compile=True)"
    environment = {**os.environ, "CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "InvalidValue: torch.compile does not work here on 'cpu'" in done.stderr
    assert "or leave compile out" in done.stderr
