"""CLAP as conditioners of codecdiff: a prompt's text, or its audio, as one vector of their joint space."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, device_of, prompt_fields
from codecdiff.conditioners.cached import tokenizer_rules
from codecdiff.data.audio_prompt import audio_prompt_key, load_audio_prompt
from codecdiff.fingerprint import module_fingerprint
from codecdiff.huggingface import commit_of
from codecdiff_clap.halves import (
    Hearer,
    Hearing,
    Reader,
    load_extractor,
    load_network,
    load_tokenizer,
    read,
    require_tokens,
)
from codecdiff_clap.shapes import features_of, shape_of

MUSIC = "laion/larger_clap_music"
ENTRY = "clap"  # of every conditioner here, so that they can stand for one another


def one_token(rows: Sequence[Tensor | None], width: int, device: torch.device) -> Condition:
    """Vectors (e,), or None where there is none, -> the entry `clap`: tokens (n, 1, e)."""
    tokens = torch.zeros(len(rows), 1, width)
    for row, vector in enumerate(rows):
        if vector is not None:
            tokens[row, 0] = vector
    mask = torch.tensor([vector is not None for vector in rows], dtype=torch.bool)
    return Condition({ENTRY: ConditionTokens(tokens, mask[:, None])}).to(device)


class ClapText(Conditioner):
    """CLAP's reading of a prompt's text: one entry, `clap`, of one token of length one. The other half is not loaded.

    Texts are read one by one, so a row is bit for bit the same beside any neighbours.

    Args:
        model: A Hugging Face id of a CLAP, or a local folder that holds `config.json`, weights (`model.safetensors`, or
            `pytorch_model.bin`, of which tensors alone are read) and a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.
        max_tokens: Tokens of a text that are read, start and end included; 77 is what LAION trained with.

    Raises:
        LookupError: There is no such model.
        ValueError: The files are not a complete CLAP, or `max_tokens` is too few.

    Source: Wu et al. (2023), Large-scale Contrastive Language-Audio Pretraining, arXiv:2211.06687.

    """

    fields = ("text",)

    def __init__(self, model: str = MUSIC, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__()
        require_tokens(max_tokens)
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        self.tokenizer = load_tokenizer(model, revision)
        self.max_tokens = max_tokens
        self._take(load_network(Reader, model, revision))

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the width of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(ClapText, part).__init__()
        with torch.device("meta"):
            shape: Any = shape_of(part.arguments["model"], part.arguments["revision"]).text_config
            part._take(Reader(shape))
        return part

    def _take(self, network: Any) -> None:
        self.network = network.float()
        self.requires_grad_(False)
        self.train(False)

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry: 512 for LAION's."""
        return {ENTRY: self.network.config.projection_dim}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Give n prompts as `clap` (n, 1, e), absent where there is no text. Raises ValueError for other text."""
        texts = [text_of(prompt) for prompt in prompts]
        vectors = {text: self._vector(text) for text in dict.fromkeys(texts)}
        return one_token([vectors[text] for text in texts], self.widths[ENTRY], device_of(self))

    def _vector(self, text: str) -> Tensor | None:
        return read(self.network, self.tokenizer, [text], self.max_tokens)[0].cpu() if text.strip() else None

    def fingerprint(self) -> str:
        """Hash what features depend on: weights, tokenizer and the cut."""
        return _hash("clap-text", self.max_tokens, module_fingerprint(self.network), tokenizer_rules(self.tokenizer))


class _Ears(Hearing):
    """The hearing half alone."""


class ClapAudio(Conditioner):
    """CLAP's hearing of a prompt's audio: one entry, `clap`, of one token of length one. The other half is not loaded.

    `audio` is a file, a part of one or samples (`codecdiff.data.audio_prompt`); in training it is the recording, or the
    segment, that a crop is taken from. It is heard in windows of 10 s, and the mean of their vectors brought to length
    one, so that audio of any length is one vector.

    Args:
        model: A Hugging Face id of a CLAP without fusion, or a local folder that holds `config.json`, weights and
            `preprocessor_config.json`.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.

    Raises:
        LookupError: There is no such model.
        ValueError: The files are not a complete CLAP, or it fuses.

    Source: Wu et al. (2023), Large-scale Contrastive Language-Audio Pretraining, arXiv:2211.06687.

    """

    fields = ("audio",)

    def __init__(self, model: str = MUSIC, *, revision: str | None = None) -> None:
        super().__init__()
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        self.ears = _Ears()
        self.ears.listen_by(load_extractor(model, revision))
        self.ears.take(load_network(Hearer, model, revision))
        self.train(False)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the width of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(ClapAudio, part).__init__()
        model, revision = part.arguments["model"], part.arguments["revision"]
        part.ears = _Ears()
        with torch.device("meta"):
            shape: Any = shape_of(model, revision).audio_config
            part.ears.take(Hearer(shape))
        part.ears.sample_rate, part.ears.window_seconds = features_of(model, revision)
        part.train(False)
        return part

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry: 512 for LAION's."""
        return {ENTRY: self.ears.width}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Give n prompts as `clap` (n, 1, e), absent where there is no audio. Raises as `excerpt` does."""
        heard = [self._vector(prompt_fields(prompt).get("audio")) for prompt in prompts]
        return one_token(heard, self.widths[ENTRY], device_of(self))

    def _vector(self, audio: Any) -> Tensor | None:
        if audio is None or (isinstance(audio, str) and not audio.strip()):
            return None
        samples = load_audio_prompt(audio, self.ears.sample_rate).to(device_of(self))
        return functional.normalize(self.ears.embed(samples[None])[0].mean(0), dim=-1).cpu()

    def key(self, prompt: Prompt) -> str:
        """Describe the audio of a prompt by its content."""
        audio = prompt_fields(prompt).get("audio")
        return "" if audio in (None, "") else json.dumps(audio_prompt_key(audio), sort_keys=True)

    def fingerprint(self) -> str:
        """Hash what features depend on: weights, and how audio is prepared for them."""
        return _hash("clap-audio", module_fingerprint(self.ears.network), self.ears.extractor.to_json_string())


class Clap(Conditioner):
    """The prompt's audio as `clap-audio` hears it, or else its text as `clap-text` reads it: one entry, `clap`.

    Both are vectors of one space, so a model that is trained on the audio it is to make, which needs no captions, can
    be asked for music by text.

    Args:
        model: As for `clap-audio`, with a tokenizer.
        revision: A branch, tag or commit of the id; the newest if None. The commit is what is remembered.
        max_tokens: Tokens of a text that are read, start and end included.

    """

    fields = ("audio", "text")

    def __init__(self, model: str = MUSIC, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__()
        self.hears = ClapAudio(model, revision=revision)
        self.arguments["revision"] = revision = self.hears.arguments["revision"]
        self.reads = ClapText(model, revision=revision, max_tokens=max_tokens)

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Give the width of a model, as the outlines of its halves do."""
        part = cls.__new__(cls, **options)
        super(Clap, part).__init__()
        told = dict(part.arguments)
        part.reads = ClapText.skeleton(**told)
        told.pop("max_tokens")
        part.hears = ClapAudio.skeleton(**told)
        return part

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of the one entry."""
        return self.hears.widths

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Give n prompts as `clap` (n, 1, e): of their audio, of their text where they have none, or absent."""
        heard, told = self.hears.encode(prompts)[ENTRY], self.reads.encode(prompts)[ENTRY]
        tokens = torch.where(heard.mask[..., None], heard.tokens, told.tokens)
        return Condition({ENTRY: ConditionTokens(tokens, heard.mask | told.mask)})

    def key(self, prompt: Prompt) -> str:
        """Give the key of the audio, or else of the text."""
        return self.hears.key(prompt) or self.reads.key(prompt)

    def fingerprint(self) -> str:
        """Hash the fingerprints of both halves."""
        return _hash("clap", self.hears.fingerprint(), self.reads.fingerprint())


def text_of(prompt: Prompt) -> str:
    """Give a prompt's text, empty if it has none. Raises ValueError for text that is no string."""
    text = prompt_fields(prompt).get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"The field 'text' of a prompt is a string, but got {type(text).__name__}: {text!r}.")
    return text or ""


def _hash(*told: Any) -> str:
    return hashlib.sha256(" ".join(map(str, told)).encode()).hexdigest()[:32]
