"""Several conditioners as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch

from codecdiff.interfaces import Condition, Conditioner, Prompt


def told_twice(conditioners: Sequence[Conditioner]) -> dict[str, list[str]]:
    """Give the entries that several conditioners give, each with the names of their classes."""
    givers: dict[str, list[str]] = {}
    for conditioner in conditioners:
        for name in conditioner.widths:
            givers.setdefault(name, []).append(type(conditioner).__name__)
    return {name: classes for name, classes in givers.items() if len(classes) > 1}


class JoinedConditioner(Conditioner):
    """Several conditioners as one: its condition has the entries of all of them.

    Args:
        conditioners: What is joined, in any order. No two may give an entry of the same name.

    Raises:
        ValueError: There is nothing to join, or an entry is given twice.

    """

    def __init__(self, conditioners: Sequence[Conditioner]) -> None:
        super().__init__()
        if not conditioners:
            raise ValueError("There is nothing to join: give conditioners=[{name: ...}, {name: ...}].")
        if twice := told_twice(conditioners):
            name, classes = next(iter(twice.items()))
            raise ValueError(
                f"The entry '{name}' is given by each of {', '.join(classes)}. Join conditioners whose entries have "
                "different names, or leave one out."
            )
        self.conditioners = torch.nn.ModuleList(conditioners)
        self.fields = tuple(dict.fromkeys(field for part in conditioners for field in part.fields))

    @property
    def parts(self) -> list[Conditioner]:
        """What is joined."""
        return [part for part in self.conditioners if isinstance(part, Conditioner)]

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry of every part."""
        return {name: width for part in self.parts for name, width in part.widths.items()}

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Fields that every entry follows from, as its part says."""
        return {name: fields for part in self.parts for name, fields in part.sources.items()}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Give n prompts as the entries of all parts."""
        told = [part.encode(prompts) for part in self.parts]
        return Condition({name: entry for condition in told for name, entry in condition.entries.items()})

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Tell every part of the prompts."""
        for part in self.parts:
            part.prepare(prompts)

    def release(self) -> None:
        """Let every part go of what it can."""
        for part in self.parts:
            part.release()

    def key(self, prompt: Prompt) -> str:
        """Give the keys of all parts."""
        return json.dumps([part.key(prompt) for part in self.parts], ensure_ascii=False)

    def fingerprint(self) -> str:
        """Hash the fingerprints of all parts."""
        told = " ".join(["joined", *(part.fingerprint() for part in self.parts)])
        return hashlib.sha256(told.encode()).hexdigest()[:32]
