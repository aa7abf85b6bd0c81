"""What a computation takes, counted as it runs: floating-point operations, and bytes in use.

On tensors of the meta device, which have a shape and no numbers, it is counted without being done.
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
    """Give the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def size_of_state(module: nn.Module | None) -> int:
    """Give the bytes of a module's parameters and buffers."""
    return size_of([*module.parameters(), *module.buffers()]) if module else 0


class FusedAttention(TorchFunctionMode):
    """Attention on the meta device as a GPU does it: by a kernel that never holds the weight of every pair of tokens.

    Torch's own way there is the formula step by step, which holds them all.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, attention of (b, heads, n, d) on the meta device in one piece."""
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


def _sdpa_on_cpu(query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **options: Any) -> int:
    return sdpa_flop(query, key, value)


def _sdpa_on_cpu_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return sdpa_backward_flop(grad, query, key, value)


FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_on_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_on_cpu_backward,
}


class Meter(TorchDispatchMode):
    """Counts what runs inside it.

    `flops` are those of convolutions and matrix products, by torch's own formulas: a multiplication and an addition
    are two. Those of the forward pass that run again in the backward pass, when checkpointing, are `recomputed`.
    `used` are the bytes that tensors of one device, made inside, hold now; `peak` is the most they held.
    """

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device = device
        self.flops = self.recomputed = self.used = self.peak = 0
        self.is_backward = False
        self._storages: set[int] = set()
        self._attention = FusedAttention()

    def __enter__(self) -> Self:
        """Count from here on."""
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *fault: Any) -> None:
        """Count no more."""
        super().__exit__(*fault)
        self._attention.__exit__(*fault)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := FORMULAS.get(func._overloadpacket):
            count = formula(*args, **kwargs, out_val=result)
            self.flops += count
            # a backward pass is not itself differentiated: what is, is a forward pass
            self.recomputed += count if self.is_backward and torch.is_grad_enabled() else 0
        given = {storage._cdata for storage in self._held_by((args, kwargs))}
        for storage in self._held_by(result):
            if storage._cdata not in given | self._storages:
                self._allocate(storage)
        return result

    def _held_by(self, nest: Any) -> list[torch.UntypedStorage]:
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

    Operations that are `lower` take bfloat16, those that are `whole` take float32, and others what they are given:
    the lists of torch.amp for CUDA, as far as networks use them. As there, a weight is cast once in a forward pass
    and kept to its end; not so with `keep=False`, for what is computed again in a backward pass.
    """

    def __init__(self, *, keep: bool = True, lower: frozenset[Any] = LOWER, whole: frozenset[Any] = WHOLE):
        super().__init__()
        self.keep, self.lower, self.whole = keep, lower, whole
        self._kept: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on inputs of the precision it is to have."""
        kwargs = kwargs or {}
        if func in self.lower:
            args, kwargs = tree_map(self._lowered, (args, kwargs))
        elif func in self.whole:
            args, kwargs = tree_map(_whole, (args, kwargs))
        return func(*args, **kwargs)

    def __exit__(self, *fault: Any) -> None:
        """Forget the weights that were cast."""
        self._kept.clear()
        super().__exit__(*fault)

    def _lowered(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype is not torch.float32:
            return value
        if not (self.keep and value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self._kept:
            self._kept[id(value)] = value.to(torch.bfloat16)
        return self._kept[id(value)]


def _whole(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
