"""The layers of the transformer as sampling runs them: equal to the plain ones up to rounding, and without gradients.

Tokens are changed in place. What does not depend on them is computed once:

- shifts, scales (one added) and gates of all layers, one tensor for all timesteps;
- the gains of normalized queries and keys, into the cosines and sines that turn them, for a number of tokens;
- keys and values of a condition, with the gains of the queries that attend to them, and the affine map of the
  normalization before, into the projection of queries. Where a row has one token, such as its learned null, attention
  to it is a constant (b, e).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.denoisers import KeysAndValues, LayerFeatures, PackedLinear, fused, merge_heads, split_heads
from codecdiff_dit.blocks import Block, NormalizedCrossAttention, NormalizedSelfAttention, rotation

EPS = 1e-6  # of all normalizations that are folded here


class LayerModulations:
    """Shifts, scales, one added, and gates of all layers, side by side: terms of timestep and vector."""

    def __init__(self, layers: Sequence[LayerFeatures], width: int):
        self.sizes = [layer.time.shape[-1] for layer in layers]
        vectors = [layer.vector for layer in layers if layer.vector is not None]
        parts = torch.arange(sum(self.sizes) // width) % 3 == 1  # shift, scale, gate, shift, scale, gate; shift, scale
        time = torch.cat([layer.time for layer in layers], dim=-1)
        self.time = time + parts.repeat_interleave(width).to(time)  # (n, m)
        self.vector = torch.cat(vectors, dim=-1) if vectors else None  # (b, m)

    def at(self, index: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return (b, 1, m) of every layer at these timesteps."""
        both = self.time[index] if self.vector is None else self.time[index] + self.vector
        return both.to(dtype)[:, None].split(self.sizes, dim=-1)


def projection(linear: nn.Linear, dtype: torch.dtype) -> PackedLinear:
    """Return a linear map of tokens in a precision."""
    return PackedLinear(linear.weight, linear.bias, dtype)


class PreparedBlock:
    """A block, which adds to the tokens in place."""

    def __init__(self, block: Block, memory: KeysAndValues | None, dtype: torch.dtype):
        self.attention = FoldedSelfAttention(block.attention, dtype)
        self.cross = None
        if block.cross is not None and memory is not None:
            self.cross = FoldedCrossAttention(block.cross, memory, dtype)
        gated, down = cast(Any, block.mlp.net[0]).proj, cast(nn.Linear, block.mlp.net[2])
        self.gated, self.down = projection(gated, dtype), projection(down, dtype)

    def __call__(self, x: Tensor, modulation: Tensor) -> None:
        """(b, n, e), (b, 1, 6 e)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        x.addcmul_(gate, self.attention(normalize_and_modulate(x, shift, scale)))
        if self.cross is not None:
            self.cross(x)
        hidden, opening = self.gated(normalize_and_modulate(x, mlp_shift, mlp_scale)).chunk(2, dim=-1)
        x.addcmul_(mlp_gate, self.down(functional.silu(opening).mul_(hidden)))


@fused
def normalize_and_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens (b, n, e), normalized, times `scale`, plus `shift`."""
    h = functional.layer_norm(x, x.shape[-1:], eps=EPS)
    return torch.addcmul(shift, h, scale, out=h)


@fused
def _inverse_rms(x: Tensor) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + eps) over the last axis."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(EPS).rsqrt_().to(x.dtype)


class FoldedSelfAttention:
    """Multi-head attention of tokens to each other, by their distances."""

    def __init__(self, attention: NormalizedSelfAttention, dtype: torch.dtype):
        self.heads = attention.heads
        self.qkv, self.out = projection(attention.qkv, dtype), projection(attention.out, dtype)
        self.gains = torch.stack([attention.q_norm.weight.detach(), attention.k_norm.weight.detach()])[:, None]
        self.turns: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """(b, n, e) -> (b, n, e)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (b, n, 3, heads, d)
        both, values = qkv[:, :, :2], qkv[:, :, 2]
        if not self.turns or len(self.turns[0]) != x.shape[1]:
            self.turns = self._turns(x.shape[1], x)
        turned = torch.empty_like(both, memory_format=torch.contiguous_format)
        (a, b), (to_a, to_b) = both.chunk(2, dim=-1), turned.chunk(2, dim=-1)
        a_to_a, b_to_a, b_to_b, a_to_b = self.turns
        torch.mul(a, a_to_a, out=to_a).addcmul_(b, b_to_a)
        torch.mul(b, b_to_b, out=to_b).addcmul_(a, a_to_b)
        queries, keys = turned.mul_(_inverse_rms(both)).transpose(1, 3).unbind(2)
        return self.out(merge_heads(_attend(queries, keys, values.transpose(1, 2))))

    def _turns(self, count: int, like: Tensor) -> tuple[Tensor, ...]:
        """Return the factors (n, 2, 1, d / 2) of both halves of queries and keys in both halves of the result."""
        turns = rotation(count, self.gains.shape[-1], like.device)
        cosines, sines = (part[:, None, None].chunk(2, dim=-1) for part in turns)
        a, b = self.gains.chunk(2, dim=-1)
        factors = (a * cosines[0], -b * sines[0], b * cosines[1], a * sines[1])
        return tuple(each.to(like.dtype) for each in factors)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


class FoldedCrossAttention:
    """Multi-head attention of tokens to a condition; a constant for rows of one token."""

    def __init__(self, cross: NormalizedCrossAttention, memory: KeysAndValues, dtype: torch.dtype):
        self.heads, self.eps = cross.heads, cross.norm.eps
        self.q = PackedLinear(cross.q.weight * cross.norm.weight, cross.q.weight @ cross.norm.bias, dtype)
        self.out = PackedLinear(cross.out.weight, None, dtype)
        mask = memory.mask[:, 0, 0]  # (b, m), or of one row for all
        single = mask.sum(1) == 1
        only = memory.values.where(memory.mask.mT, 0).sum(2) * single[:, None, None]  # (b, heads, d)
        self.constant = cross.out(only.flatten(1))[:, None].to(dtype)
        self.rows: slice | Tensor = slice(None)
        if len(mask) > 1 and single.any():
            self.rows = (~single).nonzero()[:, 0]
        self.attends = not single.all()
        mask = mask[self.rows]
        used = mask.any(0)
        keys, values = (part[self.rows][:, :, used] for part in memory[:2])
        self.keys, self.values = (keys * cross.q_norm.weight).to(dtype), values.to(dtype)
        self.mask = None if mask[:, used].all() else mask[:, None, None, used]

    def __call__(self, x: Tensor) -> None:
        """(b, n, e)."""
        if self.attends:
            normed = functional.layer_norm(x[self.rows], x.shape[-1:], eps=self.eps)
            queries = split_heads(self.q(normed), self.heads)
            queries *= _inverse_rms(queries)
            shape = (len(queries), -1, -1, -1)
            attended = _attend(queries, self.keys.expand(shape), self.values.expand(shape), self.mask)
            x[self.rows] += self.out(merge_heads(attended))
        x += self.constant
