"""Random numbers, each a function of named keys and not of what was drawn before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def generator(*key: int) -> torch.Generator:
    """Give a CPU generator that is a function of the integers in `key` alone."""
    entropy = [len(key), *(k % 2**64 for k in key)]  # the length first: SeedSequence takes (1,) and (1, 0) for one
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def row_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: Any = "cpu") -> Tensor:
    """Draw (b, *shape) noise, each row from its own CPU generator, and move it to a device."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]).to(device)
