"""The interface of conditioners, which turn prompts into features."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import nn

from codecdiff.fingerprint import module_fingerprint
from codecdiff.interfaces.condition import Condition, Prompt, prompt_fields
from codecdiff.interfaces.part import Part


class Conditioner(Part, nn.Module, ABC):
    """Turns prompts into fixed features. Frozen: whatever learns belongs to the denoiser."""

    fields: tuple[str, ...]  # of a prompt that are read

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry of the condition it gives."""

    @abstractmethod
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> a condition of n rows. An empty prompt gives absent entries; a row never depends on another."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Fields of a prompt that every entry follows from; all that are read, unless overridden."""
        return dict.fromkeys(self.widths, self.fields)

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Be told of prompts that training may ask for, any number of times before it; nothing, unless overridden."""

    def release(self) -> None:
        """Let go of what only prompts that were not prepared need; nothing, unless overridden."""

    def key(self, prompt: Prompt) -> str:
        """Give a text that prompts share only if their features are equal: the fields that are read, as JSON.

        Override it for fields that are not JSON, or that name something which may change, as a file does.
        """
        fields = prompt_fields(prompt)
        read = {name: fields[name] for name in self.fields if fields.get(name) not in (None, "")}
        return json.dumps(read, sort_keys=True, ensure_ascii=False)

    def fingerprint(self) -> str:
        """Hash everything that features depend on beside the prompt: what features are kept under.

        Unless overridden: the class, its options and its weights. Override it where there is more, as a tokenizer.
        """
        options = json.dumps(self.arguments, sort_keys=True, default=str)
        told = f"{type(self).__module__}.{type(self).__qualname__} {options} {module_fingerprint(self)}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a conditioner never trains."""
        return super().train(False)
