"""Codecs around codecs: each wraps another and has the same interface, so nobody else needs to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from codecdiff.interfaces import Codec


class Wrapped(Codec):
    """A codec that does what another does, until a subclass changes something."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec = codec
        self.sample_rate, self.channels, self.hop_length = codec.sample_rate, codec.channels, codec.hop_length
        self.num_codebooks, self.codebook_size = codec.num_codebooks, codec.codebook_size
        self.codebook_dim = codec.codebook_dim
        self.encode_halo, self.decode_halo = codec.encode_halo, codec.decode_halo
        self.exceptions = codec.exceptions

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of the wrapped codec's rows."""
        return self.codec.levels

    # a property over a plain fact, because a codec that is fitted later has other duplicates
    @property
    def duplicate_entries(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Entries of the wrapped codec that quantise to another index; a codec fitted later has others."""
        return self.codec.duplicate_entries

    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) codes of the wrapped codec."""
        return self.codec.encode(audio)

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) latents of the wrapped codec."""
        return self.codec.embed(codes)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes of the wrapped codec."""
        return self.codec.quantize(latents)

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio of the wrapped codec."""
        return self.codec.decode(codes)

    def project(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) latents before quantisation of the wrapped codec."""
        return self.codec.project(audio)

    @property
    def is_fitted(self) -> bool:
        """Whether the wrapped codec is fitted."""
        return self.codec.is_fitted

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the wrapped codec to clips of audio (ch, t)."""
        self.codec.fit(clips, seed=seed)

    def fitted_state(self) -> dict[str, Tensor]:
        """State of the wrapped codec, its names prefixed with `codec.`."""
        return {f"codec.{name}": tensor for name, tensor in self.codec.fitted_state().items()}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `fitted_state` gave."""
        self.codec.load_fitted_state({k.removeprefix("codec."): v for k, v in state.items() if k.startswith("codec.")})


class Standardized(Wrapped):
    """A codec whose latents have mean 0 and standard deviation 1, by statistics measured on data.

    The statistics are one pair per codebook (SPEC of DiscoDiff: keeps the shape of a codebook) or one per
    channel. They are fitted state; until `measure` is called the latents pass unchanged.
    """

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

    def project(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) standardised latents before quantisation."""
        return self.standardize(self.codec.project(audio))

    def encode_and_project(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, d, l) standardised latents before quantisation."""
        codes, projections = self.codec.encode_and_project(audio)
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


class Chunked(Wrapped):
    """A codec that works through long audio in pieces, each with the halo that makes it equal to the whole.

    Memory does not grow with duration. Refuses codecs without a finite halo.
    """

    def __init__(self, codec: Codec, *, frames: int = 512):
        super().__init__(codec)
        if codec.encode_halo is None or codec.decode_halo is None:
            raise ValueError(f"{type(codec).__name__} has no finite halo: in pieces it would not equal the whole.")
        if frames < 1:
            raise ValueError(f"frames={frames}: a piece needs at least 1 latent frame.")
        self.frames = frames

    def _pieces(self, total: int, halo: int) -> list[tuple[int, int, int, int]]:
        """Give (start, stop, start with halo, stop with halo), in frames, of every piece."""
        spans = [(start, min(start + self.frames, total)) for start in range(0, total, self.frames)]
        return [(a, b, max(a - halo, 0), min(b + halo, total)) for a, b in spans]

    def _over_audio(self, function: Callable[[Tensor], Iterable[Tensor]], audio: Tensor) -> tuple[Tensor, ...]:
        """Give the tensors (..., l) that a function gives of audio, piece by piece."""
        hop, spans = self.hop_length, self._pieces(-(-audio.shape[-1] // self.hop_length), self.codec.encode_halo or 0)
        pieces = [
            [tensor[..., a - left : b - left] for tensor in function(audio[..., left * hop : right * hop])]
            for a, b, left, right in spans
        ]
        return tuple(torch.cat(parts, dim=-1) for parts in zip(*pieces, strict=True))

    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) codes, piece by piece."""
        return self._over_audio(lambda piece: (self.codec.encode(piece),), audio)[0]

    def project(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) latents before quantisation, piece by piece."""
        return self._over_audio(lambda piece: (self.codec.project(piece),), audio)[0]

    def encode_and_project(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, d, l) latents before quantisation, piece by piece."""
        codes, projections = self._over_audio(self.codec.encode_and_project, audio)
        return codes, projections

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio, piece by piece."""
        hop, pieces = self.hop_length, self._pieces(codes.shape[-1], self.codec.decode_halo or 0)
        parts = [
            self.codec.decode(codes[..., left:right])[..., (a - left) * hop : (b - left) * hop]
            for a, b, left, right in pieces
        ]
        return torch.cat(parts, dim=-1)


def in_pieces(codec: Codec) -> Codec:
    """Give `Chunked(codec)` where the codec is local, so that memory does not grow with duration; else the codec."""
    local = codec.encode_halo is not None and codec.decode_halo is not None
    return Chunked(codec) if local and not isinstance(codec, Chunked) else codec
