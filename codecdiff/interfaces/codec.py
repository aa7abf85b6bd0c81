"""The interface of neural codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Self

from torch import Tensor, nn

from codecdiff.interfaces.part import Part


class Codec(Part, nn.Module, ABC):
    """A frozen neural codec with residual codebooks, coarse to fine.

    Invariant: `quantize(embed(codes)) == codes`, but for entries a codebook holds twice (`duplicate_codes`).

    A halo is the number of latent frames on either side of a frame that its result can depend on; None
    says that there is no such number, and the codec cannot work in chunks.
    """

    sample_rate: int  # Hz
    channels: int  # of audio
    hop_length: int  # audio samples per latent frame
    num_codebooks: int
    codebook_size: int  # entries per codebook
    codebook_dim: int
    encode_context_frames: int | None = None  # latent frames
    decode_context_frames: int | None = None  # latent frames
    duplicate_codes: frozenset[tuple[int, int]] = frozenset()  # (codebook, index) that quantise to another index

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each row of codes, 0 coarsest; rows of one level are as fine as each other."""
        return tuple(range(self.num_codebooks))

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop_length

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) codes, l = ceil(t / hop_length), padded on the right; any t >= 1."""

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) latents: one table lookup."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes, by the codec's own lookup rule."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio."""

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) latents before quantisation; the embedded codes unless overridden."""
        return self.embed(self.encode(audio))

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> what `encode` and `encode_continuous` give; override it where one pass can give both."""
        return self.encode(audio), self.encode_continuous(audio)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a codec never trains."""
        return super().train(False)

    @property
    def is_fitted(self) -> bool:
        """False while the codec still has to be fitted to music before it can encode."""
        return True

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Measure on clips of audio (ch, t) whatever this codec measures. Most codecs measure nothing."""

    def fitted_state(self) -> dict[str, Tensor]:
        """Give the tensors that were fitted, to be kept with the model; empty if there are none."""
        return {}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `fitted_state` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no fitted state, but was given {sorted(state)}.")
