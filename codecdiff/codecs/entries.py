"""What is true of the entries of a codec's codebooks."""

from __future__ import annotations

import torch

from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec


def shadowed_entries(codec: Codec) -> frozenset[tuple[int, int]]:
    """Look every entry up and give those that quantise to another index, (codebook, index): `duplicate_entries`."""
    entries = torch.arange(codec.codebook_size, device=device_of(codec))
    codes = entries.expand(1, codec.num_codebooks, -1)
    moved = codec.quantize(codec.embed(codes)) != codes
    return frozenset((codebook, index) for _, codebook, index in moved.nonzero().tolist())
