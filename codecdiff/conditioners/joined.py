"""Several conditioners as one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import hash_values
from codecdiff.interfaces.condition import Condition, Prompt
from codecdiff.interfaces.conditioner import Conditioner


class JoinedConditioner(Conditioner):
    """Several conditioners as one: its conditions have the names of all of them.

    Args:
        conditioners: The conditioners, in any order. Their conditions must have different names.

    Raises:
        ValueError: The list is empty, or two conditioners have a name in common.

    """

    def __init__(self, conditioners: Sequence[Conditioner]) -> None:
        super().__init__()
        if not conditioners:
            raise InvalidValue("There is nothing to join: write conditioners=[{name: ...}, {name: ...}].")
        names = [name for conditioner in conditioners for name in conditioner.widths]
        if repeated := [name for name in names if names.count(name) > 1]:
            owners = [type(conditioner).__name__ for conditioner in conditioners if repeated[0] in conditioner.widths]
            raise InvalidValue(
                f"'{repeated[0]}' is a name in the conditions of each of {', '.join(owners)}. Join conditioners with "
                "different names, or leave one out."
            )
        self.conditioners = torch.nn.ModuleList(conditioners)
        self.fields = tuple(dict.fromkeys(field for part in conditioners for field in part.fields))

    @property
    def parts(self) -> list[Conditioner]:
        """The conditioners that are joined."""
        return [part for part in self.conditioners if isinstance(part, Conditioner)]

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every name of every part."""
        return {name: width for part in self.parts for name, width in part.widths.items()}

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The fields that every name depends on, according to its part."""
        return {name: fields for part in self.parts for name, fields in part.sources.items()}

    @property
    def control_rates(self) -> dict[str, float]:
        """Tokens in a second of the controls of every part."""
        return {name: rate for part in self.parts for name, rate in part.control_rates.items()}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Encode n prompts with all parts."""
        return Condition({name: entry for part in self.parts for name, entry in part.encode(prompts).items()})

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Prepare every part for the prompts."""
        for part in self.parts:
            part.prepare(prompts)

    def release(self) -> None:
        """Release every part."""
        for part in self.parts:
            part.release()

    def key(self, prompt: Prompt) -> str:
        """Return the keys of all parts."""
        return json.dumps([part.key(prompt) for part in self.parts], ensure_ascii=False)

    def fingerprint(self) -> str:
        """Return a hash of the fingerprints of all parts."""
        return hash_values("joined", *(part.fingerprint() for part in self.parts))
