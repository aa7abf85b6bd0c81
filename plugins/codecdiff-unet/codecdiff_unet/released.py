"""The names and shapes of DiscoDiff's released U-Nets, and where each parameter of a `UNet` is found among them.

Released and ours hold the same numbers. They differ in names, in axes of length one (most of our 1x1 convolutions are
linear maps), and in one cut: a residual block's linear map of [time, vector] is two parameters here.

    architecture = infer({name: tensor.shape for name, tensor in released.items()})
    unet = UNet(**architecture.options)
    unet.load_state_dict(from_released(released, architecture))

Tensor by tensor: `sources(architecture)` lists for each of our parameters the released one to `read` it from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue

Shape = tuple[int, ...]

ROLES = {"primary": (8, 0), "secondary": (64, 8), "parallel": (72, 0)}  # channels, context channels
SIZES: dict[str, tuple[int, Shape]] = {
    "large": (576, (1, 1, 2, 2, 4)),
    "small": (144, (1, 2, 4, 8)),
}  # width, multipliers
CONDITION_WIDTHS = {"text": 1024, "vector": 1024}
ABSENT_WIDTHS = {"chroma": 12}
ATTENTION = 9 * 128  # heads * head_dim, of cross-attention and of the middle
LINEAR_ATTENTION = 9 * 32
LAYERS = {0: "none", 1: "linear", 3: "linear", 5: "chroma", 7: "text"}  # place of the block in a released level -> kind


@dataclass(frozen=True)
class Architecture:
    """What tells one released U-Net from another."""

    width: int
    multipliers: tuple[int, ...]
    channels: int
    context_channels: int = 0

    @property
    def role(self) -> str:
        """One of `ROLES`. Raises a ValueError for channels that no released model has."""
        channels = (self.channels, self.context_channels)
        for role, released in ROLES.items():
            if channels == released:
                return role
        kinds = ", ".join(f"{role} {c} after a context of {context}" for role, (c, context) in ROLES.items())
        raise InvalidValue(f"No released U-Net has {channels[0]} channels after a context of {channels[1]}: {kinds}.")

    @property
    def options(self) -> dict[str, Any]:
        """All arguments of `UNet` that are not its defaults."""
        return {
            "width": self.width,
            "multipliers": self.multipliers,
            "channels": self.channels,
            "context_channels": self.context_channels,
            "condition_widths": CONDITION_WIDTHS,
            "absent_widths": ABSENT_WIDTHS,
        }


@dataclass(frozen=True)
class ParameterSource:
    """Where the numbers of one of our parameters are in a released model."""

    name: str  # ours
    shape: Shape
    released: str
    released_shape: Shape
    columns: slice | None = None  # of the released parameter's second axis; None for all

    def read(self, released: Tensor) -> Tensor:
        """Return our parameter, of shape `shape`, from the released one, of shape `released_shape`."""
        part = released if self.columns is None else released[:, self.columns]
        return part.reshape(self.shape).contiguous()


def sources(architecture: Architecture) -> list[ParameterSource]:
    """Return the source of every parameter of `UNet(**architecture.options)`; halves of one tensor are neighbors."""
    return list(_sources(architecture))


def expected(architecture: Architecture) -> dict[str, Shape]:
    """Return the name and shape of every parameter of the released U-Net."""
    return {source.released: source.released_shape for source in _sources(architecture)}


def infer(shapes: Mapping[str, Sequence[int]]) -> Architecture:
    """Infer the architecture from a released U-Net's names and shapes; see also `shape_differences`.

    Raises a ValueError if that is not possible.
    """
    levels = len({name.split(".")[1] for name in shapes if name.startswith("downs.")})
    telling = ["init_conv.weight", "final_conv.weight", *(f"downs.{level}.9.weight" for level in range(levels))]
    missing = [name for name in telling if len(shapes.get(name, ())) != 3]
    if missing:
        raise InvalidValue(
            f"These {len(shapes)} tensors are not a released U-Net: a convolution {', '.join(missing)} would tell its "
            "size. Names may still have a prefix, such as 'diffusion.denoise_model.': cut it off."
        )
    width, inputs, _ = shapes["init_conv.weight"]
    channels = shapes["final_conv.weight"][0]
    widths = [shapes[f"downs.{level}.9.weight"][0] for level in range(levels)]
    if not widths or any(wide % width for wide in widths) or inputs < channels:
        raise InvalidValue(
            f"No released U-Net goes from {inputs} to {width} channels, through levels of {widths}, to {channels}: "
            f"every level is a multiple of {width}, and what comes out was among what went in."
        )
    return Architecture(width, tuple(wide // width for wide in widths), channels, inputs - channels)


def shape_differences(shapes: Mapping[str, Sequence[int]], architecture: Architecture) -> list[str]:
    """Say, one line each, which tensors are missing, not expected, or of another shape than in the released U-Net."""
    wanted = expected(architecture)
    both = [name for name in wanted if name in shapes]
    return [
        *(f"missing: {name} {shape}" for name, shape in wanted.items() if name not in shapes),
        *(f"not expected: {name} {tuple(shape)}" for name, shape in shapes.items() if name not in wanted),
        *(f"of shape {tuple(shapes[n])}, not {wanted[n]}: {n}" for n in both if tuple(shapes[n]) != wanted[n]),
    ]


def from_released(released: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Return the state of `UNet(**architecture.options)` for released parameters; the inverse of `to_released`.

    Raises a ValueError that lists what is missing, not expected or of another shape.
    """
    wrong = shape_differences({name: tensor.shape for name, tensor in released.items()}, architecture)
    if wrong:
        raise InvalidValue("\n".join([f"These are not the parameters of {architecture}:", *wrong]))
    return {source.name: source.read(released[source.released]) for source in _sources(architecture)}


