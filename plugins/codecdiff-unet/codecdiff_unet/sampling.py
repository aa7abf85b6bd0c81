"""The layers of the U-Net as sampling runs them: equal to the plain ones up to rounding, and without gradients.

Frames stay (b, c, 1, l) in channels-last memory: a one-dimensional convolution is the two-dimensional one, and
attention reads tokens (b, l, c) without a copy. What does not depend on the frames is multiplied into the weights once:

- the gain of a normalization, into the projection after it;
- keys and values of a condition, into the projections of cross-attention. Where a row has one token, such as its
  learned null, attention to it is a constant (b, c);
- all scales and shifts, one tensor for all timesteps and layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.denoisers import (
    KeysAndValues,
    LayerFeatures,
    PackedLinear,
    fused,
    merge_heads,
    packs_weights,
    split_heads,
)
from codecdiff_unet.blocks import CrossAttention, LinearAttention, RMSNorm, SelfAttention
from codecdiff_unet.levels import CrossLayer, Layer, Level

Attention = Callable[[Tensor], object]  # adds its contribution to tokens (b, l, c), in place


class ModulationTable:
    """Scales, one added, and shifts of all layers, side by side: a term of the timestep and one of the vector."""

    def __init__(self, layers: Sequence[LayerFeatures]):
        self.sizes = [layer.time.shape[-1] for layer in layers]
        ones = [torch.cat([torch.ones(size // 2), torch.zeros(size // 2)]) for size in self.sizes]
        times = [layer.time for layer in layers]
        vectors = [layer.vector for layer in layers if layer.vector is not None]
        self.time = torch.cat(times, dim=-1) + torch.cat(ones).to(times[0])  # (n, m)
        self.vector = torch.cat(vectors, dim=-1) if vectors else None  # (b, m)

    def at(self, index: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return (b, 2c, 1, 1) of every layer at these timesteps."""
        both = self.time[index] if self.vector is None else self.time[index] + self.vector
        return both.to(dtype)[..., None, None].split(self.sizes, dim=1)


class PreparedLevel:
    """The layers of a level, and its change of resolution."""

    def __init__(self, level: Level, features: Sequence[LayerFeatures], dtype: torch.dtype):
        self.layers = [PreparedLayer(layer, own, dtype) for layer, own in zip(level, features, strict=True)]
        self.resample = _frames_map(level.resample, dtype)


class PreparedLayer:
    """A residual block, then attention, if any."""

    def __init__(self, layer: Layer, features: LayerFeatures, dtype: torch.dtype):
        block = layer.block
        self.conv1, self.conv2 = Convolution(block.conv1, dtype), Convolution(block.conv2, dtype)
        self.norm1, self.norm2 = Normalization(block.norm1, dtype), Normalization(block.norm2, dtype)
        self.shortcut = _frames_map(block.shortcut, dtype)
        self.attentions: list[Attention] = []
        if layer.attention is not None:
            kinds = {LinearAttention: PreparedLinearAttention, SelfAttention: PreparedSelfAttention}
            self.attentions.append(kinds[type(layer.attention)](layer.attention, dtype))
        if isinstance(layer, CrossLayer) and features.memory is not None:
            self.attentions.append(PreparedCrossAttention(layer.cross, features.memory, dtype))

    def __call__(self, x: Tensor, modulation: Tensor) -> Tensor:
        """(b, c, 1, l), (b, 2c', 1, 1) -> (b, c', 1, l)."""
        scale, shift = modulation.chunk(2, dim=1)
        h = self.norm2(self.conv2(self.norm1(self.conv1(x), scale, shift)))
        h += self.shortcut(x)
        for attention in self.attentions:
            attention(h[:, :, 0].mT)
        return h


