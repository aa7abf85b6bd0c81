"""The interface of audio codecs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.interfaces.part import Part
from codecdiff.precision import FrozenModule


class Codec(Part, FrozenModule, ABC):
    """An audio codec with codebooks, coarse to fine. It is frozen: nothing in it is trained with a model.

    Invariant: `quantize(embed(codes)) == codes`, except for `duplicate_codes`.

    Context frames are the latent frames on each side of a frame that its result can depend on. None means that their
    number is unbounded: such a codec cannot work in chunks.
    """

    sample_rate: int  # Hz
    channels: int  # of audio
    hop_length: int  # audio samples per latent frame
    num_codebooks: int
    codebook_size: int  # vectors per codebook
    codebook_dim: int
    encode_context_frames: int | None = None
    decode_context_frames: int | None = None
    chunk_multiple: int = 1  # latent frames of the windows that a network attends in: chunks begin at multiples of it
    chunk_frames: int | None = None  # latent frames that are computed at once; None: all, so memory grows with them
    keeps_codes: ClassVar[bool] = False  # a wrapper whose codes are those of the codec inside, its argument `codec`
    duplicate_codes: frozenset[tuple[int, int]] = frozenset()  # (codebook, code) that quantize to another code

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each of the k rows of codes, 0 coarsest. Rows of one level are equally fine.

        A level of more than one code per frame has a row for each of them, adjacent, in order of time.
        """
        return tuple(range(self.num_codebooks))

    @property
    def refines(self) -> tuple[int | None, ...]:
        """The level that each level refines, None for one that refines none; by default, the one before it.

        The number of a level is its name and its place in the usual order, not what it depends on.
        """
        return (None, *range(max(self.levels)))

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop_length

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (b, ch, t), t >= 1, to int64 codes (b, k, l), l = ceil(t / hop_length), padded on the right."""

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """Look up the codebook vectors of codes (b, k, l): latents (b, k, d, l)."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> Tensor:
        """Return the codes (b, k, l) of latents (b, k, d, l), by the codec's own lookup rule."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (b, k, l) to audio (b, ch, l * hop_length)."""

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """Encode audio (b, ch, t) to pre-quantization latents (b, k, d, l). By default, the embedded codes."""
        return self.embed(self.encode(audio))

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return `encode(audio)` and `encode_continuous(audio)`. Override it if one pass computes both."""
        return self.encode(audio), self.encode_continuous(audio)

    def normalize(self, latents: Tensor) -> Tensor:
        """Turn latents (b, k, d, l) of the wrapped codec into those of this one. By default, they are the same."""
        return latents

    @property
    def is_fitted(self) -> bool:
        """Whether the codec is ready to encode. If not, call `fit` or `load_fitted_state` first."""
        return True

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Fit the codec to clips of audio (ch, t). By default, there is nothing to fit."""

    def fitted_state(self) -> dict[str, Tensor]:
        """Return the tensors that were fitted, which are saved with a model. By default, none."""
        return {}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors of `fitted_state`. Raises InvalidValue if their names are not the expected ones."""
        if state:
            raise InvalidValue(f"{type(self).__name__} has no fitted state, but got {sorted(state)}.")
