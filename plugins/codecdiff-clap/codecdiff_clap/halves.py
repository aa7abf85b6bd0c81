"""The two halves of a CLAP, one that hears and one that reads: unit vectors of one space."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    ClapTextModelWithProjection,
)

from codecdiff import device_of
from codecdiff.embedders import Windowed
from codecdiff.huggingface import not_found, require_complete
from codecdiff.precision import exactly
from codecdiff_clap.shapes import SAMPLE_RATE, WINDOW_SECONDS

FILES = "config.json, weights, preprocessor_config.json and a tokenizer"


class Reader(ClapTextModelWithProjection):
    """The half that reads. The other half's weights are not missed: transformers would list each in a warning."""

    _keys_to_ignore_on_load_unexpected: ClassVar[Any] = (r".",)


class Hearer(ClapAudioModelWithProjection):
    """The half that hears, likewise."""

    _keys_to_ignore_on_load_unexpected: ClassVar[Any] = (r".",)


class Hearing(Windowed):
    """Unit vectors of music: the hearing half of `network`, which has `audio_model` and `audio_projection`.

    Audio is cut into consecutive windows of 10 s, each heard alone. The last one is heard too, however short: it is
    repeated as often as it fits into a window and then followed by silence, as CLAP's processor pads (`repeatpad`).
    A window is never longer than the model hears, so the processor's random crop never happens.
    """

    sample_rate = SAMPLE_RATE
    window_seconds = hop_seconds = WINDOW_SECONDS
    keeps_rest = True
    policy = (
        "the rest after the last whole window, or a clip shorter than one, is repeated as often as it fits and then "
        "followed by silence; texts are cut at max_tokens"
    )
    windows_at_once = 8
    extractor: ClapFeatureExtractor

    def take(self, network: Any) -> None:
        """Take on a network, frozen, and its facts. Raises ValueError for one that fuses."""
        require_no_fusion(getattr(network.config, "audio_config", network.config))
        self.network = network.float()
        self.width = network.config.projection_dim
        self.requires_grad_(False)
        self.train(False)

    def listen_by(self, extractor: ClapFeatureExtractor) -> None:
        """Take on what prepares audio, and its facts."""
        self.extractor = extractor
        self.sample_rate = extractor.sampling_rate
        self.window_seconds = self.hop_seconds = float(extractor.max_length_s)

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
        mels = heard["input_features"].to(device_of(self), next(self.network.parameters()).dtype)
        pooled = self.network.audio_model(input_features=mels).pooler_output
        return functional.normalize(self.network.audio_projection(pooled), dim=-1)


def read(network: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Tensor:
    """N texts -> (n, e) vectors of length one, by a network that has `text_model` and `text_projection`."""
    device = device_of(network)
    cut = {"padding": True, "truncation": True, "max_length": max_tokens}
    tokens = tokenizer(list(texts), **cut, return_tensors="pt").to(device)
    with exactly(device):
        pooled = network.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return functional.normalize(network.text_projection(pooled), dim=-1).float()


def require_tokens(max_tokens: int) -> None:
    """Raise ValueError unless there is room for a text."""
    if max_tokens < 3:
        raise ValueError(f"CLAP reads a start, an end and at least one token of text, but max_tokens={max_tokens}.")


def require_no_fusion(audio_config: Any) -> None:
    """Raise ValueError for a CLAP that hears random crops."""
    if audio_config.enable_fusion:
        raise ValueError(
            "This CLAP fuses random crops of long audio, so no two runs would agree. Take one without fusion: "
            "laion/larger_clap_music or laion/larger_clap_general."
        )


def load_network(kind: Any, model: str, revision: str | None) -> Any:
    """Load a CLAP or a half of one, by its class in transformers. Raises LookupError, or ValueError if not whole."""
    try:
        network, report = kind.from_pretrained(model, revision=revision or "main", output_loading_info=True)
    except OSError as error:
        raise not_found("CLAP model", model, revision, FILES, error) from error
    require_complete("CLAP", model, report["missing_keys"])
    return network


def load_extractor(model: str, revision: str | None) -> ClapFeatureExtractor:
    """Load what prepares audio. Raises LookupError."""
    try:
        return ClapFeatureExtractor.from_pretrained(model, revision=revision or "main")
    except OSError as error:
        raise not_found("CLAP model", model, revision, FILES, error) from error


def load_tokenizer(model: str, revision: str | None) -> Any:
    """Load the tokenizer. Raises LookupError."""
    try:
        return AutoTokenizer.from_pretrained(model, revision=revision or "main")
    except OSError as error:
        raise not_found("CLAP model", model, revision, FILES, error) from error
