"""The pieces of the transformer, each one equation, on tokens (b, n, e).

Queries and keys are normalised (Henry et al., 2020), so that attention does not saturate however long training lasts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from einops import rearrange
from torch import Tensor, arange, nn
from torch.nn import functional

Rotation = tuple[Tensor, Tensor]  # cosines and sines (n, d) of every position


class Memory(NamedTuple):
    """What cross-attention looks at: keys and values (b, heads, m, d), and mask (b, 1, 1, m), True where real."""

    keys: Tensor
    values: Tensor
    mask: Tensor


class Cue(NamedTuple):
    """What one layer is told: the terms of its modulation (b, k * e) by step and by vector, and what it attends to."""

    time: Tensor
    vector: Tensor | None = None
    memory: Memory | None = None

    def parts(self, count: int) -> tuple[Tensor, ...]:
        """Shifts, scales and gates, (b, 1, e) each."""
        modulation = self.time if self.vector is None else self.time + self.vector
        return modulation[:, None].chunk(count, dim=-1)


def rotation(positions: int, head_dim: int, device: Any = None) -> Rotation:
    """Turns of queries and keys at each position (Su et al., 2021), by which attention sees distances alone."""
    places: Any = arange(positions, device=device)  # diffusers takes and gives more than its hints say
    turns: Any = get_1d_rotary_pos_embed(head_dim, places, use_real=True, repeat_interleave_real=False)
    return turns


def turn(x: Tensor, by: Rotation) -> Tensor:
    """(b, heads, n, d), turned at each position: pairs are numbers half of d apart."""
    angles: Any = by
    turned: Any = apply_rotary_emb(x, angles, use_real_unbind_dim=-2)
    return turned


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) -> (b, heads, n, d)."""
    return rearrange(tokens, "b n (heads d) -> b heads n d", heads=heads)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (b, heads, n, d), keys and values (b, heads, m, d) -> (b, n, heads * d)."""
    seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(seen, "b heads n d -> b n (heads d)")


class SelfAttention(nn.Module):
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


class CrossAttention(nn.Module):
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

    def remember(self, tokens: Tensor, mask: Tensor) -> Memory:
        """Tokens (b, m, e) and their mask (b, m) -> keys and values, which do not depend on the frames."""
        keys, values = (split_heads(part, self.heads) for part in self.kv(tokens).chunk(2, dim=-1))
        return Memory(self.k_norm(keys), values, mask[:, None, None])

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(b, n, e), a memory of b rows, or of one row for all -> (b, n, e)."""
        q = self.q_norm(split_heads(self.q(self.norm(x)), self.heads))
        return self.out(attend(q, *(part.expand(len(x), -1, -1, -1) for part in memory)))


class TextLayer(nn.Module):
    """A pre-norm transformer layer over the tokens of a condition; it adds no positions to them."""

    def __init__(self, width: int, *, heads: int, expansion: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads=heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, mult=expansion, activation_fn="swiglu")

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(b, m, e), mask (b, m), True where a token is real -> (b, m, e)."""
        tokens = tokens + self.attention(self.attention_norm(tokens), mask=mask)
        return tokens + self.mlp(self.mlp_norm(tokens))


class Modulation(nn.Module):
    """The linear map from what is known of step and vector to the shifts, scales and gates of a layer, zero at first.

    It is kept as its two halves, a term that depends on the step alone and one that depends on the vector alone.
    """

    def __init__(self, embedding: int, outputs: int, *, has_vector: bool):
        super().__init__()
        self.time = nn.Linear(embedding, outputs)
        self.vector = nn.Linear(embedding, outputs, bias=False) if has_vector else None

    def forward(self, time: Tensor, vector: Tensor | None) -> Cue:
        """Embeddings (n, e') of the step and (b, e') of the vector -> the two terms."""
        return Cue(self.time(time), None if self.vector is None else self.vector(vector))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """X * (1 + scale) + shift."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """A block of the diffusion transformer (Peebles & Xie, 2023, "adaLN-Zero"), cross-attention between its halves.

    Step and vector shift, scale and gate what attention and network add. The gates are zero at first: so is the block.
    """

    def __init__(self, width: int, *, heads: int, expansion: int, embedding: int, has_vector: bool, attends: bool):
        super().__init__()
        self.modulation = Modulation(embedding, 6 * width, has_vector=has_vector)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(width, heads=heads)
        self.cross = CrossAttention(width, heads=heads) if attends else None
        self.mlp = FeedForward(width, mult=expansion, activation_fn="swiglu")

    def cue(self, time: Tensor, vector: Tensor | None, tokens: Tensor | None, mask: Tensor | None) -> Cue:
        """Give what this block needs of the embeddings (b, e') of step and vector, and of tokens (b, m, e)."""
        cue = self.modulation(time, vector)
        return cue if self.cross is None else cue._replace(memory=self.cross.remember(tokens, mask))  # pyright: ignore

    def forward(self, x: Tensor, cue: Cue, turned: Rotation) -> Tensor:
        """(b, n, e) -> (b, n, e)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = cue.parts(6)
        x = x + gate * self.attention(modulated(self.norm(x), shift, scale), turned)
        if self.cross is not None and cue.memory is not None:
            x = x + self.cross(x, cue.memory)
        return x + mlp_gate * self.mlp(modulated(self.norm(x), mlp_shift, mlp_scale))


class Output(nn.Module):
    """The last layer: shifted and scaled by step and vector, and zero at first."""

    def __init__(self, width: int, outputs: int, *, embedding: int, has_vector: bool):
        super().__init__()
        self.modulation = Modulation(embedding, 2 * width, has_vector=has_vector)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor, cue: Cue) -> Tensor:
        """(b, n, e) -> (b, n, c)."""
        return self.linear(modulated(self.norm(x), *cue.parts(2)))