def _frames_map(module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return the function (b, c, 1, l) -> (b, c', 1, l') of a convolution, an upsampling one, or an identity."""
    if isinstance(module, nn.Conv1d):
        return Convolution(module, dtype)
    if isinstance(module, nn.Sequential):
        convolution = Convolution(cast(nn.Conv1d, module[1]), dtype)
        return lambda x: convolution(functional.interpolate(x, scale_factor=(1.0, 2.0)))
    return nn.Identity()


class Convolution:
    """A convolution of frames (b, c, 1, l), whose weights are packed for the processor at the first call."""

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype):
        weight = conv.weight.detach().to(dtype)[:, :, None]
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.stride, self.padding = [1, conv.stride[0]], [0, int(conv.padding[0])]
        self.packs, self.is_packed = packs_weights(weight), False

    def __call__(self, x: Tensor) -> Tensor:
        """(b, c, 1, l) -> (b, c', 1, l'), channels last."""
        if not self.packs:
            return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if not self.is_packed:
            options = self.padding, self.stride, [1, 1], 1, list(x.shape)
            self.weight, self.is_packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *options), True
        options = self.padding, self.stride, [1, 1], 1, "none", [], ""
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *options)


class Normalization:
    """A group normalization, scaled and shifted, and the SiLU after it."""

    def __init__(self, norm: nn.GroupNorm, dtype: torch.dtype):
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)

    def __call__(self, x: Tensor, *modulation: Tensor) -> Tensor:
        """(b, c, 1, l), scale and shift (b, c, 1, 1) or none -> the same."""
        return _normalized(x, self.groups, self.weight, self.bias, self.eps, *modulation)


@fused
def _normalized(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *modulation: Tensor) -> Tensor:
    h = functional.group_norm(x, groups, weight, bias, eps)
    if modulation:
        scale, shift = modulation
        h = torch.addcmul(shift, h, scale, out=h)
    return functional.silu(h, inplace=True)


@fused
def _unit(x: Tensor) -> Tensor:
    """Return x / ||x||, over the last axis."""
    return x * torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12).reciprocal_()


def _scaled(norm: RMSNorm, weight: Tensor) -> Tensor:
    """Multiply the gain of a normalization into the weights (o, e) that read it."""
    return weight * (norm.gain * norm.scale)


class PreparedLinearAttention:
    """softmax(q) (softmax(k)^T x) V O: with values and output multiplied to the summary, which is small."""

    def __init__(self, attention: LinearAttention, dtype: torch.dtype):
        q, k, v = _scaled(attention.norm, attention.qkv.weight).chunk(3)
        self.heads, self.q, self.k = attention.heads, PackedLinear(q, dtype=dtype), PackedLinear(k, dtype=dtype)
        self.v = rearrange(v, "(heads d) c -> heads c d", heads=self.heads).to(dtype)
        out = attention.out.weight * attention.scale
        self.out = rearrange(out, "c (heads d) -> heads d c", heads=self.heads).to(dtype)
        self.bias = attention.out.bias.detach().to(dtype)
        self.gain = (attention.out_norm.gain * attention.out_norm.scale).to(dtype)

    def __call__(self, x: Tensor) -> None:
        """(b, l, c)."""
        frames = _unit(x)
        q = self.q(frames).unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
        k = self.k(frames).softmax(1)
        summary = (k.mT @ frames).unflatten(1, (self.heads, -1)) @ self.v @ self.out  # (b, heads, d, c)
        x += _unit(torch.baddbmm(self.bias, q, summary.flatten(1, 2))).mul_(self.gain)


class PreparedSelfAttention:
    """Multi-head attention of the frames to each other."""

    def __init__(self, attention: SelfAttention, dtype: torch.dtype):
        self.heads = attention.heads
        self.qkv = PackedLinear(_scaled(attention.norm, attention.qkv.weight), dtype=dtype)
        self.out = PackedLinear(attention.out.weight, attention.out.bias, dtype)

    def __call__(self, x: Tensor) -> None:
        """(b, l, c)."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(_unit(x)).chunk(3, dim=-1))
        x += self.out(merge_heads(functional.scaled_dot_product_attention(q, k, v)))


class PreparedCrossAttention:
    """softmax(x Q K^T) V O, with Q K^T and V O of every head and row multiplied; a constant for rows of one token."""

    def __init__(self, cross: CrossAttention, memory: KeysAndValues, dtype: torch.dtype):
        self.heads = cross.heads
        mask = memory.mask[:, 0, 0]  # (b, n)
        q = rearrange(_scaled(cross.norm, cross.q.weight), "(heads d) c -> heads d c", heads=self.heads)
        out = rearrange(cross.out.weight, "c (heads d) -> heads d c", heads=self.heads)
        single = mask.sum(1) == 1
        only = memory.values.where(memory.mask.mT, 0).sum(2) * single[:, None, None]  # (b, heads, d)
        self.constant = (torch.einsum("bhd,hdc->bc", only, out) + cross.out.bias)[:, None].to(dtype)
        self.rows = (~single).nonzero()[:, 0]
        used = mask[self.rows].any(0)
        keys, values = (part[self.rows][:, :, used] for part in memory[:2])
        self.keys = rearrange(keys @ q * keys.shape[-1] ** -0.5, "b heads n c -> b c (heads n)").to(dtype).contiguous()
        self.values = rearrange(values @ out, "b heads n c -> b (heads n) c").to(dtype)
        hidden = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)[self.rows][:, used]
        self.hidden = hidden.repeat(1, self.heads)[:, None]  # (b, 1, heads * n)
        self.attends = len(self.rows) > 0

    def __call__(self, x: Tensor) -> None:
        """(b, l, c)."""
        attending = _unit(x[self.rows]) if self.attends else None
        x += self.constant
        if attending is not None:
            weights = torch.baddbmm(self.hidden, attending, self.keys).unflatten(-1, (self.heads, -1)).softmax(-1)
            x.index_add_(0, self.rows, weights.flatten(-2) @ self.values)
