"""Mimi as a codec of codecdiff, on the implementation and the weights that transformers reads."""

from collections.abc import Callable
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MimiModel

from codecdiff import Codec
from codecdiff.codecs import find_duplicate_codes
from codecdiff.huggingface import commit_of, not_found, require_complete
from codecdiff.precision import exactly
from codecdiff_mimi.shapes import shape_of


class Mimi(Codec):
    """Mimi: mono speech at 24 kHz in 12.5 frames per second, up to 32 codebooks of 2048 entries of 256 dimensions.

    The first codebook is semantic: it was trained to say what a self-supervised model of speech hears. The others are
    acoustic, residual to each other. Both read the same latents, each through a projection of its own, so the first
    acoustic codebook does not refine the semantic one; in `levels` it comes after it all the same.

    Transformers on both sides of the codebooks look back over windows that add up to minutes, so the halo would be
    longer than most music: there is none, and Mimi does not work in chunks. Memory follows the longest row. Rows of a
    batch are encoded and decoded one by one, so a result never depends on its neighbours.

    Args:
        model: A Hugging Face id (`kyutai/mimi`) or a local folder that holds `config.json` and `model.safetensors`.
        num_codebooks: How many are used, the semantic one first; the released model has 32.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.

    Raises:
        LookupError: There is no such model.
        ValueError: The files are not a complete Mimi, or it has fewer codebooks.

    Source: Défossez et al. (2024), Moshi: a speech-text foundation model for real-time dialogue, arXiv:2410.00037.

    """

    def __init__(self, model: str = "kyutai/mimi", *, num_codebooks: int = 8, revision: str | None = None) -> None:
        super().__init__()
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        self._take(_load(model, revision))
        self.duplicate_codes = find_duplicate_codes(self)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the facts of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(Mimi, part).__init__()
        with torch.device("meta"):
            part._take(MimiModel(shape_of(part.arguments["model"], part.arguments["revision"])).float())
        return part

    def _take(self, network: Any) -> None:
        """Take on a network, frozen, with as many codebooks as are asked for, and its facts."""
        config = network.config
        asked, semantic = self.arguments["num_codebooks"], config.num_semantic_quantizers
        if not semantic <= asked <= config.num_quantizers:
            raise ValueError(
                f"num_codebooks={asked}: the Mimi model {self.arguments['model']!r} has {semantic} to "
                f"{config.num_quantizers}, of which the first {semantic} semantic."
            )
        acoustic = network.quantizer.acoustic_residual_vector_quantizer
        acoustic.layers = acoustic.layers[: asked - semantic]
        self.network = network
        self.num_codebooks = asked
        self.sample_rate = config.sampling_rate
        self.channels = config.audio_channels
        self.hop_length = round(config.sampling_rate / config.frame_rate)
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.codebook_dim
        self.requires_grad_(False)
        self.train(False)

    def encode(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, k, l) int64 codes, l = ceil(t / hop_length), padded with silence; any t >= 1."""
        return self.encode_with_continuous(audio)[0]

    def encode_continuous(self, audio: Tensor) -> Tensor:
        """(b, 1, t) audio -> (b, k, d, l): what the levels before each one left over, semantic and acoustic apart."""
        return self.encode_with_continuous(audio)[1]

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1, t) audio -> (b, k, l) codes and (b, k, d, l) latents before quantisation, in one pass."""
        if audio.ndim != 3 or audio.shape[1] != self.channels or audio.shape[2] < 1:
            raise ValueError(
                f"Mimi encodes mono audio of shape (b, 1, t) with t >= 1, but got {tuple(audio.shape)}. "
                "Mix channels down (`audio.mean(1, keepdim=True)`), or encode each as a row of the batch."
            )
        # Whole frames, for the network's own padding is counted in float32, and wrong beyond 2^24 samples.
        whole_frames = functional.pad(audio, (0, -audio.shape[-1] % self.hop_length)).to(self.network.dtype)
        with exactly(audio.device):
            rows = [self._analyse(row) for row in whole_frames.split(1)]
        codes, residuals = zip(*rows, strict=True)
        return torch.cat(codes), torch.cat(residuals)

    def _analyse(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 1, t) audio -> (1, k, l) codes and (1, k, d, l) residuals, the first of each kind its projection."""
        latents = self.network.encoder(audio).latents
        codes, residuals = [], []
        for quantizer in self._quantizers:
            residual = latents if quantizer.input_proj is None else quantizer.input_proj(latents)
            for level in quantizer.layers:
                codes.append(level.encode(residual))
                residuals.append(residual)
                residual = residual - level.decode(codes[-1])
        return torch.stack(codes, dim=1), torch.stack(residuals, dim=1)

    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) codebook entries, before they are projected up for the decoder."""
        rows = zip(self._levels_of(codes), codes.long().unbind(1), strict=True)
        return torch.stack([level.decode(row) for level, row in rows], dim=1)

    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes: the nearest entry (Euclidean), each row of the batch alone."""
        levels = self._levels_of(latents)
        with exactly(latents.device):
            rows = [
                torch.stack([level.encode(row) for level, row in zip(levels, sample.unbind(1), strict=True)], dim=1)
                for sample in latents.to(self.network.dtype).split(1)
            ]
        return torch.cat(rows)

    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, 1, l * hop_length) audio."""
        self._levels_of(codes)
        with exactly(codes.device):
            return torch.cat([self.network.decode(row).audio_values for row in codes.long().split(1)])

    @property
    def _quantizers(self) -> tuple[Any, Any]:
        """Give the semantic and the acoustic quantiser."""
        split = self.network.quantizer
        return split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer

    @property
    def _levels(self) -> list[Any]:
        """Give the quantiser of every level, semantic first."""
        return list(chain.from_iterable(quantizer.layers for quantizer in self._quantizers))

    def _levels_of(self, rows: Tensor) -> list[Any]:
        """Give the quantiser of every row of codes or latents (b, k, ...), once k is known to be right."""
        if rows.shape[1] != self.num_codebooks:
            raise ValueError(
                f"This Mimi has {self.num_codebooks} codebooks, but got {rows.shape[1]} rows in {tuple(rows.shape)}."
            )
        return self._levels

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget the entries that codebooks have computed, for these would stay behind on another device or dtype."""
        for level in self._levels:
            level.codebook._embed = None
        return super()._apply(fn, recurse)


def _load(model: str, revision: str | None) -> Any:
    """Load a Mimi in float32, from safetensors, into memory of its own.

    In a file weights lie at any address, and the last bits of what some kernels give depend on how it is aligned.
    """
    try:
        loaded: Any = MimiModel.from_pretrained(
            model, revision=revision or "main", use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise not_found("Mimi model", model, revision, "config.json and model.safetensors", error) from error
    network, report = loaded
    require_complete("Mimi", model, report["missing_keys"])
    for tensor in chain(network.parameters(), network.buffers()):
        tensor.data = tensor.data.clone()
    return network.float()
