"""Hashes of the weights of modules."""

from __future__ import annotations

import hashlib
from itertools import chain

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Give the device of a module's first parameter or buffer; the CPU when it has none."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def fingerprint(module: nn.Module) -> str:
    """Give a hash of a module's parameters and buffers: names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
