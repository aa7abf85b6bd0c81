"""The precision in which frozen parts compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors on a device, without gradients, even inside of the caller's autocast.

    Whether convolutions on a GPU round float32 to tf32, as they do by default, remains torch's own setting.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
