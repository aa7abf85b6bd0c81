"""Sizes of SNAC: the released models, and each again tiny for tests; and its network as a model of transformers."""

from __future__ import annotations

import inspect
from typing import Any

from snac import SNAC
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from codecdiff.huggingface import PretrainedModels

MUSIC: dict[str, Any] = {"encoder_rates": [2, 3, 8, 8], "decoder_rates": [8, 8, 3, 2]}
SIZES: dict[str, dict[str, Any]] = {
    "24khz": {
        "sampling_rate": 24000,
        "encoder_dim": 48,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": 1024,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "vq_strides": [4, 2, 1],
    },
    "32khz": {"sampling_rate": 32000, **MUSIC},
    "44khz": {"sampling_rate": 44100, **MUSIC},
}  # everything else as the package's defaults
TINY: dict[str, Any] = {
    "sampling_rate": 4000,
    "encoder_dim": 16,  # so that attention, whose heads have 64 dimensions, has one
    "encoder_rates": [2, 3],
    "decoder_dim": 64,
    "decoder_rates": [3, 2],
    "codebook_size": 64,
    "codebook_dim": 4,
}
OPTIONS = tuple(inspect.signature(SNAC).parameters)  # of the package's network


class SnacConfig(PreTrainedConfig):
    """The arguments of the package's network, as its config.json holds them."""

    model_type = "snac"

    def __init__(self, **options: Any) -> None:
        defaults = {name: parameter.default for name, parameter in inspect.signature(SNAC).parameters.items()}
        super().__init__(**{**defaults, **options})


class SnacModel(PreTrainedModel):
    """The package's network, whose weights transformers reads and writes."""

    config_class = SnacConfig
    config: SnacConfig

    def __init__(self, config: SnacConfig) -> None:
        super().__init__(config)
        network = SNAC(**{name: getattr(config, name) for name in OPTIONS})
        self.encoder, self.quantizer, self.decoder = network.encoder, network.quantizer, network.decoder
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as the package draws them."""


# transformers reads `pytorch_model.bin`, which the released models have, for tensors alone
MODELS = PretrainedModels(
    "SNAC",
    SnacModel,
    {f"hubertsiuzdak/snac_{size}": config for size, config in SIZES.items()},
    files="config.json and model.safetensors or pytorch_model.bin",
    options={},
)


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe a SNAC of random weights: a released size, or `tiny-24khz`, `tiny-32khz`, `tiny-44khz` (`tiny`).

    A tiny one has small networks and codebooks, and the rates and the attention of the released one.
    """
    config = SIZES["44khz" if size == "tiny" else size.removeprefix("tiny-")]
    if size.startswith("tiny"):
        config = {**config, **TINY}
    return {
        "network": SnacModel(SnacConfig(**{**config, **changes})),
        "gains": {"encoder": 1.0, "quantizer": 1.0, "decoder": 0.5},
    }
