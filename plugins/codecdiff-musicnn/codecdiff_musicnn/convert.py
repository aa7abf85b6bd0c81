"""Converts the checkpoints of the PyPI package musicnn 0.1.0 to the file that this package comes with.

    pip download --no-deps musicnn==0.1.0
    python -m codecdiff_musicnn.convert musicnn-0.1.0-py3-none-any.whl musicnn.safetensors

The wheel is read as an archive: nothing of it is imported or installed. Its checkpoints are TensorFlow bundles: an
index, which is a sorted table of names as LevelDB writes it, and the tensors one after another.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from codecdiff.errors import InvalidValue
from codecdiff_musicnn.network import NUM_FRAMES, MusiCNNNetwork

WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
CHECKPOINTS = {"msd": "MSD_musicnn", "mtt": "MTT_musicnn"}
EPSILON = 1e-3  # of normalizations, the default of TensorFlow's layers
FOOTER_BYTES, TRAILER_BYTES = 48, 5  # of a table; of a block: its compression and a checksum
TABLE_MAGIC = 0xDB4775248B80FB57
FLOAT32 = 1  # in TensorFlow's numbering of types
SOURCE = "https://pypi.org/project/musicnn/0.1.0 (Jordi Pons, Music Technology Group, Universitat Pompeu Fabra)"

FRONT_LAYERS = range(5)  # numbers of their convolutions; that of a normalization is one more
MIDEND_LAYERS = range(5, 8)
NORMS = {"input_norm": 0, "pool_norm": 9, "embedding_norm": 10}
NEGLIGIBLE = 1e-9  # most that a filter can respond to an input of 1, under which it counts as dead


class Location(NamedTuple):
    """Where a tensor lies in the data of a bundle."""

    shape: tuple[int, ...]
    offset: int
    size: int  # bytes


def convert_wheel(wheel: Path, file: Path) -> None:
    """Write both checkpoints of the wheel as one safetensors file. Raises ValueError for any other wheel."""
    if sha256_of(wheel) != WHEEL_SHA256:
        raise InvalidValue(f"'{wheel}' is not the wheel of musicnn 0.1.0: expected SHA-256 {WHEEL_SHA256}.")
    with ZipFile(wheel) as archive:
        tags = read_tags(archive.read("musicnn/configuration.py").decode())
        states = {name: read_checkpoint(archive, folder) for name, folder in CHECKPOINTS.items()}
    tensors = {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}
    metadata = {"source": SOURCE, "license": "ISC, see LICENSE.musicnn", "tags": json.dumps(tags)}
    save_file(tensors, file, metadata=metadata)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_tags(source: str) -> dict[str, list[str]]:
    """Return the names of the tags from the text of musicnn's configuration, by checkpoint, without running it."""
    lists = {
        ast.unparse(node.targets[0]): node.value for node in ast.parse(source).body if isinstance(node, ast.Assign)
    }
    return {name: ast.literal_eval(lists[f"{name.upper()}_LABELS"]) for name in CHECKPOINTS}


def read_checkpoint(archive: ZipFile, folder: str) -> dict[str, Tensor]:
    """Return the state of `MusiCNNNetwork` from a checkpoint of the wheel."""
    data = archive.read(f"musicnn/{folder}/.data-00000-of-00001")
    locations = read_index(archive.read(f"musicnn/{folder}/.index"))
    return network_state({name: read_array(data, location) for name, location in locations.items()})


def read_array(data: bytes, location: Location) -> np.ndarray:
    """Read a tensor of float32 from the data of a bundle."""
    values = np.frombuffer(data[location.offset : location.offset + location.size], "<f4")
    return values.reshape(location.shape)


