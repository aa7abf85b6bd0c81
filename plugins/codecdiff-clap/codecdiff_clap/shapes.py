"""Shapes of the CLAP models that are released, and what they hear."""

from pathlib import Path
from typing import Any

from transformers import ClapConfig, ClapFeatureExtractor

SAMPLE_RATE = 48_000  # Hz, of the released models
WINDOW_SECONDS = 10.0  # of audio that the released models hear

_LARGER: dict[str, Any] = {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128}

RELEASED: dict[str, dict[str, Any]] = {
    "laion/larger_clap_music": _LARGER,
    "laion/larger_clap_general": _LARGER,
    "laion/larger_clap_music_and_speech": _LARGER,
    "laion/clap-htsat-unfused": {},
}


def _is_released(model: str) -> bool:
    return model in RELEASED and not Path(model).is_dir()


def _unknown(model: str) -> LookupError:
    return LookupError(
        f"The shape of the CLAP model {model!r} is not known here: there is no such folder with a config.json, and "
        f"it is none of {', '.join(RELEASED)}."
    )


def shape_of(model: str, revision: str | None) -> ClapConfig:
    """Give the shape of a model without a network: of a local folder, a released one, or one fetched before.

    Raises LookupError if it is none of these.
    """
    if _is_released(model):
        return ClapConfig(text_config={}, audio_config=RELEASED[model])
    try:
        return ClapConfig.from_pretrained(model, revision=revision or "main", local_files_only=True)
    except OSError as error:
        raise _unknown(model) from error


def features_of(model: str, revision: str | None) -> tuple[int, float]:
    """Give the sample rate in Hz and the seconds of a window, as `shape_of` finds them."""
    if _is_released(model):
        return SAMPLE_RATE, WINDOW_SECONDS
    try:
        heard = ClapFeatureExtractor.from_pretrained(model, revision=revision or "main", local_files_only=True)
    except OSError as error:
        raise _unknown(model) from error
    return heard.sampling_rate, float(heard.max_length_s)
