"""EnCodec as a codec of codecdiff, on transformers' implementation or on the original one, which compute the same."""

from typing import Any, Literal

from torch import Tensor
from torch.nn.utils import parametrize
from transformers import EncodecConfig

from codecdiff.codecs import PretrainedCodec
from codecdiff.errors import InvalidValue
from codecdiff_encodec.config import MODELS, codebooks_at
from codecdiff_encodec.weights import ORIGINAL, original_network

Backend = Literal["transformers", "encodec"]

LOUDNESS = -20.0  # dBFS: peaks of up to ten times the root mean square are not clipped


class EnCodec(PretrainedCodec):
    """EnCodec: codebook vectors of 128 dimensions, 1024 per codebook at 24 kHz and 48 kHz stereo, 2048 at 32 kHz.

    Its LSTMs read from the first frame on, so its context is unbounded and it does not work in chunks.

    The 48 kHz model was trained on seconds of audio, each normalized to a root mean square of 1 by a scale that was
    kept beside the codes. Codes alone cannot carry it. So a whole clip is normalized at once, and what is decoded has
    about the level `loudness`, however loud the clip was. The codes of the other models carry loudness.

    Args:
        model: A Hugging Face id (`facebook/encodec_24khz`, `encodec_32khz`, `encodec_48khz`) or a local folder that
            contains `config.json` and `model.safetensors`.
        bandwidth: In kbit/s, one that the model was trained for; it decides the number of codebooks. The widest if
            None.
        loudness: Of what the 48 kHz model decodes, as the root mean square of the mean of its channels, in dBFS; -20 if
            None. The others have none.
        backend: Whose network computes: that of `transformers`, or that of the package encodec, which is an extra of
            this one and not for commercial use. Both read the same files.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete EnCodec, or it has no such bandwidth, or no loudness.
        ImportError: The backend is `encodec`, and its package is not installed.

    Source: Défossez et al. (2022), High Fidelity Neural Audio Compression, arXiv:2210.13438; the 32 kHz model: Copet
    et al. (2023), Simple and Controllable Music Generation, arXiv:2306.05284.

    """

    def __init__(
        self,
        model: str = "facebook/encodec_32khz",
        *,
        bandwidth: float | None = None,
        loudness: float | None = None,
        backend: Backend = "transformers",
        revision: str | None = None,
    ) -> None:
        super().__init__()
        uses_original = ORIGINAL.is_selected(backend)
        network = MODELS.load(model, self.pin_revision(model, revision))
        config = network.config
        self.sample_rate = config.sampling_rate
        self.channels = config.audio_channels
        self.hop_length = config.hop_length
        self.num_codebooks = codebooks_at(config, bandwidth, model)
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.hidden_size  # vectors are not projected
        self.loudness = loudness_of(config, loudness, model)
        trim(network, self.num_codebooks)
        self.set_network(original_network(network) if uses_original else network)

    @property
    def quantizers(self) -> list[Any]:
        """The quantizer of every codebook; both implementations have `encode` and `decode` of one."""
        quantizer = self.network.quantizer
        return list(getattr(quantizer, "vq", quantizer).layers)

    def encode_row(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(1, ch, t) audio -> (1, k, l) codes and (1, k, d, l) residuals, the first what the encoder computes."""
        if self.loudness is not None:
            audio = audio / (audio.mean(1).square().mean().sqrt() + 1e-8)
        return super().encode_row(audio)

    def decode_features(self, features: Tensor) -> Tensor:
        """(1, d, l) sums of vectors -> (1, ch, l * hop_length) audio, at the level `loudness` if there is one."""
        audio = self.network.decoder(features)
        return audio if self.loudness is None else 10 ** (self.loudness / 20) * audio


def loudness_of(config: EncodecConfig, loudness: float | None, model: str) -> float | None:
    """Return the level of what is decoded, in dBFS; None if the codes carry it. Raises ValueError if both do."""
    if config.normalize:
        return LOUDNESS if loudness is None else loudness
    if loudness is not None:
        raise InvalidValue(
            f"The codes of the EnCodec model {model!r} carry the loudness of what they encode. "
            "Leave `loudness` out; it is for models that normalize, as the one of 48 kHz does."
        )
    return None


def trim(network: Any, num_codebooks: int) -> None:
    """Remove from a network the codebooks after `num_codebooks`, and multiply weight norm out."""
    network.quantizer.layers = network.quantizer.layers[:num_codebooks]
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
