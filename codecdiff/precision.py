"""What frozen parts have in common: they never train, compute in their own precision, and load their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class FrozenModule(nn.Module):
    """A module that stays in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the mode."""
        return super().train(False)


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors on a device, without gradients, even inside of the caller's autocast.

    Whether convolutions on a GPU round float32 to tf32, as they do by default, remains torch's own setting.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class SkipInit(TorchFunctionMode):
    """Leaves parameters as they are in memory where a module would initialize them: for weights that are loaded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor of a function of `torch.nn.init`, and call any other."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
