"""The one-dimensional diffusion U-Net of Lanzendörfer, Lu et al., "Coarse-to-Fine Text-to-Music Latent Diffusion".

What depends on the step and the condition alone is computed first, as one cue per layer; then the frames
run down and up through the levels. `UNet.prepared` keeps the cues of a whole sampling run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from codecdiff import Condition, ConditionTokens
from codecdiff.denoisers import PrecomputedConditioning, fill_nulls, mean_token
from codecdiff_unet.blocks import TextLayer, sinusoid
from codecdiff_unet.levels import Builder, Cue, Level, Told

Cues = Sequence[Sequence[Cue]]  # of every layer of every level, in the order they run


def embedder(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, GELU, Linear; then the SiLU that every residual block would apply to its embedding."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs), nn.SiLU())


class UNet(PrecomputedConditioning):
    """A U-Net of residual blocks with linear, cross- and self-attention. The defaults are the paper's `large`.

    A level holds one layer per item of `layers`: a residual block, followed by nothing ("none"), linear
    attention ("linear") or cross-attention to the condition of that name. Attention to a condition there
    is not is left out, so the defaults also train unconditionally. The mean of the condition called `vector`,
    if there is one, joins the time embedding in every block. A condition missing from a call is absent in every row.

    channels, context_channels: of the latents to denoise and of the context before them.
    condition_widths: embedding width of each condition that is supplied.
    width, multipliers: channels of the first convolution, and of each level's result as multiples of it.
    embedding: width of the step's and the vector's embedding; 4 * width if None.
    heads, head_dim: of cross-attention, of the attention in the middle, and of text layers.
    linear_heads, linear_head_dim: of linear attention.
    groups: of every group normalisation.
    vector: of all tokens of a condition, which may also be one of `layers`.
    absent_widths: conditions that the architecture has and nobody supplies: always their learned null.
    text_layers: transformer layers over each supplied condition, before anything else sees it.
    middle_attention: whether the frames of the lowest resolution attend to each other.
    checkpoint: compute each level again in the backward pass instead of keeping its activations.
    patch: frames that the network takes for one, their channels side by side (Luhman & Luhman, 2022): it sees that
        much further, at a fraction of the cost.
    """

    def __init__(
        self,
        *,
        channels: int,
        context_channels: int = 0,
        condition_widths: Mapping[str, int],
        width: int = 576,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        embedding: int | None = None,
        layers: tuple[str, ...] = ("none", "linear", "linear", "chroma", "text"),
        heads: int = 9,
        head_dim: int = 128,
        linear_heads: int = 9,
        linear_head_dim: int = 32,
        groups: int = 9,
        vector: str | None = "vector",
        absent_widths: Mapping[str, int] | None = None,
        text_layers: int = 0,
        middle_attention: bool = True,
        checkpoint: bool = False,
        patch: int = 1,
    ):
        super().__init__()
        widths = {**condition_widths, **(absent_widths or {})}
        _check_options(width, multipliers, groups, patch, condition_widths, absent_widths or {})
        self.channels, self.context_channels = channels, context_channels
        self.condition_widths = dict(condition_widths)
        self.width, self.checkpoint, self.patch = width, checkpoint, patch
        self.multiple = patch * 2 ** (len(multipliers) - 1)  # latent frames
        self.vector = vector if vector in widths else None
        self.sources = tuple(kind for kind in dict.fromkeys(layers) if kind in widths)
        used = tuple(dict.fromkeys(name for name in (*self.sources, self.vector) if name))
        _warn_of_unused(set(condition_widths) - set(used))
        _warn_of_missing(set(layers) - {"none", "linear", *widths}, condition_widths)

        self.nulls = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(widths[name])) for name in used})
        embedding = embedding or 4 * width
        self.time_network = embedder(width, embedding)
        self.vector_network = embedder(widths[self.vector], embedding) if self.vector else None
        self.text_layers = nn.ModuleDict()
        for name in used:
            depth = text_layers if name in condition_widths else 0
            stack = [TextLayer(widths[name], heads=heads, head_dim=head_dim) for _ in range(depth)]
            self.text_layers[name] = nn.ModuleList(stack)

        build = Builder(
            kinds=layers,
            widths=widths,
            embedding=embedding,
            has_vector=self.vector is not None,
            groups=groups,
            heads=heads,
            head_dim=head_dim,
            linear_heads=linear_heads,
            linear_head_dim=linear_head_dim,
        )
        sizes = list(pairwise(width * multiplier for multiplier in (1, *multipliers)))
        changes = [True] * (len(sizes) - 1) + [False]  # of resolution, down and up alike
        downs = [build.down(*size, halves=change) for size, change in zip(sizes, changes, strict=True)]
        ups = [build.up(*size, doubles=change) for size, change in zip(reversed(sizes), changes, strict=True)]
        self.input = nn.Conv1d((context_channels + channels) * patch, width, kernel_size=3, padding=1)
        self.downs = nn.ModuleList(downs)
        self.middle = build.middle(width * multipliers[-1], attends=middle_attention)
        self.ups = nn.ModuleList(ups)
        self.output = build.output(width, channels * patch)

    def features(self, timestep: Tensor, condition: Condition) -> list[list[Cue]]:
        """(n,) steps, condition -> the cues of every level's layers, in the order of `levels`."""
        weight = self.input.weight
        time = self.time_network(sinusoid(timestep.to(weight.device), self.width).to(weight.dtype))
        told = self.told(condition)
        return [level.cues(time, told) for level in self.levels]

    def select_timesteps(self, features: Cues, index: Tensor) -> Cues:
        """Take what depends on the step from the places `index` (b,) among the steps of the features."""
        return [[cue._replace(time=cue.time[index]) for cue in level] for level in features]

    @property
    def levels(self) -> list[Level]:
        """Every level, in the order they run."""
        return cast(list[Level], [*self.downs, self.middle, *self.ups, self.output])

    def told(self, condition: Condition) -> Told:
        """Fill in the learned nulls, then apply the vector network and the text layers."""
        condition = fill_nulls(condition, dict(self.nulls.items()))
        read = {name: self._read(name, entry) for name, entry in condition.items()}
        vector = self.vector_network(mean_token(read[self.vector])) if self.vector and self.vector_network else None
        return Told(vector, {name: read[name] for name in self.sources})

    def _read(self, name: str, entry: ConditionTokens) -> ConditionTokens:
        """Apply the text layers of this name."""
        tokens = entry.tokens
        for layer in cast(Iterable[TextLayer], self.text_layers[name]):
            tokens = layer(tokens, entry.mask)
        return ConditionTokens(tokens, entry.mask)

    def denoise(self, noisy: Tensor, context: Tensor | None, features: Cues) -> Tensor:
        """(b, c, l) noisy latents, (b, c', l) context or None, features -> (b, c, l) prediction."""
        frames = noisy if context is None else torch.cat([context, noisy], dim=1)
        remaining = iter(features)
        padded = functional.pad(frames, (0, -frames.shape[-1] % self.multiple))
        x = first = self.input(rearrange(padded, "b c (n patch) -> b (c patch) n", patch=self.patch))
        skips: list[list[Tensor]] = []
        for down in self.downs:
            x, kept = self._run(down, x, next(remaining))
            skips.append(kept)
        x, _ = self._run(self.middle, x, next(remaining))
        for up in self.ups:
            x = self._run(up, x, skips.pop(), next(remaining))
        x = self._run(self.output, x, [first], next(remaining))
        return rearrange(x, "b (c patch) n -> b c (n patch)", patch=self.patch)[..., : noisy.shape[-1]]

    def _run(self, level: nn.Module, *inputs: Any) -> Any:
        """Apply a level; when checkpointing, keep its inputs alone for the backward pass."""
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(level, *inputs, use_reentrant=False)
        return level(*inputs)


