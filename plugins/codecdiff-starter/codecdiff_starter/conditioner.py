"""A text conditioner of fixed features, with nothing to learn and nothing to download."""

from __future__ import annotations

import hashlib
import math
import unicodedata
import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_text
from codecdiff.errors import InvalidValue

POSITION_SCALE = 0.3  # of the position signal, beside words of unit variance


def split_words(text: str) -> list[str]:
    """Return the words of a text in any script, case folded and without punctuation; a sharp stays with its note."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("♯", "#").replace("♭", "b")
    letters = "".join(c if c == "#" or unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return [word for word in (word.lstrip("#") for word in letters.split()) if word]


def _hashed(string: str, width: int) -> Tensor:
    """Return a vector (e,) of pseudo-random numbers of zero mean and unit variance, a function of a string alone."""
    digest = bytearray(hashlib.shake_128(string.encode()).digest(width))
    return (torch.frombuffer(digest, dtype=torch.uint8).double() - 127.5) / 73.9


@lru_cache(maxsize=65_536)
def word_vector(word: str, width: int) -> Tensor:
    """Return the fixed vector (e,) of a word, of unit mean square: its 2- to 4-grams and, at half size, itself."""
    marked = f"<{word}>"
    grams = [marked[i : i + n] for n in (2, 3, 4) for i in range(len(marked) - n + 1)]
    spelling = sum((_hashed(gram, width) for gram in grams), torch.zeros(width, dtype=torch.float64))
    vector = 0.5 * _hashed(word, width) + spelling / math.sqrt(len(grams))
    return (vector / vector.square().mean().sqrt()).float()


def position_signal(num_positions: int, width: int) -> Tensor:
    """Return the sinusoids of Vaswani et al. (2017), section 3.5, of unit mean square, (n, e)."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(num_positions)[:, None] * rates
    return math.sqrt(2) * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Words(Conditioner):
    """One token per word of the prompt: a fixed vector of the word and its spelling, plus its position.

    Near spellings have near vectors. Words beyond `max_tokens` are left out, with a warning.
    """

    fields = ("text",)
    positions: Tensor

    def __init__(self, *, width: int = 128, max_tokens: int = 48) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise InvalidValue(f"Invalid width {width}: expected an even number, at least 2.")
        if max_tokens < 1:
            raise InvalidValue(f"Invalid max_tokens {max_tokens}: expected at least 1.")
        self.width, self.max_tokens = width, max_tokens
        self.register_buffer("positions", POSITION_SCALE * position_signal(max_tokens, width), persistent=False)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry, `text`."""
        return {"text": self.width}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `text` (n, tokens, e); a prompt without words is absent. Padding is zeros."""
        texts = [self._words(prompt_text(prompt)) for prompt in prompts]
        longest = max([1, *map(len, texts)])
        tokens = torch.zeros(len(texts), longest, self.width)
        mask = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, words in enumerate(texts):
            mask[row, : len(words)] = True
            for n, word in enumerate(words):
                tokens[row, n] = word_vector(word, self.width)
        tokens = tokens.to(self.positions) + self.positions[:longest]
        mask = mask.to(tokens.device)
        return Condition({"text": ConditionTokens(tokens.where(mask[..., None], 0), mask)})

    def _words(self, text: str) -> list[str]:
        words = split_words(text)
        if len(words) > self.max_tokens:
            message = f"A prompt is longer than {self.max_tokens} words, its `max_tokens`: the rest is left out."
            warnings.warn(message, stacklevel=3)
        return words[: self.max_tokens]
