"""What codecs of pretrained networks share: a plugin states the facts and the mathematics of one row.

class MyCodec(PretrainedCodec):
    def __init__(self, model: str = "owner/name", *, revision: str | None = None) -> None:
        super().__init__()
        network = MODELS.load(model, self.pin_revision(model, revision))  # codecdiff.huggingface.PretrainedModels
        self.sample_rate, self.channels, ... = ...
        self.set_network(network)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff.codecs.wrapper import find_duplicate_codes
from codecdiff.errors import BrokenPlugin, InvalidValue
from codecdiff.huggingface import PretrainedPart, is_building_skeleton
from codecdiff.interfaces import Codec
from codecdiff.precision import exactly

__all__ = ["OriginalPackage", "PretrainedCodec", "residual_quantize"]


class PretrainedCodec(PretrainedPart, Codec):
    """A codec around a pretrained network.

    The rows of a batch are encoded, quantized and decoded one by one: a result never depends on its neighbors, and
    memory follows the longest row, not the batch. Everything is computed in the precision of the network, without
    gradients and outside of autocast.
    """

    network: Any

    def set_network(self, network: Any) -> None:
        """Set the network that computes, frozen."""
        self.network = network
        self.requires_grad_(False)
        self.train(False)

    @cached_property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Codes that quantize to others, looked for when this is read; none of a skeleton."""
        is_skeleton = any(parameter.is_meta for parameter in self.network.parameters())
        return frozenset() if is_skeleton else find_duplicate_codes(self)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return next(self.network.parameters()).dtype

    @property
    @abstractmethod
    def quantizers(self) -> list[Any]:
        """The network's quantizer of every codebook, coarse to fine."""

    @abstractmethod
    def encode_row(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(1, ch, t) audio -> (1, k, l) codes and (1, k, d, l) latents before quantization; see `pad_to_frames`."""

    @abstractmethod
    def decode_row(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, ch, t) audio, t at most l * hop_length; what is missing is filled with silence."""

    def codebook_vectors(self, quantizer: Any, codes: Tensor) -> Tensor:
        """(b, l) codes of one of the `quantizers` -> (b, d, l) codebook vectors."""
        return quantizer.decode(codes)

    def nearest_codes(self, quantizer: Any, latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes of one of the `quantizers`, by its own lookup rule."""
        return quantizer.encode(latents)

    def pad_to_frames(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, ch, l * hop_length), followed by silence."""
        return functional.pad(audio, (0, -audio.shape[-1] % self.hop_length))

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
            is_mono = self.channels == 1
            fix = (
                "Mix channels down: `audio.mean(1, keepdim=True)`"
                if is_mono
                else "Repeat one: `audio.expand(-1, 2, -1)`"
            )
            raise InvalidValue(
                f"This {type(self).__name__} encodes audio of shape (b, {self.channels}, t) with t >= 1, but got "
                f"{tuple(audio.shape)}. {fix}."
            )
        with exactly(audio.device):
            rows = [self.encode_row(row) for row in audio.to(self.dtype).split(1)]
        codes, latents = zip(*rows, strict=True)
        return torch.cat(codes), torch.cat(latents)

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) codebook vectors, before any projection to the decoder's width."""
        rows = zip(self._quantizers_of(codes), codes.long().unbind(1), strict=True)
        return torch.stack([self.codebook_vectors(quantizer, row) for quantizer, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes, by the network's own lookup rule."""
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
            audio = torch.cat([self.decode_row(row) for row in codes.long().split(1)])
        return functional.pad(audio, (0, codes.shape[-1] * self.hop_length - audio.shape[-1]))

    def _quantizers_of(self, rows: Tensor) -> list[Any]:
        """Return the quantizer of each row of codes or latents (b, k, ...). Raises ValueError for another k."""
        if rows.shape[1] != self.num_codebooks:
            raise InvalidValue(
                f"This {type(self).__name__} has {self.num_codebooks} codebooks, but got {rows.shape[1]} rows in "
                f"{tuple(rows.shape)}."
            )
        return self.quantizers


def residual_quantize(quantizers: Iterable[Any], residual: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """(1, d, l) latents -> (1, l) codes and (1, d, l) residuals of every quantizer, each on what those before leave."""
    codes, residuals = [], []
    for quantizer in quantizers:
        codes.append(quantizer.encode(residual))
        residuals.append(residual)
        residual = residual - quantizer.decode(codes[-1])
    return codes, residuals


@dataclass(frozen=True)
class OriginalPackage:
    """The package in which a codec was published: a second backend, which computes the same as transformers."""

    backend: str  # what the option `backend` and the plugin's extra are called
    module: str  # that is imported
    package: str
    plugin: str
    note: str = ""  # for the error message, such as a license

    def load(self) -> Any:
        """Import the package. Raises ImportError, which names the extra, if that fails."""
        try:
            return import_module(self.module)
        except (ImportError, OSError) as error:  # OSError: a library that torchaudio wants
            raise BrokenPlugin(
                f"backend={self.backend} needs the package {self.package}, which cannot be imported here. Install "
                f"'{self.plugin}[{self.backend}]'{self.note} in an environment of its own, with the torchaudio of its "
                f"torch; or leave the backend at transformers, which computes the same. ({str(error).splitlines()[0]})"
            ) from error

    def is_selected(self, backend: str) -> bool:
        """Return whether `backend` is this one and not transformers; False for a skeleton, whose weights are as many.

        Raises ValueError for any other backend, and ImportError if the package is selected and cannot be imported.
        """
        if backend not in ("transformers", self.backend):
            raise InvalidValue(f"Invalid backend {backend!r}: expected transformers or {self.backend}.")
        if backend == "transformers" or is_building_skeleton():
            return False
        self.load()  # before any weights are downloaded
        return True
