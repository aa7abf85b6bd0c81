"""Faster ways to run a network, which are chosen: kernels fused by torch.compile, and steps recorded as CUDA graphs.

Results differ from the plain ones by rounding. The first call takes long, so what pays are many calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from codecdiff.errors import InvalidValue

LIMIT = 64  # of the variants of one layer: a U-Net has as many as it has combinations of channels


@dataclass(frozen=True)
class Execution:
    """How sampling runs denoisers.

    compiles: compile what is marked by `fused`.
    cuda_graphs: record a guided step as a CUDA graph, and replay it.
    """

    compiles: bool = False
    cuda_graphs: bool = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run all that is called inside in this way."""
        token = _execution.set(self)
        try:
            yield
        finally:
            _execution.reset(token)


PLAIN = Execution()
_execution = ContextVar("codecdiff_execution", default=PLAIN)


def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Mark a function of tensors, such as a normalization and what follows it, as worth compiling to one kernel."""

    @cache
    def compiled() -> Callable[..., Tensor]:
        return torch.compile(function, dynamic=True)  # at its first call: this imports the compiler, for seconds

    @wraps(function)
    def run(*arguments: Any) -> Tensor:
        return (compiled() if _execution.get().compiles else function)(*arguments)

    return run


def with_cuda_graph(step: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Return a function of tensors of the same shapes at every call, as it is to run: recorded on a GPU, if chosen."""
    return CudaGraphStep(step) if _execution.get().cuda_graphs and device.type == "cuda" else step


class CudaGraphStep:
    """A function of CUDA tensors, recorded at its second call and replayed from then on.

    The first call runs as it is, which compiles kernels and loads libraries. The function may neither wait for the GPU
    nor draw random numbers, and gets tensors of the same shapes at every call.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function, self.is_warm = function, False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return what the function returns for these tensors."""
        if not self.is_warm:
            self.is_warm = True
            return self.function(*tensors)
        if self.graph is None:
            self.inputs = [tensor.clone() for tensor in tensors]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = self.function(*self.inputs)
        for own, tensor in zip(self.inputs, tensors, strict=True):
            own.copy_(tensor)
        self.graph.replay()
        return self.output.clone()  # a scheduler of several steps keeps it, and the next replay overwrites it


def compile_layers(layers: list[nn.Module], **options: Any) -> None:
    """Compile layers in place, with `options` of torch.compile. Those of the same shapes share their kernels."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, LIMIT)
    for layer in layers:
        layer.compile(**options)


def require_compiler(device: torch.device) -> None:
    """Raise InvalidValue unless torch.compile works on a device."""
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # of its many ways to fail
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise InvalidValue(
            f"torch.compile does not work here on '{device}': {lines[0].rstrip('.')}. It needs a C++ compiler on a CPU "
            "and Triton on a GPU. Install it, or leave compile out."
        ) from error
