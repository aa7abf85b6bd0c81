"""Sizes of DAC: the released models, and a tiny one for tests."""

from typing import Any

from transformers import DacConfig, DacModel

from codecdiff.huggingface import PretrainedModels

SIZES: dict[str, dict[str, Any]] = {
    "16khz": {"sampling_rate": 16000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 12},
    "24khz": {"sampling_rate": 24000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 32},
    "44khz": {"sampling_rate": 44100, "downsampling_ratios": [2, 4, 8, 8], "n_codebooks": 9},
}  # Hz; everything else as transformers' defaults, which are the released models'

TINY: dict[str, Any] = {
    "sampling_rate": 8000,
    "downsampling_ratios": [2, 4, 5],
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 32,
    "n_codebooks": 4,
    "codebook_size": 64,
}

MODELS = PretrainedModels(
    "DAC",
    DacModel,
    {f"descript/dac_{size}": config for size, config in SIZES.items()},
    advice=(
        " Weights still under weight norm have to be converted to transformers' DAC; those of the original package are "
        "read from its own file: model=weights.pth."
    ),
)


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe a DAC of random weights: `tiny`, or a released size such as `44khz`."""
    network = DacModel(DacConfig(**{**{**SIZES, "tiny": TINY}[size], **changes}))
    # At 1 the encoder's outputs differ enough to use many codes. The decoder, with its residual sums, would saturate
    # its tanh, and at 0.5 its audio is as loud as music.
    return {"network": network, "gains": {"encoder": 1.0, "quantizer": 1.0, "decoder": 0.5}}
