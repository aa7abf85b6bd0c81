"""Long audio in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

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
            raise InvalidValue(
                f"{type(codec).__name__} has unbounded context: in chunks its result would not equal the whole."
            )
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

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """Encode audio (b, ch, t) to pre-quantization latents (b, k, d, l)."""
        return self._over_audio(lambda chunk: (self.codec.encode_continuous(chunk),), audio)[0]

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


def context_frames(network: nn.Module, inputs: int, outputs: int, multiple: int = 1) -> int:
    """Return the latent frames on each side of a frame that what a network computes for it can depend on, exactly.

    Args:
        network: Its convolutions run one after the other, in the order of `modules()`. A module that has a
            `window_size` attends in windows of so many positions.
        inputs: Positions of a frame that go in: `hop_length` for an encoder.
        outputs: Positions of a frame that come out: `hop_length` for a decoder.
        multiple: Frames of a window, each of which depends on other ones; the most is returned.

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
