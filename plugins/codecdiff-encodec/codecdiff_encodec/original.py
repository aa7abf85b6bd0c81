"""The network of the package `encodec`, with the weights that transformers has loaded.

The package is under CC BY-NC 4.0 and needs torchaudio. It fetches and unpickles weights of its own; nothing of that is
used here.
"""

import re
from collections.abc import Container

import torch
from torch import nn
from transformers import EncodecModel

# Names of transformers' modules -> of the package's, in order. It wraps every convolution twice more.
_RENAMED = (
    (r"^(encoder|decoder)\.layers\.", r"\1.model."),
    (r"\.conv\.(weight|bias)$", r".conv.conv.\1"),
    (r"\.norm\.(weight|bias)$", r".conv.norm.\1"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)


def original(network: EncodecModel) -> nn.Module:
    """Give the package's encoder, decoder and quantiser with the weights of `network`, whose weight norm is folded.

    Raises ImportError, with what to install, if the package is not there.
    """
    try:
        from encodec.modules import SEANetDecoder, SEANetEncoder
        from encodec.quantization import ResidualVectorQuantizer
    except ImportError as error:
        raise ImportError(
            f"backend='encodec' needs the package encodec ({error}): pip install 'codecdiff-encodec[encodec]'. "
            "It is for non-commercial use (CC BY-NC 4.0); backend='transformers' gives the same numbers without it."
        ) from error
    config = network.config
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
    levels = len(network.quantizer.layers)
    with torch.random.fork_rng(devices=[]):
        parts = {
            "encoder": SEANetEncoder(**shape),
            "decoder": SEANetDecoder(**shape, trim_right_ratio=config.trim_right_ratio),
            "quantizer": ResidualVectorQuantizer(config.hidden_size, n_q=levels, bins=config.codebook_size),
        }
    made = nn.ModuleDict(parts)
    known = made.state_dict().keys()
    made.load_state_dict({_renamed(name, known): tensor for name, tensor in network.state_dict().items()})
    return made.requires_grad_(False).eval()


def _renamed(name: str, known: Container[str]) -> str:
    """Give the package's name of a weight; `known` tells a convolution from a transposed one."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if name in known:
        return name
    return name.replace(".conv.conv.", ".convtr.convtr.").replace(".conv.norm.", ".convtr.norm.")
