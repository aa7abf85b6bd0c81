"""The trained starter codec: a small neural codec with the structure of DAC, whose weights come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codecdiff.codecs import PretrainedCodec, nearest_vectors
from codecdiff.errors import UserError
from codecdiff.huggingface import is_building_skeleton
from codecdiff_starter.codec_network import SAMPLE_RATE, CodecNetwork, NetworkConfig
from codecdiff_starter.phases import HOP

WEIGHTS = Path(__file__).with_name("codec.safetensors")
CONFIG_KEY = "network"  # of the file's metadata


class InvalidWeights(UserError, ValueError):
    """A file is not the weights of this codec."""


class NeuralCodec(PretrainedCodec):
    """A neural codec of DAC's structure: 44.1 kHz mono, 86 frames per second, 9 codebooks of 1024 vectors of size 8.

    A small convolutional network at the frame rate encodes short-time spectra, low frequencies with their phases;
    another decodes the complex spectrum, so tones keep their pitch. Codes are looked up by Euclidean distance.

    Args:
        weights: A file that `python -m codecdiff_starter.train_codec` wrote; by default, that of the package.

    Raises:
        InvalidWeights: The file does not exist, or holds something else.

    """

    sample_rate = SAMPLE_RATE
    channels = 1
    hop_length = HOP
    path_options: ClassVar = {"weights": "read"}

    def __init__(self, *, weights: str | None = None) -> None:
        super().__init__()
        network = network_from_file(Path(weights) if weights else WEIGHTS)
        self.num_codebooks = network.config.num_codebooks
        self.codebook_size = network.config.codebook_size
        self.codebook_dim = network.config.codebook_dim
        self.encode_context_frames = network.encode_context_frames
        self.decode_context_frames = network.decode_context_frames
        self.set_network(network)

    @property
    def quantizers(self) -> list[Any]:
        """The network's quantizer of every codebook."""
        return self.network.levels

    def encode_row(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 1, t) audio -> (1, k, l) codes and (1, k, d, l): each level's projection of the residual before it."""
        features = self.network.features(self.pad_to_frames(audio)[:, 0])
        codes, continuous = self.network.quantize(self.network.encoder(features))
        return codes, continuous.mT

    def codebook_vectors(self, quantizer: Any, codes: Tensor) -> Tensor:
        """(b, l) codes -> (b, d, l) codebook vectors."""
        return quantizer.codebook[codes].mT

    def nearest_codes(self, quantizer: Any, latents: Tensor) -> Tensor:
        """(b, d, l) latents -> (b, l) codes of the nearest vectors."""
        return nearest_vectors(latents.mT, quantizer.codebook)

    def decode_row(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, 1, t) audio, which can exceed [-1, 1]."""
        return self.network.decoder(self.network.dequantize(codes))[:, None]


def network_from_file(file: Path) -> CodecNetwork:
    """Read a network that `train_codec.write_network` wrote, in float32. Raises InvalidWeights for another file."""
    try:
        with safe_open(file, framework="pt") as stored:
            config = TypeAdapter(NetworkConfig).validate_json((stored.metadata() or {})[CONFIG_KEY])
            with torch.device("meta"):
                expected = {name: list(tensor.shape) for name, tensor in CodecNetwork(config).state_dict().items()}
            if expected != {name: stored.get_slice(name).get_shape() for name in stored.keys()}:  # noqa: SIM118
                raise ValueError("its tensors are not those of its network")
            state = {name: stored.get_tensor(name).float() for name in expected}
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise InvalidWeights(
            f"'{file}' does not hold the weights of a NeuralCodec ({error}). Name a file that "
            "`python -m codecdiff_starter.train_codec` wrote, or leave `weights` out for those of the package."
        ) from error
    with torch.random.fork_rng(devices=[]):
        network = CodecNetwork(config)
    if not is_building_skeleton():
        network.load_state_dict(state)
    return network
