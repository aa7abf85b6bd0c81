"""The released U-Net once more, as plain functions of tensors by their released names: what the module is held to.

Written from the description of the model alone, and sharing nothing with `codecdiff_unet`: agreement means something.
b batch, c channel, l latent frame, n token, h head, d head dimension, w base width, m the multipliers of the levels.
"""

import hashlib
import math
from collections.abc import Iterator
from itertools import chain, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

GROUPS, HEADS, HEAD_DIM, LINEAR_HEAD_DIM = 9, 9, 128, 32
VECTOR, CHROMA, TEXT = 1024, 12, 1024  # widths of the three conditions
IN_AND_OUT = {"primary": (8, 8), "secondary": (72, 64), "parallel": (72, 72)}  # channels

Shape = tuple[int, ...]


def shapes(w: int, m: tuple[int, ...], role: str) -> dict[str, Shape]:
    """Every parameter's name and shape, in the order of the released state_dict."""
    inputs, outputs = IN_AND_OUT[role]
    widths = [w, *(w * factor for factor in m)]
    levels, bottom = list(pairwise(widths)), widths[-1]
    return dict(
        [
            ("null_cond_emb", (VECTOR,)),
            ("null_chroma_seq_cond_emb", (CHROMA, 1)),
            ("null_text_seq_cond_emb", (TEXT, 1)),
            *_affine("time_mlp.1", (4 * w, w)),
            *_affine("time_mlp.3", (4 * w, 4 * w)),
            *_affine("cond_mlp.0", (4 * w, VECTOR)),
            *_affine("cond_mlp.2", (4 * w, 4 * w)),
            *chain(*(_down(f"downs.{i}", w, *c, last=i == len(m) - 1) for i, c in enumerate(levels))),
            *chain(*(_up(f"ups.{i}", w, *c, last=i == len(m) - 1) for i, c in enumerate(reversed(levels)))),
            *_block("mid_block1", w, bottom, bottom),
            ("mid_attn.fn.fn.to_qkv.weight", (3 * HEADS * HEAD_DIM, bottom, 1)),
            *_affine("mid_attn.fn.fn.to_out", (bottom, HEADS * HEAD_DIM, 1)),
            ("mid_attn.fn.norm.g", (1, bottom, 1)),
            *_block("mid_block2", w, bottom, bottom),
            *_block("final_res_block", w, 2 * w, w),
            *_affine("init_conv", (w, inputs, 3)),
            *_affine("final_conv", (outputs, w, 1)),
        ]
    )


