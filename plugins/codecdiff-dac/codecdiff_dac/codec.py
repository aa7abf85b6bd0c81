"""DAC as a codec of codecdiff, on transformers' implementation or on the original one, which give the same."""

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DacConfig, DacModel

from codecdiff import Codec
from codecdiff.codecs import find_duplicate_codes
from codecdiff.huggingface import commit_of, not_found, require_complete
from codecdiff.precision import exactly
from codecdiff_dac.halos import decode_context_frames, encode_context_frames
from codecdiff_dac.originals import is_original, original_class, original_network, read_network
from codecdiff_dac.shapes import shape_of

Backend = Literal["transformers", "descript"]

UNCONVERTED = (
    " Weights still under weight norm have to be converted to transformers' DAC; those of the original package are "
    "read from its own file: model=weights.pth."
)


class DAC(Codec):
    """The Descript Audio Codec: mono, 9 codebooks of 1024 entries of 8 dimensions at 44.1 kHz.

    Rows of a batch are encoded and decoded one by one: a result never depends on its neighbours, and memory
    follows the longest row (about 100 MB per second of audio when decoding), not the batch.

    Args:
        model: A Hugging Face id (`descript/dac_44khz`, `dac_24khz`, `dac_16khz`), a local folder that holds
            `config.json` and `model.safetensors`, or a `weights.pth` of the original package.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.
        backend: Whose network computes: that of `transformers`, or that of the package descript-audio-codec. Either
            reads every kind of model.

    Raises:
        LookupError: There is no such model.
        ValueError: The files are not a complete DAC.
        ImportError: The backend is `descript`, and its package is not installed.

    Source: Kumar et al. (2023), High-Fidelity Audio Compression with Improved RVQGAN, arXiv:2306.06546.

    """

    channels = 1

    def __init__(
        self, model: str = "descript/dac_44khz", *, revision: str | None = None, backend: Backend = "transformers"
    ) -> None:
        super().__init__()
        if backend == "descript":
            original_class()  # before weights are fetched
        elif backend != "transformers":
            raise ValueError(f"DAC has no backend {backend!r}. There are: transformers, descript.")
        if is_original(model):
            network = read_network(model)
        else:
            self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
            network = _load(model, revision)
        self._take(network.config, original_network(network) if backend == "descript" else network)
        self.duplicate_codes = find_duplicate_codes(self)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the facts of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(DAC, part).__init__()
        shape = shape_of(part.arguments["model"], part.arguments["revision"])
        with torch.device("meta"):
            part._take(shape, DacModel(shape).float())  # whatever the backend: its weights are as many
        return part

    def _take(self, config: DacConfig, network: Any) -> None:
        """Take on a network of either backend, frozen, and its facts."""
        self.network = network
        self.sample_rate = config.sampling_rate
        # Not config.hop_length: the released 24 kHz configuration gives 512 there, and its network hops 320.
        self.hop_length = math.prod(config.downsampling_ratios)
        self.num_codebooks = config.n_codebooks
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.codebook_dim
        self.encode_context_frames = encode_context_frames(config.downsampling_ratios)
        self.decode_context_frames = decode_context_frames(config.upsampling_ratios)
        self.requires_grad_(False)
        self.train(False)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.network.parameters()).dtype

    def encode(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, k, l) int64 codes, l = ceil(t / hop_length), padded with silence; any t >= 1."""
        return self.encode_with_continuous(audio)[0]

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, k, d, l): each level's projection of what the levels before it left over."""
        return self.encode_with_continuous(audio)[1]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1, t) audio -> (b, k, l) codes and (b, k, d, l) projections before quantisation, in one pass."""
        if audio.ndim != 3 or audio.shape[1] != self.channels or audio.shape[2] < 1:
            raise ValueError(
                f"DAC encodes mono audio of shape (b, 1, t) with t >= 1, but got {tuple(audio.shape)}. "
                "Mix channels down (`audio.mean(1, keepdim=True)`), or encode each as a row of the batch."
            )
        whole_frames = functional.pad(audio, (0, -audio.shape[-1] % self.hop_length)).to(self.dtype)
        with exactly(audio.device):
            # The quantiser gives (sum, codes, projections, losses...).
            rows = [self.network.quantizer(self.network.encoder(row))[1:3] for row in whole_frames.split(1)]
        codes, projections = zip(*rows, strict=True)
        return torch.cat(codes), torch.cat(projections).unflatten(1, (self.num_codebooks, self.codebook_dim))

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) codebook entries, before they are projected up for the decoder."""
        rows = zip(self._levels_of(codes), codes.long().unbind(1), strict=True)
        return torch.stack([level.codebook(row).mT for level, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes: the entry nearest in direction. Length never matters."""
        rows = zip(self._levels_of(latents), latents.to(self.dtype).unbind(1), strict=True)
        with exactly(latents.device):
            return torch.stack([level.decode_latents(row)[1] for level, row in rows], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, 1, l * hop_length) audio.

        The networks with an odd stride (24 and 16 kHz) end 8 samples early; those are silence.
        """
        self._levels_of(codes)
        with exactly(codes.device):
            audio = torch.cat([self._synthesise(row) for row in codes.long().split(1)])
        return functional.pad(audio, (0, codes.shape[-1] * self.hop_length - audio.shape[-1]))

    def _synthesise(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, 1, t) audio, t as the network gives it."""
        return self.network.decoder(self.network.quantizer.from_codes(codes)[0])

    def _levels_of(self, rows: Tensor) -> list[Any]:
        """Give the quantiser of every row of codes or latents (b, k, ...), once k is known to be right."""
        if rows.shape[1] != self.num_codebooks:
            raise ValueError(
                f"This DAC has {self.num_codebooks} codebooks, but got {rows.shape[1]} rows in {tuple(rows.shape)}."
            )
        return list(self.network.quantizer.quantizers)


def _load(model: str, revision: str | None) -> DacModel:
    """Load a DAC in float32, from safetensors. Its weight norm was folded when the weights were converted."""
    try:
        loaded: Any = DacModel.from_pretrained(
            model, revision=revision or "main", use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise not_found("DAC model", model, revision, "config.json and model.safetensors", error) from error
    network, report = loaded
    require_complete("DAC", model, report["missing_keys"], UNCONVERTED)
    return network.float()
