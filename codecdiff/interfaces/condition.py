"""Prompts, and the features of prompts that a denoiser attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Prompt = str | Mapping[str, Any]


def prompt_fields(prompt: Prompt) -> dict[str, Any]:
    """Give a prompt as a mapping of fields; a string means `{"text": string}`."""
    return {"text": prompt} if isinstance(prompt, str) else dict(prompt)


def prompt_text(prompt: Prompt) -> str:
    """Return the text of a prompt, empty if it has none. Raises ValueError for a text that is not a string."""
    text = prompt_fields(prompt).get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"The field 'text' of a prompt must be a string, but got {type(text).__name__}: {text!r}.")
    return text or ""


class ConditionTokens(NamedTuple):
    """One named condition: tokens (b, n, e) and a mask (b, n), True where a token is real."""

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told besides the context: named sequences of tokens, one row per sample.

    A vector is a sequence of length one. A row whose mask is False everywhere is *absent*: the denoiser
    puts its learned null there (`fill`). Methods return new conditions; nothing is changed in place.
    """

    entries: Mapping[str, ConditionTokens]

    def __getitem__(self, name: str) -> ConditionTokens:
        """Give the entry called `name`."""
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        """Tell whether there is an entry called `name`."""
        return name in self.entries

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry."""
        return {name: entry.tokens.shape[-1] for name, entry in self.entries.items()}

    def map(self, function: Any) -> Condition:
        """Apply `function(name, entry) -> ConditionTokens` to every entry."""
        return Condition({name: ConditionTokens(*function(name, entry)) for name, entry in self.entries.items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Condition:
        """Move to a device; tokens, which are floating point, also to `dtype`."""
        return self.map(lambda _, e: (e.tokens.to(device=device, dtype=dtype or e.tokens.dtype), e.mask.to(device)))

    def rows(self, index: Tensor | slice | Sequence[int]) -> Condition:
        """Select rows of the batch, by slice, integer indices or a boolean mask."""
        return self.map(lambda _, e: (e.tokens[index], e.mask[index]))

    def drop(self, rows: Tensor, name: str) -> Condition:
        """Make the entry called `name` absent where `rows` (b,) is True."""
        return self.map(lambda key, e: (e.tokens, e.mask & ~rows[:, None]) if key == name else e)

    def null(self) -> Condition:
        """Make every entry absent in every row: the condition of an empty prompt."""
        return self.map(lambda _, e: (e.tokens, torch.zeros_like(e.mask)))

    def fill(self, nulls: Mapping[str, Tensor]) -> Condition:
        """Put the learned null (e,) of each name in `nulls` into the rows where that name is absent.

        A filled row has one real token, its null, however many it had room for: attention over it is defined, even in a
        row with the tokens of other entries, and the null gets a gradient. Rows with a real token are unchanged.
        """

        def filled(name: str, entry: ConditionTokens) -> tuple[Tensor, Tensor]:
            if name not in nulls:
                return entry
            absent = ~entry.mask.any(1, keepdim=True)
            first = torch.arange(entry.mask.shape[1], device=entry.mask.device) == 0
            null = nulls[name].to(entry.tokens.dtype)
            return torch.where(absent[..., None], null, entry.tokens), entry.mask | absent & first

        return self.map(filled)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Stack conditions along the batch, padding each entry's tokens to the longest."""

        def stacked(name: str) -> ConditionTokens:
            entries = [condition[name] for condition in conditions]
            longest = max(entry.mask.shape[1] for entry in entries)
            pads = [longest - entry.mask.shape[1] for entry in entries]
            tokens = [nn.functional.pad(e.tokens, (0, 0, 0, pad)) for e, pad in zip(entries, pads, strict=True)]
            masks = [nn.functional.pad(e.mask, (0, pad)) for e, pad in zip(entries, pads, strict=True)]
            return ConditionTokens(torch.cat(tokens), torch.cat(masks))

        names = list(conditions[0].entries)
        if any(list(condition.entries) != names for condition in conditions):
            raise ValueError(
                f"Conditions with different entries cannot be stacked: {[list(c.entries) for c in conditions]}."
            )
        return Condition({name: stacked(name) for name in names})
