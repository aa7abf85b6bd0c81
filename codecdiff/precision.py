"""In which precision frozen parts compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors on a device, without gradients, whatever autocast the caller is in."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
