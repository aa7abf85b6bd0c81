"""SNAC as a codec of codecdiff, on the network of the package snac."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from snac.layers import DecoderBlock, NoiseBlock
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parametrize

from codecdiff import rng
from codecdiff.codecs import PretrainedCodec, context_frames
from codecdiff.errors import InvalidValue
from codecdiff_snac.config import MODELS


class SNAC(PretrainedCodec):
    """The Multi-Scale Neural Audio Codec: mono, levels of 4096 vectors of 8 dimensions, each twice as fast as the last.

    A latent frame is that of the slowest level, which has one code in it. The others have 2, 4 and 8, each in a row of
    its own: 1 + 2 + 4 + 8 = 15 rows at 32 and 44.1 kHz, 1 + 2 + 4 = 7 at 24 kHz. Vectors are looked up by direction.

    The networks for music attend in windows of 32 positions, which are 4 frames: chunks begin at multiples of 4 frames
    (`chunk_multiple`), and where music ends within a window, its last frame is decoded as if it went on.

    The decoder adds noise at each of its resolutions. It is drawn from the codes of each frame, so the same codes have
    the same audio, in chunks too.

    Args:
        model: A Hugging Face id (`hubertsiuzdak/snac_44khz`, `snac_32khz`, `snac_24khz`) or a local folder that
            contains `config.json` and `model.safetensors` or `pytorch_model.bin`.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete SNAC.

    Source: Siuzdak, Grötschla & Lanzendörfer (2024), SNAC: Multi-Scale Neural Audio Codec, arXiv:2410.14411.

    """

    channels = 1

    def __init__(self, model: str = "hubertsiuzdak/snac_44khz", *, revision: str | None = None) -> None:
        super().__init__()
        network = MODELS.load(model, self.pin_revision(model, revision))
        config = network.config
        positions, *_, fastest = strides = config.vq_strides  # of the encoder, in a frame
        if fastest != 1 or any(positions % stride for stride in strides):
            raise InvalidValue(
                f"Invalid vq_strides={strides} of the SNAC {model!r}: expected divisors of the first to 1."
            )
        self.sample_rate = config.sampling_rate
        self.hop_length = positions * math.prod(config.encoder_rates)
        self.rates = tuple(positions // stride for stride in strides)
        self.num_codebooks = sum(self.rates)
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.codebook_dim
        self.chunk_multiple = math.lcm(positions, config.attn_window_size or 1) // positions
        self.encode_context_frames = context_frames(network.encoder, self.hop_length, positions, self.chunk_multiple)
        self.decode_context_frames = context_frames(network.decoder, positions, self.hop_length, self.chunk_multiple)
        for module in network.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        self.set_network(network)

    @property
    def quantizers(self) -> list[Any]:
        """The network's quantizer of every level."""
        return list(self.network.quantizer.quantizers)

    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, 1, l * hop_length) audio -> (1, z, n) features, of whole windows."""
        window = self.chunk_multiple * self.hop_length
        return self.network.encoder(functional.pad(audio, (0, -audio.shape[-1] % window)))

    def quantize_level(self, quantizer: Any, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, z, n) residual -> (1, n) codes, (1, d, n) latents and (1, z, n) features, as the package rounds them."""
        latents = quantizer.in_proj(residual)
        vectors, codes = quantizer.decode_latents(latents)
        return codes, latents, quantizer.out_proj(latents + (vectors - latents))

    def project_out(self, quantizer: Any, vectors: Tensor) -> Tensor:
        """(1, d, n) codebook vectors -> (1, z, n) features."""
        return quantizer.out_proj(vectors)

    def codebook_vectors(self, quantizer: Any, codes: Tensor) -> Tensor:
        """(b, l) codes -> (b, d, l) codebook vectors, before they are projected up for the decoder."""
        return quantizer.decode_code(codes)

    def nearest_codes(self, quantizer: Any, latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes: the vector nearest in direction. Length never matters."""
        return quantizer.decode_latents(latents)[1]

    def decode_row(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, 1, t) audio of whole windows."""
        missing = -codes.shape[-1] % self.chunk_multiple
        codes = torch.cat([codes, codes[..., -1:].expand(-1, -1, missing)], dim=-1)
        features, noise = self.features_of(codes), self.decoder_noise(codes)
        for layer in self.network.decoder.model:
            for step in layer.block if isinstance(layer, DecoderBlock) else (layer,):
                is_noise = isinstance(step, NoiseBlock)
                features = features + next(noise).to(features) * step.linear(features) if is_noise else step(features)
        return features

    def decoder_noise(self, codes: Tensor) -> Iterator[Tensor]:
        """(1, k, l) codes -> (1, 1, n) standard normal noise for each resolution of the decoder, coarse to fine."""
        config = self.network.config
        sizes = [max(self.rates) * math.prod(config.decoder_rates[: i + 1]) for i in range(len(config.decoder_rates))]
        generators = [rng.generator("codecdiff-snac.decoder", *frame) for frame in codes[0].T.tolist()]
        return (noise.reshape(1, 1, -1) for noise in rng.row_noise((sum(sizes),), generators).split(sizes, dim=1))
