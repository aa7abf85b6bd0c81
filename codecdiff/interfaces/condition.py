"""Prompts, and the features of prompts that a denoiser reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    a learned null in its place. A control has a token for each latent frame, and is absent in those without a real one.
    Methods return new conditions.
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
