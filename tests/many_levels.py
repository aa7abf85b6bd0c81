"""A codec of 64 levels, half of them twice as fast as the others, with nothing to load."""

from __future__ import annotations

import math

import torch
from small import noise
from torch import Tensor

from codecdiff.codecs import ResidualCodec

POSITIONS, SAMPLES = 2, 16  # of a frame, and of a position


class ManyLevels(ResidualCodec):
    """The lowest cosines of every 16 samples, refined by 64 small codebooks."""

    sample_rate, channels, hop_length = 8000, 1, POSITIONS * SAMPLES
    rates = (1,) * 32 + (2,) * 32
    num_codebooks, codebook_size, codebook_dim = 96, 16, 4
    encode_context_frames = decode_context_frames = 0
    codebooks: Tensor  # (64, codebook_size, d)
    cosines: Tensor  # (d, SAMPLES), orthonormal rows

    def __init__(self) -> None:
        super().__init__()
        sizes = 0.93 ** torch.arange(64)[:, None, None]
        self.register_buffer("codebooks", 0.4 * sizes * noise(64, self.codebook_size, self.codebook_dim))
        frequency, sample = torch.arange(1, self.codebook_dim + 1)[:, None], torch.arange(SAMPLES) + 0.5
        self.register_buffer("cosines", (torch.pi / SAMPLES * frequency * sample).cos() * math.sqrt(2 / SAMPLES))

    def encode_features(self, audio: Tensor) -> Tensor:
        return self.cosines @ audio[:, 0].unflatten(1, (-1, SAMPLES)).mT

    def decode_features(self, features: Tensor) -> Tensor:
        return (self.cosines.T @ features).mT.flatten(1)[:, None]
