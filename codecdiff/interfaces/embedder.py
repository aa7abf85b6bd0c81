"""The interface of embedders, which compute vectors of music for evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from codecdiff.interfaces.part import Part
from codecdiff.precision import FrozenModule


class Embedder(Part, FrozenModule, ABC):
    """Computes embeddings of windows of mono audio. It is frozen.

    Invariant: the vectors of a clip do not depend on the other clips of a batch, and their number depends on its length
    alone. Windows of one length start `hop_seconds` apart, so that long audio can be embedded in blocks of windows.
    """

    sample_rate: int  # Hz
    window_seconds: float  # length of the audio that one vector describes
    hop_seconds: float  # between the starts of two windows; a whole number of samples
    context_seconds: float = 0.0  # of audio on each side of its window that a vector can depend on
    width: int  # of a vector
    policy: str = ""  # in words: how audio that is not a whole number of windows is padded or cut, and long texts
    reads_text: bool = False  # whether `embed_text` is implemented

    @abstractmethod
    def embed(self, audio: Tensor) -> Tensor:
        """Embed audio (b, t), t >= 1: float32 vectors (b, w, e) of its w >= 1 windows, in order."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Embed n texts in the space of audio: float32 vectors (n, e). Raises TypeError unless `reads_text`."""
        raise TypeError(f"{type(self).__name__} does not read text. Choose an embedder that does, such as clap-music.")
