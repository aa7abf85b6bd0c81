"""The splitter `part-name`: every other codebook first, then those in between.

It works as it is. Replace it with your own pattern, and run its test after each change.
Shapes: b batch, k codebook, d codebook dimension, l latent frame, c channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from codecdiff import Splitter
from codecdiff.errors import InvalidValue
from torch import Tensor


class PartName(Splitter):
    """By default, codebooks 0, 2, 4... are in the first stage, and 1, 3, 5... in the second.

    every: number of stages; stage i has the codebooks i, i + every, i + 2 * every...
    """

    # The constructor is the schema of the options: each needs a type, and is required if it has no default.
    # `num_codebooks` is derived from the codec, and cannot be set. So is `levels: Sequence[int]`, the level of each
    # codebook, if the constructor takes it.
    def __init__(self, *, every: int = 2, num_codebooks: int):
        if not 1 <= every <= num_codebooks:
            raise InvalidValue(
                f"Invalid every={every}: expected 1 to {num_codebooks}, as there are {num_codebooks} codebooks."
            )
        self.num_codebooks = num_codebooks
        self.groups = [list(range(first, num_codebooks, every)) for first in range(every)]

    # A splitter rearranges numbers without changing them. Padding is zeros.
    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, c, l) tensor per stage, the coarsest first."""
        return [latents[:, group].flatten(1, 2) for group in self.groups]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """The stages of `split` -> (b, k, d, l) latents, exactly."""
        pairs = zip(stages, self.groups, strict=True)
        rows = torch.cat([stage.unflatten(1, (len(group), -1)) for stage, group in pairs], dim=1)
        order = [k for group in self.groups for k in group]
        return rows[:, sorted(range(self.num_codebooks), key=order.__getitem__)]

    # By default, the context of a stage is the channels of all stages before it. Override `context` to change that.
