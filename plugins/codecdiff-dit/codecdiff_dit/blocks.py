"""The blocks of the transformer, each one equation, on tokens (b, n, e).

Queries and keys are normalized (Henry et al., 2020), so that attention does not saturate however long training lasts.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from torch import Tensor, arange, nn
from torch.nn import functional

from codecdiff import ConditionTokens
from codecdiff.denoisers import KeysAndValues, LayerFeatures, merge_heads, split_heads

Rotation = tuple[Tensor, Tensor]  # cosines and sines (n, d) of every position


def rotation(positions: int, head_dim: int, device: Any = None) -> Rotation:
    """Turns of queries and keys at each position (Su et al., 2021), by which attention sees distances alone."""
    places: Any = arange(positions, device=device)  # diffusers accepts and returns more than its hints say
    turns: Any = get_1d_rotary_pos_embed(head_dim, places, use_real=True, repeat_interleave_real=False)
    return turns


def turn(x: Tensor, by: Rotation) -> Tensor:
    """(b, heads, n, d), turned at each position: pairs are numbers half of d apart."""
    angles: Any = by
    turned: Any = apply_rotary_emb(x, angles, use_real_unbind_dim=-2)
    return turned


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (b, heads, n, d), keys and values (b, heads, m, d) -> (b, n, heads * d)."""
    return merge_heads(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class NormalizedSelfAttention(nn.Module):
    """Multi-head attention of tokens to each other, by their distances where they have positions."""

    def __init__(self, width: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, turned: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        """(b, n, e), mask (b, n) of the tokens to look at, all of them unless given -> (b, n, e)."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if turned is not None:
            q, k = turn(q, turned), turn(k, turned)
        return self.out(attend(q, k, v, None if mask is None else mask[:, None, None]))


class NormalizedCrossAttention(nn.Module):
    """Multi-head attention of frames to the tokens of the conditions. It adds nothing at first."""

    def __init__(self, width: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def keys_and_values(self, tokens: Tensor, mask: Tensor) -> KeysAndValues:
        """Tokens (b, m, e) and their mask (b, m) -> keys and values, which do not depend on the frames."""
        keys, values = (split_heads(part, self.heads) for part in self.kv(tokens).chunk(2, dim=-1))
        return KeysAndValues(self.k_norm(keys), values, mask[:, None, None])

    def forward(self, x: Tensor, memory: KeysAndValues) -> Tensor:
        """(b, n, e), a memory of b rows, or of one row for all -> (b, n, e)."""
        q = self.q_norm(split_heads(self.q(self.norm(x)), self.heads))
        return self.out(attend(q, *(part.expand(len(x), -1, -1, -1) for part in memory)))


class GatedTextLayer(nn.Module):
    """A pre-norm transformer layer over the tokens of a condition; it adds no positions to them."""

    def __init__(self, width: int, *, heads: int, expansion: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = NormalizedSelfAttention(width, heads=heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, mult=expansion, activation_fn="swiglu")

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(b, m, e), mask (b, m), True where a token is real -> (b, m, e)."""
        tokens = tokens + self.attention(self.attention_norm(tokens), mask=mask)
        return tokens + self.mlp(self.mlp_norm(tokens))


class Modulation(nn.Module):
    """The linear map from the embeddings of timestep and vector to shifts, scales and gates of a layer, zero at first.

    It is kept as its two halves, a term that depends on the timestep alone and one that depends on the vector alone.
    """

    def __init__(self, embedding: int, outputs: int, *, has_vector: bool):
        super().__init__()
        self.time = nn.Linear(embedding, outputs)
        self.vector = nn.Linear(embedding, outputs, bias=False) if has_vector else None

    def forward(self, time: Tensor, vector: Tensor | None) -> LayerFeatures:
        """Embeddings (n, e') of the timestep and (b, e') of the vector -> the two terms."""
        return LayerFeatures(self.time(time), None if self.vector is None else self.vector(vector))


def parts(features: LayerFeatures, count: int) -> tuple[Tensor, ...]:
    """Return the shifts, scales and gates of a layer, (b, 1, e) each."""
    return features.modulation[:, None].chunk(count, dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """X * (1 + scale) + shift."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """A block of the diffusion transformer (Peebles & Xie, 2023, "adaLN-Zero"), cross-attention between its halves.

    Timestep and vector shift, scale and gate what attention and network add. The gates are zero at first, and with them
    the block.
    """

    def __init__(self, width: int, *, heads: int, expansion: int, embedding: int, has_vector: bool, attends: bool):
        super().__init__()
        self.modulation = Modulation(embedding, 6 * width, has_vector=has_vector)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = NormalizedSelfAttention(width, heads=heads)
        self.cross = NormalizedCrossAttention(width, heads=heads) if attends else None
        self.mlp = FeedForward(width, mult=expansion, activation_fn="swiglu")

    def features(self, time: Tensor, vector: Tensor | None, entry: ConditionTokens | None) -> LayerFeatures:
        """Return what this block reads of the embeddings (b, e') of timestep and vector, and of tokens (b, m, e)."""
        features = self.modulation(time, vector)
        if self.cross is None or entry is None:
            return features
        return features._replace(memory=self.cross.keys_and_values(*entry))

    def forward(self, x: Tensor, features: LayerFeatures, turned: Rotation) -> Tensor:
        """(b, n, e) -> (b, n, e)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts(features, 6)
        x = x + gate * self.attention(modulated(self.norm(x), shift, scale), turned)
        if self.cross is not None and features.memory is not None:
            x = x + self.cross(x, features.memory)
        return x + mlp_gate * self.mlp(modulated(self.norm(x), mlp_shift, mlp_scale))


class Output(nn.Module):
    """The last layer: shifted and scaled by timestep and vector, and zero at first."""

    def __init__(self, width: int, outputs: int, *, embedding: int, has_vector: bool):
        super().__init__()
        self.modulation = Modulation(embedding, 2 * width, has_vector=has_vector)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor, features: LayerFeatures) -> Tensor:
        """(b, n, e) -> (b, n, c)."""
        return self.linear(modulated(self.norm(x), *parts(features, 2)))
