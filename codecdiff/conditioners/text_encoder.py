"""What conditioners around a pretrained text encoder share."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from codecdiff.fingerprint import device_of
from codecdiff.huggingface import PretrainedPart
from codecdiff.interfaces.condition import Condition, ConditionTokens, Prompt, prompt_text
from codecdiff.interfaces.conditioner import Conditioner
from codecdiff.precision import exactly


class PretrainedTextEncoder(PretrainedPart, Conditioner):
    """The hidden states of a prompt's text in a frozen encoder of transformers.

    There are two entries: `text`, the last hidden states (b, n, e), and `vector` (b, 1, e), which `pool` makes of them.
    Both are float32, and absent for a prompt without text. Prompts are encoded one by one, without padding, so a row is
    bit for bit the same beside any neighbors. A longer prompt than `max_tokens` is cut, with a warning the first time.

    The constructor of a subclass sets `network`, `tokenizer` and `max_tokens`.
    """

    fields = ("text",)
    network: Any
    tokenizer: Any
    max_tokens: int
    _has_warned = False

    @abstractmethod
    def pool(self, states: Tensor) -> Tensor:
        """(n, e) states of a text, n >= 1 -> its vector (e,)."""

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of both entries."""
        return {"text": self.network.config.hidden_size, "vector": self.network.config.hidden_size}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `text` (b, n, e) with its mask, and `vector` (b, 1, e).

        Raises:
            ValueError: A prompt's text is neither a string nor None.

        """
        rows = self.states([prompt_text(prompt) for prompt in prompts])
        longest, width = max([1, *map(len, rows)]), self.network.config.hidden_size
        tokens, vectors = torch.zeros(len(rows), longest, width), torch.zeros(len(rows), 1, width)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, states in enumerate(rows):
            if len(states):
                tokens[row, : len(states)], mask[row, : len(states)] = states, True
                vectors[row, 0] = self.pool(states)
        vector = ConditionTokens(vectors, mask[:, :1])
        return Condition({"text": ConditionTokens(tokens, mask), "vector": vector}).to(device_of(self))

    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, each computed alone and once; no token for blank text."""
        blank = torch.empty(0, self.network.config.hidden_size)
        states = {text: self.encode_text(text) if text.strip() else blank for text in dict.fromkeys(texts)}
        return [states[text] for text in texts]

    def encode_text(self, text: str) -> Tensor:
        """Text -> (n, e) states on the CPU, independent of the caller's autocast."""
        device = device_of(self)
        tokens = torch.tensor([self.tokens(text)], device=device)
        with exactly(device):
            return self.network(input_ids=tokens).last_hidden_state[0].cpu()

    def tokens(self, text: str) -> list[int]:
        """Text -> token ids, ending in the end token; cut to `max_tokens`, with a warning the first time."""
        tokens = self.tokenizer(text, verbose=False).input_ids
        if len(tokens) <= self.max_tokens:
            return tokens
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"A prompt of {len(tokens)} tokens is cut to {self.max_tokens}; set max_tokens to read more of it. "
                f"Further ones are cut without a warning. It begins {text[:60]!r}.",
                stacklevel=2,
            )
        return [*tokens[: self.max_tokens - 1], tokens[-1]]
