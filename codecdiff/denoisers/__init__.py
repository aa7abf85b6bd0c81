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
from codecdiff.execution import fused

__all__ = [
    "KeysAndValues",
    "LayerFeatures",
    "PrecomputedConditioning",
    "PreparedDenoiser",
    "check_inputs",
    "embedding_network",
    "fill_nulls",
    "fused",
    "mean_token",
    "merge_heads",
    "split_heads",
]
