"""Assertions that the checks of several kinds share, and the checks that are the same for all of them.

Every case has its `part` and `calls()`: the methods of the part, each with fresh arguments to call it with.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from pydantic_core import PydanticSerializationError, to_jsonable_python
from torch import Tensor, nn

from codecdiff.config import ConfigError, build, to_config
from codecdiff.interfaces import Codec, Condition, Part
from codecdiff.testing.checks import CheckFailed, UnexpectedType

AnyPart = TypeVar("AnyPart", bound=Part)
Module = TypeVar("Module", bound=nn.Module)
DEVICE_HINT = "Make tensors on the device of the inputs, as by new_zeros."
DEFAULT = (torch.float32, torch.device("cpu"))  # precision and device of a part without tensors


class Call(NamedTuple):
    """A method of a part, and arguments for it."""

    name: str
    method: Callable[..., Any]
    arguments: tuple[Any, ...]


class HasCalls(Protocol):
    """A case, as the shared checks see it."""

    @property
    def part(self) -> Any:
        """The part."""
        ...

    def calls(self) -> Iterable[Call]:
        """Yield the methods of the part with fresh arguments."""
        ...


# Checks of several kinds.


def check_deterministic(case: HasCalls) -> None:
    """The same input has exactly the same result at every call, in evaluation mode."""
    hint = ""
    if isinstance(case.part, nn.Module) and any(module.training for module in case.part.modules()):
        hint = " Its constructor leaves it in training mode: if that drops anything, call self.eval() at its end."
    for name, method, arguments in case.calls():
        text = f"{name} is not deterministic.{hint}"
        assert_same_result(method(*arguments), method(*arguments), text)


def check_inputs_untouched(case: HasCalls) -> None:
    """No method changes what is passed to it."""
    for name, method, arguments in case.calls():
        tensors = [tensor.clone() for tensor in tensors_in(arguments)]
        mappings = deepcopy([argument for argument in arguments if isinstance(argument, dict)])
        method(*arguments)
        same = all(map(torch.equal, tensors_in(arguments), tensors))
        same = same and mappings == [argument for argument in arguments if isinstance(argument, dict)]
        assert_that(same, f"{name} changes its input in place.")


def check_no_gradient(case: HasCalls) -> None:
    """No result carries a gradient, not even of audio that requires one; a denoiser can learn from it."""
    for name, method, arguments in case.calls():
        with_gradient = [
            a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments
        ]
        for tensor in tensors_in(method(*with_gradient)):
            text = f"The result of {name} carries a gradient; use torch.no_grad in a frozen part."
            assert_that(not tensor.requires_grad, text)
            what = f"The result of {name} is an inference tensor, which no denoiser can learn from"
            assert_that(not tensor.is_inference(), f"{what}: use torch.no_grad instead.")


def check_no_global_randomness(case: HasCalls) -> None:
    """The global generators of torch, numpy and random are left as they were, in evaluation mode."""
    calls = list(case.calls())
    with randomness_untouched(case.part):
        for _, method, arguments in calls:
            method(*arguments)


def check_frozen(case: HasCalls) -> None:
    """No parameter requires a gradient, and `train()`, of the part or a model around it, leaves it in evaluation mode.

    Run last: other checks see the part as its constructor leaves it.
    """
    part, name = case.part, type(case.part).__name__
    try:
        training = [key or name for key, module in part.train().named_modules() if module.training]
    finally:
        nn.Module.train(part, False)
    assert_that(not training, f"{name}.train() leaves evaluation mode in {training[:5]}.")
    learns = [key for key, parameter in part.named_parameters() if parameter.requires_grad]
    assert_that(not learns, f"{name} is frozen, but these of its parameters require a gradient: {learns[:5]}.")


# Assertions.


def assert_that(holds: object, text: str) -> None:
    """Raise CheckFailed unless a condition holds."""
    if not holds:
        raise CheckFailed(text)


def require_tensors(*values: object) -> None:
    """Raise UnexpectedType unless these are tensors."""
    if wrong := [type(value).__name__ for value in values if not isinstance(value, Tensor)]:
        raise UnexpectedType(f"expected a tensor, not {' and '.join(wrong)}")


def assert_same(a: Tensor, b: Tensor, text: str, tolerance: float = 0.0) -> None:
    """Raise CheckFailed unless two tensors have the same shape, dtype and values, up to a tolerance."""
    require_tensors(a, b)
    types = [f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (a, b)]
    assert_that(types[0] == types[1], f"{text} They are {' and '.join(types)}.")
    differs = (a != b) if tolerance == 0 else ~torch.isclose(a, b, rtol=tolerance, atol=tolerance)
    if differs.any():
        farthest = (a.double() - b.double()).abs().max().item()
        raise CheckFailed(f"{text} {int(differs.sum())} of {differs.numel()} numbers differ, by up to {farthest:.3g}.")


def assert_same_rows(a: Condition, b: Condition, text: str, tolerance: float = 1e-4) -> None:
    """Raise CheckFailed unless two conditions have the same real tokens, whatever their padding."""
    assert_that(list(a) == list(b), f"{text} The names are {list(a)} and {list(b)}.")
    for name in a:
        shorter = min(a[name].mask.shape[1], b[name].mask.shape[1])
        longer = any(condition[name].mask[:, shorter:].any() for condition in (a, b))
        assert_that(not longer, f"{text} '{name}' has more real tokens in one.")
        assert_same(a[name].mask[:, :shorter], b[name].mask[:, :shorter], f"{text} The mask of '{name}':")
        assert_same(a[name].tokens[a[name].mask], b[name].tokens[b[name].mask], f"{text} '{name}':", tolerance)


def assert_same_result(a: Any, b: Any, text: str) -> None:
    """Raise CheckFailed unless two results of a method are exactly the same."""
    if isinstance(a, Condition):
        assert_same_rows(a, b, text, 0.0)
    elif isinstance(a, str):
        assert_that(a == b, f"{text} It returns {a!r} and {b!r}.")
    else:
        for one, other in zip(tensors_in(a), tensors_in(b), strict=True):
            assert_same(one, other, text)


def assert_other_precision(
    part: Module, run: Callable[[Module, torch.dtype, str], Any], same: Callable[[Any, Any], None]
) -> None:
    """Move a deep copy of a part to float64, and back. Raises CheckFailed if its results change.

    `run(part, dtype, device)` uses a part that was moved there, and raises CheckFailed if the result is wrong;
    `same(before, after)` compares two results.
    """
    dtype, device = next(((t.dtype, t.device) for t in tensors_of(part) if t.is_floating_point()), DEFAULT)
    before = run(part, dtype, str(device))
    moved = deepcopy(part).to(torch.float64)
    run(moved, torch.float64, str(device))
    same(before, run(moved.to(dtype), dtype, str(device)))


def assert_other_device(part: Module, run: Callable[[Module, torch.dtype, str], Any]) -> str:
    """Move deep copies of a part to the meta device, where no tensor may stay behind, and to a GPU if there is one.

    Returns a sentence about the GPU.
    """
    if left := staying(deepcopy(part).to("meta")):
        raise CheckFailed(
            f"{', '.join(left)} would stay behind on another device: register_buffer takes tensors along, "
            "ModuleList modules."
        )
    if not torch.cuda.is_available():
        return "no GPU here to move it to"
    dtype = next((t.dtype for t in tensors_of(part) if t.is_floating_point()), torch.float32)
    run(deepcopy(part).to("cuda"), dtype, "cuda")
    return "moved to the GPU too"


def call_on_meta(name: str, method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method with tensors on the meta device. Raises CheckFailed, with a hint, if that fails."""
    try:
        return method(*arguments)
    except Exception as error:  # third-party code may fail in any way
        message = f"{type(error).__name__}: {error}"
        raise CheckFailed(f"{name} fails with tensors that are not on the CPU ({message}). {DEVICE_HINT}") from error


