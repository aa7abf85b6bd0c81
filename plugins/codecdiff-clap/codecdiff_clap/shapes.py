"""Shapes of the CLAP models that are released, and what they hear."""

from typing import Any

from transformers import ClapConfig, ClapFeatureExtractor

from codecdiff.huggingface import known_shape

SAMPLE_RATE = 48_000  # Hz, of the released models
WINDOW_SECONDS = 10.0  # of audio that the released models hear

_LARGER: dict[str, Any] = {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128}

RELEASED: dict[str, dict[str, Any]] = {
    "laion/larger_clap_music": _LARGER,
    "laion/larger_clap_general": _LARGER,
    "laion/larger_clap_music_and_speech": _LARGER,
    "laion/clap-htsat-unfused": {},
}


def shape_of(model: str, revision: str | None) -> ClapConfig:
    """Give the shape of a model without a network: of a local folder, a released one, or one fetched before.

    Raises LookupError if it is none of these.
    """
    released = {name: {"text_config": {}, "audio_config": shape} for name, shape in RELEASED.items()}
    return known_shape("CLAP", model, revision, ClapConfig, released)


def features_of(model: str, revision: str | None) -> tuple[int, float]:
    """Give the sample rate in Hz and the seconds of a window, as `shape_of` finds them."""
    heard = known_shape("CLAP", model, revision, ClapFeatureExtractor, {name: {} for name in RELEASED})
    return heard.sampling_rate, float(heard.max_length_s)
