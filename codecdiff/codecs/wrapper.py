"""What all codecs around codecs are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec


class CodecWrapper(Codec):
    """A codec that does what another does, until a subclass changes something."""

    keeps_codes: ClassVar[bool] = False  # whether it says that its codes are those of the wrapped codec

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec = codec
        self.sample_rate, self.channels, self.hop_length = codec.sample_rate, codec.channels, codec.hop_length
        self.num_codebooks, self.codebook_size = codec.num_codebooks, codec.codebook_size
        self.codebook_dim = codec.codebook_dim
        self.encode_context_frames, self.decode_context_frames = (
            codec.encode_context_frames,
            codec.decode_context_frames,
        )
        self.expected_failures = codec.expected_failures

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of the wrapped codec's rows."""
        return self.codec.levels

    # a property over a plain fact, because a codec that is fitted later has other duplicates
    @property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Entries of the wrapped codec that quantise to another index; a codec fitted later has others."""
        return self.codec.duplicate_codes

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

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) latents before quantisation of the wrapped codec."""
        return self.codec.encode_continuous(audio)

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


def find_duplicate_codes(codec: Codec) -> frozenset[tuple[int, int]]:
    """Look every entry up and give those that quantise to another index, (codebook, index): `duplicate_codes`."""
    entries = torch.arange(codec.codebook_size, device=device_of(codec))
    codes = entries.expand(1, codec.num_codebooks, -1)
    moved = codec.quantize(codec.embed(codes)) != codes
    return frozenset((codebook, index) for _, codebook, index in moved.nonzero().tolist())
