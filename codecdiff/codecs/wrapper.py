"""The base class of codecs that wrap another codec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces.codec import Codec


class CodecWrapper(Codec):
    """A codec that does what the codec inside does, until a subclass changes something."""

    state_names: ClassVar[tuple[str, ...]] = ()  # buffers of a subclass that are fitted state

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec = codec
        self.sample_rate, self.channels, self.hop_length = codec.sample_rate, codec.channels, codec.hop_length
        self.num_codebooks, self.codebook_size = codec.num_codebooks, codec.codebook_size
        self.codebook_dim = codec.codebook_dim
        self.encode_context_frames = codec.encode_context_frames
        self.decode_context_frames = codec.decode_context_frames
        self.chunk_multiple, self.chunk_frames = codec.chunk_multiple, codec.chunk_frames
        self.expected_failures = codec.expected_failures

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of the wrapped codec's rows."""
        return self.codec.levels

    @property
    def refines(self) -> tuple[int | None, ...]:
        """The levels that those of the wrapped codec refine."""
        return self.codec.refines

    # a property instead of a plain attribute, because a codec that is fitted later has other duplicates
    @property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(codebook, code) of the wrapped codec that quantize to another code."""
        return self.codec.duplicate_codes

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (b, ch, t) to codes (b, k, l) of the wrapped codec."""
        return self.codec.encode(audio)

    def embed(self, codes: Tensor) -> Tensor:
        """Look up codes (b, k, l): latents (b, k, d, l) of the wrapped codec, normalized."""
        return self.normalize(self.codec.embed(codes))

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the codes (b, k, l) of latents (b, k, d, l) of the wrapped codec."""
        return self.codec.quantize(latents)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (b, k, l) to audio (b, ch, l * hop_length) of the wrapped codec."""
        return self.codec.decode(codes)

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """Encode audio (b, ch, t) to the pre-quantization latents (b, k, d, l) of `encode_with_continuous`."""
        return self.encode_with_continuous(audio)[1]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio (b, ch, t) to codes (b, k, l) and pre-quantization latents (b, k, d, l), as both methods do."""
        codes, latents = self.codec.encode_with_continuous(audio)
        return codes, self.normalize(latents)

    @property
    def is_fitted(self) -> bool:
        """Whether the wrapped codec is fitted."""
        return self.codec.is_fitted

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the wrapped codec to clips of audio (ch, t)."""
        self.codec.fit(clips, seed=seed)

    def fitted_state(self) -> dict[str, Tensor]:
        """Return the state of the wrapped codec, its names prefixed with `codec.`, and the buffers of `state_names`."""
        inner = {f"codec.{name}": tensor for name, tensor in self.codec.fitted_state().items()}
        return inner | {name: getattr(self, name) for name in self.state_names}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors of `fitted_state`. Raises InvalidValue if some of `state_names` are missing."""
        if missing := sorted(set(self.state_names) - state.keys()):
            raise InvalidValue(f"The state of a {type(self).__name__} lacks its {' and '.join(missing)}: load all.")
        self.codec.load_fitted_state({k.removeprefix("codec."): v for k, v in state.items() if k.startswith("codec.")})
        for name in self.state_names:
            getattr(self, name).copy_(state[name])


def codebook_vectors(codec: Codec) -> Tensor:
    """Return the vectors (k, d, n) of all codebooks, n = codebook_size."""
    codes = torch.arange(codec.codebook_size, device=device_of(codec)).expand(1, codec.num_codebooks, -1)
    return codec.embed(codes)[0]


def find_duplicate_codes(codec: Codec) -> frozenset[tuple[int, int]]:
    """Return the (codebook, code) that quantize to another code, for `Codec.duplicate_codes`."""
    codes = torch.arange(codec.codebook_size, device=device_of(codec))
    is_moved = codec.quantize(codebook_vectors(codec)[None])[0] != codes
    return frozenset((codebook, code) for codebook, code in is_moved.nonzero().tolist())
