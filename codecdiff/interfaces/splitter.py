"""The interface of splitters, which say which latents are generated together, and in which order."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from codecdiff.interfaces.part import Part


class Splitter(Part, ABC):
    """A generation pattern. It moves numbers, and never mixes them.

    Invariant: `merge(split(latents)) == latents`, and `split(1 + arange)` holds every number once, zeros elsewhere.
    """

    derived: ClassVar[tuple[str, ...]] = ("num_codebooks", "levels")
    num_codebooks: int

    @abstractmethod
    def split(self, latents: Tensor) -> list[Tensor]:
        """Split latents (b, k, d, l) into one tensor (b, c, l') per stage, coarsest first, padded with zeros."""

    @abstractmethod
    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """Merge the stages of `split` to latents (b, k, d, l): its exact inverse."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        """Return what stage `i` sees of the stages before it, (b, c', l') at its own length; None for the first.

        Reads the values of `stages[:i]` alone; `stages[i:]` only have the right shapes. By default, the channels of
        the stages before it, concatenated.
        """
        return torch.cat(list(stages[:i]), dim=1) if i else None
