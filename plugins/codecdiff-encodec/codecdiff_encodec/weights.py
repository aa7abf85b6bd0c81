"""Weights of EnCodec under the names of its original package, `encodec`, which is another backend.

The package is under CC BY-NC 4.0 and needs torchaudio. By itself it downloads weights and unpickles them; nothing of
that is used here.
"""

import re
from collections.abc import Container
from typing import Any

import torch
from torch import nn

from codecdiff.codecs import OriginalPackage

ORIGINAL = OriginalPackage(
    "encodec",
    module="encodec",
    package="encodec",
    plugin="codecdiff-encodec",
    note=" (CC BY-NC 4.0: not for commercial use)",
)

# transformers' names of weights -> the package's, in this order; it wraps every convolution twice
_RENAMED = (
    (r"^(encoder|decoder)\.layers\.", r"\1.model."),
    (r"\.conv\.(weight|bias)$", r".conv.conv.\1"),
    (r"\.norm\.(weight|bias)$", r".conv.norm.\1"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)


def original_network(network: Any) -> nn.Module:
    """Return the package's encoder, decoder and quantizer with the weights of transformers' network after `trim`.

    Raises ImportError without the package.
    """
    package, config = ORIGINAL.load(), network.config
    shape = {
        "channels": config.audio_channels,
        "dimension": config.hidden_size,
        "n_filters": config.num_filters,
        "n_residual_layers": config.num_residual_layers,
        "ratios": list(config.upsampling_ratios),
        "norm": "none" if config.norm_type == "weight_norm" else config.norm_type,
        "kernel_size": config.kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "dilation_base": config.dilation_growth_rate,
        "causal": config.use_causal_conv,
        "pad_mode": config.pad_mode,
        "true_skip": not config.use_conv_shortcut,
        "compress": config.compress,
        "lstm": config.num_lstm_layers,
    }
    levels = {"n_q": len(network.quantizer.layers), "bins": config.codebook_size}
    with torch.random.fork_rng(devices=[]):
        parts = {
            "encoder": package.modules.SEANetEncoder(**shape),
            "decoder": package.modules.SEANetDecoder(**shape, trim_right_ratio=config.trim_right_ratio),
            "quantizer": package.quantization.ResidualVectorQuantizer(config.hidden_size, **levels),
        }
    original = nn.ModuleDict(parts)
    names = original.state_dict().keys()
    original.load_state_dict({_renamed(name, names): tensor for name, tensor in network.state_dict().items()})
    return original


def _renamed(name: str, names: Container[str]) -> str:
    """Return the package's name of a weight; `names`, all of its own, tell a convolution from a transposed one."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if name in names:
        return name
    return name.replace(".conv.conv.", ".convtr.convtr.").replace(".conv.norm.", ".convtr.norm.")
