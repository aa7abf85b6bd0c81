"""The codec `part-name`: frames of a cosine transform, each codebook one more digit of them.

It works as it is, and sounds like a telephone line. Replace its two networks and its codebooks by your own; its test
reports what no longer holds. Shapes: b batch, k codebook, d codebook dimension, l latent frame, t audio sample.
"""

from __future__ import annotations

import torch
from codecdiff.codecs import ResidualCodec
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


class PartName(ResidualCodec):
    """A codec of mono audio with nothing to load: its codebooks are the digits of balanced ternary numbers.

    The base class encodes level by level: each codebook holds the vectors nearest to what those before it leave. A
    codec of another kind is a subclass of `codecdiff.Codec`.

    sample_rate: in Hz.
    hop_length: audio samples per latent frame.
    num_codebooks: digits of a coefficient; each makes its error three times smaller.
    codebook_dim: coefficients of a frame, the lowest ones; a codebook has 3 ** codebook_dim vectors.
    """

    codebooks: Tensor  # (k, codebook_size, d)
    analysis: Tensor  # (d, hop_length)
    synthesis: Tensor  # (hop_length, d)

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
        self.register_buffer("codebooks", steps[:, None, None] * digits(codebook_dim))
        self.register_buffer("analysis", (waves * scales[:, None]).float())
        self.register_buffer("synthesis", waves.T.float())
        self.requires_grad_(False)

    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, 1, l * hop_length) audio -> (1, d, l) coefficients in [-1, 1], on a logarithmic scale: your encoder."""
        frames = audio[:, 0].unflatten(1, (-1, self.hop_length))
        coefficients = self.analysis @ frames.mT
        return (coefficients.sign() * (MU * coefficients.abs()).log1p() / torch.tensor(1 + MU).log()).clamp(-1, 1)

    def decode_features(self, features: Tensor) -> Tensor:
        """(1, d, l) sums of codebook vectors -> (1, 1, l * hop_length) audio: your decoder."""
        coefficients = features.sign() * (features.abs() * torch.tensor(1 + MU).log()).expm1() / MU
        return (self.synthesis @ coefficients).mT.flatten(1)[:, None]

    # If vectors are projected to the width of your networks, or looked up in another way, as by their angle, override
    # `project_in`, `project_out` and `nearest_codes`; for levels of several codes per frame, set `rates`.
