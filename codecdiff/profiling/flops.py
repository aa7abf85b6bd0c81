"""Count what a computation takes as it runs: floating-point operations, and bytes in use.

On tensors of the meta device, which have a shape and no data, it is counted without being computed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def size_of_state(module: nn.Module | None) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return size_of([*module.parameters(), *module.buffers()]) if module else 0


class FusedAttention(TorchFunctionMode):
    """Attention on the meta device as a GPU computes it: by a kernel that never stores the weight of every pair.

    Torch's own implementation there is the formula step by step, which stores them all.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; attention of (b, heads, n, d) on the meta device as one kernel."""
        kwargs = kwargs or {}
        if (
            func is functional.scaled_dot_product_attention
            and args[0].is_meta
            and args[0].shape[:2] == args[1].shape[:2]
        ):
            return _fused(*args, **kwargs)
        return func(*args, **kwargs)


def _fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    options.pop("enable_gqa", None)
    pairs = (*query.shape[:-1], key.shape[-2])
    bias = None if attn_mask is None else attn_mask.to(query.dtype).expand(pairs)
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, **options)[0]


FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


class OperationCounter(TorchDispatchMode):
    """Counts the operations that run inside it.

    `flops` are those of convolutions and matrix products, by torch's own formulas: a multiplication and an addition
    are two. Those of the forward pass that run again in the backward pass, when checkpointing, are `recomputed`.
    `used` are the bytes that tensors of one device, allocated inside, take now; `peak` is the most they took.
    """

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device = device
        self.flops = self.recomputed = self.used = self.peak = 0
        self.is_backward = False
        self._storages: set[int] = set()
        self._attention = FusedAttention()

    def __enter__(self) -> Self:
        """Start counting."""
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := FORMULAS.get(func._overloadpacket):
            count = formula(*args, **kwargs, out_val=result)
            self.flops += count
            # a backward pass is not itself differentiated: what is differentiated belongs to a forward pass
            self.recomputed += count if self.is_backward and torch.is_grad_enabled() else 0
        inputs = {storage._cdata for storage in self._storages_of((args, kwargs))}
        for storage in self._storages_of(result):
            if storage._cdata not in inputs | self._storages:
                self._allocate(storage)
        return result

    def _storages_of(self, nest: Any) -> list[torch.UntypedStorage]:
        tensors = [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]
        return [tensor.untyped_storage() for tensor in tensors if tensor.device.type == self.device]

    def _allocate(self, storage: torch.UntypedStorage) -> None:
        self._storages.add(storage._cdata)
        self.used += storage.nbytes()
        self.peak = max(self.peak, self.used)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.used -= size


LOWER = frozenset(
    {
        *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, functional.linear, functional.prelu),
        *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm, torch.einsum),
        functional.scaled_dot_product_attention,
    }
)
WHOLE = frozenset(
    {
        *(functional.group_norm, functional.layer_norm, functional.rms_norm, functional.normalize),
        *(functional.softmax, functional.log_softmax, functional.softplus, functional.interpolate),
        *(torch.softmax, Tensor.softmax, torch.log_softmax, Tensor.log_softmax, torch.norm, Tensor.norm),
        *(torch.exp, Tensor.exp, torch.log, Tensor.log, torch.rsqrt, Tensor.rsqrt, torch.square, Tensor.square),
        *(torch.pow, Tensor.pow, Tensor.__pow__, torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum),
        *(torch.prod, Tensor.prod),
    }
)


class MixedPrecision(TorchFunctionMode):
    """Autocast of a GPU to bfloat16, for tensors of the meta device, which torch's own leaves alone.

    Operations in `lower` run in bfloat16, those in `whole` in float32, and others in the type of their inputs: the
    lists of torch.amp for CUDA, as far as networks use them. As there, a weight is cast once in a forward pass and
    cached to its end; not so with `cache=False`, for what is computed again in a backward pass.
    """

    def __init__(self, *, cache: bool = True, lower: frozenset[Any] = LOWER, whole: frozenset[Any] = WHOLE):
        super().__init__()
        self.cache, self.lower, self.whole = cache, lower, whole
        self._cached: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on inputs of its precision."""
        kwargs = kwargs or {}
        if func in self.lower:
            args, kwargs = tree_map(self._lowered, (args, kwargs))
        elif func in self.whole:
            args, kwargs = tree_map(_whole, (args, kwargs))
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        """Clear the cached weights."""
        self._cached.clear()
        super().__exit__(*error)

    def _lowered(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype is not torch.float32:
            return value
        if not (self.cache and value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self._cached:
            self._cached[id(value)] = value.to(torch.bfloat16)
        return self._cached[id(value)]


def _whole(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
