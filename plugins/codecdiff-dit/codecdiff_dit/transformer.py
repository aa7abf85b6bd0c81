"""A one-dimensional diffusion transformer: Peebles & Xie, "Scalable Diffusion Models with Transformers" (2023).

Frames are tokens. What depends on the step and the condition alone is computed first, as one cue per layer; then the
tokens run through the blocks. `DiT.prepared` keeps the cues of a whole sampling run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from diffusers.models.embeddings import get_timestep_embedding
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from codecdiff import Condition, ConditionTokens
from codecdiff.denoisers import PrecomputedConditioning, fill_nulls, mean_token
from codecdiff_dit.blocks import Block, CrossAttention, Cue, Modulation, Output, TextLayer, rotation

STEP_WIDTH = 256  # of the sines and cosines of a step


def embedder(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, SiLU, Linear; then the SiLU that every modulation would apply to its embedding."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs), nn.SiLU())


class DiT(PrecomputedConditioning):
    """A transformer over frames, told of step and vector by adaLN-Zero, and of other conditions by cross-attention.

    Frames see each other by distance (rotary positions), so any length can be asked for. The mean of the tokens of the
    condition called `vector`, if there is one, joins the step in every block. The tokens of the conditions in `attend`
    stand in one row, and every block attends to them. A condition missing from a call is absent in every row.

    channels, context_channels: of the latents to denoise and of the context before them.
    condition_widths: embedding width of each condition that is supplied.
    width, depth, heads: of the tokens, the number of blocks, and of heads in each attention.
    expansion: hidden width of the gated networks (SwiGLU: Shazeer, 2020), as a multiple of `width`.
    embedding: width of the step's and the vector's embedding; `width` if None.
    vector: of all tokens of a condition, which may also be one of `attend`.
    attend: conditions whose tokens frames attend to; None for all that are supplied, but for `vector`.
    text_layers: transformer layers over each condition, before anything else sees it.
    patch: frames that make one token, their channels side by side: attention costs the square of the tokens' number.
    checkpoint: compute each block again in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        *,
        channels: int,
        context_channels: int = 0,
        condition_widths: Mapping[str, int],
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        expansion: int = 3,
        embedding: int | None = None,
        vector: str | None = "vector",
        attend: tuple[str, ...] | None = None,
        text_layers: int = 0,
        patch: int = 1,
        checkpoint: bool = False,
    ):
        super().__init__()
        _check_options(width, depth, heads, expansion, patch)
        self.channels, self.context_channels = channels, context_channels
        self.condition_widths = dict(condition_widths)
        self.width, self.heads, self.patch, self.checkpoint = width, heads, patch, checkpoint
        self.vector = vector if vector in condition_widths else None
        asked = [name for name in condition_widths if name != vector] if attend is None else attend
        self.sources = tuple(name for name in dict.fromkeys(asked) if name in condition_widths)
        used = tuple(dict.fromkeys(name for name in (*self.sources, self.vector) if name))
        _warn_of_names(set(asked) - set(condition_widths), set(condition_widths) - set(used), condition_widths)

        self.nulls = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(condition_widths[name])) for name in used})
        self.projections = nn.ModuleDict({name: nn.Linear(condition_widths[name], width) for name in used})
        self.text_layers = nn.ModuleDict()
        for name in used:
            stack = [TextLayer(width, heads=heads, expansion=expansion) for _ in range(text_layers)]
            self.text_layers[name] = nn.ModuleList(stack)
        told: dict[str, Any] = {"embedding": embedding or width, "has_vector": self.vector is not None}
        shape: dict[str, Any] = {"heads": heads, "expansion": expansion, "attends": bool(self.sources)}
        self.time_network = embedder(STEP_WIDTH, told["embedding"])
        self.vector_network = embedder(width, told["embedding"]) if self.vector else None
        self.input = nn.Linear((context_channels + channels) * patch, width)
        self.blocks = nn.ModuleList([Block(width, **shape, **told) for _ in range(depth)])
        self.output = Output(width, channels * patch, **told)
        self.apply(_start)
        nn.init.zeros_(self.output.linear.weight)

    def features(self, timestep: Tensor, condition: Condition) -> list[Cue]:
        """(n,) steps, condition -> the cues of every block, then of the output."""
        weight = self.input.weight
        steps = get_timestep_embedding(timestep.to(weight.device), STEP_WIDTH)
        time = self.time_network(steps.to(weight.dtype))
        condition = fill_nulls(condition, dict(self.nulls.items()))
        read = {name: self._read(name, entry) for name, entry in condition.items()}
        vector = self.vector_network(mean_token(read[self.vector])) if self.vector and self.vector_network else None
        tokens, mask = in_a_row([read[name] for name in self.sources]) if self.sources else (None, None)
        blocks = [block.cue(time, vector, tokens, mask) for block in cast(Iterable[Block], self.blocks)]
        return [*blocks, self.output.modulation(time, vector)]

    def _read(self, name: str, entry: ConditionTokens) -> ConditionTokens:
        """Bring an entry to the width of the tokens, and apply its text layers."""
        tokens = self.projections[name](entry.tokens)
        for layer in cast(Iterable[TextLayer], self.text_layers[name]):
            tokens = layer(tokens, entry.mask)
        return ConditionTokens(tokens, entry.mask)

    def select_timesteps(self, features: Sequence[Cue], index: Tensor) -> list[Cue]:
        """Take what depends on the step from the places `index` (b,) among the steps of the features."""
        return [cue._replace(time=cue.time[index]) for cue in features]

    def denoise(self, noisy: Tensor, context: Tensor | None, features: Sequence[Cue]) -> Tensor:
        """(b, c, l) noisy latents, (b, c', l) context or None, features -> (b, c, l) prediction."""
        frames = noisy if context is None else torch.cat([context, noisy], dim=1)
        padded = functional.pad(frames, (0, -frames.shape[-1] % self.patch))
        x = self.input(rearrange(padded, "b c (n patch) -> b n (c patch)", patch=self.patch))
        turned = rotation(x.shape[1], self.width // self.heads, x.device)
        for block, cue in zip(self.blocks, features[:-1], strict=True):
            x = self._run(block, x, cue, turned)
        x = self.output(x, features[-1])
        return rearrange(x, "b n (c patch) -> b c (n patch)", patch=self.patch)[..., : noisy.shape[-1]]

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        """Apply a block; when checkpointing, keep its inputs alone for the backward pass."""
        if self.checkpoint and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
        return block(*inputs)


def in_a_row(entries: Sequence[ConditionTokens]) -> ConditionTokens:
    """Put the tokens of entries (b, m, e), or of one row for all, one after the other."""
    rows = max(len(entry.mask) for entry in entries)
    tokens = [entry.tokens.expand(rows, -1, -1) for entry in entries]
    return ConditionTokens(
        torch.cat(tokens, dim=1), torch.cat([entry.mask.expand(rows, -1) for entry in entries], dim=1)
    )


def _start(module: nn.Module) -> None:
    """Give a module its first weights, as Peebles & Xie do: Xavier's, and zero where a block is to add nothing."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Modulation | CrossAttention):
        last = [module.time, module.vector] if isinstance(module, Modulation) else [module.out]
        for linear in last:
            if linear is not None:
                nn.init.zeros_(linear.weight)


def _check_options(width: int, depth: int, heads: int, expansion: int, patch: int) -> None:
    """Raise a ValueError for options that no transformer can have."""
    for name, number in {"depth": depth, "heads": heads, "expansion": expansion, "patch": patch}.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1; it is {number}.")
    if width < 1 or width % (2 * heads):
        raise ValueError(
            f"`width` must be a multiple of 2 * `heads`, for each head turns pairs of numbers; "
            f"width={width} with heads={heads} is not."
        )


def _warn_of_names(unknown: set[str], unused: set[str], supplied: Mapping[str, int]) -> None:
    """Warn of conditions that are named and not there, and of those that are there and change nothing."""
    if unknown and supplied:
        warnings.warn(
            f"No condition is called {' or '.join(sorted(unknown))}. There are {sorted(supplied)}.", stacklevel=3
        )
    if unused:
        warnings.warn(f"Nothing uses the conditions {sorted(unused)}; name them in `attend` or `vector`.", stacklevel=3)
