"""Write a small model of random weights for a part, to test and try things without downloading anything:

    python -m codecdiff.testing.tiny NAME FOLDER --size 44khz --seed 0

Codes, audio and vectors of such a model mean nothing, but they differ from input to input, and shapes, times and memory
of a released size are those of the released model.

A plugin describes its models by a function `tiny(size="tiny", **changes)` in its module `config`, which returns the
fields of a `TinyModel` as a dictionary; `changes` are fields of the network's configuration.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codecdiff import registry
from codecdiff.errors import InvalidValue, UnknownName

__all__ = ["TinyModel", "write_tiny"]

NUM_CLIPS, CLIP_FRAMES = 4, 64  # of noise, that codebooks are drawn from
CODEBOOK_SPREAD = 0.4  # of codebook vectors, beside what they are drawn from; with 1, residuals would grow by level


@dataclass(frozen=True)
class TinyModel:
    """A model that is written with random weights.

    A network of transformers is saved by its `save_pretrained`; any other as `weights.pth`, its state dict, in which
    the rows of a matrix overlap, so that a large network takes a small file.
    """

    network: nn.Module
    processors: Sequence[Any] = ()  # tokenizers and feature extractors, saved beside it
    gains: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})  # submodule -> how far layers raise signals


def write_tiny(name: str, folder: Path | str, *, size: str = "tiny", seed: int = 0, **changes: Any) -> Path:
    """Write a model of random weights for the part `name` of an installed plugin, and return the folder.

    `size` is one of the plugin's `config` module, and `changes` are fields of the network's configuration. Raises
    LookupError for a part without a tiny model, and ValueError for another size.

    Example:
        codec = DAC(str(write_tiny("dac", tmp_path)))

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    build = builder_of(name)
    try:
        with torch.random.fork_rng(devices=[]):
            model = TinyModel(**build(size, **changes))
    except KeyError as error:
        raise InvalidValue(f"Invalid size {size!r} of {name}: see SIZES in {build.__module__}.") from error
    generator = torch.Generator().manual_seed(seed)
    if hasattr(model.network, "save_pretrained"):
        draw_network(model, generator)
        model.network.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    else:
        shapes = {key: tensor.shape for key, tensor in model.network.state_dict().items()}
        torch.save({key: overlapping(shape, generator) for key, shape in shapes.items()}, folder / "weights.pth")
    for processor in model.processors:
        processor.save_pretrained(folder)
    return folder


def builder_of(name: str) -> Callable[..., dict[str, Any]]:
    """Return the function `tiny` of the plugin of a part. Raises LookupError if there is none."""
    for plugin in (plugin for kind in registry.kinds() for plugin in registry.installed(kind) if plugin.name == name):
        package = plugin.load().__module__.partition(".")[0]
        try:
            return import_module(f"{package}.config").tiny
        except (ModuleNotFoundError, AttributeError) as error:
            raise UnknownName(
                f"{package} describes no tiny model: it has no function `{package}.config.tiny`."
            ) from error
    raise UnknownName(f"No part named {name!r} is installed: see `codecdiff plugins`.")


@torch.no_grad()
def draw_network(model: TinyModel, generator: torch.Generator) -> None:
    """Draw the weights of every layer, then the codebooks that transformers builds of zeros."""
    model.network.eval()
    for name, gain in model.gains.items():
        for module in model.network.get_submodule(name).modules():
            draw_layer(module, gain, generator)
    draw_codebooks(model.network, generator)


def draw_layer(module: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Draw a layer's weights so that signals grow by about `gain`, and its biases; embeddings have unit variance."""
    if isinstance(module, parametrize.ParametrizationList):
        return  # drawn with the layer it belongs to
    own = dict(module.named_parameters(recurse=False))
    if is_parametrized := parametrize.is_parametrized(module, "weight"):
        own["weight"] = module.get_parameter("parametrizations.weight.original1")
    for name, tensor in own.items():
        if name.startswith("weight") and tensor.ndim > 1:
            std = gain * num_inputs(module, tensor) ** -0.5
        elif name.startswith("bias"):
            std = 0.1
        else:
            continue
        values = torch.empty(tensor.shape).normal_(std=std, generator=generator)
        if is_parametrized and name == "weight":
            module.weight = values  # pyright: ignore[reportAttributeAccessIssue]  # as a length and a direction
        else:
            tensor.copy_(values)


def num_inputs(module: nn.Module, weight: Tensor) -> float:
    """Count the numbers that an output of a layer sums over, for an embedding one."""
    if isinstance(module, nn.Embedding):
        return 1
    if isinstance(module, nn.ConvTranspose1d):
        return module.in_channels / module.groups * module.kernel_size[0] / module.stride[0]
    return weight[0].numel()


def draw_codebooks(network: Any, generator: torch.Generator) -> None:
    """Draw every codebook of a residual quantizer about what the levels before it leave of encoded noise.

    transformers builds those of EnCodec and Mimi of zeros, and then every check of codes passes vacuously.
    """
    quantizers = [m for m in network.modules() if hasattr(next(iter(getattr(m, "layers", ())), None), "codebook")]
    if not quantizers:
        return
    config = network.config
    frame = round(config.sampling_rate / config.frame_rate)  # samples
    shape = (1, config.audio_channels, CLIP_FRAMES * frame)
    encoded = [network.encoder(0.3 * torch.randn(shape, generator=generator)) for _ in range(NUM_CLIPS)]
    latents = torch.cat([getattr(each, "latents", each) for each in encoded], dim=-1)  # (1, d, l)
    for quantizer in quantizers:
        projection = getattr(quantizer, "input_proj", None)
        residual = latents if projection is None else projection(latents)
        for level in quantizer.layers:
            set_codebook(level.codebook, vectors_like(residual[0].T, config.codebook_size, generator))
            residual = residual - level.decode(level.encode(residual))


def set_codebook(codebook: Any, vectors: Tensor) -> None:
    """Set the vectors of a codebook, (codebook_size, d), which is kept as they are or as sums over their uses."""
    if hasattr(codebook, "embed_sum"):
        codebook.embed_sum.copy_(vectors * codebook.cluster_usage[:, None])
    else:
        codebook.embed.copy_(vectors)
        codebook.embed_avg.copy_(vectors)


def vectors_like(frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(l, d) frames -> (count, d), drawn with their mean and the shape of their covariance, as random sums of them."""
    weights = CODEBOOK_SPREAD * torch.randn(count, len(frames), generator=generator) * len(frames) ** -0.5
    return frames.mean(0) + weights @ (frames - frames.mean(0))


def overlapping(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a tensor that keeps the size of signals under rectifiers: row i begins one number after row i - 1."""
    columns = shape[1:].numel()
    values = torch.randn(shape[0] + columns - 1, generator=generator)
    if len(shape) == 1:
        return 0.1 * values
    return ((2 / columns) ** 0.5 * values).unfold(0, columns, 1).unflatten(1, shape[1:])


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a small model of random weights.")
    parser.add_argument("name", help="of an installed part, such as dac")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="tiny", help="tiny, or another size of the plugin, such as 44khz")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_tiny(arguments.name, arguments.folder, size=arguments.size, seed=arguments.seed)


if __name__ == "__main__":
    main()
