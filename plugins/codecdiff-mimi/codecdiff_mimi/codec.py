"""Mimi as a codec of codecdiff, on the implementation and the weights that transformers reads."""

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from codecdiff.codecs import PretrainedCodec
from codecdiff.errors import InvalidValue
from codecdiff_mimi.config import MODELS


class Mimi(PretrainedCodec):
    """Mimi: mono speech at 24 kHz in 12.5 frames per second, up to 32 codebooks of 2048 vectors of 256 dimensions.

    The first codebook is semantic: it was distilled from a self-supervised model of speech. The others are acoustic,
    residual to each other. Both read the same latents, each through a projection of its own, so the first acoustic
    codebook does not refine the semantic one (`refines`); in `levels`, the order of generation, it comes after it.

    Transformers on both sides of the codebooks look back over windows that add up to minutes, so the context would be
    longer than most music: it is declared unbounded, and Mimi does not work in chunks.

    Args:
        model: A Hugging Face id (`kyutai/mimi`) or a local folder that contains `config.json` and `model.safetensors`.
        num_codebooks: How many are used, the semantic one first; the released model has 32.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete Mimi, or it has fewer codebooks.

    Source: Défossez et al. (2024), Moshi: a speech-text foundation model for real-time dialogue, arXiv:2410.00037.

    """

    def __init__(self, model: str = "kyutai/mimi", *, num_codebooks: int = 8, revision: str | None = None) -> None:
        super().__init__()
        network = MODELS.load(model, self.pin_revision(model, revision))
        config = network.config
        num_semantic = config.num_semantic_quantizers
        if not num_semantic <= num_codebooks <= config.num_quantizers:
            raise InvalidValue(
                f"num_codebooks={num_codebooks}: the Mimi model {model!r} has {num_semantic} to "
                f"{config.num_quantizers}; the first {num_semantic} are semantic."
            )
        acoustic = network.quantizer.acoustic_residual_vector_quantizer
        acoustic.layers = acoustic.layers[: num_codebooks - num_semantic]
        self.num_codebooks = num_codebooks
        self.sample_rate = config.sampling_rate
        self.channels = config.audio_channels
        self.hop_length = round(config.sampling_rate / config.frame_rate)
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.codebook_dim
        self.set_network(network)

    @property
    def refines(self) -> tuple[int | None, ...]:
        """The level that each refines: the first acoustic one none, as the first semantic one."""
        first = self.network.config.num_semantic_quantizers
        return tuple(level - 1 if level not in (0, first) else None for level in range(self.num_codebooks))

    @property
    def residual_quantizers(self) -> tuple[Any, Any]:
        """The semantic and the acoustic residual quantizer."""
        split = self.network.quantizer
        return split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer

    @property
    def quantizers(self) -> list[Any]:
        """The quantizer of every codebook, semantic first."""
        return [layer for kind in self.residual_quantizers for layer in kind.layers]

    def encode_features(self, audio: Tensor) -> Tensor:
        """(1, 1, l * hop_length) audio -> (1, z, l) what semantic and acoustic codebooks read, each projected."""
        return self.network.encoder(audio).latents

    def start_residual(self, quantizer: Any, features: Tensor) -> Tensor:
        """(1, z, l) features -> (1, d, l) their projection for the codebooks of one kind."""
        projection = next(kind.input_proj for kind in self.residual_quantizers if quantizer is kind.layers[0])
        return features if projection is None else projection(features)

    def decode_row(self, codes: Tensor) -> Tensor:
        """(1, k, l) codes -> (1, 1, l * hop_length) audio."""
        return self.network.decode(codes).audio_values

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Drop the vectors that codebooks have computed, for these would stay behind on another device or dtype."""
        for quantizer in self.quantizers:
            quantizer.codebook._embed = None
        return super()._apply(fn, recurse)
