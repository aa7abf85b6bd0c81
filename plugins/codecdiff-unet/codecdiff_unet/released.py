"""The names and shapes of DiscoDiff's released U-Nets, and where each parameter of a `UNet` is found among them.

Released and ours hold the same numbers. They differ in names, in axes of length one (most of our 1x1 convolutions are
linear maps), and in one cut: a residual block's linear map of [time, vector] is two parameters here.

    architecture = infer({name: tensor.shape for name, tensor in released.items()})
    unet = UNet(**architecture.options)
    unet.load_state_dict(from_released(released, architecture))

Tensor by tensor: `sources(architecture)` lists for each of our parameters the released one to `read` it from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff_unet.denoiser import UNet

Shape = tuple[int, ...]

ROLES = {"primary": (8, 0), "secondary": (64, 8), "parallel": (72, 0)}  # channels, context channels
SIZES: dict[str, tuple[int, Shape]] = {
    "large": (576, (1, 1, 2, 2, 4)),
    "small": (144, (1, 2, 4, 8)),
}  # width, multipliers
CONDITION_WIDTHS = {"text": 1024, "vector": 1024}
ABSENT_WIDTHS = {"chroma": 12}
MAX_LEVELS = 16

PLACES = (0, 1, 3, 5, 7)  # of the layers of a released level; attention is behind its block
RENAMED = (  # patterns of our names, and what the released ones have instead; each applies to what those before leave
    (r"^nulls\.vector$", "null_cond_emb"),
    (r"^nulls\.(\w+)$", r"null_\1_seq_cond_emb"),
    (r"^time_network\.0", "time_mlp.1"),
    (r"^time_network\.2", "time_mlp.3"),
    (r"^vector_network", "cond_mlp"),
    (r"^input", "init_conv"),
    (r"^middle\.layers\.0\.attention", "mid_attn.fn"),
    (r"^middle\.layers\.0\.block", "mid_block1"),
    (r"^middle\.layers\.1\.block", "mid_block2"),
    (r"^output\.layers\.0\.block", "final_res_block"),
    (r"^output\.resample", "final_conv"),
    (r"\.resample", ".9"),
    *((rf"\.layers\.{i}\.block", f".{place}") for i, place in enumerate(PLACES)),
    *((rf"\.layers\.{i}\.(attention|cross)", f".{place + 1}.fn") for i, place in enumerate(PLACES)),
    (r"\.(time|vector)\.(weight|bias)$", r".mlp.1.\2"),
    (r"\.conv([12])\.", r".block\1.proj."),
    (r"\.norm([12])\.", r".block\1.norm."),
    (r"\.shortcut", ".res_conv"),
    (r"\.fn\.norm\.gain", ".fn.norm.g"),
    (r"\.fn\.(qkv|q|k|v)\.", r".fn.fn.to_\1."),
    (r"^mid_attn\.fn\.out\.", "mid_attn.fn.fn.to_out."),
    (r"\.fn\.out\.", ".fn.fn.to_out.0."),
    (r"\.fn\.out_norm\.gain", ".fn.fn.to_out.1.g"),
)


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


@cache
def sources(architecture: Architecture) -> list[ParameterSource]:
    """Return the source of every parameter of `UNet(**architecture.options)`. Raises ValueError if it has no such."""
    with torch.device("meta"):
        state = UNet(**architecture.options).state_dict()
    return [_source(name, tuple(tensor.shape)) for name, tensor in state.items()]


def _source(name: str, shape: Shape) -> ParameterSource:
    """Return the source of a parameter, by its name and shape."""
    released = name
    for pattern, replacement in RENAMED:
        released = re.sub(pattern, replacement, released)
    if (half := re.search(r"\.(time|vector)\.weight$", name)) is not None:  # of one map of [time, vector] there
        outputs, width = shape
        start = 0 if half[1] == "time" else width
        return ParameterSource(name, shape, released, (outputs, 2 * width), slice(start, start + width))
    if name.endswith(".gain"):
        return ParameterSource(name, shape, released, (1, *shape, 1))
    is_pointwise = len(shape) == 2 and ".fn." in released  # a linear map here, a 1x1 convolution there
    is_token = released.endswith("_seq_cond_emb")
    return ParameterSource(name, shape, released, (*shape, 1) if is_pointwise or is_token else shape)


def expected(architecture: Architecture) -> dict[str, Shape]:
    """Return the name and shape of every parameter of the released U-Net."""
    return {source.released: source.released_shape for source in sources(architecture)}


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
    if not 0 < levels <= MAX_LEVELS or any(wide % width for wide in widths) or inputs < channels:
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
    return {source.name: source.read(released[source.released]) for source in sources(architecture)}


def to_released(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Return the released parameters of the state of `UNet(**architecture.options)`: inverse of `from_released`."""
    parts: dict[str, list[Tensor]] = {}
    for source in sources(architecture):
        parts.setdefault(source.released, []).append(state[source.name])
    return {
        name: (torch.cat(parts[name], dim=1) if len(parts[name]) > 1 else parts[name][0]).reshape(shape)
        for name, shape in expected(architecture).items()
    }
