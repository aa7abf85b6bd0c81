"""Hashes of the weights of modules, and where modules are."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import torch
from torch import nn

__all__ = ["device_of", "hash_values", "module_fingerprint"]


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter or buffer; the CPU if it has neither."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def hash_values(*values: Any) -> str:
    """Return a hash of the texts of values, such as other hashes and options."""
    return hashlib.sha256(" ".join(map(str, values)).encode()).hexdigest()[:32]


def module_fingerprint(module: nn.Module) -> str:
    """Return a hash of a module's state: names, shapes, types and values of its parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
