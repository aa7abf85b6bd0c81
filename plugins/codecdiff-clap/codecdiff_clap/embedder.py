"""LAION's CLAP as an embedder of codecdiff: music and text in one space, on the implementation of transformers."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff.hub import commit_of, not_found, require_complete
from codecdiff_clap.shapes import SAMPLE_RATE, WINDOW_SECONDS, features_of, shape_of

TEXTS_AT_ONCE = 32


class CLAP(Windowed):
    """Unit vectors of music and of text, near each other where the text tells of the music.

    Audio is cut into consecutive windows of 10 s, each heard alone. The last one is heard too, however short: it is
    repeated as often as it fits into a window and then followed by silence, as CLAP's processor pads (`repeatpad`).
    A window is never longer than the model hears, so the processor's random crop never happens.

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

    sample_rate = SAMPLE_RATE
    window_seconds = hop_seconds = WINDOW_SECONDS
    keeps_rest = True
    policy = (
        "the rest after the last whole window, or a clip shorter than one, is repeated as often as it fits and then "
        "followed by silence; texts are cut at max_tokens"
    )
    reads_text = True
    windows_at_once = 8

    def __init__(self, model: str, *, revision: str | None = None, max_tokens: int = 77) -> None:
        super().__init__()
        if max_tokens < 3:
            raise ValueError(f"CLAP reads a start, an end and at least one token of text, but max_tokens={max_tokens}.")
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        network, self.extractor, self.tokenizer = _load(model, revision)
        self._take(network)
        self.sample_rate = self.extractor.sampling_rate
        self.window_seconds = self.hop_seconds = float(self.extractor.max_length_s)
        self.max_tokens = max_tokens

    @classmethod
    def outline(cls, **options: Any) -> Self:
        """Give the facts of a model, with the constructor's options: its weights are on the meta device.

        Raises LookupError for an id that is neither released nor fetched before.
        """
        part = cls.__new__(cls, **options)
        super(CLAP, part).__init__()
        model, revision = part.arguments["model"], part.arguments["revision"]
        with torch.device("meta"):
            part._take(ClapModel(shape_of(model, revision)))
        part.sample_rate, part.window_seconds = features_of(model, revision)
        part.hop_seconds = part.window_seconds
        return part

    def _take(self, network: ClapModel) -> None:
        """Take on a network, frozen, and its facts."""
        config: Any = network.config
        if config.audio_config.enable_fusion:
            raise ValueError(
                "This CLAP fuses random crops of long audio, so no two runs would agree. Take one without fusion: "
                "laion/larger_clap_music or laion/larger_clap_general."
            )
        self.network = network.float()
        self.width = config.projection_dim
        self.requires_grad_(False)
        self.train(False)

    def pad(self, rest: Tensor, samples: int) -> Tensor:
        """(b, t) audio shorter than a window -> (b, samples): as often as it fits, then silence."""
        repeated = rest.repeat(1, samples // rest.shape[1])
        return functional.pad(repeated, (0, samples - repeated.shape[1]))

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows -> (n, e) vectors of length one."""
        heard = self.extractor(
            list(windows.cpu().numpy()),
            sampling_rate=self.sample_rate,
            truncation="rand_trunc",  # which also chooses the mel bands of models without fusion
            return_tensors="pt",
        )
        mels = heard["input_features"].to(device_of(self), torch.float32)
        pooled = self.network.audio_model(input_features=mels).pooler_output
        return functional.normalize(self.network.audio_projection(pooled), dim=-1)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (n, e) vectors of length one, whatever autocast the caller is in; longer texts are cut."""
        device = device_of(self)
        batches = [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            vectors = [self._read(batch).float() for batch in batches]
        return torch.cat([torch.empty(0, self.width, device=device), *vectors])

    def _read(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(device_of(self))
        pooled = self.network.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return functional.normalize(self.network.text_projection(pooled), dim=-1)


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


def _load(model: str, revision: str | None) -> tuple[ClapModel, ClapFeatureExtractor, Any]:
    """Load the network, what prepares its audio, and its tokenizer."""
    branch = revision or "main"
    try:
        extractor = ClapFeatureExtractor.from_pretrained(model, revision=branch)
        tokenizer = AutoTokenizer.from_pretrained(model, revision=branch)
        loaded: Any = ClapModel.from_pretrained(model, revision=branch, output_loading_info=True)
    except OSError as error:
        files = "config.json, weights, preprocessor_config.json and a tokenizer"
        raise not_found("CLAP model", model, revision, files, error) from error
    network, report = loaded
    require_complete("CLAP", model, report["missing_keys"])
    return network, extractor, tokenizer
