"""What codecs of pretrained networks share: a plugin states the facts, and where the network differs from others.

class MyCodec(PretrainedCodec):
    def __init__(self, model: str = "owner/name", *, revision: str | None = None) -> None:
        super().__init__()
        network = MODELS.load(model, self.pin_revision(model, revision))  # codecdiff.huggingface.PretrainedModels
        self.sample_rate, self.channels, ... = ...
        self.set_network(network)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from torch import Tensor

from codecdiff.codecs.residual import ResidualCodec
from codecdiff.codecs.wrapper import find_duplicate_codes
from codecdiff.errors import BrokenPlugin, InvalidValue
from codecdiff.huggingface import PretrainedPart, is_building_skeleton

__all__ = ["OriginalPackage", "PretrainedCodec"]


class PretrainedCodec(PretrainedPart, ResidualCodec):
    """A residual codec around a pretrained network, whose quantizers are modules of their own."""

    network: Any

    def set_network(self, network: Any) -> None:
        """Set the network that computes, frozen."""
        self.network = network
        self.requires_grad_(False)
        self.train(False)

    # a property instead of a plain attribute: finding them takes long
    @cached_property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Codes that quantize to others, looked for when this is read; none of a skeleton."""
        is_skeleton = any(parameter.is_meta for parameter in self.network.parameters())
        return frozenset() if is_skeleton else find_duplicate_codes(self)

    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, ch, l * hop_length) audio -> (1, z, l): what the network's encoder computes."""
        return self.network.encoder(audio)

    def decode_features(self, features: Tensor) -> Tensor:
        """(1, z, l) features -> (1, ch, t): what the network's decoder computes."""
        return self.network.decoder(features)

    @property
    @abstractmethod
    def quantizers(self) -> list[Any]:
        """The network's quantizer of every level, coarse to fine."""

    def codebook_vectors(self, quantizer: Any, codes: Tensor) -> Tensor:
        """(b, l) codes of one of the `quantizers` -> (b, d, l) codebook vectors."""
        return quantizer.decode(codes)

    def nearest_codes(self, quantizer: Any, latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes of one of the `quantizers`, by its own lookup rule."""
        return quantizer.encode(latents)


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
