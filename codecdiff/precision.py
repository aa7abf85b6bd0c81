"""In which precision frozen parts compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors on a device, without gradients, whatever autocast the caller is in.

    Whether a GPU's convolutions round float32 to tf32 on the way, as they do by default, stays torch's own setting.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
