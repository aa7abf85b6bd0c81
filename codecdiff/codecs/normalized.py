"""Latents of mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper
from codecdiff.errors import InvalidValue
from codecdiff.interfaces.codec import Codec


class NormalizedCodec(CodecWrapper):
    """A codec whose latents have mean 0 and standard deviation 1, by statistics measured on data.

    The statistics are fitted state. Until `measure` is called, latents pass unchanged.

    Args:
        codec: The wrapped codec.
        per: One mean and deviation for each codebook, which keeps its shape (DiscoDiff), or for each channel.

    """

    keeps_codes = True
    state_names = ("mean", "std")
    mean: Tensor  # (k, d, 1)
    std: Tensor  # (k, d, 1)

    def __init__(self, codec: Codec, *, per: Literal["codebook", "channel"] = "codebook"):
        super().__init__(codec)
        self.per = per
        shape = (codec.num_codebooks, codec.codebook_dim, 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Measure mean and deviation over batches of the wrapped codec's latents (b, k, d, l), in float64."""
        columns = "b k d l -> k d (b l)" if self.per == "channel" else "b k d l -> k 1 (b d l)"
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for batch in latents:
            values = rearrange(batch.double().cpu(), columns)
            count += values.shape[-1]
            total, square = total + values.sum(-1), square + values.square().sum(-1)
        if not count:
            raise InvalidValue("No latents to measure: the store holds no frames.")
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))  # a constant channel stays as it is
        self.mean.copy_(mean[..., None].expand_as(self.mean))
        self.std.copy_(std[..., None].expand_as(self.std))

    def normalize(self, latents: Tensor) -> Tensor:
        """Normalize latents (b, k, d, l) of the wrapped codec."""
        return (latents - self.mean) / self.std

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the codes (b, k, l) of normalized latents (b, k, d, l)."""
        return self.codec.quantize(latents * self.std + self.mean)