def to_released(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Return the released parameters of the state of `UNet(**architecture.options)`: inverse of `from_released`."""
    parts: dict[str, list[Tensor]] = {}
    for source in _sources(architecture):
        parts.setdefault(source.released, []).append(state[source.name])
    return {
        name: (torch.cat(parts[name], dim=1) if len(parts[name]) > 1 else parts[name][0]).reshape(shape)
        for name, shape in expected(architecture).items()
    }


def _sources(architecture: Architecture) -> Iterator[ParameterSource]:
    """Walk through the network once."""
    width, channels = architecture.width, architecture.channels
    levels = list(pairwise(width * multiplier for multiplier in (1, *architecture.multipliers)))
    last = levels[-1][1]
    embedding = 4 * width

    yield _flat("nulls.vector", "null_cond_emb", (CONDITION_WIDTHS["vector"],))
    yield _flat("nulls.chroma", "null_chroma_seq_cond_emb", (ABSENT_WIDTHS["chroma"], 1))
    yield _flat("nulls.text", "null_text_seq_cond_emb", (CONDITION_WIDTHS["text"], 1))
    yield from _affine("time_network.0", "time_mlp.1", (embedding, width))
    yield from _affine("time_network.2", "time_mlp.3", (embedding, embedding))
    yield from _affine("vector_network.0", "cond_mlp.0", (embedding, CONDITION_WIDTHS["vector"]))
    yield from _affine("vector_network.2", "cond_mlp.2", (embedding, embedding))
    yield from _affine("input", "init_conv", (width, architecture.context_channels + channels, 3))
    for i, (inputs, outputs) in enumerate(levels):
        changes = i < len(levels) - 1
        yield from _layers(f"downs.{i}", inputs, inputs, embedding)
        yield from _affine(f"downs.{i}.resample", f"downs.{i}.9", (outputs, inputs, 4 if changes else 3))
    yield from _block("middle.layers.0.block", "mid_block1", last, last, embedding)
    yield from _self_attention("middle.layers.0.attention", "mid_attn.fn", last)
    yield from _block("middle.layers.1.block", "mid_block2", last, last, embedding)
    for i, (inputs, outputs) in enumerate(reversed(levels)):
        conv = ".1" if i < len(levels) - 1 else ""  # after doubling the resolution
        yield from _layers(f"ups.{i}", outputs + inputs, outputs, embedding)
        yield from _affine(f"ups.{i}.resample{conv}", f"ups.{i}.9{conv}", (inputs, outputs, 3))
    yield from _block("output.layers.0.block", "final_res_block", 2 * width, width, embedding)
    yield from _affine("output.resample", "final_conv", (channels, width, 1))


def _layers(level: str, inputs: int, outputs: int, embedding: int) -> Iterator[ParameterSource]:
    """Walk through the layers of one level, which has the same name here and there."""
    widths = {**CONDITION_WIDTHS, **ABSENT_WIDTHS}
    for i, (place, kind) in enumerate(LAYERS.items()):
        layer, attention = f"{level}.layers.{i}", f"{level}.{place + 1}.fn"
        yield from _block(f"{layer}.block", f"{level}.{place}", inputs, outputs, embedding)
        if kind == "linear":
            yield from _linear_attention(f"{layer}.attention", attention, outputs)
        elif kind != "none":
            yield from _cross_attention(f"{layer}.cross", attention, outputs, widths[kind])


def _block(name: str, released: str, inputs: int, outputs: int, embedding: int) -> Iterator[ParameterSource]:
    both = (2 * outputs, 2 * embedding)  # scale and shift, of [time, vector]
    for i, half in enumerate(("time", "vector")):
        columns = slice(i * embedding, (i + 1) * embedding)
        yield ParameterSource(f"{name}.{half}.weight", (both[0], embedding), f"{released}.mlp.1.weight", both, columns)
    yield _same(f"{name}.time.bias", f"{released}.mlp.1.bias", both[:1])
    for number, channels in ((1, inputs), (2, outputs)):
        yield from _affine(f"{name}.conv{number}", f"{released}.block{number}.proj", (outputs, channels, 3))
        yield from _affine(f"{name}.norm{number}", f"{released}.block{number}.norm", (outputs,))
    if inputs != outputs:
        yield from _affine(f"{name}.shortcut", f"{released}.res_conv", (outputs, inputs, 1))


def _linear_attention(name: str, released: str, width: int) -> Iterator[ParameterSource]:
    yield _flat(f"{name}.norm.gain", f"{released}.norm.g", (1, width, 1))
    yield _flat(f"{name}.qkv.weight", f"{released}.fn.to_qkv.weight", (3 * LINEAR_ATTENTION, width, 1))
    yield from _pointwise(f"{name}.out", f"{released}.fn.to_out.0", (width, LINEAR_ATTENTION))
    yield _flat(f"{name}.out_norm.gain", f"{released}.fn.to_out.1.g", (1, width, 1))


def _cross_attention(name: str, released: str, width: int, source_width: int) -> Iterator[ParameterSource]:
    yield _flat(f"{name}.norm.gain", f"{released}.norm.g", (1, width, 1))
    for part, inputs in (("q", width), ("k", source_width), ("v", source_width)):
        yield _flat(f"{name}.{part}.weight", f"{released}.fn.to_{part}.weight", (ATTENTION, inputs, 1))
    yield from _pointwise(f"{name}.out", f"{released}.fn.to_out.0", (width, ATTENTION))


def _self_attention(name: str, released: str, width: int) -> Iterator[ParameterSource]:
    yield _flat(f"{name}.norm.gain", f"{released}.norm.g", (1, width, 1))
    yield _flat(f"{name}.qkv.weight", f"{released}.fn.to_qkv.weight", (3 * ATTENTION, width, 1))
    yield from _pointwise(f"{name}.out", f"{released}.fn.to_out", (width, ATTENTION))


def _same(name: str, released: str, shape: Shape) -> ParameterSource:
    """Return the source of a parameter whose shape is the same here and there."""
    return ParameterSource(name, shape, released, shape)


def _flat(name: str, released: str, released_shape: Shape) -> ParameterSource:
    """Return the source of a parameter that has no axes of length one here."""
    return ParameterSource(name, tuple(length for length in released_shape if length > 1), released, released_shape)


def _affine(name: str, released: str, shape: Shape) -> Iterable[ParameterSource]:
    return _same(f"{name}.weight", f"{released}.weight", shape), _same(f"{name}.bias", f"{released}.bias", shape[:1])


def _pointwise(name: str, released: str, shape: tuple[int, int]) -> Iterable[ParameterSource]:
    """Return the sources of a linear map here, a 1x1 convolution there."""
    weight = _flat(f"{name}.weight", f"{released}.weight", (*shape, 1))
    return weight, _same(f"{name}.bias", f"{released}.bias", shape[:1])
