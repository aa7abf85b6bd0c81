"""A frozen T5 encoder as a conditioner of codecdiff."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer

from codecdiff import device_of, exactly
from codecdiff.conditioners import PretrainedTextEncoder, hash_values, module_fingerprint, tokenizer_rules
from codecdiff.errors import InvalidValue
from codecdiff.huggingface import from_hub, is_building_skeleton
from codecdiff_t5.config import MODELS


class T5(PretrainedTextEncoder):
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
        self.requires_grad_(False)
        self.train(False)

    def pool(self, states: Tensor) -> Tensor:
        """(n, e) states -> that of the first token (e,)."""
        return states[0]

    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, as `attend_padding` says; no token for blank text."""
        return self._encode_padded(texts) if self.attend_padding else super().states(texts)

    def _encode_padded(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, n that of the longest; no token for blank text."""
        blank, device = torch.empty(0, self.network.config.d_model), device_of(self)
        present = [text for text in texts if text.strip()]
        if not present:
            return [blank for _ in texts]
        padded = self.tokenizer.pad({"input_ids": [self.tokens(text) for text in present]}, return_tensors="pt")
        with exactly(device):
            states = iter(self.network(**padded.to(device)).last_hidden_state.cpu())
        return [next(states) if text.strip() else blank for text in texts]

    def fingerprint(self) -> str:
        """Hash everything that features depend on: weights, and with them their precision; tokenizer; the cut.

        Raises ValueError with `attend_padding`, where they depend on the prompts beside as well.
        """
        if self.attend_padding:
            raise InvalidValue(
                "With attend_padding a prompt's features depend on its neighbors: they cannot be cached."
            )
        return hash_values("t5", self.max_tokens, module_fingerprint(self.network), tokenizer_rules(self.tokenizer))
