"""The blocks of the U-Net, each one equation.

Frames are (b, c, l), as convolutions read them; attention works on tokens (b, n, e), frames being tokens
once transposed. An attention normalizes its input and returns its contribution; the caller adds it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.denoisers import KeysAndValues, merge_heads, split_heads


class RMSNorm(nn.Module):
    """x / ||x|| * gain * sqrt(e), over the last axis."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.scale = width**0.5

    def forward(self, x: Tensor) -> Tensor:
        """(..., e) -> (..., e)."""
        return functional.normalize(x, dim=-1) * (self.gain * self.scale)


class ResidualBlock(nn.Module):
    """Two convolutions, the first one scaled and shifted by time and vector, beside a shortcut.

    The scale and shift are one linear map of [time, vector], kept as its two halves: a term that depends
    on the step alone and one that depends on the condition alone.
    """

    def __init__(self, inputs: int, outputs: int, *, embedding: int, has_vector: bool, groups: int):
        super().__init__()
        self.time = nn.Linear(embedding, 2 * outputs)
        self.vector = nn.Linear(embedding, 2 * outputs, bias=False) if has_vector else None
        self.conv1 = nn.Conv1d(inputs, outputs, kernel_size=3, padding=1)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """(b, c, l) frames, (b, 2c') scale and shift -> (b, c', l)."""
        scale, shift = modulation[..., None].chunk(2, dim=1)
        h = functional.silu(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        h = functional.silu(self.norm2(self.conv2(h)))
        return h + self.shortcut(x)


class LinearAttention(nn.Module):
    """Attention in time linear in the number of tokens (Shen et al., "Efficient Attention", 2021)."""

    def __init__(self, width: int, *, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)
        self.out_norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, e) -> (b, n, e): softmax of q over features, softmax of k over tokens, q (k^T v)."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        summary = k.softmax(dim=-2).mT @ v
        return self.out_norm(self.out(merge_heads(q.softmax(dim=-1) * self.scale @ summary)))


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other."""

    def __init__(self, width: int, *, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, e), mask (b, n) of the tokens to attend to, None for all -> (b, n, e)."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        mask = None if mask is None else mask[:, None, None]
        return self.out(merge_heads(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class CrossAttention(nn.Module):
    """Multi-head attention of frames to the tokens of a condition, which are taken as they are."""

    def __init__(self, width: int, source_width: int, *, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(width)
        self.q = nn.Linear(width, heads * head_dim, bias=False)
        self.k = nn.Linear(source_width, heads * head_dim, bias=False)
        self.v = nn.Linear(source_width, heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)

    def keys_and_values(self, tokens: Tensor, mask: Tensor) -> KeysAndValues:
        """Tokens (b, n, e') and their mask (b, n) -> keys and values, which do not depend on the frames."""
        keys, values = split_heads(self.k(tokens), self.heads), split_heads(self.v(tokens), self.heads)
        return KeysAndValues(keys, values, mask[:, None, None])

    def forward(self, x: Tensor, memory: KeysAndValues) -> Tensor:
        """(b, n, e), a memory of b rows, or of one row for all -> (b, n, e)."""
        keys, values, mask = (part.expand(x.shape[0], -1, -1, -1) for part in memory)
        q = split_heads(self.q(self.norm(x)), self.heads)
        return self.out(merge_heads(functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)))


class TextLayer(nn.Module):
    """A pre-norm transformer encoder layer over the tokens of a condition; it adds no positions to them."""

    def __init__(self, width: int, *, heads: int, head_dim: int):
        super().__init__()
        self.attention = SelfAttention(width, heads=heads, head_dim=head_dim)
        self.mlp = nn.Sequential(RMSNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(b, n, e), mask (b, n), True where a token is real -> (b, n, e)."""
        tokens = tokens + self.attention(tokens, mask)
        return tokens + self.mlp(tokens)
