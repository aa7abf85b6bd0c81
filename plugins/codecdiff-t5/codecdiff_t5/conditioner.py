"""A frozen T5 encoder as a conditioner of codecdiff."""

import warnings
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, device_of, prompt_fields
from codecdiff.conditioners.cached import tokenizer_rules
from codecdiff.fingerprint import module_fingerprint
from codecdiff.huggingface import commit_of, not_found, require_complete
from codecdiff.precision import exactly
from codecdiff_t5.shapes import shape_of


class T5(Conditioner):
    """Flan-T5's reading of the prompt's text, as DiscoDiff uses it.

    Gives two entries: `text`, the encoder's last hidden states (b, n, e), and `vector`, the state of the first
    token (b, 1, e). Both are float32, and absent for a prompt without text.

    Prompts are encoded one by one, without padding, so a row is bit for bit the same beside any neighbours, unless
    `attend_padding` is asked for. To compute each once and for all, put `cached` around it.

    Args:
        model: A Hugging Face id or a local folder that holds `config.json`, `model.safetensors` and a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.
        max_tokens: Tokens of a prompt that are read, the end token included. Longer prompts are cut, with a warning.
        dtype: The precision to compute in.
        attend_padding: Encode the prompts of a call together, padded to the longest, and give the padding's states as
            tokens like any other, as DiscoDiff's released code does. A row then depends on its neighbours; it is
            there for comparing with that code, and cannot be `cached`.

    Raises:
        LookupError: There is no such model.
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
            raise ValueError(f"T5 has to read at least one token of a prompt, but max_tokens is {max_tokens}.")
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        network, self.tokenizer = _load(model, revision)
        self._take(network, dtype)
        self.max_tokens = max_tokens
        self.attend_padding = attend_padding
        if attend_padding:
            self.expected_failures = {
                "neighbors": "with attend_padding a prompt attends to padding, which depends on its neighbors"
            }
        self._has_warned = False

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the widths of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(T5, part).__init__()
        with torch.device("meta"):
            network = T5EncoderModel(shape_of(part.arguments["model"], part.arguments["revision"]))
        part._take(network, part.arguments["dtype"])
        return part

    def _take(self, network: T5EncoderModel, dtype: str) -> None:
        """Take on a network, frozen, in this precision."""
        self.network = network.to(getattr(torch, dtype))
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
            ValueError: A prompt's text is something else than a string or None.

        """
        texts = [_text_of(prompt) for prompt in prompts]
        features = self._together(texts) if self.attend_padding else self._apart(texts)
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

    def _apart(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, each computed alone and once; no token for blank text."""
        blank = torch.empty(0, self.network.config.d_model)
        states = {text: self._compute(text) if text.strip() else blank for text in dict.fromkeys(texts)}
        return [states[text] for text in texts]

    def _compute(self, text: str) -> Tensor:
        """Text -> (n, e) states, whatever autocast the caller is in."""
        device = device_of(self)
        tokens = torch.tensor([self._tokens(text)], device=device)
        with exactly(device):
            return self.network(input_ids=tokens).last_hidden_state[0].cpu()

    def _together(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> (n, e) states on the CPU, n that of the longest; no token for blank text."""
        blank, device = torch.empty(0, self.network.config.d_model), device_of(self)
        told = [text for text in texts if text.strip()]
        if not told:
            return [blank for _ in texts]
        padded = self.tokenizer.pad({"input_ids": [self._tokens(text) for text in told]}, return_tensors="pt")
        with exactly(device):
            states = iter(self.network(**padded.to(device)).last_hidden_state.cpu())
        return [next(states) if text.strip() else blank for text in texts]

    def _tokens(self, text: str) -> list[int]:
        """Text -> token ids, ending in the end token; cut to `max_tokens`, and told so once."""
        tokens = self.tokenizer(text, verbose=False).input_ids
        if len(tokens) <= self.max_tokens:
            return tokens
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"A prompt of {len(tokens)} tokens is cut to {self.max_tokens}; set max_tokens to read more of it. "
                f"Further ones are cut without a word. It begins {text[:60]!r}.",
                stacklevel=2,
            )
        return [*tokens[: self.max_tokens - 1], tokens[-1]]

    def fingerprint(self) -> str:
        """Hash everything that features depend on: weights, and with them their precision; tokenizer; the cut.

        Raises ValueError with `attend_padding`, where they depend on the prompts beside as well.
        """
        if self.attend_padding:
            raise ValueError("With attend_padding a prompt's features depend on its neighbours: they cannot be cached.")
        told = f"t5 {self.max_tokens} {module_fingerprint(self.network)} {tokenizer_rules(self.tokenizer)}"
        return sha256(told.encode()).hexdigest()[:32]


def _text_of(prompt: Prompt) -> str:
    """Give a prompt's text, empty if it has none."""
    text = prompt_fields(prompt).get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"The field 'text' of a prompt is a string, but got {type(text).__name__}: {text!r}.")
    return text or ""


def _load(model: str, revision: str | None) -> tuple[T5EncoderModel, Any]:
    """Load the encoder, from safetensors, and the tokenizer."""
    branch = revision or "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=branch)
        loaded: Any = T5EncoderModel.from_pretrained(
            model, revision=branch, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise not_found("T5 model", model, revision, "config.json, model.safetensors and a tokenizer", error) from error
    network, report = loaded
    require_complete("T5 encoder", model, report["missing_keys"])
    return network, tokenizer
