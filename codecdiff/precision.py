"""What frozen parts have in common: they never train, and compute in their own precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import nn


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
