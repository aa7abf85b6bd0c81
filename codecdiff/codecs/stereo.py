"""Two channels through a codec that hears one."""

from __future__ import annotations

from collections.abc import Iterable

from einops import rearrange
from torch import Tensor

from codecdiff.codecs.wrapper import CodecWrapper
from codecdiff.interfaces import Codec


class StereoCodec(CodecWrapper):
    """Left and right, each through the same mono codec: 2k rows of codes on k levels.

    The two rows of a level stand together, left first, so that a pattern which names levels makes both at once, and
    one that goes row by row (delayed, flattened) keeps them side by side. Twice the codes and twice the cost of mono;
    what both channels hold in common is coded twice.

    Raises:
        ValueError: The codec is not mono.

    """

    def __init__(self, codec: Codec):
        super().__init__(codec)
        if codec.channels != 1:
            raise ValueError(
                f"StereoCodec takes a codec that hears one channel; {type(codec).__name__} hears {codec.channels}. "
                "Use it as it is."
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
        """Entries that quantise to another index, in both rows of their codebook."""
        return frozenset((2 * k + side, index) for k, index in self.codec.duplicate_codes for side in range(2))

    def encode(self, audio: Tensor) -> Tensor:
        """(b, 2, t) audio -> (b, 2k, l) codes."""
        return _beside(self.codec.encode(self._apart(audio)))

    def embed(self, codes: Tensor) -> Tensor:
        """(b, 2k, l) codes -> (b, 2k, d, l) latents."""
        return _beside(self.codec.embed(_apart(codes)))

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, 2k, d, l) latents -> (b, 2k, l) codes."""
        return _beside(self.codec.quantize(_apart(latents)))

    def decode(self, codes: Tensor) -> Tensor:
        """(b, 2k, l) codes -> (b, 2, l * hop_length) audio."""
        return rearrange(self.codec.decode(_apart(codes)), "(b ch) 1 t -> b ch t", ch=2)

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, 2, t) audio -> (b, 2k, d, l) latents before quantisation."""
        return _beside(self.codec.encode_continuous(self._apart(audio)))

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 2, t) audio -> (b, 2k, l) codes and (b, 2k, d, l) latents before quantisation."""
        codes, projections = self.codec.encode_with_continuous(self._apart(audio))
        return _beside(codes), _beside(projections)

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the wrapped codec to clips (2, t): to either channel, as music of its own."""
        self.codec.fit((channel for clip in clips for channel in clip.split(1)), seed=seed)

    def _apart(self, audio: Tensor) -> Tensor:
        """(b, 2, t) stereo -> (2b, 1, t) mono. Raises ValueError for any other audio."""
        if audio.ndim != 3 or audio.shape[1] != 2:
            raise ValueError(f"StereoCodec encodes audio of shape (b, 2, t), but got {tuple(audio.shape)}.")
        return rearrange(audio, "b ch t -> (b ch) 1 t")


def _apart(rows: Tensor) -> Tensor:
    """(b, 2k, ...) of both channels -> (2b, k, ...) of each."""
    return rearrange(rows, "b (k ch) ... -> (b ch) k ...", ch=2)


def _beside(rows: Tensor) -> Tensor:
    """(2b, k, ...) of each channel -> (b, 2k, ...) of both."""
    return rearrange(rows, "(b ch) k ... -> b (k ch) ...", ch=2)
