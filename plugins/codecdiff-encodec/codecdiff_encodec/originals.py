"""The network of the package `encodec`, with the weights that transformers has loaded.

The package is under CC BY-NC 4.0 and needs torchaudio. By itself it fetches weights and unpickles them; nothing of that
is used here.
"""

import re
from collections.abc import Container
from typing import Any

import torch
from torch import nn

# transformers' names of weights -> the package's, in this order; it wraps every convolution twice
_RENAMED = (
    (r"^(encoder|decoder)\.layers\.", r"\1.model."),
    (r"\.conv\.(weight|bias)$", r".conv.conv.\1"),
    (r"\.norm\.(weight|bias)$", r".conv.norm.\1"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)


def original_package() -> Any:
    """Give the package. Raises ImportError, which names the extra, if it cannot be imported."""
    try:
        import encodec  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:  # OSError: a library that torchaudio wants
        raise ImportError(
            "backend=encodec needs the package encodec, which cannot be imported here. Install "
            "'codecdiff-encodec[encodec]' (CC BY-NC 4.0: not for commercial use) in an environment of its own, with "
            "the torchaudio of its torch; or leave the backend at transformers, which gives the same. "
            f"({str(error).splitlines()[0]})"
        ) from error
    return encodec


def original_network(network: Any) -> nn.Module:
    """Give the package's encoder, decoder and quantiser with the weights of transformers' network, without weight norm.

    Raises ImportError without the package.
    """
    package, config = original_package(), network.config
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
    known = original.state_dict().keys()
    original.load_state_dict({_renamed(name, known): tensor for name, tensor in network.state_dict().items()})
    return original


def _renamed(name: str, known: Container[str]) -> str:
    """Give the package's name of a weight; `known`, its names, tell a convolution from a transposed one."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if name in known:
        return name
    return name.replace(".conv.conv.", ".convtr.convtr.").replace(".conv.norm.", ".convtr.norm.")
