"""Latents of mean 0 and deviation 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper
from codecdiff.interfaces import Codec


class NormalizedCodec(CodecWrapper):
    """A codec whose latents have mean 0 and standard deviation 1, by statistics measured on data.

    The statistics are one pair per codebook (SPEC of DiscoDiff: keeps the shape of a codebook) or one per
    channel. They are fitted state; until `measure` is called the latents pass unchanged.
    """

    keeps_codes = True
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
            raise ValueError("No latents to measure: the store holds no frames.")
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))  # a constant channel stays as it is
        self.mean.copy_(mean[..., None].expand_as(self.mean))
        self.std.copy_(std[..., None].expand_as(self.std))

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) standardised latents."""
        return self.standardize(self.codec.embed(codes))

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) standardised latents -> (b, k, l) codes."""
        return self.codec.quantize(latents * self.std + self.mean)

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) standardised latents before quantisation."""
        return self.standardize(self.codec.encode_continuous(audio))

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, d, l) standardised latents before quantisation."""
        codes, projections = self.codec.encode_with_continuous(audio)
        return codes, self.standardize(projections)

    def standardize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents of the wrapped codec -> (b, k, d, l) standardised latents."""
        return (latents - self.mean) / self.std

    def fitted_state(self) -> dict[str, Tensor]:
        """State of the wrapped codec, and the statistics."""
        return {**super().fitted_state(), "mean": self.mean, "std": self.std}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `fitted_state` gave."""
        if missing := {"mean", "std"} - state.keys():
            raise ValueError(f"The state of a standardised codec lacks its {' and '.join(sorted(missing))}.")
        super().load_fitted_state(state)
        self.mean.copy_(state["mean"])
        self.std.copy_(state["std"])
