"""Weights of DAC as its original package, descript-audio-codec, saves them: the same network under other names.

The package saves `weights.pth`, a pickle of tensors, of their names and of how to build the network, its convolutions
under weight norm. Only tensors and plain values of it are read, and weight norm is multiplied out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm
from transformers import DacConfig, DacModel

from codecdiff.codecs import OriginalPackage
from codecdiff.errors import InvalidValue, UnknownName
from codecdiff.huggingface import is_building_skeleton, require_complete

ORIGINAL = OriginalPackage("descript", module="dac", package="descript-audio-codec", plugin="codecdiff-dac")

SETTINGS = {  # fields of transformers' configuration -> the original's names of them
    "sampling_rate": "sample_rate",
    "downsampling_ratios": "encoder_rates",
    "encoder_hidden_size": "encoder_dim",
    "decoder_hidden_size": "decoder_dim",
    "n_codebooks": "n_codebooks",
    "codebook_size": "codebook_size",
    "codebook_dim": "codebook_dim",
}


def is_original(model: str) -> bool:
    """Return whether `model` names a file of the original package's weights. Raises ValueError for one of its audio."""
    if model.endswith(".dac"):
        raise InvalidValue(
            f"'{model}' is audio that the original package compressed, a pickle, not a model. It is not read here: "
            f"decompress it with that package (`python -m dac decode {model}`), and encode the audio."
        )
    return model.endswith(".pth")


def read_network(file: Path | str) -> DacModel:
    """Return the network whose weights a file of the original package contains, as transformers' DAC, in float32.

    On the meta device it has no weights. Raises LookupError if the file does not exist, and ValueError if
    it contains anything else.
    """
    settings, weights = _read(file)
    with torch.device("meta"):
        network = DacModel(_config(settings, file)).eval()
    if is_building_skeleton():
        return network
    names = module_names(len(network.config.downsampling_ratios))
    weights = rename_modules(folded(weights), {original: ours for ours, original in names.items()})
    require_complete("DAC", str(file), network.state_dict().keys() - weights.keys())
    _load_weights(network, weights, file)
    return network


def _read(file: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the arguments that the original's network was built with, and its weights."""
    if not Path(file).is_file():
        raise UnknownName(f"No DAC model '{file}': no such file. It is one that the original package saves.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or a dangerous file fails in many ways, with advice that is not ours
        raise InvalidValue(
            f"'{file}' cannot be read for tensors and plain values alone, so it is not read at all. A `package.pth` of "
            "the original package contains code: use the `weights.pth` that is saved beside it."
        ) from error
    is_mapping = isinstance(content, dict)
    weights, metadata = (content.get("state_dict"), content.get("metadata")) if is_mapping else (None, None)
    settings = metadata.get("kwargs") if isinstance(metadata, dict) else None
    if not isinstance(settings, dict) or not isinstance(weights, dict):
        raise InvalidValue(
            f"'{file}' is not a `weights.pth` of the original package: it lacks weights or their metadata."
        )
    return settings, weights


def _config(settings: Mapping[str, Any], file: Path | str) -> DacConfig:
    try:
        return DacConfig(**{ours: settings[original] for ours, original in SETTINGS.items()})
    except (KeyError, StrictDataclassError) as error:
        raise InvalidValue(f"'{file}' does not say how to build a network that is like DAC's: {error}.") from error


def _load_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: Path | str) -> None:
    """Load weights into a network on the meta device. Raises ValueError unless they are exactly those it has."""
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InvalidValue(f"'{origin}' contains other weights than its network has: {error}") from error


def folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply out weight norm: `weight_v` brought to the length `weight_g`, per first axis, is the `weight`.

    Source: Salimans & Kingma (2016), Weight Normalization, Eq. 2.
    """
    plain = {}
    for name, tensor in weights.items():
        stem, _, leaf = name.rpartition("_")
        if leaf == "v" and f"{stem}_g" in weights:
            # the operation of torch's own hook: a formula would differ in the last bit
            plain[stem] = torch._weight_norm(tensor.float(), weights[f"{stem}_g"].float(), 0)  # pyright: ignore[reportPrivateImportUsage]
        elif leaf != "g" or f"{stem}_v" not in weights:
            plain[name] = tensor.float()
    return plain


def rename_modules(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return weights under other names of their modules; a module that is not in `names` keeps its own."""
    parts = {name: name.rpartition(".") for name in weights}
    return {f"{names.get(module, module)}.{leaf}": weights[name] for name, (module, _, leaf) in parts.items()}


def _block_names(first_unit: int, **others: int) -> dict[str, str]:
    """Return the original's names inside a resampling block, its three residual units from place `first_unit` on."""
    layers = ("snake1", "conv1", "snake2", "conv2")
    units = {
        f"res_unit{unit + 1}.{layer}": f"{first_unit + unit}.block.{place}"
        for unit in range(3)
        for place, layer in enumerate(layers)
    }
    return units | {layer: str(place) for layer, place in others.items()}


def module_names(depth: int) -> dict[str, str]:
    """Return the original's name of every module that has another in transformers' DAC of `depth` resampling blocks."""
    names = {}
    for half, body, inside in (
        ("encoder", "encoder.block", _block_names(0, snake1=3, conv1=4)),
        ("decoder", "decoder.model", _block_names(2, snake1=0, conv_t1=1)),
    ):
        ends = {"conv1": 0, "snake1": depth + 1, "conv2": depth + 2}
        names |= {f"{half}.{layer}": f"{body}.{place}" for layer, place in ends.items()}
        for i in range(depth):
            names |= {f"{half}.block.{i}.{ours}": f"{body}.{i + 1}.block.{place}" for ours, place in inside.items()}
    return names


def original_network(network: DacModel) -> nn.Module:
    """Return the original package's network with the very weights of transformers' DAC.

    Raises ImportError without the package.
    """
    config, build = network.config, ORIGINAL.load().DAC
    settings = {original: getattr(config, ours) for ours, original in SETTINGS.items()}
    with torch.device("meta"):
        original = build(**settings, decoder_rates=list(config.upsampling_ratios))
    for module in original.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    names = module_names(len(config.downsampling_ratios))
    _load_weights(original, rename_modules(network.state_dict(), names), "the model")
    return original
