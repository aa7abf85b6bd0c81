"""CLAP as conditioners of codecdiff: a prompt's text, or its audio, as one vector of their joint space."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, device_of, prompt_fields, prompt_text
from codecdiff.conditioners import audio_prompt_key, hash_values, load_audio_prompt, module_fingerprint, tokenizer_rules
from codecdiff.huggingface import PretrainedPart
from codecdiff_clap.config import MUSIC
from codecdiff_clap.encoders import AUDIO_MODELS, TEXT_MODELS, AudioEncoder, embed_texts, load_tokenizer

NAME = "clap"  # of the entry of every conditioner here, so that they can replace one another


def one_token(rows: Sequence[Tensor | None], width: int, device: torch.device) -> Condition:
    """Vectors (e,), or None where there is none, -> the entry `clap`: tokens (n, 1, e)."""
    tokens = torch.zeros(len(rows), 1, width)
    for row, vector in enumerate(rows):
        if vector is not None:
            tokens[row, 0] = vector
    mask = torch.tensor([vector is not None for vector in rows], dtype=torch.bool)
    return Condition({NAME: ConditionTokens(tokens, mask[:, None])}).to(device)


class ClapText(PretrainedPart, Conditioner):
    """CLAP's vector of a prompt's text: one entry, `clap`, of one token of length one. Audio's encoder is not loaded.

    Texts are encoded one by one, so a row is bit for bit the same beside any neighbors.

    Args:
        model: A Hugging Face id of a CLAP, or a local folder that contains `config.json`, weights
            (`model.safetensors`, or `pytorch_model.bin`, read for its tensors alone) and a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        max_tokens: Tokens of a text that are read, start and end included; 77 is what LAION trained with.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete CLAP, or `max_tokens` is too few.

    Source: Wu et al. (2023), Large-scale Contrastive Language-Audio Pretraining, arXiv:2211.06687.

    """

    fields = ("text",)

    def __init__(self, model: str = MUSIC, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__()
        revision = self.pin_revision(model, revision)
        self.tokenizer = load_tokenizer(model, revision, max_tokens)
        self.max_tokens = max_tokens
        self.network = TEXT_MODELS.load(model, revision)
        self.requires_grad_(False)
        self.train(False)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry: 512 for LAION's."""
        return {NAME: self.network.config.projection_dim}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `clap` (n, 1, e), absent without text. Raises ValueError for other text."""
        texts = [prompt_text(prompt) for prompt in prompts]
        vectors = {text: self._vector(text) for text in dict.fromkeys(texts)}
        return one_token([vectors[text] for text in texts], self.widths[NAME], device_of(self))

    def _vector(self, text: str) -> Tensor | None:
        return embed_texts(self.network, self.tokenizer, [text], self.max_tokens)[0].cpu() if text.strip() else None

    def fingerprint(self) -> str:
        """Hash what features depend on: weights, tokenizer and the cut."""
        return hash_values(
            "clap-text", self.max_tokens, module_fingerprint(self.network), tokenizer_rules(self.tokenizer)
        )


class ClapAudio(PretrainedPart, Conditioner):
    """CLAP's vector of a prompt's audio: one entry, `clap`, of one token of length one. Text's encoder is not loaded.

    `audio` is a file, a part of one or samples (`codecdiff.conditioners.excerpt`); in training it is the track, or the
    segment, that a crop is taken from. It is embedded in windows of 10 s, and the mean of their vectors is normalized
    to length one, so that audio of any length is one vector.

    Args:
        model: A Hugging Face id of a CLAP without fusion, or a local folder that contains `config.json`, weights and
            `preprocessor_config.json`.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.

    Raises:
        LookupError: The model does not exist.
        ValueError: The files are not a complete CLAP, or it fuses.

    Source: Wu et al. (2023), Large-scale Contrastive Language-Audio Pretraining, arXiv:2211.06687.

    """

    fields = ("audio",)

    def __init__(self, model: str = MUSIC, *, revision: str | None = None) -> None:
        super().__init__()
        self.encoder = AudioEncoder(AUDIO_MODELS, model, self.pin_revision(model, revision))

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry: 512 for LAION's."""
        return {NAME: self.encoder.width}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `clap` (n, 1, e), absent without audio. Raises as `excerpt` does."""
        vectors = [self._vector(prompt_fields(prompt).get("audio")) for prompt in prompts]
        return one_token(vectors, self.widths[NAME], device_of(self))

    def _vector(self, audio: Any) -> Tensor | None:
        if audio is None or (isinstance(audio, str) and not audio.strip()):
            return None
        samples = load_audio_prompt(audio, self.encoder.sample_rate).to(device_of(self))
        return functional.normalize(self.encoder.embed(samples[None])[0].mean(0), dim=-1).cpu()

    def key(self, prompt: Prompt) -> str:
        """Describe the audio of a prompt by its content."""
        audio = prompt_fields(prompt).get("audio")
        return "" if audio in (None, "") else json.dumps(audio_prompt_key(audio), sort_keys=True)

    def fingerprint(self) -> str:
        """Hash what features depend on: weights, and how audio is prepared for them."""
        return hash_values(
            "clap-audio", module_fingerprint(self.encoder.network), self.encoder.extractor.to_json_string()
        )


class Clap(PretrainedPart, Conditioner):
    """The vector of the prompt's audio by `clap-audio`, or else of its text by `clap-text`: one entry, `clap`.

    Both are vectors of one space, so a model that is trained on the vectors of its own audio, which needs no captions,
    can be prompted by text.

    Args:
        model: As for `clap-audio`, with a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        max_tokens: Tokens of a text that are read, start and end included.

    """

    fields = ("audio", "text")

    def __init__(self, model: str = MUSIC, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__()
        revision = self.pin_revision(model, revision)
        self.audio = ClapAudio(model, revision=revision)
        self.text = ClapText(model, revision=revision, max_tokens=max_tokens)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry."""
        return self.audio.widths

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `clap` (n, 1, e): of their audio, of their text where they have none, or absent."""
        audio, text = self.audio.encode(prompts)[NAME], self.text.encode(prompts)[NAME]
        tokens = torch.where(audio.mask[..., None], audio.tokens, text.tokens)
        return Condition({NAME: ConditionTokens(tokens, audio.mask | text.mask)})

    def key(self, prompt: Prompt) -> str:
        """Return the key of the audio, or else of the text."""
        return self.audio.key(prompt) or self.text.key(prompt)

    def fingerprint(self) -> str:
        """Hash the fingerprints of both."""
        return hash_values("clap", self.audio.fingerprint(), self.text.fingerprint())
