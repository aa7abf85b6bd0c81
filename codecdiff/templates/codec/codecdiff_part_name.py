"""The codec `part-name`: frames of a cosine transform, each codebook one more digit of them.

It works as it is, and sounds like a telephone line. Put your own codec in its place method by method; the test beside
it says what no longer holds. Shapes: b batch, k codebook, d codebook dimension, l latent frame, t audio sample.
"""

from __future__ import annotations

import torch
from codecdiff import Codec
from torch import Tensor

MU = 255.0  # of the logarithmic scale of coefficients (ITU-T G.711)


def cosines(count: int, length: int) -> Tensor:
    """(count, length) the lowest cosines of the discrete cosine transform of `length` samples."""
    samples = torch.arange(length, dtype=torch.float64) + 0.5
    return torch.cos(torch.pi / length * torch.arange(count)[:, None] * samples)


def digits(count: int) -> Tensor:
    """(3 ** count, count) all vectors of -1, 0 and 1."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * count).view(-1, count)


def nearest(vectors: Tensor, entries: Tensor) -> Tensor:
    """(b, l, d) vectors, (entries, d) a codebook -> (b, l) index of the entry nearest to each vector."""
    return (vectors[..., None, :] - entries).square().sum(-1).argmin(-1)


class PartName(Codec):
    """A codec of mono audio with nothing to load: its codebooks are the digits of balanced ternary numbers.

    sample_rate: in Hz.
    hop_length: audio samples per latent frame.
    num_codebooks: digits of a coefficient; each makes its error three times smaller.
    codebook_dim: coefficients of a frame, the lowest ones; a codebook has 3 ** codebook_dim entries.
    """

    analysis: Tensor  # (hop_length, d)
    synthesis: Tensor  # (d, hop_length)
    entries: Tensor  # (k, codebook_size, d)

    # How many latent frames on either side of a frame its codes, and its audio, depend on: here none. Say None if
    # there is no such number, as with an LSTM or with attention over everything.
    encode_context_frames = 0
    decode_context_frames = 0

    # The constructor is the schema of your options: give each a type and a default. Tensors are no options.
    def __init__(self, *, sample_rate: int = 8000, hop_length: int = 16, num_codebooks: int = 4, codebook_dim: int = 5):
        super().__init__()
        if not 1 <= codebook_dim <= min(6, hop_length):
            raise ValueError(f"codebook_dim={codebook_dim}: it is from 1 to 6, and at most hop_length={hop_length}.")
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
        self.register_buffer("entries", steps[:, None, None] * digits(codebook_dim))
        self.requires_grad_(False)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio in [-1, 1] -> (b, k, l) codes, l = ceil(t / hop_length)."""
        # Row by row, because a batch may be summed in another order, and codes may not depend on it.
        return torch.cat([self._encode(row) for row in audio.split(1)])

    def _encode(self, row: Tensor) -> Tensor:
        rest, codes = self._compressed(row), []
        for entries in self.entries:
            codes.append(nearest(rest, entries))
            rest = rest - entries[codes[-1]]
        return torch.stack(codes, dim=1)

    def _compressed(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, l, d) coefficients of its frames in [-1, 1], on a logarithmic scale."""
        missing = -audio.shape[-1] % self.hop_length
        padded = torch.nn.functional.pad(audio[:, 0].to(self.analysis.dtype), (0, missing))
        found = padded.unflatten(1, (-1, self.hop_length)) @ self.analysis
        return (found.sign() * (MU * found.abs()).log1p() / torch.tensor(1 + MU).log()).clamp(-1, 1)

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) entries of the codebooks."""
        rows = [entries[codes[:, k]] for k, entries in enumerate(self.entries)]
        return torch.stack(rows, dim=1).transpose(2, 3)

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes of the nearest entries."""
        # If your codec looks its entries up in another way, as by their angle, do the same here.
        vectors = latents.transpose(2, 3)
        return torch.stack([nearest(vectors[:, k], entries) for k, entries in enumerate(self.entries)], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, 1, l * hop_length) audio."""
        compressed = self.embed(codes).sum(1).transpose(1, 2)
        found = compressed.sign() * (compressed.abs() * torch.tensor(1 + MU).log()).expm1() / MU
        return (found @ self.synthesis).flatten(1)[:, None]

    # If your codec has pre-quantization latents, return them from `encode_continuous`, for training with them.
