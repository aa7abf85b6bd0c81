"""Residual codecs: codebooks between two networks, each level on what the levels before it leave.

class MyCodec(ResidualCodec):
    codebooks: Tensor  # (k, codebook_size, d)

    def encode_features(self, audio): ...  # (1, ch, l * hop_length) -> (1, d, l)
    def decode_features(self, features): ...  # (1, d, l) -> (1, ch, l * hop_length)
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import chain
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from codecdiff.errors import InvalidValue
from codecdiff.interfaces.codec import Codec
from codecdiff.precision import exactly

POINTS = 512  # whose distances to all vectors of a codebook fit into the processor's cache


class ResidualCodec(Codec):
    """A codec of residual codebooks between two networks; features (1, z, n) pass from one to the other.

    Each level reads what the levels that it refines leave of the features, and the decoder reads the sum of all
    levels. A subclass states the facts, what the networks compute, and its codebooks: a tensor `codebooks`, or
    `quantizers` of its own with the methods that read them.

    Levels may have rates of their own (`rates`): a level of rate 4 has 4 codes in each frame, one row for each, in
    order of time. The encoder computes as many features in a frame as the fastest level has codes. A slower level reads
    their means, and its vectors are repeated.

    The rows of a batch are encoded, quantized and decoded one by one: a result never depends on its neighbors, and
    memory follows the longest row, not the batch. Everything is computed in the precision of the codec, without
    gradients and outside of autocast.
    """

    codebooks: Any  # (k, codebook_size, d), read by the default `quantizers` alone
    rates: tuple[int, ...] = ()  # codes of each level in a frame; empty: one of each

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each row of codes: as many rows of each level as it has codes in a frame."""
        return tuple(level for level, rate in enumerate(self.rates) for _ in range(rate)) or super().levels

    @property
    def quantizers(self) -> list[Any]:
        """The quantizer of every level, coarse to fine. By default, the tables of vectors in `codebooks`."""
        if not hasattr(self, "codebooks"):
            shape = f"({self.num_codebooks}, {self.codebook_size}, {self.codebook_dim})"
            raise NotImplementedError(
                f"{type(self).__name__} has no `codebooks`: register a buffer of this name in its constructor, "
                f"(k, codebook_size, d) = {shape}, or override `quantizers`."
            )
        return list(self.codebooks)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the codec."""
        tensors = chain(self.parameters(), self.buffers())
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)

    @abstractmethod
    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, ch, l * hop_length) audio -> (1, z, n) features of its frames, and of more if the network pads."""

    def decode_features(self, features: Tensor) -> Tensor:
        """(1, z, n) features -> (1, ch, t) audio; it is cut, or filled with silence, to l * hop_length."""
        raise NotImplementedError(f"{type(self).__name__} has neither `decode_features` nor a `decode_row` of its own.")

    def start_residual(self, quantizer: Any, features: Tensor) -> Tensor:
        """Return what a level that refines none reads of features (1, z, n). By default, the features."""
        return features

    def project_in(self, quantizer: Any, residual: Tensor) -> Tensor:
        """(1, z, n) residual -> (1, d, n) latents of one of the `quantizers`. By default, the same."""
        return residual

    def project_out(self, quantizer: Any, vectors: Tensor) -> Tensor:
        """(1, d, n) codebook vectors of one of the `quantizers` -> (1, z, n) features. By default, the same."""
        return vectors

    def codebook_vectors(self, quantizer: Any, codes: Tensor) -> Tensor:
        """(b, l) codes of one of the `quantizers` -> (b, d, l) codebook vectors."""
        return quantizer[codes].mT

    def nearest_codes(self, quantizer: Any, latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes of one of the `quantizers`, by its own lookup rule."""
        return nearest_vectors(latents.mT, quantizer)

    def quantize_level(self, quantizer: Any, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, z, n) residual -> (1, n) codes, (1, d, n) latents and (1, z, n) features of one of the `quantizers`."""
        latents = self.project_in(quantizer, residual)
        self._check_shape("`encode_features`, then `project_in`,", latents, self.codebook_dim, "d, l")
        codes = self.nearest_codes(quantizer, latents)
        return codes, latents, self.project_out(quantizer, self.codebook_vectors(quantizer, codes))

    def pad_to_frames(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, ch, l * hop_length), followed by silence."""
        # A network's own padding may be counted in float32, and wrong beyond 2^24 samples.
        return functional.pad(audio, (0, -audio.shape[-1] % self.hop_length))

    def encode_row(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(1, ch, t) audio -> (1, k, l) codes and (1, k, d, l) latents before quantization; see `pad_to_frames`."""
        features = residual = self.encode_features(self.pad_to_frames(audio))
        codes, latents = [], []
        for quantizer, rate, refined in zip(self.quantizers, self._rates, self.refines, strict=True):
            if refined is None:
                residual = self.start_residual(quantizer, features)
            repeats = max(self._rates) // rate
            mean = functional.avg_pool1d(residual, repeats, repeats) if repeats > 1 else residual
            row, latent, vectors = self.quantize_level(quantizer, mean)
            residual = residual - _hold(vectors, repeats)
            codes.append(rearrange(row, "b (l r) -> b r l", r=rate))
            latents.append(rearrange(latent, "b d (l r) -> b r d l", r=rate))
        frames = -(-audio.shape[-1] // self.hop_length)
        return torch.cat(codes, dim=1)[..., :frames], torch.cat(latents, dim=1)[..., :frames]

    def features_of(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, z, n) features that the decoder reads: the sum of all levels."""
        features: Any = 0.0
        for quantizer, rate, rows in zip(self.quantizers, self._rates, codes.split(self._rates, 1), strict=True):
            vectors = self.codebook_vectors(quantizer, rearrange(rows, "b r l -> b (l r)"))
            features += _hold(self.project_out(quantizer, vectors), max(self._rates) // rate)
        return features

    def decode_row(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, ch, t) audio; it is cut, or filled with silence, to l * hop_length."""
        return self.decode_features(self.features_of(codes))

    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) int64 codes, l = ceil(t / hop_length), padded with silence; any t >= 1."""
        return self.encode_with_continuous(audio)[0]

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l): what each quantizer reads, the residual of the levels before it."""
        return self.encode_with_continuous(audio)[1]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, d, l) latents before quantization, in one pass.

        Raises ValueError for audio of another shape.
        """
        if audio.ndim != 3 or audio.shape[1] != self.channels or audio.shape[2] < 1:
            fix = "audio.mean(1, keepdim=True)" if self.channels == 1 else f"audio.expand(-1, {self.channels}, -1)"
            raise InvalidValue(
                f"This {type(self).__name__} encodes audio of shape (b, {self.channels}, t) with t >= 1, but got "
                f"{tuple(audio.shape)}. Mix or repeat its channels: `{fix}`."
            )
        with exactly(audio.device):
            codes, latents = zip(*map(self.encode_row, audio.to(self.dtype).split(1)), strict=True)
        return torch.cat(codes), torch.cat(latents)

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) codebook vectors, before any projection to the decoder's width."""
        rows = zip(self._quantizers_of(codes), codes.long().unbind(1), strict=True)
        return torch.stack([self.codebook_vectors(quantizer, row) for quantizer, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes, by the codec's own lookup rule."""
        quantizers = self._quantizers_of(latents)
        with exactly(latents.device):
            rows = [
                torch.stack([self.nearest_codes(*pair) for pair in zip(quantizers, row.unbind(1), strict=True)], dim=1)
                for row in latents.to(self.dtype).split(1)
            ]
        return torch.cat(rows)

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio."""
        self._quantizers_of(codes)
        with exactly(codes.device):
            rows = [self.decode_row(row) for row in codes.long().split(1)]
        self._check_shape("`decode_features`", rows[0], self.channels, "ch, t")
        audio, expected = torch.cat(rows), codes.shape[-1] * self.hop_length
        if (missing := expected - audio.shape[-1]) > self.hop_length:  # networks without padding lose less
            raise InvalidValue(
                f"`decode_features` of {type(self).__name__} returned {audio.shape[-1]} samples for "
                f"{codes.shape[-1]} frames; expected {expected}: hop_length is {self.hop_length}."
            )
        return functional.pad(audio, (0, missing))

    def _check_shape(self, method: str, returned: Tensor, width: int, names: str) -> None:
        if returned.ndim != 3 or returned.shape[:2] != (1, width):
            last = names[-1]
            raise InvalidValue(
                f"{method} of {type(self).__name__} returned {tuple(returned.shape)}; expected (1, {width}, {last}) = "
                f"(1, {names})."
            )

    @property
    def _rates(self) -> tuple[int, ...]:
        return self.rates or (1,) * self.num_codebooks

    def _quantizers_of(self, rows: Tensor) -> list[Any]:
        """Return the quantizer of each row of codes or latents (b, k, ...). Raises ValueError for another k."""
        if rows.shape[1] != self.num_codebooks:
            raise InvalidValue(
                f"This {type(self).__name__} has {self.num_codebooks} codebooks, but got {rows.shape[1]} rows in "
                f"{tuple(rows.shape)}."
            )
        quantizers = self.quantizers
        return [quantizers[level] for level in self.levels]


def _hold(features: Tensor, repeats: int) -> Tensor:
    """(1, z, n) features -> (1, z, n * repeats), each repeated in place."""
    return features.repeat_interleave(repeats, -1) if repeats > 1 else features


def nearest_vectors(points: Tensor, vectors: Tensor) -> Tensor:
    """(..., n, d) points, (m, d) vectors -> (..., n) index of the nearest vector, the first of equals.

    Differences are formed before they are squared: a vector is at distance 0 of itself, and a point does not depend on
    how many there are.
    """
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(p, vectors, compute_mode=exact).argmin(-1) for p in points.split(POINTS, -2)], dim=-1)


def context_frames(network: nn.Module, inputs: int, outputs: int, multiple: int = 1) -> int:
    """Return the latent frames on each side of a frame that what a network computes for it can depend on, exactly.

    Args:
        network: Its convolutions run one after the other, in the order of `modules()`. A module that has a
            `window_size` attends in windows of so many positions.
        inputs: Positions of a frame that go in: `hop_length` for an encoder.
        outputs: Positions of a frame that come out: `hop_length` for a decoder.
        multiple: Frames of a window: what they depend on differs, and the most is returned.

    """
    kinds = (nn.Conv1d, nn.ConvTranspose1d)
    layers = [layer for layer in network.modules() if isinstance(layer, kinds) or hasattr(layer, "window_size")]
    sides = []
    for frame in range(multiple):
        first, last = frame * outputs, (frame + 1) * outputs - 1
        for layer in reversed(layers):
            first, last = _read_by(layer, first, last)
        sides += [frame - first // inputs, last // inputs - frame]
    return max(sides)


def _read_by(layer: Any, first: int, last: int) -> tuple[int, int]:
    """Return the first and last input position that outputs `first` to `last` of a layer depend on."""
    if hasattr(layer, "window_size"):
        return first // layer.window_size * layer.window_size, (last // layer.window_size + 1) * layer.window_size - 1
    stride, padding, reach = layer.stride[0], layer.padding[0], layer.dilation[0] * (layer.kernel_size[0] - 1)
    if isinstance(layer, nn.ConvTranspose1d):
        return -(-(first + padding - reach) // stride), (last + padding) // stride
    return first * stride - padding, last * stride - padding + reach
