"""The splitter `part-name`: every other codebook first, then those between them.

It works as it is. Replace it by your own pattern; its test reports what no longer holds.
Shapes: b batch, k codebook, d codebook dimension, l latent frame, c channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from codecdiff import Splitter
from codecdiff.errors import InvalidValue
from torch import Tensor


class PartName(Splitter):
    """Codebooks 0, 2, 4... in the first stage, 1, 3, 5... in the second.

    every: how many stages take turns.
    """

    # The constructor is the schema of the options: each has a type and a default. `num_codebooks` is not an option:
    # it follows from the codec. So does `levels: Sequence[int]`, the level of each codebook.
    def __init__(self, *, every: int = 2, num_codebooks: int):
        if not 1 <= every <= num_codebooks:
            raise InvalidValue(
                f"Invalid every={every}: expected 1 to {num_codebooks}, as there are {num_codebooks} codebooks."
            )
        self.num_codebooks = num_codebooks
        self.groups = [list(range(first, num_codebooks, every)) for first in range(every)]

    # A splitter moves numbers and never changes one. Where stages need padding, it is zeros.
    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, c, l) tensor per stage, the coarsest first."""
        return [latents[:, group].flatten(1, 2) for group in self.groups]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """The stages of `split` -> (b, k, d, l) latents: its exact inverse."""
        pairs = zip(stages, self.groups, strict=True)
        rows = torch.cat([stage.unflatten(1, (len(group), -1)) for stage, group in pairs], dim=1)
        order = [k for group in self.groups for k in group]
        return rows[:, sorted(range(self.num_codebooks), key=order.__getitem__)]

    # If a stage should see something else than the channels of all stages before it, override `context`.
