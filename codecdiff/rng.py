"""Random numbers as functions of a name and integers, not of what was drawn before.

A name says what the numbers are for and begins with the package that draws them: "codecdiff.train.noise",
"my_plugin.augmentation". Different purposes have different names, so their numbers are independent at every seed. What
is drawn for a sample has its index in the key, never the rank of a process or the position in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

__all__ = ["generator", "numpy_generator", "numpy_generators", "row_noise", "seed_sequence"]


def seed_sequence(name: str, *key: int | str) -> np.random.SeedSequence:
    """Return the seed sequence of a name and a key."""
    digest = hashlib.sha256(repr((name, *key)).encode()).digest()
    words = np.frombuffer(digest, "<u4")  # of an integer, which NumPy takes three times as long to divide into them
    return np.random.SeedSequence(words if words[-1] else int.from_bytes(digest, "little"))


def generator(name: str, *key: int | str, device: Any = "cpu") -> torch.Generator:
    """Return a generator that is a function of a name and a key alone. Numbers of CPU and GPU differ.

    Example:
        noise = torch.randn(2, 3, generator=generator("my_plugin.noise", seed, sample_index))

    """
    seed = seed_sequence(name, *key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


def numpy_generator(name: str, *key: int | str) -> np.random.Generator:
    """Return a NumPy generator that is a function of a name and a key alone."""
    return np.random.Generator(np.random.Philox(seed_sequence(name, *key)))


def numpy_generators(name: str, keys: Sequence[Sequence[int | str]]) -> Iterator[np.random.Generator]:
    """Yield `numpy_generator` of each key, in half the time: it is one object, so draw before the next is read."""
    philox = np.random.Philox(0)
    random, state = np.random.Generator(philox), cast(Any, philox.state)  # at its beginning
    for key in keys:
        state["state"]["key"] = seed_sequence(name, *key).generate_state(2, np.uint64)
        philox.state = state
        yield random


def row_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: Any = "cpu") -> Tensor:
    """Draw noise (b, *shape), each row from its own generator, where that is, and move it to a device."""
    return torch.stack([torch.randn(tuple(shape), generator=g, device=g.device) for g in generators]).to(device)
