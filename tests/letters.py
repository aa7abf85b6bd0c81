"""A conditioner with weights, for tests of the cache; a module of its own, so that other processes find it by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields


class Letters(Conditioner):
    """A frozen table of letters: a token for each of a text, which takes weights to compute."""

    fields = ("text",)
    computed: list[Any]

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(256, 6, generator=torch.Generator().manual_seed(seed)), False)
        self.computed = []

    @property
    def widths(self) -> dict[str, int]:
        return {"letters": 6, "first": 6}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        self.computed += prompts
        rows = [list(str(prompt_fields(prompt).get("text") or "").encode()) for prompt in prompts]
        longest = max([1, *map(len, rows)])
        index = torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.long).view(-1, longest)
        mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        tokens = self.table[index] * mask[..., None]
        return Condition(
            {"letters": ConditionTokens(tokens, mask), "first": ConditionTokens(tokens[:, :1], mask[:, :1])}
        )
