"""What denoisers share: checked inputs, learned nulls, features computed in advance; `adapted`: layers of adapters."""

from codecdiff.denoisers.conditioning import (
    KeysAndValues,
    LayerFeatures,
    PrecomputedConditioning,
    PreparedDenoiser,
    check_inputs,
    embedding_network,
    fill_nulls,
    mean_token,
    merge_heads,
    split_heads,
)

__all__ = [
    "KeysAndValues",
    "LayerFeatures",
    "PrecomputedConditioning",
    "PreparedDenoiser",
    "check_inputs",
    "embedding_network",
    "fill_nulls",
    "mean_token",
    "merge_heads",
    "split_heads",
]
