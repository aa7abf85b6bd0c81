"""A frozen T5 encoder as a conditioner of codecdiff."""

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer

from codecdiff import (
    Condition,
    Conditioner,
    ConditionTokens,
    Prompt,
    device_of,
    exactly,
    prompt_text,
)
from codecdiff.conditioners import hash_values, module_fingerprint, tokenizer_rules
from codecdiff.errors import InvalidValue
from codecdiff.huggingface import PretrainedPart, from_hub, is_building_skeleton
from codecdiff_t5.config import MODELS


class T5(PretrainedPart, Conditioner):
    """Flan-T5's hidden states of the prompt's text, as DiscoDiff uses them.

    There are two entries: `text`, the encoder's last hidden states (b, n, e), and `vector`, the state of the first
    token (b, 1, e). Both are float32, and absent for a prompt without text.

    Prompts are encoded one by one, without padding, so a row is bit for bit the same beside any neighbors, unless
    `attend_padding` is True. To compute each prompt once and for all, put `cached` around it.

    Args:
        model: A Hugging Face id or a local folder that contains `config.json`, `model.safetensors` and a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        max_tokens: Tokens of a prompt that are read, the end token included. Longer prompts are cut, with a warning.
        dtype: The precision to compute in.
        attend_padding: Encode the prompts of a call together, padded to the longest, and return the padding's states as
            tokens like any other, as DiscoDiff's released code does. A row then depends on its neighbors; it is
            there for comparing with that code, and cannot be `cached`.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete T5 encoder, or `max_tokens` is not positive.

    Source: Chung et al. (2022), Scaling Instruction-Finetuned Language Models, arXiv:2210.11416.

    """

    fields = ("text",)

    def __init__(
        self,
        model: str = "google/flan-t5-large",
        *,
        revision: str | None = None,
        max_tokens: int = 256,
        dtype: Literal["float32", "bfloat16"] = "float32",
        attend_padding: bool = False,
    ) -> None:
        super().__init__()
        if max_tokens < 1:
            raise InvalidValue(f"T5 has to read at least one token of a prompt, but max_tokens is {max_tokens}.")
        revision = self.pin_revision(model, revision)
        self.network = MODELS.load(model, revision).to(getattr(torch, dtype))
        if not is_building_skeleton():
            self.tokenizer = from_hub(AutoTokenizer, "T5", model, revision, MODELS.files)
        self.max_tokens = max_tokens
        self.attend_padding = attend_padding
        if attend_padding:
            self.expected_failures = {
                "neighbors": "with attend_padding a prompt attends to padding, which depends on its neighbors"
            }
        self._has_warned = False
        self.requires_grad_(False)
        self.train(False)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of both entries: 1024 for Flan-T5-large."""
        width = self.network.config.d_model
        return {"text": width, "vector": width}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `text` (b, n, e) with its mask, and `vector` (b, 1, e).

        Raises:
            ValueError: A prompt's text is neither a string nor None.

        """
        texts = [prompt_text(prompt) for prompt in prompts]
        features = self._encode_padded(texts) if self.attend_padding else self._encode_each(texts)
        longest = max([1, *map(len, features)])
        tokens = torch.zeros(len(features), longest, self.network.config.d_model)
        mask = torch.zeros(len(features), longest, dtype=torch.bool)
        for row, states in enumerate(features):
            tokens[row, : len(states)] = states
            mask[row, : len(states)] = True
        condition = Condition(
            {"text": ConditionTokens(tokens, mask), "vector": ConditionTokens(tokens[:, :1], mask[:, :1])}
        )
        return condition.to(device_of(self))

    def _encode_each(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, each computed alone and once; no token for blank text."""
        blank = torch.empty(0, self.network.config.d_model)
        states = {text: self.encode_text(text) if text.strip() else blank for text in dict.fromkeys(texts)}
        return [states[text] for text in texts]

    def encode_text(self, text: str) -> Tensor:
        """Text -> (n, e) states, independent of the caller's autocast."""
        device = device_of(self)
        tokens = torch.tensor([self._tokens(text)], device=device)
        with exactly(device):
            return self.network(input_ids=tokens).last_hidden_state[0].cpu()

    def _encode_padded(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, n that of the longest; no token for blank text."""
        blank, device = torch.empty(0, self.network.config.d_model), device_of(self)
        present = [text for text in texts if text.strip()]
        if not present:
            return [blank for _ in texts]
        padded = self.tokenizer.pad({"input_ids": [self._tokens(text) for text in present]}, return_tensors="pt")
        with exactly(device):
            states = iter(self.network(**padded.to(device)).last_hidden_state.cpu())
        return [next(states) if text.strip() else blank for text in texts]

    def _tokens(self, text: str) -> list[int]:
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

    def fingerprint(self) -> str:
        """Hash everything that features depend on: weights, and with them their precision; tokenizer; the cut.

        Raises ValueError with `attend_padding`, where they depend on the prompts beside as well.
        """
        if self.attend_padding:
            raise InvalidValue(
                "With attend_padding a prompt's features depend on its neighbors: they cannot be cached."
            )
        return hash_values("t5", self.max_tokens, module_fingerprint(self.network), tokenizer_rules(self.tokenizer))
