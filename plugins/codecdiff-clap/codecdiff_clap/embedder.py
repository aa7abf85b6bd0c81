"""LAION's CLAP as an embedder of codecdiff: music and text in one space, on the implementation of transformers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from codecdiff import device_of
from codecdiff_clap.config import GENERAL, MUSIC
from codecdiff_clap.encoders import WHOLE_MODELS, AudioEncoder, embed_texts, load_tokenizer

TEXTS_AT_ONCE = 32


class CLAP(AudioEncoder):
    """Unit vectors of music and of text, near each other where the text describes the music.

    Windows are 10 s long and embedded alone, the rest of a clip too (`AudioEncoder`).

    Args:
        model: A Hugging Face id of a CLAP without fusion, or a local folder that contains `config.json`, weights
            (`model.safetensors`, or `pytorch_model.bin`, read for its tensors alone), `preprocessor_config.json`
            and a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        max_tokens: Tokens of a text that are read, start and end included; 77 is what LAION trained with.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete CLAP, it fuses, or `max_tokens` is too few.

    Source: Wu et al. (2023), Large-scale Contrastive Language-Audio Pretraining, arXiv:2211.06687.

    """

    reads_text = True

    def __init__(self, model: str, *, revision: str | None = None, max_tokens: int = 77) -> None:
        revision = self.pin_revision(model, revision)
        super().__init__(WHOLE_MODELS, model, revision)
        self.tokenizer = load_tokenizer(model, revision, max_tokens)
        self.max_tokens = max_tokens

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (n, e) vectors of length one, independent of the caller's autocast; longer texts are cut."""
        batches = [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
        vectors = [embed_texts(self.network, self.tokenizer, batch, self.max_tokens) for batch in batches]
        return torch.cat([torch.empty(0, self.width, device=device_of(self)), *vectors])


class MusicCLAP(CLAP):
    """CLAP by the checkpoint trained on music; `model` names a folder that contains it, for use offline."""

    def __init__(self, model: str = MUSIC, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__(model, revision=revision, max_tokens=max_tokens)


class GeneralCLAP(CLAP):
    """CLAP by the checkpoint trained on sounds, music and speech; `model` names a folder that contains it."""

    def __init__(self, model: str = GENERAL, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__(model, revision=revision, max_tokens=max_tokens)
