"""Long audio in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper
from codecdiff.interfaces import Codec


class ChunkedCodec(CodecWrapper):
    """A codec that works through long audio in pieces, each with the halo that makes it equal to the whole.

    Memory does not grow with duration. Refuses codecs without a finite halo.
    """

    keeps_codes = True

    def __init__(self, codec: Codec, *, frames: int = 512):
        super().__init__(codec)
        if codec.encode_context_frames is None or codec.decode_context_frames is None:
            raise ValueError(f"{type(codec).__name__} has no finite halo: in pieces it would not equal the whole.")
        if frames < 1:
            raise ValueError(f"frames={frames}: a piece needs at least 1 latent frame.")
        self.frames = frames

    def _pieces(self, total: int, halo: int) -> list[tuple[int, int, int, int]]:
        """Give (start, stop, start with halo, stop with halo), in frames, of every piece."""
        # of nothing there is a piece too, so that the codec itself says what it makes of it
        spans = [(start, min(start + self.frames, total)) for start in range(0, total or 1, self.frames)]
        return [(a, b, max(a - halo, 0), min(b + halo, total)) for a, b in spans]

    def _over_audio(self, function: Callable[[Tensor], Iterable[Tensor]], audio: Tensor) -> tuple[Tensor, ...]:
        """Give the tensors (..., l) that a function gives of audio, piece by piece."""
        hop, spans = (
            self.hop_length,
            self._pieces(-(-audio.shape[-1] // self.hop_length), self.codec.encode_context_frames or 0),
        )
        pieces = [
            [tensor[..., a - left : b - left] for tensor in function(audio[..., left * hop : right * hop])]
            for a, b, left, right in spans
        ]
        return tuple(torch.cat(parts, dim=-1) for parts in zip(*pieces, strict=True))

    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) codes, piece by piece."""
        return self._over_audio(lambda piece: (self.codec.encode(piece),), audio)[0]

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) latents before quantisation, piece by piece."""
        return self._over_audio(lambda piece: (self.codec.encode_continuous(piece),), audio)[0]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, d, l) latents before quantisation, piece by piece."""
        codes, projections = self._over_audio(self.codec.encode_with_continuous, audio)
        return codes, projections

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio, piece by piece."""
        hop, length = self.hop_length, codes.shape[-1]
        heard, stop = torch.empty(0), 0
        for a, b, left, right in self._pieces(length, self.codec.decode_context_frames or 0):
            piece = self.codec.decode(codes[..., left:right])[..., (a - left) * hop : (b - left) * hop]
            if a == 0:  # pieces that are joined at the end would take the room twice
                heard = piece.new_empty(*piece.shape[:-1], length * hop)
            stop = a * hop + piece.shape[-1]
            heard[..., a * hop : stop] = piece
        return heard[..., :stop]


def chunked(codec: Codec) -> Codec:
    """Return `ChunkedCodec(codec)` if the codec is local, so memory stays flat; else the codec."""
    local = codec.encode_context_frames is not None and codec.decode_context_frames is not None
    return ChunkedCodec(codec) if local and not isinstance(codec, ChunkedCodec) else codec
