"""The interface of splitters: which latents are generated together, and in which order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from codecdiff.interfaces.part import Part


class Splitter(Part, ABC):
    """A generation pattern: which numbers are made together, and in which order. It moves numbers, never mixes them.

    Invariant: `merge(split(latents)) == latents`; `split(1 + arange)` holds every number exactly once, zeros elsewhere.
    """

    derived: ClassVar[tuple[str, ...]] = ("num_codebooks", "levels")
    num_codebooks: int

    @abstractmethod
    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, c, l') tensor per stage, coarsest first, padded with zeros."""

    @abstractmethod
    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """The stages of `split` -> (b, k, d, l) latents: its exact inverse."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        """Give what stage `i` sees of the stages before it, (b, c', l') at its own length; None for the first.

        Only the numbers of `stages[:i]` are read: `stages[i:]` are there for their shapes. Unless overridden: the
        channels of those before, concatenated.
        """
        return torch.cat(list(stages[:i]), dim=1) if i else None
