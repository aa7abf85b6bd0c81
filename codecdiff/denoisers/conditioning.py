"""What denoisers share: checked inputs, learned nulls, and features of timestep and condition computed in advance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from codecdiff.errors import InvalidValue, did_you_mean
from codecdiff.fingerprint import device_of
from codecdiff.interfaces.condition import Condition, ConditionTokens
from codecdiff.interfaces.denoiser import Denoiser

__all__ = [
    "KeysAndValues",
    "LayerFeatures",
    "PrecomputedConditioning",
    "PreparedDenoiser",
    "check_inputs",
    "check_names",
    "embedding_network",
    "fill_nulls",
    "mean_token",
    "merge_heads",
    "split_heads",
]


def fill_nulls(condition: Condition, nulls: Mapping[str, Tensor]) -> Condition:
    """Return the tokens of every name in `nulls` (e,), with the learned null in the rows where the name is absent.

    A filled row has one real token, its null, whatever the length of the sequence: attention over it is defined, and
    the null has a gradient. Rows with a real token are unchanged. A name that the condition lacks becomes one token of
    a single row, which broadcasts.

    Raises:
        ValueError: The tokens of a name and its null differ in width.

    """
    filled = {}
    for name, null in nulls.items():
        if name not in condition:
            token = null.clone()  # a view of the parameter would require a gradient even under `no_grad`
            filled[name] = ConditionTokens(token[None, None], null.new_ones(1, 1, dtype=torch.bool))
            continue
        tokens, mask = condition[name]
        if tokens.shape[-1] != len(null):
            raise ValueError(f"Expected condition {name!r} of width {len(null)}, but got {tokens.shape[-1]}.")
        absent = ~mask.any(1, keepdim=True)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        tokens = torch.where(absent[..., None], null, tokens.to(null.dtype))
        filled[name] = ConditionTokens(tokens, mask | absent & first)
    return Condition(filled)


def mean_token(entry: ConditionTokens) -> Tensor:
    """Return the mean (b, e) of the real tokens of every row; for a sequence of length one, its token."""
    mask = entry.mask[..., None].to(entry.tokens.dtype)
    return (entry.tokens * mask).sum(1) / mask.sum(1)


def check_inputs(denoiser: Denoiser, noisy: Tensor, timestep: Tensor, context: Tensor | None, rows: int | None) -> None:
    """Check inputs of `Denoiser.forward`, with a condition of so many `rows`. Raises ValueError for wrong shapes."""
    b, frames = noisy.shape[0], noisy.shape[-1]
    context_shape = None if context is None else tuple(context.shape)
    expected = (b, denoiser.context_channels, frames) if denoiser.context_channels else None
    if noisy.shape != (b, denoiser.channels, frames) or not frames:
        raise ValueError(f"Expected noisy latents (b, {denoiser.channels}, l), but got {tuple(noisy.shape)}.")
    if timestep.shape != (b,):
        raise ValueError(f"Expected timesteps ({b},), one for each row, but got {tuple(timestep.shape)}.")
    if context_shape != expected:
        raise ValueError(f"Expected context {expected}, but got {context_shape}.")
    if rows not in (None, b):
        raise ValueError(f"Expected a condition of {b} rows, as many as the noisy latents, but it has {rows}.")


def check_names(names: Iterable[str], widths: Mapping[str, int]) -> None:
    """Check the names of conditions in an option of a denoiser against those of the conditioner, with their widths.

    Raises InvalidValue for one that is nearly a condition. Others are allowed: a file may name those of another one.
    """
    for name in names:
        if name not in widths and (hint := did_you_mean(name, widths)):
            text = f"The denoiser's options name '{name}', which the conditioner does not provide."
            raise InvalidValue(f"{text} It provides: {', '.join(widths)}.{hint}")


class PrecomputedConditioning(Denoiser):
    """A denoiser that computes the features of timestep and condition separately from the frames.

    `nulls` are the learned nulls (e,) of the conditions it reads. `prepare_for_sampling` computes the features once.
    """

    nulls: nn.ParameterDict

    @abstractmethod
    def features(self, timestep: Tensor, condition: Condition) -> Any:
        """Compute what the network reads of timesteps (n,) and a condition of b rows, in any form."""

    @abstractmethod
    def select_timesteps(self, features: Any, index: Tensor) -> Any:
        """Select from the features of n timesteps those at `index` (b,); features of the condition stay as they are."""

    @abstractmethod
    def denoise(self, noisy: Tensor, context: Tensor | None, features: Any) -> Tensor:
        """Predict (b, c, l) from noisy latents (b, c, l), context (b, c', l) or None, and features of b timesteps."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """Predict from noisy latents (b, c, l), timesteps (b,), context (b, c', l) or None: (b, c, l), any l >= 1."""
        check_inputs(self, noisy, timestep, context, self.rows(condition))
        return self.denoise(noisy, context, self.features(timestep, condition))

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Return an equivalent denoiser for these `timesteps` (n,) and this `condition` alone.

        Only frames are left to compute. Prepare again after the weights or the device change.
        """
        return PreparedDenoiser(self, timesteps, condition)

    def rows(self, condition: Condition) -> int | None:
        """Return the number of rows of the condition's names that are read; None if it has none of them."""
        counts = {name: len(condition[name].mask) for name in self.nulls if name in condition}
        if len(set(counts.values())) > 1:
            raise ValueError(f"All names of a condition must have the same number of rows, but they have {counts}.")
        return next(iter(counts.values()), None)


class PreparedDenoiser(Denoiser):
    """A denoiser for fixed timesteps and a fixed condition. The condition passed to `forward` is not read."""

    def __init__(self, denoiser: PrecomputedConditioning, timesteps: Tensor, condition: Condition):
        super().__init__()
        self.channels, self.context_channels = denoiser.channels, denoiser.context_channels
        self.condition_widths, self.controls = denoiser.condition_widths, denoiser.controls
        self.supports_cuda_graphs = denoiser.supports_cuda_graphs
        self.denoiser = denoiser
        self.rows = denoiser.rows(condition)
        self.timesteps = timesteps.to(device_of(denoiser))
        self.features: Any = denoiser.features(self.timesteps, condition)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """Predict from noisy latents (b, c, l), prepared timesteps (b,), context (b, c', l) or None: (b, c, l)."""
        check_inputs(self, noisy, timestep, context, self.rows)
        return self.predict(noisy, context, self._index(timestep.to(self.timesteps.device)))

    def predict(self, noisy: Tensor, context: Tensor | None, index: Tensor) -> Tensor:
        """Predict (b, c, l) at the places `index` (b,) among the prepared timesteps."""
        return self.denoiser.denoise(noisy, context, self.denoiser.select_timesteps(self.features, index))

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Prepare the original denoiser again."""
        return self.denoiser.prepare_for_sampling(timesteps, condition)

    def _index(self, timestep: Tensor) -> Tensor:
        """Return the positions (b,) of timesteps (b,) among the prepared ones; on a GPU without waiting for it."""
        matches = timestep[:, None] == self.timesteps
        all_prepared = matches.any(dim=1).all()
        if all_prepared.is_cuda:
            torch.ops.aten._assert_async.msg(all_prepared, "A step is not among those prepared.")
        elif not all_prepared:
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
