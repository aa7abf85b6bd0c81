"""Training with sharded weights: FSDP2, `torch.distributed.fsdp.fully_shard`, as `accelerate` is set to it.

Each process keeps a shard of every weight, of its average and of the optimizer's state. They are whole in files, and in
the main process for validation and samples. docs/scaling.md shows how it is set up.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(accelerator: Accelerator, denoiser: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """Shard a denoiser in place, and its optimizer with the state that it has, which is the same in all processes.

    Modules that become units of their own, and compute features apart from `forward`, are gathered for these too.
    """
    # Of the results of units, which are views; no denoiser changes them in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    before, state = optimizer.state_dict()["state"], accelerator.state
    plugin, state.fsdp_plugin = state.fsdp_plugin, copy(state.fsdp_plugin)  # it keeps the units of this denoiser
    network, optimizer = accelerator.prepare(denoiser, optimizer)
    state.fsdp_plugin = plugin
    for module in network.modules():
        if module is not network and hasattr(module, "features"):
            register_fsdp_forward_method(module, "features")  # without effect on what is not a unit
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.state.clear()  # of the whole parameters
    for index, values in before.items():
        parameter = parameters[index]
        optimizer.state[parameter] = {key: shard_like(value, parameter) for key, value in values.items()}
    return network, optimizer


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Divide a whole tensor, the same in all processes, as a parameter of its shape is; others stay as they are."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor.detach(), mesh, placements).to(parameter.device)


def shard_average(average: nn.Module, denoiser: nn.Module) -> None:
    """Divide the parameters of an average as those of its denoiser are."""
    for name, parameter in denoiser.named_parameters():
        owner, _, last = name.rpartition(".")
        module = average.get_submodule(owner)
        module.register_parameter(last, nn.Parameter(shard_like(module.get_parameter(last), parameter)))


@torch.no_grad()
def whole_tensors(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Return whole tensors on the CPU in the main process, and nothing in the others, which have to take part."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        whole |= {name: full.cpu()} if accelerator.is_main_process else {}
    return whole
