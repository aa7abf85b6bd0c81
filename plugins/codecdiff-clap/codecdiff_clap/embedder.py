"""LAION's CLAP as an embedder of codecdiff: music and text in one space, on the implementation of transformers."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers import ClapModel

from codecdiff import device_of
from codecdiff.huggingface import commit_of
from codecdiff_clap.halves import Hearing, load_extractor, load_network, load_tokenizer, read, require_tokens
from codecdiff_clap.shapes import features_of, shape_of

TEXTS_AT_ONCE = 32


class CLAP(Hearing):
    """Unit vectors of music and of text, near each other where the text tells of the music.

    Windows are 10 s long and heard alone, the rest of a clip too (`Hearing`).

    Args:
        model: A Hugging Face id of a CLAP without fusion, or a local folder that holds `config.json`, weights
            (`model.safetensors`, or `pytorch_model.bin`, of which tensors alone are read), `preprocessor_config.json`
            and a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.
        max_tokens: Tokens of a text that are read, start and end included; 77 is what LAION trained with.

    Raises:
        LookupError: There is no such model.
        ValueError: The files are not a complete CLAP, it fuses, or `max_tokens` is too few.

    Source: Wu et al. (2023), Large-scale Contrastive Language-Audio Pretraining, arXiv:2211.06687.

    """

    reads_text = True

    def __init__(self, model: str, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__()
        require_tokens(max_tokens)
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        self.listen_by(load_extractor(model, revision))
        self.tokenizer = load_tokenizer(model, revision)
        self.take(load_network(ClapModel, model, revision))
        self.max_tokens = max_tokens

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the facts of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(CLAP, part).__init__()
        model, revision = part.arguments["model"], part.arguments["revision"]
        with torch.device("meta"):
            part.take(ClapModel(shape_of(model, revision)))
        part.sample_rate, part.window_seconds = features_of(model, revision)
        part.hop_seconds = part.window_seconds
        return part

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (n, e) vectors of length one, whatever autocast the caller is in; longer texts are cut."""
        batches = [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
        vectors = [read(self.network, self.tokenizer, batch, self.max_tokens) for batch in batches]
        return torch.cat([torch.empty(0, self.width, device=device_of(self)), *vectors])


class MusicCLAP(CLAP):
    """CLAP by the checkpoint trained on music; `model` names a folder that holds it where there is no network."""

    def __init__(
        self, model: str = "laion/larger_clap_music", *, revision: str | None = None, max_tokens: int = 77
    ) -> None:
        super().__init__(model, revision=revision, max_tokens=max_tokens)


class GeneralCLAP(CLAP):
    """CLAP by the checkpoint trained on sounds, music and speech; `model` names a folder that holds it."""

    def __init__(
        self, model: str = "laion/larger_clap_general", *, revision: str | None = None, max_tokens: int = 77
    ) -> None:
        super().__init__(model, revision=revision, max_tokens=max_tokens)
