"""The network of VGGish, in the one size that there is."""

from typing import Any

import torch
from torch import nn
from torchvggish.torchvggish import VGG, make_layers

from codecdiff.errors import InvalidValue


def empty_network() -> nn.Module:
    """Return the network on the meta device, without weights."""
    with torch.device("meta"):
        return VGG(make_layers(), postprocess=False)


def tiny(size: str = "tiny") -> dict[str, Any]:
    """Describe a VGGish of random weights, written as `weights.pth` of 1 MB instead of 288: only the file is tiny."""
    if size != "tiny":
        raise InvalidValue(f"Invalid size {size!r}: expected tiny.")
    return {"network": empty_network()}