def _check_options(
    width: int,
    multipliers: Sequence[int],
    groups: int,
    patch: int,
    supplied: Mapping[str, int],
    absent: Mapping[str, int],
) -> None:
    """Raise a ValueError for options that no U-Net can have."""
    if patch < 1:
        raise ValueError(f"`patch` is a number of frames, at least 1; it is {patch}.")
    if width < 4 or width % 2:
        raise ValueError(f"`width` must be even and at least 4, for sines and cosines of the step; it is {width}.")
    if not multipliers:
        raise ValueError("`multipliers` must name at least one level.")
    uneven = [width * multiplier for multiplier in (1, *multipliers) if width * multiplier % groups]
    if uneven:
        raise ValueError(f"Every level's channels must be a multiple of `groups` = {groups}; these are not: {uneven}.")
    both = sorted(set(supplied) & set(absent))
    if both:
        raise ValueError(f"Conditions {both} are supplied, so they cannot be in `absent_widths`; take them out there.")


def _warn_of_missing(names: set[str], supplied: Mapping[str, int]) -> None:
    """Warn of layers that attend to nothing, where there are conditions to attend to."""
    if names and supplied:
        there = f"There are {sorted(supplied)}; `absent_widths` names those that nobody supplies."
        warnings.warn(f"No condition is called {' or '.join(sorted(names))}. {there}", stacklevel=3)


def _warn_of_unused(names: set[str]) -> None:
    """Warn of conditions that are supplied and change nothing: a misspelt layer looks like this."""
    if names:
        warnings.warn(f"No layer uses the conditions {sorted(names)}; name them in `layers` or `vector`.", stacklevel=3)
