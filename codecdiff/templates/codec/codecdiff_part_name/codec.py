"""The codec `part-name`: a cosine transform of frames, quantized digit by digit.

It works as it is, and sounds like a telephone line. Replace `encode_features`, `decode_features` and the codebooks by
your own, and run its test after each change.
Shapes: b batch, k codebook, d codebook dimension, l latent frame, t audio sample.
"""

from __future__ import annotations

import torch
from codecdiff.codecs import ResidualCodec
from codecdiff.errors import InvalidValue
from torch import Tensor

MU = 255.0  # of the logarithmic scale of coefficients (ITU-T G.711)


def cosines(count: int, length: int) -> Tensor:
    """Return the lowest cosines (count, length) of the discrete cosine transform of `length` samples."""
    samples = torch.arange(length, dtype=torch.float64) + 0.5
    return torch.cos(torch.pi / length * torch.arange(count)[:, None] * samples)


def digits(count: int) -> Tensor:
    """Return all vectors (3 ** count, count) of -1, 0 and 1."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * count).view(-1, count)


class PartName(ResidualCodec):
    """A codec for mono audio without weights: its codebooks are the digits of balanced ternary numbers.

    The base class encodes level by level: each codebook quantizes the residual of those before it. For a codec that is
    not residual, subclass `codecdiff.Codec`.

    sample_rate: in Hz.
    hop_length: audio samples per latent frame.
    num_codebooks: digits of a coefficient; each makes the error three times smaller.
    codebook_dim: number of coefficients per frame, the lowest ones; a codebook has 3 ** codebook_dim vectors.
    """

    codebooks: Tensor  # (k, codebook_size, d)
    analysis: Tensor  # (d, hop_length)
    synthesis: Tensor  # (hop_length, d)

    # Number of latent frames on each side that the codes, and the audio, of a frame depend on: here none. Use None if
    # the context is unbounded, as with an LSTM or with attention over the whole clip.
    encode_context_frames = 0
    decode_context_frames = 0

    # The constructor is the schema of the options: each needs a type, and is required if it has no default. Tensors
    # cannot be options.
    def __init__(self, *, sample_rate: int = 8000, hop_length: int = 16, num_codebooks: int = 4, codebook_dim: int = 5):
        super().__init__()
        if not 1 <= codebook_dim <= min(6, hop_length):
            raise InvalidValue(
                f"Invalid codebook_dim={codebook_dim}: expected 1 to 6, at most hop_length={hop_length}."
            )
        # The properties of your codec.
        self.sample_rate = sample_rate
        self.channels = 1
        self.hop_length = hop_length
        self.num_codebooks = num_codebooks
        self.codebook_dim = codebook_dim
        self.codebook_size = 3**codebook_dim
        # Load your weights here, as modules or buffers, so that they move with the codec to another device.
        waves = cosines(codebook_dim, hop_length)
        scales = torch.tensor([1.0] + [2.0] * (codebook_dim - 1)) / hop_length
        steps = 2 / 3 * 3.0 ** -torch.arange(num_codebooks)
        self.register_buffer("codebooks", steps[:, None, None] * digits(codebook_dim))
        self.register_buffer("analysis", (waves * scales[:, None]).float())
        self.register_buffer("synthesis", waves.T.float())
        self.requires_grad_(False)

    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, 1, l * hop_length) audio -> (1, d, l) coefficients in [-1, 1], on a logarithmic scale. Your encoder."""
        frames = audio[:, 0].unflatten(1, (-1, self.hop_length))
        coefficients = self.analysis @ frames.mT
        return (coefficients.sign() * (MU * coefficients.abs()).log1p() / torch.tensor(1 + MU).log()).clamp(-1, 1)

    def decode_features(self, features: Tensor) -> Tensor:
        """(1, d, l) sums of codebook vectors -> (1, 1, l * hop_length) audio. Your decoder."""
        coefficients = features.sign() * (features.abs() * torch.tensor(1 + MU).log()).expm1() / MU
        return (self.synthesis @ coefficients).mT.flatten(1)[:, None]

    # If you override another method that encodes, override `encode_with_continuous`: `encode` and `encode_continuous`
    # return what it returns. Override `project_in` and `project_out` if vectors are projected to the width of your
    # networks, and `nearest_codes` if they are not looked up by Euclidean distance. Set `rates` if levels have several
    # codes per frame.
