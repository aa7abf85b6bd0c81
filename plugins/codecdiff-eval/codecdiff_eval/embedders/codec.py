"""The embedder `codec`: moments of a codec's own latents."""

from __future__ import annotations

import torch
from torch import Tensor

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Codec


class CodecEmbedder(Windowed):
    """A codec's own encoder: mean and deviation over time of its pre-quantization latents, second by second.

    Every second is encoded alone. A codec of several channels gets the mono mix on each of them.

    Args:
        codec: Any codec; one that has to be fitted, fitted.

    """

    window_seconds = hop_seconds = 1.0

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.requires_grad_(False)
        self.sample_rate = codec.sample_rate
        self.width = 2 * codec.num_codebooks * codec.codebook_dim

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) seconds of audio -> (n, 2 k d): the means of all latents, then their deviations.

        Raises ValueError for a codec that is not fitted.
        """
        if not self.codec.is_fitted:
            raise InvalidValue(
                f"{type(self.codec).__name__} has to be fitted to music before it can embed. "
                "Take the codec of a trained model, or another, such as dac."
            )
        latents = self.codec.encode_continuous(windows[:, None].expand(-1, self.codec.channels, -1).to(device_of(self)))
        latents = latents.flatten(1, 2).float()
        return torch.cat([latents.mean(2), latents.std(2, correction=0)], dim=1)
