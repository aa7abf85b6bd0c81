"""Linear maps with weights that oneDNN packs for the processor, for networks that run often without a change."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def packs_weights(weight: Tensor) -> bool:
    """Return whether oneDNN computes in the precision of the weights, on their device."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    mkldnn = torch.ops.mkldnn
    return {
        torch.float32: lambda: True,
        torch.bfloat16: mkldnn._is_mkldnn_bf16_supported,
        torch.float16: mkldnn._is_mkldnn_fp16_supported,
    }.get(weight.dtype, lambda: False)()


class PackedLinear:
    """A linear map without gradients: weight (e', e), bias (e',) or None. Its weights are packed at its first call."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype | None = None):
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.packs, self.is_packed = packs_weights(self.weight), False

    def __call__(self, x: Tensor) -> Tensor:
        """(..., e) -> (..., e')."""
        if not self.packs:
            return functional.linear(x, self.weight, self.bias)
        if not self.is_packed:
            rows = x.shape[:-1].numel()
            self.weight, self.is_packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows), True
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
