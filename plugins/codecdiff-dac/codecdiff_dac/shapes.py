"""Shapes of DAC networks: those that are released, and one for tests."""

from typing import Any, Literal

from transformers import DacConfig

from codecdiff.huggingface import known_shape
from codecdiff_dac.originals import is_original, read_shape

Size = Literal["tiny", "16khz", "24khz", "44khz"]

SHAPES: dict[Size, dict[str, Any]] = {
    "tiny": {
        "sampling_rate": 8000,
        "downsampling_ratios": [2, 4, 5],
        "encoder_hidden_size": 4,
        "decoder_hidden_size": 32,
        "n_codebooks": 4,
        "codebook_size": 64,
    },
    "16khz": {"sampling_rate": 16000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 12},
    "24khz": {"sampling_rate": 24000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 32},
    "44khz": {"sampling_rate": 44100, "downsampling_ratios": [2, 4, 8, 8], "n_codebooks": 9},
}  # Hz; the rest as transformers' defaults, which are the released models'

RELEASED: dict[str, Size] = {
    "descript/dac_16khz": "16khz",
    "descript/dac_24khz": "24khz",
    "descript/dac_44khz": "44khz",
}


def shape_of(model: str, revision: str | None) -> DacConfig:
    """Give the shape of a model without a network: of a local folder or file, a released one, or one fetched before.

    Raises LookupError if it is none of these.
    """
    if is_original(model):
        return read_shape(model)
    return known_shape("DAC", model, revision, DacConfig, {name: SHAPES[size] for name, size in RELEASED.items()})
