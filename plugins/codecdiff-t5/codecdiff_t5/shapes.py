"""Shapes of the T5 encoders that are released."""

from typing import Any

from transformers import T5Config

from codecdiff.huggingface import known_shape

RELEASED: dict[str, dict[str, Any]] = {
    "google/flan-t5-small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "google/flan-t5-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/flan-t5-large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "google/flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "google/flan-t5-xxl": {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
}


def shape_of(model: str, revision: str | None) -> T5Config:
    """Give the shape of a model without a network: of a local folder, a released one, or one fetched before.

    Raises LookupError if it is none of these.
    """
    rest = {"vocab_size": 32128, "d_kv": 64, "feed_forward_proj": "gated-gelu"}
    return known_shape("T5", model, revision, T5Config, {name: {**rest, **shape} for name, shape in RELEASED.items()})