@contextmanager
def randomness_untouched(part: object) -> Iterator[None]:
    """Raise CheckFailed if the block changes the state of a global generator. The states are restored afterwards."""
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
    name = type(part).__name__
    assert_that(not changed, f"{name} draws from the global generators of {', '.join(changed)}; use one of its own.")


def _states() -> dict[str, Any]:
    # the global state is what is watched here, so the legacy call is meant
    return {"torch": torch.get_rng_state().tolist(), "random": random.getstate(), "numpy": str(np.random.get_state())}  # noqa: NPY002


# Inputs, tensors and copies.


def white_noise(*shape: int, seed: int = 0) -> Tensor:
    """Return the same white noise for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lengths_around(*samples: int) -> Sequence[int]:
    """Return numbers of samples, each at least one and once, in order."""
    return sorted({max(1, count) for count in samples})


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a result or of arguments: alone, in sequences, or in a condition."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Condition):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def tensors_of(part: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter and buffer."""
    yield from part.parameters()
    yield from part.buffers()


def staying(moved: nn.Module) -> list[str]:
    """Return the attributes of a part on the meta device, and of all modules in it, that hold tensors elsewhere."""

    def tensors(value: Any) -> Iterator[Tensor]:
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else (value,)
        for item in items:
            if isinstance(item, nn.Module) and item is not value:  # in a list, where torch does not see it
                yield from tensors_of(item)
            elif isinstance(item, Tensor):
                yield item

    skipped = {*vars(nn.Module()), "arguments"}  # those that are torch's own, and what the part was built with
    return [
        f"{module_name}.{name}".lstrip(".")
        for module_name, module in moved.named_modules()
        for name, value in vars(module).items()
        if name not in skipped
        if any(tensor.device.type != "meta" for tensor in tensors(value))
    ]


