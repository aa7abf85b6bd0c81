"""What denoisers share: checked inputs, learned nulls, and what does not depend on the frames computed once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Condition, ConditionTokens, Denoiser

__all__ = [
    "KeysAndValues",
    "LayerFeatures",
    "PrecomputedConditioning",
    "check_inputs",
    "embedding_network",
    "fill_nulls",
    "mean_token",
    "merge_heads",
    "split_heads",
]


def fill_nulls(condition: Condition, nulls: Mapping[str, Tensor]) -> Condition:
    """Give the entries called as the `nulls` (e,) are, with the null wherever an entry is absent.

    An entry that the condition lacks is one token of one row, which holds for all rows. Raises ValueError for tokens of
    another width than the null.
    """
    entries = Condition({name: _entry(name, null, condition) for name, null in nulls.items()})
    return entries.fill(nulls)


def _entry(name: str, null: Tensor, condition: Condition) -> ConditionTokens:
    if name not in condition:
        return ConditionTokens(null.new_zeros(1, 1, len(null)), null.new_zeros(1, 1, dtype=torch.bool))
    tokens, mask = condition[name]
    if tokens.shape[-1] != len(null):
        raise ValueError(f"Expected condition {name!r} of width {len(null)}, but was given {tokens.shape[-1]}.")
    return ConditionTokens(tokens.to(null.dtype), mask)


def mean_token(entry: ConditionTokens) -> Tensor:
    """Give the mean (b, e) of the real tokens of every row; of a sequence of length one, its token."""
    mask = entry.mask[..., None].to(entry.tokens.dtype)
    return (entry.tokens * mask).sum(1) / mask.sum(1)


def check_inputs(denoiser: Denoiser, noisy: Tensor, timestep: Tensor, context: Tensor | None, rows: int | None) -> None:
    """Raise a ValueError unless these can be the inputs of one call, with a condition of so many rows."""
    b, frames = noisy.shape[0], noisy.shape[-1]
    given = None if context is None else tuple(context.shape)
    expected = (b, denoiser.context_channels, frames) if denoiser.context_channels else None
    if noisy.shape != (b, denoiser.channels, frames) or not frames:
        raise ValueError(f"Expected noisy latents (b, {denoiser.channels}, l), but was given {tuple(noisy.shape)}.")
    if timestep.shape != (b,):
        raise ValueError(f"Expected timesteps ({b},), one for each row, but was given {tuple(timestep.shape)}.")
    if given != expected:
        raise ValueError(f"Expected context {expected}, but was given {given}.")
    if rows not in (None, b):
        raise ValueError(f"Expected a condition of {b} rows, as many as the noisy latents, but it has {rows}.")


class PrecomputedConditioning(Denoiser):
    """A denoiser that computes what depends on timestep and condition alone, its features, apart from the frames.

    `nulls` are the learned nulls (e,) of the conditions it reads. `prepare_for_sampling` keeps the features.
    """

    nulls: nn.ParameterDict

    @abstractmethod
    def features(self, timestep: Tensor, condition: Condition) -> Any:
        """(n,) timesteps, a condition of b rows -> conditioning features of the network, in any form."""

    @abstractmethod
    def select_timesteps(self, features: Any, index: Tensor) -> Any:
        """Cues of n steps -> features with what depends on the step taken from the places `index` (b,) among them."""

    @abstractmethod
    def denoise(self, noisy: Tensor, context: Tensor | None, features: Any) -> Tensor:
        """(b, c, l) noisy latents, (b, c', l) context or None, features of b steps and rows -> (b, c, l) prediction."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """(b, c, l) noisy latents, (b,) steps, (b, c', l) context or None, condition -> (b, c, l), for any l >= 1."""
        check_inputs(self, noisy, timestep, context, self.rows(condition))
        return self.denoise(noisy, context, self.features(timestep, condition))

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Return an equal of this denoiser for these `timesteps` (n,) and this `condition` alone, with stored features.

        Only the frames are left to compute. It is for sampling: prepare again once the weights or the device change.
        """
        return Prepared(self, timesteps, condition)

    def rows(self, condition: Condition) -> int | None:
        """Count the rows of the entries that are read; None if the condition has none of them."""
        counts = {name: len(condition[name].mask) for name in self.nulls if name in condition}
        if len(set(counts.values())) > 1:
            raise ValueError(f"The entries of a condition must have equally many rows, but have {counts}.")
        return next(iter(counts.values()), None)


class Prepared(Denoiser):
    """A denoiser for known timesteps and one known condition, with every cue kept. A call's condition is not read."""

    def __init__(self, denoiser: PrecomputedConditioning, timesteps: Tensor, condition: Condition):
        super().__init__()
        self.channels, self.context_channels = denoiser.channels, denoiser.context_channels
        self.condition_widths = denoiser.condition_widths
        self.denoiser = denoiser
        self.rows = denoiser.rows(condition)
        self.timesteps = timesteps.to(device_of(denoiser))
        self.features = denoiser.features(self.timesteps, condition)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """(b, c, l) noisy latents, (b,) of the prepared steps, (b, c', l) context or None -> (b, c, l) prediction."""
        check_inputs(self, noisy, timestep, context, self.rows)
        features = self.denoiser.select_timesteps(self.features, self._index(timestep.to(self.timesteps.device)))
        return self.denoiser.denoise(noisy, context, features)

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Prepare the denoiser anew."""
        return self.denoiser.prepare_for_sampling(timesteps, condition)

    def _index(self, timestep: Tensor) -> Tensor:
        """(b,) steps -> (b,) their places among the prepared ones."""
        matches = timestep[:, None] == self.timesteps
        if not matches.any(dim=1).all():
            raise ValueError(f"Steps {timestep.tolist()} are not all among those prepared: {self.timesteps.tolist()}.")
        return matches.int().argmax(dim=1)


class KeysAndValues(NamedTuple):
    """What cross-attention attends to: keys and values (b, heads, n, d), and mask (b, 1, 1, n), True where real."""

    keys: Tensor
    values: Tensor
    mask: Tensor


class LayerFeatures(NamedTuple):
    """Conditioning features of one layer: the terms of its modulation (b, m), and what it attends to."""

    time: Tensor
    vector: Tensor | None = None
    memory: KeysAndValues | None = None

    @property
    def modulation(self) -> Tensor:
        """Shifts, scales and gates, (b, m)."""
        return self.time if self.vector is None else self.time + self.vector


def embedding_network(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    """Linear, activation, Linear; then the SiLU that every layer would apply to its embedding."""
    return nn.Sequential(nn.Linear(inputs, outputs), activation, nn.Linear(outputs, outputs), nn.SiLU())


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) -> (b, heads, n, d)."""
    return rearrange(tokens, "b n (heads d) -> b heads n d", heads=heads)


def merge_heads(tokens: Tensor) -> Tensor:
    """(b, heads, n, d) -> (b, n, heads * d): the inverse of `split_heads`."""
    return rearrange(tokens, "b heads n d -> b n (heads d)")
