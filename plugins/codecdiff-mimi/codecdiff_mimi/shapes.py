"""Shapes of Mimi networks: the one that is released, and one for tests."""

from typing import Any, Literal

from transformers import MimiConfig

from codecdiff.huggingface import known_shape

Size = Literal["tiny", "24khz"]

SHAPES: dict[Size, dict[str, Any]] = {
    "tiny": {
        "sampling_rate": 6000,
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
    },
    "24khz": {},
}  # Hz; the rest as transformers' defaults, which are the released model's

RELEASED: dict[str, Size] = {"kyutai/mimi": "24khz"}


def shape_of(model: str, revision: str | None) -> MimiConfig:
    """Give the shape of a model without a network: of a local folder, the released one, or one fetched before.

    Raises LookupError if it is none of these.
    """
    return known_shape("Mimi", model, revision, MimiConfig, {name: SHAPES[size] for name, size in RELEASED.items()})
