"""What denoisers share: checked inputs, learned nulls, controls, features computed in advance.

`adapted`: layers of adapters.
"""

from codecdiff.denoisers.conditioning import (
    KeysAndValues,
    LayerFeatures,
    PrecomputedConditioning,
    PreparedDenoiser,
    check_inputs,
    check_names,
    embedding_network,
    fill_nulls,
    mean_token,
    merge_heads,
    split_heads,
)
from codecdiff.denoisers.control_input import ControlInput, control_frames
from codecdiff.denoisers.packed import PackedLinear, packs_weights
from codecdiff.execution import fused

__all__ = [
    "ControlInput",
    "KeysAndValues",
    "LayerFeatures",
    "PackedLinear",
    "PrecomputedConditioning",
    "PreparedDenoiser",
    "check_inputs",
    "check_names",
    "control_frames",
    "embedding_network",
    "fill_nulls",
    "fused",
    "mean_token",
    "merge_heads",
    "packs_weights",
    "split_heads",
]
