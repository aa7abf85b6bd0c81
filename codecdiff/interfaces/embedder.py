"""The interface of embedders, which turn music into vectors for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from codecdiff.interfaces.part import Part


class Embedder(Part, nn.Module, ABC):
    """Turns music into the vectors that a judge compares. Frozen, and it hears one channel.

    Invariant: the vectors of a clip never depend on the clips beside it, and their number depends on its length alone.
    Windows of one length start `hop_seconds` apart, so that long audio can be embedded in blocks of them.
    """

    sample_rate: int  # Hz
    window_seconds: float  # of audio that one vector is about
    hop_seconds: float  # from one window to the next: a whole number of samples
    halo_seconds: float = 0.0  # of audio on either side of its window that a vector depends on too
    width: int  # of a vector
    policy: str = ""  # in words: how it pads, repeats or cuts audio that is no whole number of windows, and long texts
    reads_text: bool = False  # whether texts have vectors in the same space

    @abstractmethod
    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio, t >= 1 -> (b, w, e) float32 vectors of its windows, in order; a short clip has one."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (n, e) float32 vectors. Raises TypeError where `reads_text` is False."""
        raise TypeError(f"{type(self).__name__} does not read text. Choose an embedder that does, such as clap-music.")

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a judge never trains."""
        return super().train(False)
