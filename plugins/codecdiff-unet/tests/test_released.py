"""`UNet` is the released U-Net: number for number on the same weights, name for name and shape for shape."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import pytest
import released_unet
import torch
from codecdiff_unet import UNet
from codecdiff_unet.released import (
    ROLES,
    SIZES,
    Architecture,
    expected,
    from_released,
    infer,
    shape_differences,
    sources,
    to_released,
)
from torch import Tensor
from torch.nn import functional

from codecdiff import Condition, ConditionTokens

SHAPES: dict[str, tuple[int, tuple[int, ...]]] = {"tiny": (18, (1, 2, 3)), **SIZES}  # width, multipliers
TOLERANCE = 1e-4  # absolute, in float32 on inputs of unit scale
WIDTHS = {"vector": 1024, "text": 1024, "chroma": 12}
TOKENS = {"vector": 1, "text": 7, "chroma": 5}
KEYS = {  # sha256 of the sorted lines "name\tshape" of the released state_dicts
    ("large", "primary"): "6bfffda507f92ac886eb395e26d3e611a3475b75997e1fbe91cdd041c5b11c52",
    ("large", "secondary"): "b55fa0bb4e3c6602318082dd6ffc04810be2a0244eedafe505befc1f6def9852",
    ("small", "primary"): "32afe380554d52c1957ed76c366aa0250971356a570b8742d9ba0c71cd574ea2",
    ("small", "secondary"): "576d4649eb8cef8057169759fa806235d64908b7f66e727b29b78d89e3b21918",
}
COUNTS = {
    ("large", "primary"): 1_235_493_844,
    ("large", "secondary"): 1_235_636_748,
    ("large", "parallel"): 1_235_641_364,
    ("small", "primary"): 207_577_780,
    ("small", "secondary"): 207_613_548,
}
EVERY = [(size, role) for size in SHAPES for role in ROLES]
WITH_CHROMA = {"condition_widths": WIDTHS, "absent_widths": {}}
GIVEN = [("vector", "text"), (), ("vector",), ("text",)]


def architecture(size: str, role: str) -> Architecture:
    return Architecture(*SHAPES[size], *ROLES[role])


def loaded(weights: dict[str, Tensor], **options: Any) -> UNet:
    """Build the U-Net of these released weights, sharing their memory where it can."""
    found = infer({name: tensor.shape for name, tensor in weights.items()})
    with torch.device("meta"):
        unet = UNet(**{**found.options, **options})
    unet.load_state_dict(from_released(weights, found), assign=True)
    return unet.eval()


class Inputs:
    """Noise of unit scale for two rows, with the conditions that are `given`."""

    def __init__(self, role: str, frames: int, given: tuple[str, ...]):
        draw = torch.Generator().manual_seed(0)
        channels, context_channels = ROLES[role]
        self.noisy = torch.randn(2, channels, frames, generator=draw)
        self.context = torch.randn(2, context_channels, frames, generator=draw) if context_channels else None
        self.step = torch.tensor([3, 88])
        self.tokens = {name: torch.randn(2, TOKENS[name], WIDTHS[name], generator=draw) for name in given}

    def of(self, unet: UNet, *, prepares: bool = False) -> Tensor:
        """(b, c, l): what the module predicts, plain or prepared for sampling."""
        real = {name: torch.ones(tokens.shape[:2], dtype=torch.bool) for name, tokens in self.tokens.items()}
        condition = Condition({name: ConditionTokens(tokens, real[name]) for name, tokens in self.tokens.items()})
        with torch.no_grad():
            network = unet.prepare_for_sampling(self.step, condition) if prepares else unet
            return network(self.noisy, self.step, self.context, condition)

    def of_released(self, weights: dict[str, Tensor], multiple: int) -> Tensor:
        """(b, c, l): what the functions predict, on frames padded with zeros to a multiple, and cropped again."""
        frames = self.noisy.shape[-1]
        pad = (0, -frames % multiple)
        vector = self.tokens["vector"][:, 0] if "vector" in self.tokens else None
        context = None if self.context is None else functional.pad(self.context, pad)
        sequences = {name: self.tokens.get(name) for name in ("chroma", "text")}
        noisy = functional.pad(self.noisy, pad)
        with torch.no_grad():
            return released_unet.forward(weights, noisy, self.step, vector, context=context, **sequences)[..., :frames]


def distance(weights: dict[str, Tensor], unet: UNet, inputs: Inputs, *, prepares: bool = False) -> float:
    wanted = inputs.of_released(weights, unet.multiple)
    assert wanted.std() > 0.5
    return (inputs.of(unet, prepares=prepares) - wanted).abs().max().item()


class Pair(NamedTuple):
    weights: dict[str, Tensor]
    unet: UNet


@pytest.fixture(scope="module")
def tiny() -> dict[str, Pair]:
    every = {role: released_unet.weights(released_unet.shapes(*SHAPES["tiny"], role)) for role in ROLES}
    return {role: Pair(weights, loaded(weights)) for role, weights in every.items()}


@pytest.mark.parametrize(("size", "role"), KEYS)
def test_the_names_and_shapes_the_functions_read_are_the_released_ones(size: str, role: str) -> None:
    lines = [f"{name}\t{shape}" for name, shape in released_unet.shapes(*SHAPES[size], role).items()]
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == KEYS[size, role]


@pytest.mark.parametrize(("size", "role"), EVERY)
def test_every_released_name_and_every_parameter_of_ours_is_mapped(size: str, role: str) -> None:
    its = architecture(size, role)
    assert expected(its) == released_unet.shapes(*SHAPES[size], role)
    assert infer(expected(its)) == its
    assert its.role == role
    with torch.device("meta"):
        unet = UNet(**its.options)
    mapped = [(source.name, source.shape) for source in sources(its)]
    assert sorted(mapped) == sorted((name, tuple(tensor.shape)) for name, tensor in unet.state_dict().items())
    count = sum(p.numel() for p in unet.parameters())
    assert count == sum(map(math.prod, expected(its).values()))
    assert count == COUNTS.get((size, role), count)


def test_to_released_is_the_inverse_of_from_released(tiny: dict[str, Pair]) -> None:
    weights, unet = tiny["secondary"]
    back = to_released(unet.state_dict(), architecture("tiny", "secondary"))
    assert back.keys() == weights.keys()
    assert all(back[name].equal(tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("prepares", [False, True], ids=["plain", "prepared"])
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("role", ROLES)
def test_tiny_is_the_released_u_net(tiny: dict[str, Pair], role: str, given: tuple[str, ...], prepares: bool) -> None:
    assert distance(*tiny[role], Inputs(role, 24, given), prepares=prepares) < TOLERANCE


@pytest.mark.parametrize(("role", "frames"), [("primary", 1), ("secondary", 21), ("parallel", 26)])
def test_tiny_is_the_released_u_net_of_padded_frames(tiny: dict[str, Pair], role: str, frames: int) -> None:
    assert distance(*tiny[role], Inputs(role, frames, GIVEN[0])) < TOLERANCE


@pytest.mark.parametrize("given", [("chroma",), ("vector", "text", "chroma")])
def test_tiny_is_the_released_u_net_of_given_chroma(tiny: dict[str, Pair], given: tuple[str, ...]) -> None:
    weights = tiny["secondary"].weights
    assert distance(weights, loaded(weights, **WITH_CHROMA), Inputs("secondary", 24, given)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("size", "frames"), [("small", 24), ("small", 29), ("large", 37)])
@pytest.mark.parametrize("role", ROLES)
def test_small_and_large_are_the_released_u_nets(size: str, role: str, frames: int) -> None:
    weights = released_unet.weights(released_unet.shapes(*SHAPES[size], role))
    unet = loaded(weights)
    for given in GIVEN[:2]:
        assert distance(weights, unet, Inputs(role, frames, given)) < TOLERANCE


@pytest.mark.integration
def test_one_wrong_parameter_is_noticed(tiny: dict[str, Pair]) -> None:
    weights, inputs = tiny["secondary"].weights, Inputs("secondary", 24, ("vector", "text", "chroma"))
    unet = loaded(weights, **WITH_CHROMA)
    for name in (
        "time_mlp.3.weight",
        "downs.0.2.fn.fn.to_qkv.weight",
        "downs.0.4.fn.fn.to_out.1.g",
        "downs.1.6.fn.fn.to_k.weight",
        "downs.2.8.fn.fn.to_q.weight",
        "downs.2.9.bias",
        "mid_attn.fn.fn.to_qkv.weight",
        "ups.0.3.res_conv.weight",
    ):
        wrong = weights[name].flatten().roll(1).view_as(weights[name])
        assert distance({**weights, name: wrong}, unet, inputs) > 10 * TOLERANCE, name


def test_time_and_vector_are_told_apart(tiny: dict[str, Pair]) -> None:
    weights, inputs = tiny["primary"].weights, Inputs("primary", 24, ("vector",))
    unet = loaded(weights)
    state = unet.state_dict()
    for name in [name for name in state if name.endswith(".time.weight")]:
        other = name.replace(".time.", ".vector.")
        state[name], state[other] = state[other], state[name]
    unet.load_state_dict(state, assign=True)
    assert distance(weights, unet, inputs) > 10 * TOLERANCE


def test_what_does_not_fit_is_listed() -> None:
    its = architecture("tiny", "primary")
    shapes = dict(expected(its))
    assert shape_differences(shapes, its) == []
    del shapes["ups.2.9.bias"]
    shapes.update({"extra": (3,), "mid_block1.mlp.1.bias": (7,)})
    lines = [
        "missing: ups.2.9.bias (18,)",
        "not expected: extra (3,)",
        "of shape (7,), not (108,): mid_block1.mlp.1.bias",
    ]
    assert shape_differences(shapes, its) == lines
    with pytest.raises(ValueError, match=r"(?s)not the parameters of Architecture.*missing: ups\.2\.9\.bias.*extra"):
        from_released({name: torch.zeros(shape) for name, shape in shapes.items()}, its)


def test_what_is_no_released_u_net_has_no_architecture() -> None:
    shapes = expected(architecture("tiny", "primary"))
    with pytest.raises(ValueError, match=r"a convolution init_conv\.weight, final_conv\.weight would tell.*cut it off"):
        infer({f"diffusion.denoise_model.{name}": shape for name, shape in shapes.items()})
    with pytest.raises(ValueError, match=r"a convolution downs\.1\.9\.weight would tell"):
        infer({name: shape for name, shape in shapes.items() if name != "downs.1.9.weight"})
    with pytest.raises(ValueError, match=r"from 8 to 18 channels, through levels of \[18, 40, 54\], to 8"):
        infer({**shapes, "downs.1.9.weight": (40, 18, 4)})
    with pytest.raises(ValueError, match=r"9 channels after a context of 3: primary 8 after a context of 0, secondary"):
        _ = Architecture(18, (1,), 9, 3).role
