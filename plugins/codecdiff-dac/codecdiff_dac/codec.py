"""DAC as a codec of codecdiff, on transformers' implementation or on the original one, which compute the same."""

import math
from typing import Any, Literal

from torch import Tensor

from codecdiff.codecs import PretrainedCodec, context_frames
from codecdiff_dac.config import MODELS
from codecdiff_dac.weights import ORIGINAL, is_original, original_network, read_network

Backend = Literal["transformers", "descript"]


class DAC(PretrainedCodec):
    """The Descript Audio Codec: mono, 9 codebooks of 1024 vectors of 8 dimensions at 44.1 kHz.

    Decoding takes about 100 MB of memory per second of audio; networks with an odd stride (24 and 16 kHz) end 8 samples
    early. Codebook vectors are looked up by direction alone.

    Args:
        model: A Hugging Face id (`descript/dac_44khz`, `dac_24khz`, `dac_16khz`), a local folder that contains
            `config.json` and `model.safetensors`, or a `weights.pth` of the original package.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        backend: Whose network computes: that of `transformers`, or that of the package descript-audio-codec. Either
            reads every kind of model.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete DAC.
        ImportError: The backend is `descript`, and its package is not installed.

    Source: Kumar et al. (2023), High-Fidelity Audio Compression with Improved RVQGAN, arXiv:2306.06546.

    """

    channels = 1

    def __init__(
        self, model: str = "descript/dac_44khz", *, revision: str | None = None, backend: Backend = "transformers"
    ) -> None:
        super().__init__()
        uses_original = ORIGINAL.is_selected(backend)
        network = read_network(model) if is_original(model) else MODELS.load(model, self.pin_revision(model, revision))
        config = network.config
        self.sample_rate = config.sampling_rate
        # Not config.hop_length: the released 24 kHz configuration has 512 there, and its network hops 320.
        self.hop_length = math.prod(config.downsampling_ratios)
        self.num_codebooks = config.n_codebooks
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.codebook_dim
        self.encode_context_frames = context_frames(network.encoder, self.hop_length, 1)
        self.decode_context_frames = context_frames(network.decoder, 1, self.hop_length)
        self.set_network(original_network(network) if uses_original else network)

    @property
    def quantizers(self) -> list[Any]:
        """The network's quantizer of every codebook."""
        return list(self.network.quantizer.quantizers)

    def quantize_level(self, quantizer: Any, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, z, l) residual -> (1, l) codes, (1, d, l) latents and (1, z, l) features, as the network rounds them."""
        features, _, _, codes, latents = quantizer(residual)
        return codes, latents, features

    def project_out(self, quantizer: Any, vectors: Tensor) -> Tensor:
        """(1, d, l) codebook vectors -> (1, z, l) features."""
        return quantizer.out_proj(vectors)

    def codebook_vectors(self, quantizer: Any, codes: Tensor) -> Tensor:
        """(b, l) codes -> (b, d, l) codebook vectors, before they are projected up for the decoder."""
        return quantizer.codebook(codes).mT

    def nearest_codes(self, quantizer: Any, latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes: the vector nearest in direction. Length never matters."""
        return quantizer.decode_latents(latents)[1]