def network_state(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the state of `MusiCNNNetwork` from TensorFlow's arrays by name, without the filters that died.

    The shapes of TensorFlow's kernels: (frames, bands, 1, c) in the front end; (frames, c, 1, 64) in the mid end, where
    channels take the place of bands; (inputs, outputs) of dense layers.
    """
    source = {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}
    norms = {number: folded_norm(source, number) for number in range(11)}
    state = {f"{name}.{key}": tensor for name, number in NORMS.items() for key, tensor in norms[number].items()}
    alive, constants = [], []
    for i in FRONT_LAYERS:
        kernel, bias = layer_weights(source, "conv2d", i)
        kernel, norm = kernel.permute(3, 2, 0, 1), norms[i + 1]
        keep = kernel.abs().sum((1, 2, 3)) * norm["scale"].abs() > NEGLIGIBLE
        tensors = {"conv.weight": kernel, "conv.bias": bias, **{f"norm.{key}": each for key, each in norm.items()}}
        state |= {f"front.{i}.{name}": tensor[keep] for name, tensor in tensors.items()}
        alive.append(keep)
        constants.append(bias.relu() * norm["scale"] + norm["shift"])
    keep, constant = torch.cat(alive), torch.cat(constants)
    for i, number in enumerate(MIDEND_LAYERS):
        kernel, bias = layer_weights(source, "conv2d", number)
        weight, bias = kernel[:, :, 0].permute(2, 1, 0), bias[:, None]  # (64, c, frames)
        if i == 0:
            dead = constant[~keep, None].expand(-1, NUM_FRAMES)
            bias = bias + functional.conv1d(dead, weight[:, ~keep], padding=weight.shape[2] // 2)
            weight = weight[:, keep]
        state |= {f"midend.{i}.conv.weight": weight, f"midend.{i}.bias": bias}
        state |= {f"midend.{i}.norm.{key}": tensor for key, tensor in norms[number + 1].items()}
    state |= dense_state(source, norms[9], keep, constant)
    contiguous = {name: tensor.float().contiguous() for name, tensor in state.items()}
    MusiCNNNetwork.of(contiguous)  # names and shapes are those of the network
    return contiguous


def dense_state(
    source: Mapping[str, Tensor], norm: Mapping[str, Tensor], keep: Tensor, constant: Tensor
) -> dict[str, Tensor]:
    """Return the dense layers and the normalization of what is pooled, without the channels that are constant.

    `keep` (c,) says which channels of the front end are alive, `constant` (c,) what the others amount to.
    """
    (kernel, bias), (output, output_bias) = (layer_weights(source, "dense", i) for i in range(2))
    num_midend = len(kernel) // 2 - len(keep)
    keep = torch.cat([keep, keep.new_ones(num_midend)]).repeat_interleave(2)  # a maximum and a mean of each channel
    constant = torch.cat([constant, constant.new_zeros(num_midend)]).repeat_interleave(2)
    normalized = constant * norm["scale"] + norm["shift"]
    return {
        **{f"pool_norm.{key}": tensor[keep] for key, tensor in norm.items()},
        "dense.weight": kernel[keep].T,
        "dense.bias": bias + normalized[~keep] @ kernel[~keep],
        "output.weight": output.T,
        "output.bias": output_bias,
    }


def folded_norm(source: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return the scale and shift (c,) that a normalization over batches amounts to."""
    layer = layer_name("batch_normalization", number)
    gamma, beta, mean, variance = (
        source[f"{layer}/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / (variance + EPSILON).sqrt()
    return {"scale": scale, "shift": beta - mean * scale}


def layer_weights(source: Mapping[str, Tensor], kind: str, number: int) -> tuple[Tensor, Tensor]:
    """Return the kernel and the bias of a layer."""
    layer = layer_name(kind, number)
    return source[f"{layer}/kernel"], source[f"{layer}/bias"]


def layer_name(kind: str, number: int) -> str:
    """Return TensorFlow's name of the layer of a kind with this number, which the first one lacks."""
    return f"{kind}_{number}" if number else kind


def read_index(table: bytes) -> dict[str, Location]:
    """Return where each float32 tensor of a bundle lies. Raises ValueError for a table of another form."""
    footer = table[-FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != TABLE_MAGIC:
        raise InvalidValue("This is not the index of a TensorFlow bundle: its last eight bytes differ.")
    _, position = read_handle(footer, 0)
    index, _ = read_handle(footer, position)
    locations = {}
    for _, handle in read_block(table, *index):
        for name, value in read_block(table, *read_handle(handle, 0)[0]):
            fields = dict(read_fields(value))
            if name and fields[1] == FLOAT32:  # the entry without a name describes the bundle
                sizes = [dict(read_fields(size)).get(1, 0) for key, size in read_fields(fields.get(2, b"")) if key == 2]
                locations[name.decode()] = Location(tuple(sizes), fields.get(4, 0), fields.get(5, 0))
    return locations


def read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Read the offset and size of a block, and return where the next one is described."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def read_block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block: a key says how many bytes it shares with the one before."""
    if table[offset + size]:
        raise InvalidValue("A block of this index is compressed: expected none to be.")
    block = table[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    end, position, key = size - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        key = key[:shared] + block[position : position + own]
        yield key, block[position + own : position + own + length]
        position += own + length


def read_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protocol buffer by number: integers as such, everything else as bytes."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        if tag & 7 == 0:
            value, position = read_varint(message, position)
            yield tag >> 3, value
            continue
        length, position = read_varint(message, position) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], position)
        yield tag >> 3, message[position : position + length]
        position += length


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read an integer in groups of seven bits, the lowest first, and return the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value, shift, position = value | (byte & 127) << shift, shift + 7, position + 1
        if not byte & 128:
            return value, position


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="Convert the checkpoints of musicnn 0.1.0.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("file", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()
    convert_wheel(arguments.wheel, arguments.file)


if __name__ == "__main__":
    main()
