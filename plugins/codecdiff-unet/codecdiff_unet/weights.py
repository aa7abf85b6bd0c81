"""Checkpoints, read and written tensor by tensor, so that memory does not grow with them.

A checkpoint of torch is a pickle, and a pickle can ask for any code to be run. Here nothing of it is: only torch's
unpickler of tensors and plain values reads it, no module that it names is imported, and where it holds an object of
some class, an `Inert` stands in its place.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn, serialization

from codecdiff.errors import InvalidValue, MissingFile

Spec = tuple[torch.dtype, tuple[int, ...]]  # of a tensor: its precision and shape

ZIP = b"PK\x03\x04"  # how a file of torch.save begins, since torch 1.6
SETTINGS = frozenset(  # classes of Python's own that settings are made of; an `Inert` stands for them too
    ["argparse.Namespace", "types.SimpleNamespace", "typing.Any"]
    + [f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")]
)
FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors names them


class Inert:
    """Stands for an object of a class that is not imported. Whatever a file does to it has no effect."""

    __slots__ = ()

    def __new__(cls, *arguments: object) -> Inert:
        """Take any arguments, and keep none."""
        return super().__new__(cls)

    def __init__(self, *arguments: object):
        pass

    def __setstate__(self, state: object) -> None:
        """Keep nothing of a state."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, in memory that is mapped to the file.

    The file is one of torch.save, with the tensors at the top or in its `state_dict`, or one of safetensors.
    Raises FileNotFoundError or ValueError, in a sentence, for anything else, and then nothing of the file was run.
    """
    if not file.is_file():
        raise MissingFile(f"'{file}' is not a file: name a checkpoint, such as a .ckpt or .safetensors.")
    with file.open("rb") as stream:
        is_zip = stream.read(len(ZIP)) == ZIP
    content = _unpickled(file) if is_zip else _mapped(file)
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not content:
        raise InvalidValue(f"'{file}' contains no tensors by name, but a {type(content).__name__}.")
    if strange := [str(name) for name, value in content.items() if not (isinstance(name, str) and is_plain(value))]:
        raise InvalidValue(f"'{file}' contains something other than a plain tensor under {listed(strange)}.")
    size = sum(value.numel() * value.itemsize for value in content.values())
    if size > file.stat().st_size:  # no checkpoint does: many tensors that are views of a few numbers
        raise InvalidValue(f"'{file}' is refused: its tensors would take {size:,} bytes, more than the file has.")
    return dict(content)


def is_plain(value: object) -> bool:
    """Return whether a value is an ordinary tensor in memory with all its numbers."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.is_contiguous()
        and value.numel() * value.itemsize <= value.untyped_storage().nbytes()
    )


def listed(names: Sequence[str], most: int = 20) -> str:
    """Join names in words, the first of them where there are many."""
    others = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + others


def _mapped(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise InvalidValue(
            f"'{file}' is neither a file of torch.save nor one of safetensors, or it is damaged or cut short: {error}."
        ) from error


def _unpickled(file: Path) -> Any:
    with _allowing_nothing():
        named = _read(file, lambda: serialization.get_unsafe_globals_in_checkpoint(file))
        if refused := sorted(name for name in named if not (is_foreign_class(name) or name in SETTINGS)):
            raise InvalidValue(
                f"'{file}' is refused: beside tensors it asks for {listed(refused)}, which no model needs. "
                "Nothing of it was run."
            )
        with serialization.safe_globals([(Inert, name) for name in named]):
            return _read(file, lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=True))


def is_foreign_class(name: str) -> bool:
    """Return whether a dotted name looks like a class of neither Python, torch nor numpy."""
    module, _, short = name.rpartition(".")
    own = module.partition(".")[0] in {*sys.stdlib_module_names, "torch", "numpy", ""}
    return not own and short[:1].isupper() and all(part.isidentifier() for part in name.split("."))


@contextmanager
def _allowing_nothing() -> Iterator[None]:
    """Take from torch's unpickler, inside the block, what anybody else has allowed it to build."""
    allowed = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed)


def _read(file: Path, read: Any) -> Any:
    try:
        return read()
    except Exception as error:  # a damaged or hostile file fails in any way
        cause = str(error.__context__ or error).partition("\n")[0].rstrip(".")
        raise InvalidValue(
            f"'{file}' cannot be read as tensors alone: it is damaged, cut short or not a checkpoint ({cause}). "
            "Nothing of it was run."
        ) from error


def write_tensors(file: Path, specs: Mapping[str, Spec], tensors: Iterable[Tensor]) -> None:
    """Write tensors, as the specs of each in turn describe them, to a new file of safetensors.

    Each is written before the next is read: one of them is in memory at a time.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in specs.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": FLOATS[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for (dtype, shape), tensor in zip(specs.values(), tensors, strict=True):
            assert (tensor.dtype, tuple(tensor.shape)) == (dtype, tuple(shape))
            stream.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