def _affine(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _block(name: str, w: int, cin: int, cout: int) -> Iterator[tuple[str, Shape]]:
    yield from _affine(f"{name}.mlp.1", (2 * cout, 8 * w))
    for half, c in (("block1", cin), ("block2", cout)):
        yield from _affine(f"{name}.{half}.proj", (cout, c, 3))
        yield from _affine(f"{name}.{half}.norm", (cout,))
    if cin != cout:
        yield from _affine(f"{name}.res_conv", (cout, cin, 1))


def _linear_attention(name: str, c: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.fn.fn.to_qkv.weight", (3 * HEADS * LINEAR_HEAD_DIM, c, 1)
    yield from _affine(f"{name}.fn.fn.to_out.0", (c, HEADS * LINEAR_HEAD_DIM, 1))
    yield f"{name}.fn.fn.to_out.1.g", (1, c, 1)
    yield f"{name}.fn.norm.g", (1, c, 1)


def _cross_attention(name: str, c: int, e: int) -> Iterator[tuple[str, Shape]]:
    for part, inputs in (("to_q", c), ("to_k", e), ("to_v", e)):
        yield f"{name}.fn.fn.{part}.weight", (HEADS * HEAD_DIM, inputs, 1)
    yield from _affine(f"{name}.fn.fn.to_out.0", (c, HEADS * HEAD_DIM, 1))
    yield f"{name}.fn.norm.g", (1, c, 1)


def _five_blocks(name: str, w: int, cin: int, cout: int) -> Iterator[tuple[str, Shape]]:
    yield from _block(f"{name}.0", w, cin, cout)
    for i in (1, 3, 5, 7):
        yield from _block(f"{name}.{i}", w, cin, cout)
        if i < 5:
            yield from _linear_attention(f"{name}.{i + 1}", cout)
        else:
            yield from _cross_attention(f"{name}.{i + 1}", cout, CHROMA if i == 5 else TEXT)


def _down(name: str, w: int, cin: int, cout: int, *, last: bool) -> Iterator[tuple[str, Shape]]:
    yield from _five_blocks(name, w, cin, cin)
    yield from _affine(f"{name}.9", (cout, cin, 3 if last else 4))


def _up(name: str, w: int, cin: int, cout: int, *, last: bool) -> Iterator[tuple[str, Shape]]:
    yield from _five_blocks(name, w, cout + cin, cout)
    yield from _affine(f"{name}.9" if last else f"{name}.9.1", (cin, cout, 3))


def weights(parameters: dict[str, Shape]) -> dict[str, Tensor]:
    """Name -> shape in, name -> tensor out; the same on every machine."""
    return {name: weight(name, shape) for name, shape in parameters.items()}


def weight(name: str, shape: Shape) -> Tensor:
    """Uniform by PCG64, seeded with the name: variance 1 / fan-in; nulls within 1, biases 0.1, gains 0.1 around 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    size = math.prod(shape)
    bits = np.random.PCG64(seed).random_raw((size + 1) // 2).astype("<u8", copy=False).view("<i4")[:size]
    uniform = torch.from_numpy(bits.astype(np.float32)).reshape(shape) * 2**-31  # in [-1, 1]
    if name.startswith("null_"):
        return uniform
    if name.endswith((".g", "norm.weight")):
        return 1 + 0.1 * uniform
    if name.endswith(".bias"):
        return 0.1 * uniform
    return uniform * math.sqrt(3 / math.prod(shape[1:]))


def forward(
    p: dict[str, Tensor],
    x: Tensor,
    step: Tensor,
    vector: Tensor | None = None,
    chroma: Tensor | None = None,
    text: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """x (b, c, l), step (b,), vector (b, 1024), chroma (b, n, 12), text (b, n, 1024), context (b, c', l) -> (b, c, l).

    A condition that is None is its learned null: for a sequence, one token of it. l is a multiple of 2 ** (levels - 1).
    """
    levels = len({name.split(".")[1] for name in p if name.startswith("downs.")})
    chroma = p["null_chroma_seq_cond_emb"].mT[None].expand(len(x), -1, -1) if chroma is None else chroma
    text = p["null_text_seq_cond_emb"].mT[None].expand(len(x), -1, -1) if text is None else text
    vector = p["null_cond_emb"].expand(len(x), -1) if vector is None else vector
    time = _mlp(p, "time_mlp", 1, 3, _sinusoid(step, p["init_conv.bias"].numel()))
    embedding = torch.cat([time, _mlp(p, "cond_mlp", 0, 2, vector)], dim=1)

    h = x if context is None else torch.cat([context, x], dim=1)
    h = copy = _conv(p, "init_conv", h)
    skips = []
    for i in range(levels):
        for j in (0, 1, 3, 5, 7):
            h = _residual_block(p, f"downs.{i}.{j}", h, embedding)
            h = _attend(p, f"downs.{i}.{j + 1}", j, h, chroma, text)
            skips.append(h)
        last = i == levels - 1
        h = _conv(p, f"downs.{i}.9", h) if last else _conv(p, f"downs.{i}.9", h, stride=2)

    h = _residual_block(p, "mid_block1", h, embedding)
    h = h + _self_attention(p, "mid_attn.fn.fn", _rms_norm(h, p["mid_attn.fn.norm.g"]))
    h = _residual_block(p, "mid_block2", h, embedding)

    for i in range(levels):
        for j in (0, 1, 3, 5, 7):
            h = _residual_block(p, f"ups.{i}.{j}", torch.cat([h, skips.pop()], dim=1), embedding)
            h = _attend(p, f"ups.{i}.{j + 1}", j, h, chroma, text)
        last = i == levels - 1
        h = _conv(p, f"ups.{i}.9", h) if last else _conv(p, f"ups.{i}.9.1", h.repeat_interleave(2, dim=2))

    h = _residual_block(p, "final_res_block", torch.cat([h, copy], dim=1), embedding)
    return _conv(p, "final_conv", h)


def _sinusoid(step: Tensor, size: int) -> Tensor:
    """(b,) -> (b, size), [sin | cos]."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = step[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _mlp(p: dict[str, Tensor], name: str, first: int, second: int, x: Tensor) -> Tensor:
    h = functional.gelu(functional.linear(x, p[f"{name}.{first}.weight"], p[f"{name}.{first}.bias"]))
    return functional.linear(h, p[f"{name}.{second}.weight"], p[f"{name}.{second}.bias"])


def _conv(p: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = p[f"{name}.weight"].shape[-1]
    return functional.conv1d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride=stride, padding=0 if kernel == 1 else 1)


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    norm = x.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    return x / norm * gain * math.sqrt(x.shape[1])


def _residual_block(p: dict[str, Tensor], name: str, x: Tensor, embedding: Tensor) -> Tensor:
    modulation = functional.linear(functional.silu(embedding), p[f"{name}.mlp.1.weight"], p[f"{name}.mlp.1.bias"])
    scale, shift = modulation[:, :, None].chunk(2, dim=1)
    h = _group_norm(p, f"{name}.block1.norm", _conv(p, f"{name}.block1.proj", x))
    h = functional.silu(h * (1 + scale) + shift)
    h = functional.silu(_group_norm(p, f"{name}.block2.norm", _conv(p, f"{name}.block2.proj", h)))
    return h + (_conv(p, f"{name}.res_conv", x) if f"{name}.res_conv.weight" in p else x)


def _group_norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    grouped = x.reshape(len(x), GROUPS, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    h = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return h * p[f"{name}.weight"][:, None] + p[f"{name}.bias"][:, None]


def _attend(p: dict[str, Tensor], name: str, after: int, x: Tensor, chroma: Tensor, text: Tensor) -> Tensor:
    """What follows block number `after` of a level: nothing, linear attention twice, the chroma, the text."""
    if after == 0:
        return x
    h = _rms_norm(x, p[f"{name}.fn.norm.g"])
    if after in (1, 3):
        return x + _linear_attention_of(p, f"{name}.fn.fn", h)
    return x + _cross_attention_of(p, f"{name}.fn.fn", h, chroma if after == 5 else text)


def _heads(x: Tensor) -> Tensor:
    """(b, h*d, l) -> (b, h, d, l)."""
    return x.unflatten(1, (HEADS, -1))


def _linear_attention_of(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    q, k, v = (_heads(part) for part in functional.conv1d(x, p[f"{name}.to_qkv.weight"]).chunk(3, dim=1))
    q = q.softmax(dim=2) * LINEAR_HEAD_DIM**-0.5
    k = k.softmax(dim=3)
    h = (k @ v.mT).mT @ q
    return _rms_norm(_conv(p, f"{name}.to_out.0", h.flatten(1, 2)), p[f"{name}.to_out.1.g"])


def _cross_attention_of(p: dict[str, Tensor], name: str, x: Tensor, tokens: Tensor) -> Tensor:
    q = functional.conv1d(x, p[f"{name}.to_q.weight"])
    k, v = (functional.conv1d(tokens.mT, p[f"{name}.{part}.weight"]) for part in ("to_k", "to_v"))
    return _conv(p, f"{name}.to_out.0", _softmax_attention(q, k, v))


def _self_attention(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return _conv(
        p, f"{name}.to_out", _softmax_attention(*functional.conv1d(x, p[f"{name}.to_qkv.weight"]).chunk(3, dim=1))
    )


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(b, h*d, l), (b, h*d, n), (b, h*d, n) -> (b, h*d, l)."""
    q, k, v = _heads(q), _heads(k), _heads(v)
    similarity = (q.mT @ k) * HEAD_DIM**-0.5
    return (v @ similarity.softmax(dim=-1).mT).flatten(1, 2)
