"""Sizes of Mimi: the released model, and a tiny one for tests."""

from typing import Any

from transformers import MimiConfig, MimiModel

from codecdiff.huggingface import PretrainedModels

SIZES: dict[str, dict[str, Any]] = {"24khz": {}}  # transformers' defaults are the released model's

TINY: dict[str, Any] = {
    "sampling_rate": 6000,  # Hz
    "upsampling_ratios": [6, 5, 4],
    "num_filters": 4,
    "hidden_size": 16,
    "upsample_groups": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "sliding_window": 10,
    "vector_quantization_hidden_dimension": 8,
    "codebook_dim": 8,
    "codebook_size": 128,
    "num_quantizers": 8,
}

MODELS = PretrainedModels("Mimi", MimiModel, {"kyutai/mimi": SIZES["24khz"]})


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe a Mimi of random weights: `tiny`, or the released size, `24khz`."""
    # at transformers' layer scale of 0.01 the transformers would hardly change what passes through them
    config = {**{**SIZES, "tiny": TINY}[size], "layer_scale_initial_scale": 0.3, **changes}
    gains = {"encoder": 1.3, "quantizer": 1.0, "decoder": 0.7}  # an ELU halves signals again
    return {"network": MimiModel(MimiConfig(**config)), "gains": gains}
