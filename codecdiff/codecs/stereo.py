"""Two channels through a mono codec."""

from __future__ import annotations

from collections.abc import Iterable

from einops import rearrange
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper
from codecdiff.errors import InvalidValue
from codecdiff.interfaces.codec import Codec


class StereoCodec(CodecWrapper):
    """Left and right, each through the same mono codec: 2k rows of codes on k levels.

    The two rows of a level are adjacent, left first, so that a pattern which names levels generates both at once, and
    one that goes row by row (delayed, flattened) keeps them together. Twice the codes and twice the cost of mono: what
    both channels have in common is coded twice.

    Raises:
        ValueError: The codec is not mono.

    """

    def __init__(self, codec: Codec):
        super().__init__(codec)
        if codec.channels != 1:
            raise InvalidValue(
                f"StereoCodec wraps a codec of one channel, but {type(codec).__name__} has {codec.channels}. "
                "Use it without StereoCodec."
            )
        self.channels = 2
        self.num_codebooks = 2 * codec.num_codebooks

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each row: those of the wrapped codec, each twice."""
        return tuple(level for level in self.codec.levels for _ in range(2))

    # a property, as in CodecWrapper: a codec that is fitted later has others
    @property
    def duplicate_codes(self) -> frozenset[tuple[int, int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(codebook, code) that quantize to another code, in both rows of their codebook."""
        return frozenset((2 * k + side, code) for k, code in self.codec.duplicate_codes for side in range(2))

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (b, 2, t) to codes (b, 2k, l)."""
        return _join_channels(self.codec.encode(_split_audio(audio)))

    def embed(self, codes: Tensor) -> Tensor:
        """Look up codes (b, 2k, l): latents (b, 2k, d, l)."""
        return _join_channels(self.codec.embed(_split_channels(codes)))

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the codes (b, 2k, l) of latents (b, 2k, d, l)."""
        return _join_channels(self.codec.quantize(_split_channels(latents)))

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (b, 2k, l) to audio (b, 2, l * hop_length)."""
        return rearrange(self.codec.decode(_split_channels(codes)), "(b ch) 1 t -> b ch t", ch=2)

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio (b, 2, t) to codes (b, 2k, l) and pre-quantization latents (b, 2k, d, l)."""
        codes, latents = self.codec.encode_with_continuous(_split_audio(audio))
        return _join_channels(codes), _join_channels(latents)

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the wrapped codec to clips (2, t), each channel as a clip of its own."""
        self.codec.fit((channel for clip in clips for channel in clip.split(1)), seed=seed)


def _split_audio(audio: Tensor) -> Tensor:
    """(b, 2, t) stereo -> (2b, 1, t) mono. Raises ValueError for audio of another shape."""
    if audio.ndim != 3 or audio.shape[1] != 2:
        raise InvalidValue(f"StereoCodec encodes audio of shape (b, 2, t), but got {tuple(audio.shape)}.")
    return rearrange(audio, "b ch t -> (b ch) 1 t")


def _split_channels(rows: Tensor) -> Tensor:
    """(b, 2k, ...) of both channels -> (2b, k, ...) of each."""
    return rearrange(rows, "b (k ch) ... -> (b ch) k ...", ch=2)


def _join_channels(rows: Tensor) -> Tensor:
    """(2b, k, ...) of each channel -> (b, 2k, ...) of both."""
    return rearrange(rows, "(b ch) k ... -> b (k ch) ...", ch=2)
