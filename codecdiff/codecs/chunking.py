"""Long audio in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper
from codecdiff.errors import InvalidValue
from codecdiff.interfaces.codec import Codec


class ChunkedCodec(CodecWrapper):
    """A codec that processes long audio in chunks, each with the context that makes the result equal to the whole.

    Memory does not grow with duration.

    Args:
        codec: The wrapped codec.
        frames: Latent frames per chunk, without context.

    Raises:
        ValueError: The context of the codec is unbounded, or `frames` is not positive.

    """

    keeps_codes = True

    def __init__(self, codec: Codec, *, frames: int = 512):
        super().__init__(codec)
        if codec.encode_context_frames is None or codec.decode_context_frames is None:
            raise InvalidValue(f"{type(codec).__name__} has unbounded context: use it whole, not in chunks.")
        if frames < 1:
            raise InvalidValue(f"frames={frames}: a chunk needs at least 1 latent frame.")
        self.frames = self.chunk_frames = frames

    def _chunks(self, total: int, context: int) -> list[tuple[int, int, int, int]]:
        """Return (start, stop, start with context, stop with context) of every chunk, in frames."""
        # empty input is one chunk too, so that the wrapped codec itself accepts or refuses it
        spans = [(start, min(start + self.frames, total)) for start in range(0, total or 1, self.frames)]
        first = [max(start - context, 0) // self.chunk_multiple * self.chunk_multiple for start, _ in spans]
        return [(*span, left, min(span[1] + context, total)) for span, left in zip(spans, first, strict=True)]

    def _over_audio(self, function: Callable[[Tensor], Iterable[Tensor]], audio: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors (..., l) that `function` computes of audio, chunk by chunk."""
        hop = self.hop_length
        chunks = self._chunks(-(-audio.shape[-1] // hop), self.codec.encode_context_frames or 0)
        results = [
            [tensor[..., start - left : stop - left] for tensor in function(audio[..., left * hop : right * hop])]
            for start, stop, left, right in chunks
        ]
        return tuple(torch.cat(parts, dim=-1) for parts in zip(*results, strict=True))

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (b, ch, t) to codes (b, k, l)."""
        return self._over_audio(lambda chunk: (self.codec.encode(chunk),), audio)[0]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio (b, ch, t) to codes (b, k, l) and pre-quantization latents (b, k, d, l)."""
        codes, latents = self._over_audio(self.codec.encode_with_continuous, audio)
        return codes, latents

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (b, k, l) to audio (b, ch, l * hop_length)."""
        hop, length = self.hop_length, codes.shape[-1]
        audio, end = torch.empty(0), 0
        for start, stop, left, right in self._chunks(length, self.codec.decode_context_frames or 0):
            chunk = self.codec.decode(codes[..., left:right])[..., (start - left) * hop : (stop - left) * hop]
            if start == 0:  # one tensor from the beginning: concatenation would need twice the memory
                audio = chunk.new_empty(*chunk.shape[:-1], length * hop)
            end = start * hop + chunk.shape[-1]
            audio[..., start * hop : end] = chunk
        return audio[..., :end]


def chunked(codec: Codec) -> Codec:
    """Return `ChunkedCodec(codec)`, so that memory does not grow; the codec itself if that is so, or impossible."""
    is_bounded = codec.encode_context_frames is not None and codec.decode_context_frames is not None
    return ChunkedCodec(codec) if is_bounded and codec.chunk_frames is None else codec
