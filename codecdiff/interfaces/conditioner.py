"""The interface of conditioners, which compute features of prompts."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence

from codecdiff.fingerprint import hash_values, module_fingerprint
from codecdiff.interfaces.condition import Condition, Prompt, prompt_fields
from codecdiff.interfaces.part import Part
from codecdiff.precision import FrozenModule


class Conditioner(Part, FrozenModule, ABC):
    """Computes fixed features of prompts. It is frozen: everything that learns belongs to the denoiser."""

    fields: tuple[str, ...]  # of a prompt that it reads

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Embedding width of every name in the conditions that `encode` returns."""

    @abstractmethod
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Encode n prompts to a condition of n rows, which do not depend on each other. All names of "" are absent."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The fields of a prompt that every name depends on. By default, all `fields`."""
        return dict.fromkeys(self.widths, self.fields)

    @property
    def control_rates(self) -> dict[str, float]:
        """Tokens in a second of the names that are controls: those have tokens for the whole of their audio file.

        Training and sampling cut them to their frames. A control is read from the file that the prompt's field
        `controls` has under its name; in training, from the track itself. By default, none.
        """
        return {}

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Prepare for prompts that training will encode; called any number of times before it. By default, a no-op."""

    def release(self) -> None:
        """Free what only prompts that were not prepared need. By default, a no-op."""

    def key(self, prompt: Prompt) -> str:
        """Return a string that prompts share only if their features are equal. By default, the fields read, as JSON.

        Override it for fields that are not JSON, or that name something that may change, such as a file.
        """
        fields = prompt_fields(prompt)
        read = {name: fields[name] for name in self.fields if fields.get(name) not in (None, "")}
        return json.dumps(read, sort_keys=True, ensure_ascii=False)

    def fingerprint(self) -> str:
        """Return a hash of what features depend on apart from the prompt. By default, class, options and weights.

        Override it if there is more, such as a tokenizer.
        """
        options = json.dumps(self.arguments, sort_keys=True, default=str)
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return hash_values(name, options, module_fingerprint(self))
