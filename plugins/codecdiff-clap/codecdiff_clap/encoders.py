"""The two encoders of a CLAP, of audio and of text: unit vectors of one space."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextModelWithProjection,
)

from codecdiff import device_of, exactly
from codecdiff.embedders import Windowed
from codecdiff.errors import InvalidValue
from codecdiff.huggingface import PretrainedModels, PretrainedPart, from_hub, is_building_skeleton, offline_config
from codecdiff_clap.config import RELEASED

FILES = "config.json, weights, preprocessor_config.json and a tokenizer"


class TextModel(ClapTextModelWithProjection):
    """The text encoder. The other one's weights are not unexpected: transformers would list each in a warning."""

    _keys_to_ignore_on_load_unexpected: ClassVar[Any] = (r".",)


class AudioModel(ClapAudioModelWithProjection):
    """The audio encoder, likewise."""

    _keys_to_ignore_on_load_unexpected: ClassVar[Any] = (r".",)


TEXT_MODELS = PretrainedModels("CLAP", TextModel, {name: {} for name in RELEASED}, FILES, options={})
AUDIO_MODELS = PretrainedModels("CLAP", AudioModel, RELEASED, FILES, options={})
WHOLE_MODELS = PretrainedModels(
    "CLAP",
    ClapModel,
    {name: {"text_config": {}, "audio_config": config} for name, config in RELEASED.items()},
    FILES,
    options={},
)


class AudioEncoder(PretrainedPart, Windowed):
    """Unit vectors of audio, by a network that has `audio_model` and `audio_projection`.

    Audio is cut into consecutive windows of 10 s, each embedded alone. The last one is embedded too, however short: it
    is repeated as often as it fits into a window and then followed by silence, as CLAP's processor pads (`repeatpad`).
    A window is never longer than the model's, so the processor's random crop never happens.
    """

    keeps_rest = True
    policy = (
        "the rest after the last whole window, or a clip shorter than one, is repeated as often as it fits and then "
        "followed by silence; texts are cut at max_tokens"
    )
    windows_at_once = 8

    def __init__(self, models: PretrainedModels, model: str, revision: str | None) -> None:
        super().__init__()
        self.extractor = load_extractor(model, revision)
        self.sample_rate = self.extractor.sampling_rate
        self.window_seconds = self.hop_seconds = float(self.extractor.max_length_s)
        self.network = models.load(model, revision)
        require_no_fusion(getattr(self.network.config, "audio_config", self.network.config))
        self.width = self.network.config.projection_dim
        self.requires_grad_(False)
        self.train(False)

    def pad(self, audio: Tensor, samples: int) -> Tensor:
        """(b, t) audio shorter than a window -> (b, samples): as often as it fits, then silence."""
        repeated = audio.repeat(1, samples // audio.shape[1])
        return functional.pad(repeated, (0, samples - repeated.shape[1]))

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(n, t) windows -> (n, e) vectors of length one."""
        inputs = self.extractor(
            list(windows.cpu().numpy()),
            sampling_rate=self.sample_rate,
            truncation="rand_trunc",  # which also chooses the mel bands of models without fusion
            return_tensors="pt",
        )
        mels = inputs["input_features"].to(device_of(self), next(self.network.parameters()).dtype)
        pooled = self.network.audio_model(input_features=mels).pooler_output
        return functional.normalize(self.network.audio_projection(pooled), dim=-1)


def embed_texts(network: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Tensor:
    """N texts -> (n, e) vectors of length one, by a network that has `text_model` and `text_projection`."""
    device = device_of(network)
    cut = {"padding": True, "truncation": True, "max_length": max_tokens}
    tokens = tokenizer(list(texts), **cut, return_tensors="pt").to(device)
    with exactly(device):
        pooled = network.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return functional.normalize(network.text_projection(pooled), dim=-1).float()


def load_extractor(model: str, revision: str | None) -> ClapFeatureExtractor:
    """Load what prepares audio, without a network connection for a skeleton. Raises LookupError."""
    if is_building_skeleton():
        return offline_config("CLAP", model, revision, ClapFeatureExtractor, {name: {} for name in RELEASED})
    return from_hub(ClapFeatureExtractor, "CLAP", model, revision, FILES)


def load_tokenizer(model: str, revision: str | None, max_tokens: int) -> Any:
    """Load the tokenizer; None for a skeleton. Raises LookupError, and ValueError if `max_tokens` is too few."""
    if max_tokens < 3:
        raise InvalidValue(f"CLAP reads a start, an end and at least one token of text, but max_tokens={max_tokens}.")
    return None if is_building_skeleton() else from_hub(AutoTokenizer, "CLAP", model, revision, FILES)


def require_no_fusion(audio_config: Any) -> None:
    """Raise ValueError for a CLAP that embeds random crops."""
    if audio_config.enable_fusion:
        raise InvalidValue(
            "This CLAP fuses random crops of long audio, so no two runs would agree. Take one without fusion: "
            "laion/larger_clap_music or laion/larger_clap_general."
        )
