"""EnCodec as a codec of codecdiff, on transformers' implementation or on the original one, which give the same."""

from itertools import chain
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel

from codecdiff import Codec
from codecdiff.codecs import find_duplicate_codes
from codecdiff.huggingface import commit_of, not_found, require_complete
from codecdiff.precision import exactly
from codecdiff_encodec.originals import original_network, original_package
from codecdiff_encodec.shapes import codebooks_at, shape_of

Backend = Literal["transformers", "encodec"]

LOUDNESS = -20.0  # dBFS: peaks of up to ten times the root mean square are not clipped


class EnCodec(Codec):
    """EnCodec: entries of 128 dimensions, 1024 per codebook at 24 kHz and 48 kHz stereo, 2048 at 32 kHz.

    Its LSTMs read from the first frame on, so there is no halo and it does not work in chunks: memory follows the
    longest row. Rows of a batch are encoded and decoded one by one, so a result never depends on its neighbours.

    The 48 kHz model was trained on seconds of audio, each brought to a root mean square of 1 by a scale that was kept
    beside the codes. Codes alone cannot carry it. So a whole clip is brought there at once, and what is decoded has
    about the level `loudness`, however loud the clip was. The other models keep loudness in their codes.

    Args:
        model: A Hugging Face id (`facebook/encodec_24khz`, `encodec_32khz`, `encodec_48khz`) or a local folder that
            holds `config.json` and `model.safetensors`.
        bandwidth: In kbit/s, one that the model was trained for; it decides the number of codebooks. The widest if
            None.
        loudness: Of what the 48 kHz model decodes, as the root mean square of the mean of its channels, in dBFS; -20 if
            None. The others have none.
        backend: Whose network computes: that of `transformers`, or that of the package encodec, which is an extra of
            this one and not for commercial use. Both read the same files.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.

    Raises:
        LookupError: There is no such model.
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
        if backend == "encodec":
            original_package()  # before weights are fetched
        elif backend != "transformers":
            raise ValueError(f"EnCodec has no backend {backend!r}. There are: transformers, encodec.")
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        network = self._cut(_load(model, revision))
        self._take(network.config, original_network(network) if backend == "encodec" else network)
        self.duplicate_codes = find_duplicate_codes(self)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the facts of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(EnCodec, part).__init__()
        shape = shape_of(part.arguments["model"], part.arguments["revision"])
        with torch.device("meta"):
            network = part._cut(EncodecModel(shape).float())  # whatever the backend: its weights are as many
        part._take(shape, network.to("meta"))  # some buffers are made on the CPU all the same
        return part

    def _cut(self, network: Any) -> Any:
        """Keep of a network the codebooks that the bandwidth has, and of weight norm the weights that it gives."""
        count = codebooks_at(network.config, self.arguments["bandwidth"], self.arguments["model"])
        network.quantizer.layers = network.quantizer.layers[:count]
        for module in network.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return network

    def _take(self, config: EncodecConfig, network: Any) -> None:
        """Take on a network of either backend, frozen, and its facts."""
        self.network = network
        self.sample_rate = config.sampling_rate
        self.channels = config.audio_channels
        self.hop_length = config.hop_length
        self.num_codebooks = len(self._levels)
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.hidden_size  # there are no projections
        self.loudness = self._loudness_of(config)
        self.requires_grad_(False)
        self.train(False)

    def _loudness_of(self, config: EncodecConfig) -> float | None:
        """Give the level of what is decoded, in dBFS; None if the codes carry it."""
        asked = self.arguments["loudness"]
        if config.normalize:
            return LOUDNESS if asked is None else asked
        if asked is not None:
            raise ValueError(
                f"The codes of the EnCodec model {self.arguments['model']!r} carry the loudness of what they encode. "
                "Leave `loudness` out; it is for models that normalise, as the one of 48 kHz does."
            )
        return None

    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) int64 codes, l = ceil(t / hop_length), padded with silence; any t >= 1."""
        return self.encode_with_continuous(audio)[0]

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l): what the levels before each one left over."""
        return self.encode_with_continuous(audio)[1]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> (b, k, l) codes and (b, k, d, l) latents before quantisation, in one pass."""
        if audio.ndim != 3 or audio.shape[1] != self.channels or audio.shape[2] < 1:
            raise ValueError(
                f"This EnCodec encodes audio of shape (b, {self.channels}, t) with t >= 1, but got "
                f"{tuple(audio.shape)}. Mix channels down (`audio.mean(1, keepdim=True)`) or repeat them "
                "(`audio.expand(-1, 2, -1)`)."
            )
        with exactly(audio.device):
            rows = [self._analyse(row) for row in audio.to(self._dtype).split(1)]
        codes, residuals = zip(*rows, strict=True)
        return torch.cat(codes), torch.cat(residuals)

    def _analyse(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(1, ch, t) audio -> (1, k, l) codes and (1, k, d, l) residuals, the first what the encoder gives."""
        if self.loudness is not None:
            audio = audio / (audio.mean(1).square().mean().sqrt() + 1e-8)
        # Whole frames, for the network's own padding is counted in float32, and wrong beyond 2^24 samples.
        residual = self.network.encoder(functional.pad(audio, (0, -audio.shape[-1] % self.hop_length)))
        codes, residuals = [], []
        for level in self._levels:
            codes.append(level.encode(residual))
            residuals.append(residual)
            residual = residual - level.decode(codes[-1])
        return torch.stack(codes, dim=1), torch.stack(residuals, dim=1)

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) codebook entries; their sum over k is what the decoder reads."""
        rows = zip(self._levels_of(codes), codes.long().unbind(1), strict=True)
        return torch.stack([level.decode(row) for level, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes: the nearest entry (Euclidean), each row of the batch alone."""
        levels = self._levels_of(latents)
        with exactly(latents.device):
            rows = [
                torch.stack([level.encode(row) for level, row in zip(levels, sample.unbind(1), strict=True)], dim=1)
                for sample in latents.to(self._dtype).split(1)
            ]
        return torch.cat(rows)

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio."""
        self._levels_of(codes)
        with exactly(codes.device):
            audio = torch.cat([self._synthesise(row) for row in codes.long().split(1)])
        return audio if self.loudness is None else 10 ** (self.loudness / 20) * audio

    def _synthesise(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, ch, l * hop_length) audio, as loud as the network makes it."""
        return self.network.decoder(self.network.quantizer.decode(codes.transpose(0, 1)))

    @property
    def _dtype(self) -> torch.dtype:
        """Precision of the network."""
        return next(self.network.parameters()).dtype

    @property
    def _levels(self) -> list[Any]:
        """Give the quantiser of every level; both implementations have `encode` and `decode` of one."""
        quantizer = self.network.quantizer
        return list(getattr(quantizer, "vq", quantizer).layers)

    def _levels_of(self, rows: Tensor) -> list[Any]:
        """Give the quantiser of every row of codes or latents (b, k, ...), once k is known to be right."""
        if rows.shape[1] != self.num_codebooks:
            raise ValueError(
                f"This EnCodec has {self.num_codebooks} codebooks, but got {rows.shape[1]} rows in {tuple(rows.shape)}."
            )
        return self._levels


def _load(model: str, revision: str | None) -> Any:
    """Load an EnCodec in float32, from safetensors, into memory of its own.

    In a file weights lie at any address, and the last bits of what some kernels give depend on how it is aligned.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # it draws before it reads
            loaded: Any = EncodecModel.from_pretrained(
                model, revision=revision or "main", use_safetensors=True, output_loading_info=True
            )
    except OSError as error:
        raise not_found("EnCodec model", model, revision, "config.json and model.safetensors", error) from error
    network, report = loaded
    require_complete("EnCodec", model, report["missing_keys"])
    for tensor in chain(network.parameters(), network.buffers()):
        tensor.data = tensor.data.clone()
    return network.float()