def build_again(kind: str, part: AnyPart) -> AnyPart:
    """Build a part again from its configuration, by way of JSON; one that is not registered, from its class.

    A codec inside another kind of part stays as it is: what was fitted is not among its options.
    """
    derived = {name: value for name, value in part.arguments.items() if name in part.derived}
    options = {name: value for name, value in part.arguments.items() if name not in derived}
    plain = {name: as_option(name, value) for name, value in options.items()}
    constructor = type(part).__init__
    parameters = inspect.signature(constructor).parameters.values()
    if constructor not in (object.__init__, nn.Module.__init__):
        stars = [str(p.replace(annotation=p.empty)) for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        text = f"Its constructor takes {' and '.join(stars)}, which are not options: name each argument, with its type."
        assert_that(not stars, text)
    untyped = [p.name for p in parameters if p.name in options and p.annotation is p.empty]
    assert_that(not untyped, f"Without a type annotation, these are not options that a model can save: {untyped}.")
    if kind == "codecs" or not any(isinstance(value, Codec) for value in options.values()):
        with suppress(ConfigError):  # not registered
            return build(kind, through_json(to_config(kind, part)), **derived)
    return type(part)(**plain, **derived)


def as_option(name: str, value: Any) -> Any:
    """Return an option as JSON keeps it, or a part as it is. Raises CheckFailed for what JSON cannot hold."""
    try:
        return value if holds_parts(value) else through_json(value)
    except PydanticSerializationError as error:
        raise CheckFailed(
            f"`{name}` is a {type(value).__name__}, which cannot be an option: options are numbers, texts, lists of "
            "them and parts. Make it a buffer, or read it from a file that an option names."
        ) from error


def holds_parts(value: Any) -> bool:
    """Return whether an option is a part, or holds some."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Part) or any(map(holds_parts, inside))


def through_json(value: Any) -> Any:
    """Write a value as JSON, and read it again."""
    return json.loads(json.dumps(to_jsonable_python(value)))
