"""What the laws of several kinds share: noise, comparisons, and what is asked of every frozen part."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic_core import to_jsonable_python
from torch import Tensor, nn

from codecdiff.config import ConfigError, build, derived_arguments, to_config
from codecdiff.interfaces import Codec, Part
from codecdiff.testing.checks import CheckFailed

AnyPart = TypeVar("AnyPart", bound=Part)
Module = TypeVar("Module", bound=nn.Module)
WHERE = "Make tensors where those are that you are given, as by new_zeros."
HERE = (torch.float32, torch.device("cpu"))  # precision and place of a part without tensors


def require(holds: object, text: str) -> None:
    """Raise CheckFailed, with what was found, unless it holds."""
    if not holds:
        raise CheckFailed(text)


def require_same(a: Tensor, b: Tensor, text: str, tolerance: float = 0.0) -> None:
    """Raise CheckFailed unless two tensors have one shape and dtype, and the same numbers up to a tolerance."""
    kinds = [f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (a, b)]
    require(kinds[0] == kinds[1], f"{text} They are {' and '.join(kinds)}.")
    away = (a != b) if tolerance == 0 else ~torch.isclose(a, b, rtol=tolerance, atol=tolerance)
    if away.any():
        farthest = (a.double() - b.double()).abs().max().item()
        raise CheckFailed(f"{text} {int(away.sum())} of {away.numel()} numbers differ, by up to {farthest:.3g}.")


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Give the same white noise for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def randomness_untouched(part: object) -> Iterator[None]:
    """Raise CheckFailed if the block changes the state of a global generator. The states are put back afterwards."""
    outside = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    for draw in (lambda: torch.rand(1), random.random, np.random.rand):
        draw()  # a seed that was set before shows when it is set again
    before = _states()
    try:
        yield
        changed = [name for name, state in _states().items() if state != before[name]]
    finally:
        torch.set_rng_state(outside[0])
        random.setstate(outside[1])
        np.random.set_state(outside[2])  # noqa: NPY002
    require(
        not changed,
        f"{type(part).__name__} draws from the global generators of {', '.join(changed)}; give it one of its own.",
    )


def _states() -> dict[str, Any]:
    # the global state is what is watched here, so the legacy call is meant
    return {"torch": torch.get_rng_state().tolist(), "random": random.getstate(), "numpy": str(np.random.get_state())}  # noqa: NPY002


def require_frozen(part: nn.Module) -> None:
    """Raise CheckFailed unless a part stays in evaluation mode when it is told to train, and none of it learns."""
    name = type(part).__name__
    try:
        training = [key or name for key, module in part.train().named_modules() if module.training]
    finally:
        nn.Module.train(part, False)
    require(not training, f"{name}.train() leaves evaluation mode in {training[:5]}.")
    learns = [key for key, parameter in part.named_parameters() if parameter.requires_grad]
    require(not learns, f"{name} is frozen, but these of its parameters require a gradient: {learns[:5]}.")


def require_frozen_tensor(tensor: Tensor, name: str) -> None:
    """Raise CheckFailed if a tensor carries a gradient, or is one that nothing can take a gradient through."""
    require(not tensor.requires_grad, f"{name} carries a gradient; what is frozen has none (torch.no_grad).")
    text = f"{name} is made in inference mode, and no denoiser could learn from it: torch.no_grad is for that."
    require(not tensor.is_inference(), text)


def training_of(part: nn.Module) -> str:
    """Say, as a further sentence, that a part is in training mode; empty if it is not."""
    training = any(module.training for module in part.modules())
    return " Its constructor leaves it in training mode: if that drops anything, end it by self.eval()." * training


def require_untouched(call: Callable[..., Any], *inputs: Tensor, name: str) -> None:
    """Raise CheckFailed if a call changes the tensors it is given."""
    before = [tensor.clone() for tensor in inputs]
    call(*inputs)
    same = all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    require(same, f"{name} changes its input in place.")


def require_other_precision(
    part: Module, run: Callable[[Module, torch.dtype, str], Any], same: Callable[[Any, Any], None]
) -> None:
    """Move a deep copy of a part to float64, and back. Raises CheckFailed if it then does something else.

    `run(part, dtype, device)` uses a part that was moved there, and raises CheckFailed if what it gives is wrong;
    `same(before, after)` compares what it gives.
    """
    dtype, place = next(((t.dtype, t.device) for t in tensors_of(part) if t.is_floating_point()), HERE)
    before = run(part, dtype, str(place))
    moved = deepcopy(part).to(torch.float64)
    run(moved, torch.float64, str(place))
    same(before, run(moved.to(dtype), dtype, str(place)))


def require_other_device(part: Module, run: Callable[[Module, torch.dtype, str], Any]) -> str:
    """Move deep copies of a part to the meta device, where no tensor may stay behind, and to a GPU if there is one.

    Gives a sentence about the GPU.
    """
    if left := staying(deepcopy(part).to("meta")):
        told = f"{', '.join(left)} would stay behind on another device"
        raise CheckFailed(f"{told}: register_buffer takes tensors along, ModuleList modules.")
    if not torch.cuda.is_available():
        return "no GPU here to move it to"
    dtype = next((t.dtype for t in tensors_of(part) if t.is_floating_point()), torch.float32)
    run(deepcopy(part).to("cuda"), dtype, "cuda")
    return "moved to the GPU too"


def elsewhere(name: str, call: Callable[..., Any], *given: Any) -> Any:
    """Call a method with tensors on the meta device. Raises CheckFailed, with what to do, if that fails."""
    try:
        return call(*given)
    except Exception as error:  # a stranger's code may fail in any way
        told = f"{type(error).__name__}: {error}"
        raise CheckFailed(f"{name} fails with tensors that are not on the CPU ({told}). {WHERE}") from error


def tensors_of(part: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter and buffer."""
    yield from part.parameters()
    yield from part.buffers()


