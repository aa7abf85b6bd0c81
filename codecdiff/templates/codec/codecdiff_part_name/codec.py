"""The codec `part-name`: frames of a cosine transform, each codebook one more digit of them.

It works as it is, and sounds like a telephone line. Replace it by your own codec method by method; its test reports
what no longer holds. Shapes: b batch, k codebook, d codebook dimension, l latent frame, t audio sample.
"""

from __future__ import annotations

import torch
from codecdiff import Codec
from codecdiff.errors import InvalidValue
from torch import Tensor

MU = 255.0  # of the logarithmic scale of coefficients (ITU-T G.711)


def cosines(count: int, length: int) -> Tensor:
    """(count, length) the lowest cosines of the discrete cosine transform of `length` samples."""
    samples = torch.arange(length, dtype=torch.float64) + 0.5
    return torch.cos(torch.pi / length * torch.arange(count)[:, None] * samples)


def digits(count: int) -> Tensor:
    """(3 ** count, count) all vectors of -1, 0 and 1."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * count).view(-1, count)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(b, l, d) vectors, (codebook_size, d) codebook -> (b, l) code of the nearest codebook vector."""
    return (vectors[..., None, :] - codebook).square().sum(-1).argmin(-1)


class PartName(Codec):
    """A codec of mono audio with nothing to load: its codebooks are the digits of balanced ternary numbers.

    sample_rate: in Hz.
    hop_length: audio samples per latent frame.
    num_codebooks: digits of a coefficient; each makes its error three times smaller.
    codebook_dim: coefficients of a frame, the lowest ones; a codebook has 3 ** codebook_dim vectors.
    """

    analysis: Tensor  # (hop_length, d)
    synthesis: Tensor  # (d, hop_length)
    codebooks: Tensor  # (k, codebook_size, d)

    # How many latent frames on either side of a frame its codes, and its audio, depend on: here none. Use None if
    # it is unbounded, as with an LSTM or with attention over everything.
    encode_context_frames = 0
    decode_context_frames = 0

    # The constructor is the schema of the options: each has a type and a default. Tensors are not options.
    def __init__(self, *, sample_rate: int = 8000, hop_length: int = 16, num_codebooks: int = 4, codebook_dim: int = 5):
        super().__init__()
        if not 1 <= codebook_dim <= min(6, hop_length):
            raise InvalidValue(
                f"Invalid codebook_dim={codebook_dim}: expected 1 to 6, at most hop_length={hop_length}."
            )
        # The facts of your codec.
        self.sample_rate = sample_rate
        self.channels = 1
        self.hop_length = hop_length
        self.num_codebooks = num_codebooks
        self.codebook_dim = codebook_dim
        self.codebook_size = 3**codebook_dim
        # Your weights: load them here, as modules or as buffers, so that they move with the codec to another device.
        waves = cosines(codebook_dim, hop_length)
        scales = torch.tensor([1.0] + [2.0] * (codebook_dim - 1)) / hop_length
        steps = 2 / 3 * 3.0 ** -torch.arange(num_codebooks)
        self.register_buffer("analysis", (waves * scales[:, None]).T.float())
        self.register_buffer("synthesis", waves.float())
        self.register_buffer("codebooks", steps[:, None, None] * digits(codebook_dim))
        self.requires_grad_(False)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio in [-1, 1] -> (b, k, l) codes, l = ceil(t / hop_length)."""
        # Row by row, because a batch may be summed in another order, and codes must not depend on it.
        return torch.cat([self._encode(row) for row in audio.split(1)])

    def _encode(self, row: Tensor) -> Tensor:
        residual, codes = self._compressed(row), []
        for codebook in self.codebooks:
            codes.append(nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=1)

    def _compressed(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, l, d) coefficients of its frames in [-1, 1], on a logarithmic scale."""
        missing = -audio.shape[-1] % self.hop_length
        padded = torch.nn.functional.pad(audio[:, 0].to(self.analysis.dtype), (0, missing))
        coefficients = padded.unflatten(1, (-1, self.hop_length)) @ self.analysis
        return (coefficients.sign() * (MU * coefficients.abs()).log1p() / torch.tensor(1 + MU).log()).clamp(-1, 1)

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) codebook vectors."""
        rows = [codebook[codes[:, k]] for k, codebook in enumerate(self.codebooks)]
        return torch.stack(rows, dim=1).transpose(2, 3)

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes of the nearest codebook vectors."""
        # If your codec looks codebook vectors up in another way, as by their angle, do the same here.
        vectors = latents.transpose(2, 3)
        return torch.stack([nearest(vectors[:, k], codebook) for k, codebook in enumerate(self.codebooks)], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, 1, l * hop_length) audio."""
        compressed = self.embed(codes).sum(1).transpose(1, 2)
        coefficients = compressed.sign() * (compressed.abs() * torch.tensor(1 + MU).log()).expm1() / MU
        return (coefficients @ self.synthesis).flatten(1)[:, None]

    # If your codec has pre-quantization latents, return them from `encode_continuous`, for training with them.
