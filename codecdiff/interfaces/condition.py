"""Prompts, and the features of prompts that a denoiser reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.errors import InvalidValue

Prompt = str | Mapping[str, Any]


def prompt_fields(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as a mapping of fields; a string means `{"text": string}`."""
    return {"text": prompt} if isinstance(prompt, str) else dict(prompt)


def prompt_text(prompt: Prompt) -> str:
    """Return the text of a prompt, empty if it has none. Raises InvalidValue for a text that is not a string."""
    text = prompt_fields(prompt).get("text")
    if text is not None and not isinstance(text, str):
        raise InvalidValue(f"The field 'text' of a prompt must be a string, but got {type(text).__name__}: {text!r}.")
    return text or ""


class ConditionTokens(NamedTuple):
    """Embeddings of one name: tokens (b, n, e), and a mask (b, n), True where a token is real."""

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Condition(Mapping[str, ConditionTokens]):
    """The features of prompts: an immutable mapping of names to sequences of tokens, one row per sample.

    A vector is a sequence of length one. A name without a real token in a row is *absent* there, and the denoiser puts
    a learned null in its place. A control has a frame axis: `align` gives it a token for each latent frame, and where
    one is missing, it is absent in that frame. Methods return new conditions.
    """

    sequences: Mapping[str, ConditionTokens]

    def __getitem__(self, name: str) -> ConditionTokens:
        return self.sequences[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width e of every name."""
        return {name: entry.tokens.shape[-1] for name, entry in self.items()}

    def map(self, function: Callable[[str, ConditionTokens], tuple[Tensor, Tensor]]) -> Condition:
        """Apply `function(name, entry) -> (tokens, mask)` to every name."""
        return Condition({name: ConditionTokens(*function(name, entry)) for name, entry in self.items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Condition:
        """Move tokens and masks to a device, and cast the tokens to `dtype`, if any."""
        return self.map(lambda _, e: (e.tokens.to(device=device, dtype=dtype or e.tokens.dtype), e.mask.to(device)))

    def rows(self, index: Tensor | slice | Sequence[int]) -> Condition:
        """Select rows of the batch by a slice, integer indices or a boolean mask (b,)."""
        return self.map(lambda _, e: (e.tokens[index], e.mask[index]))

    def drop(self, rows: Tensor, name: str) -> Condition:
        """Make `name` absent where `rows` (b,) is True."""
        return self.map(lambda key, e: (e.tokens, e.mask & ~rows[:, None]) if key == name else e)

    def null(self) -> Condition:
        """Make every name absent in every row: the condition of an empty prompt."""
        return self.map(lambda _, e: (e.tokens, torch.zeros_like(e.mask)))

    def align(
        self, rates: Mapping[str, float], starts: Sequence[float], num_frames: int, frame_rate: float
    ) -> Condition:
        """Resample the controls among the names to one token for each latent frame, (b, num_frames, e).

        `rates` are their tokens in a second. Row i begins `starts[i]` seconds after its first token. What a frame gets
        is the mean of the tokens during it, and masked if they are real for less than half of it.
        """
        edges = torch.tensor(starts, dtype=torch.float64)[:, None] + torch.arange(num_frames + 1) / frame_rate

        def mean_in_frames(name: str, entry: ConditionTokens) -> tuple[Tensor, Tensor]:
            if name not in rates:
                return entry
            tokens, mask = entry.tokens.cpu().double(), entry.mask.cpu()[..., None].double()
            sums = pad(torch.cat([tokens * mask, mask], dim=-1).cumsum(1), (0, 0, 1, 1))
            sums[:, -1] = sums[:, -2]
            position = (edges * rates[name]).clamp(0, mask.shape[1])
            before = position.long()
            index = before[..., None].expand(-1, -1, sums.shape[-1])
            low, high = sums.gather(1, index), sums.gather(1, index + 1)
            during = torch.lerp(low, high, (position - before)[..., None]).diff(dim=1)
            is_real = during[..., -1] >= 0.5 * rates[name] / frame_rate
            means = during[..., :-1] / during[..., -1:].clamp_min(1e-9) * is_real[..., None]
            return means.to(entry.tokens), is_real.to(entry.mask.device)

        return self.map(mean_in_frames)

    def frames(self, index: Tensor, names: Collection[str]) -> Condition:
        """Select latent frames of these names, which are aligned."""
        return self.map(lambda name, e: (e.tokens[:, index], e.mask[:, index]) if name in names else e)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Concatenate conditions along the batch, each name padded to its longest sequence.

        Raises ValueError if their names differ.
        """
        names = list(conditions[0])
        if any(list(condition) != names for condition in conditions):
            raise ValueError(f"Conditions with different names cannot be stacked: {[list(c) for c in conditions]}.")

        def stack(name: str, _: ConditionTokens) -> tuple[Tensor, Tensor]:
            length = max(condition[name].mask.shape[1] for condition in conditions)
            padded = [(condition[name], length - condition[name].mask.shape[1]) for condition in conditions]
            tokens = torch.cat([pad(entry.tokens, (0, 0, 0, missing)) for entry, missing in padded])
            return tokens, torch.cat([pad(entry.mask, (0, missing)) for entry, missing in padded])

        return conditions[0].map(stack)
