"""Random numbers as functions of a name and integers, not of what was drawn before.

A name says what the numbers are for and begins with the package that draws them: "codecdiff.train.noise",
"my_plugin.augmentation". Different purposes have different names, so their numbers are independent at every seed. What
is drawn for a sample has its index in the key, never the rank of a process or the position in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["generator", "numpy_generator", "numpy_integers", "numpy_words", "row_noise", "seed_sequence"]


def key_digest(name: str, *key: int | str) -> bytes:
    """Return the 256 bits that stand for a name and a key, from which its numbers are drawn."""
    return hashlib.sha256(repr((name, *key)).encode()).digest()


def seed_sequence(name: str, *key: int | str) -> np.random.SeedSequence:
    """Return the seed sequence of a name and a key."""
    return np.random.SeedSequence(int.from_bytes(key_digest(name, *key), "little"))


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


def numpy_words(name: str, keys: Sequence[Sequence[int | str]], count: int = 1) -> np.ndarray:
    """Return the first 64-bit words of the `numpy_generator` of each key, (n, count), all drawn at once.

    They are what `bit_generator.random_raw(count)` yields, in a fifth of the time. The generator is Philox 4x64-10 of
    Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
    """
    blocks = -(-count // 4)
    key = np.repeat(_philox_keys(name, keys), blocks, 0).T
    even = np.zeros_like(key)  # words 2 and 0
    odd = np.zeros_like(key)  # words 1 and 3
    even[1] = np.tile(np.arange(1, blocks + 1), len(keys))  # the counter
    for _ in range(10):
        low, high = even & _HALF, even >> _SHIFT
        middle = _PHILOX_HIGH * low + (_PHILOX_LOW * low >> _SHIFT)
        upper = _PHILOX_HIGH * high + (middle >> _SHIFT) + (_PHILOX_LOW * high + (middle & _HALF) >> _SHIFT)
        even, odd = (upper ^ odd ^ key)[::-1], _PHILOX * even
        key = key + _PHILOX_STEP
    return np.stack([even[1], odd[0], even[0], odd[1]], 1).reshape(len(keys), 4 * blocks)[:, :count]


def numpy_integers(name: str, keys: Sequence[Sequence[int | str]], counts: np.ndarray) -> np.ndarray:
    """Return two integers below counts (n, 2) for each key: what `numpy_generator` yields by `integers`, all at once.

    See Lemire (2019), "Fast random integer generation in an interval".
    """
    counts = counts.astype(np.uint64)
    word = numpy_words(name, keys)
    halves = np.hstack([word & _HALF, word >> _SHIFT])
    halves[:, 1] = np.where(counts[:, 0] > 1, halves[:, 1], halves[:, 0])  # one of one is not drawn
    products = halves * counts
    drawn = (products >> _SHIFT).astype(np.int64)
    is_drawn_again = ((products & _HALF) < counts) & (counts > 1) | (counts > _HALF)  # possibly
    for i in np.flatnonzero(is_drawn_again.any(1)).tolist():
        random = numpy_generator(name, *keys[i])
        drawn[i] = [random.integers(count) for count in counts[i].tolist()]
    return drawn


def _powers(first: int, factor: int, count: int) -> np.ndarray:
    """Return a first number times the powers of a factor (count, 1), in 32 bits."""
    return np.array([[first * pow(factor, i, 2**32) % 2**32] for i in range(count)], np.uint32)


_HASH, _STATE_HASH = _powers(0x43B0D7E5, 0x931E8875, 33), _powers(0x8B51F9DD, 0x58F38DED, 5)  # of NumPy's SeedSequence
_LEFT, _RIGHT = np.array([0xCA01F9DD, 0x4973F715], np.uint32)
_SHIFT, _HALF = np.uint64(32), np.uint64(2**32 - 1)
_PHILOX = np.array([[0xCA5A826395121157], [0xD2E7470EE14C6C93]], np.uint64)
_PHILOX_HIGH, _PHILOX_LOW = _PHILOX >> _SHIFT, _PHILOX & _HALF
_PHILOX_STEP = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)


def _philox_keys(name: str, keys: Sequence[Sequence[int | str]]) -> np.ndarray:
    """Return `seed_sequence(name, *key).generate_state(2, np.uint64)` of each key (n, 2), all computed at once.

    This is NumPy's SeedSequence, after M. E. O'Neill (2015), "Developing a seed_seq alternative".
    """

    def hashed(words: np.ndarray, constants: np.ndarray) -> np.ndarray:
        words = (words ^ constants[:-1]) * constants[1:]
        return words ^ words >> 16

    words = np.frombuffer(b"".join(key_digest(name, *key) for key in keys), "<u4").reshape(-1, 8).T
    pool, used = hashed(words[:4], _HASH[:5]), 4
    for i in range(8):  # words of the pool enter its other words, then the rest all of them
        others = [j for j in range(4) if j != i]
        source, constants = pool[i] if i < 4 else words[i], _HASH[used : used + len(others) + 1]
        mixed = _LEFT * pool[others] - _RIGHT * hashed(source, constants)
        pool[others], used = mixed ^ mixed >> 16, used + len(others)
    states = np.ascontiguousarray(hashed(pool, _STATE_HASH).T).view("<u8")
    for i in np.flatnonzero(words[7] == 0).tolist():  # an integer of fewer words
        states[i] = seed_sequence(name, *keys[i]).generate_state(2, np.uint64)
    return states


def row_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: Any = "cpu") -> Tensor:
    """Draw noise (b, *shape), each row from its own generator, where that is, and move it to a device."""
    return torch.stack([torch.randn(tuple(shape), generator=g, device=g.device) for g in generators]).to(device)