def staying(moved: nn.Module) -> list[str]:
    """Name the attributes of a part on the meta device, and of all modules in it, that hold tensors elsewhere."""

    def held(value: Any) -> Iterable[Any]:
        if isinstance(value, Mapping):
            return value.values()
        return value if isinstance(value, list | tuple) else (value,)

    def tensors(value: Any) -> Iterator[Tensor]:
        for item in held(value):
            if isinstance(item, nn.Module) and item is not value:  # in a list, where torch does not see it
                yield from tensors_of(item)
            elif isinstance(item, Tensor):
                yield item

    known = {*vars(nn.Module()), "arguments"}  # those that are torch's own, and what the part was built with
    return [
        f"{module_name}.{name}".lstrip(".")
        for module_name, module in moved.named_modules()
        for name, value in vars(module).items()
        if name not in known
        if any(tensor.device.type != "meta" for tensor in tensors(value))
    ]


def rebuilt(kind: str, part: AnyPart) -> AnyPart:
    """Build a part again from what a configuration says of it, by way of JSON; one not registered, from its class.

    A codec inside another kind of part stays as it is: what was fitted is not among its options.
    """
    derived = {name: value for name, value in part.arguments.items() if name in derived_arguments(kind)}
    options = {name: value for name, value in part.arguments.items() if name not in derived}
    if kind == "codecs" or not any(isinstance(value, Codec) for value in options.values()):
        with suppress(ConfigError):  # not registered
            return build(kind, through_json(to_config(kind, part)), **derived)
    plain = {name: value if holds_parts(value) else through_json(value) for name, value in options.items()}
    return type(part)(**plain, **derived)


def holds_parts(value: Any) -> bool:
    """Tell whether an option is a part, or holds some."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Part) or any(map(holds_parts, inside))


def through_json(value: Any) -> Any:
    """Write a value as JSON, and read it again."""
    return json.loads(json.dumps(to_jsonable_python(value)))


def lengths_around(*samples: int) -> Sequence[int]:
    """Give numbers of samples, each at least one and once, in order."""
    return sorted({max(1, count) for count in samples})
