"""Conversion of TensorFlow's checkpoints: the bundle is read, and what is left out of the network changes nothing."""

import json
import struct
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from codecdiff_musicnn import convert
from codecdiff_musicnn.network import FRONT_KERNELS, MusiCNNNetwork
from safetensors import safe_open
from torch.nn import functional

FILTERS, DEAD = (6, 6, 4, 4, 4), (2, 5, 1, 3, 0)  # of each kernel of the front end, and how many of them died


def varint(value: int) -> bytes:
    """Encode an integer in groups of seven bits."""
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """Encode a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: dict[bytes, bytes]) -> bytes:
    """Encode a block of a table, with keys that share what they begin with, and its trailer."""
    content, before = b"", b""
    for key, value in entries.items():
        shared = next((i for i, pair in enumerate(zip(key, before, strict=False)) if pair[0] != pair[1]), len(before))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return content + struct.pack("<II", 0, 1) + bytes(5)


def bundle(arrays: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    """Write arrays as TensorFlow does: the index and the data."""
    data, entries = b"", {b"": field(1, 1)}
    for name, array in sorted(arrays.items()):
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        where = field(4, len(data)) if data else b""
        checksum = varint(6 << 3 | 5) + bytes(4)
        entries[name.encode()] = field(1, 1) + field(2, shape) + where + field(5, array.nbytes) + checksum
        data += array.tobytes()
    items = list(entries.items())
    blocks = [block(dict(items[:5])), block(dict(items[5:]))]
    handles = {items[4][0]: varint(0) + varint(len(blocks[0]) - 5)}
    handles[b"\xff"] = varint(len(blocks[0])) + varint(len(blocks[1]) - 5)
    index, meta = block(handles), block({})
    offset = sum(map(len, blocks))
    handle = varint(offset) + varint(len(meta) - 5) + varint(offset + len(meta)) + varint(len(index) - 5)
    footer = handle.ljust(40, b"\0") + struct.pack("<Q", convert.TABLE_MAGIC)
    return b"".join([*blocks, meta, index, footer]), data


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """A network of TensorFlow's names and shapes in which some filters died."""
    random = np.random.default_rng(0)
    front = sum(FILTERS)
    kernels = [(*kernel, 1, count) for kernel, count in zip(FRONT_KERNELS, FILTERS, strict=True)]
    kernels += [(7, front, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    norms = [1, *FILTERS, 64, 64, 64, 2 * (front + 192), 200]
    arrays = {}
    for number, shape in enumerate(kernels):
        kernel = random.normal(0, np.prod(shape[:3]) ** -0.5, shape)
        if number < len(DEAD):
            kernel[..., : DEAD[number]] *= 1e-25
        layer = convert.layer_name("conv2d", number)
        arrays |= {f"{layer}/kernel": kernel, f"{layer}/bias": random.normal(0, 0.3, shape[3])}
    for number, count in enumerate(norms):
        layer = convert.layer_name("batch_normalization", number)
        arrays |= {f"{layer}/gamma": random.uniform(0.5, 2, count), f"{layer}/beta": random.normal(0, 0.5, count)}
        arrays |= {f"{layer}/moving_mean": random.normal(0, 0.5, count)}
        arrays |= {f"{layer}/moving_variance": random.uniform(0.2, 2, count)}
    for number, shape in enumerate([(norms[9], 200), (200, 50)]):
        layer = convert.layer_name("dense", number)
        arrays |= {f"{layer}/kernel": random.normal(0, shape[0] ** -0.5, shape)}
        arrays |= {f"{layer}/bias": random.normal(0, 0.3, shape[1])}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def published(arrays: dict[str, np.ndarray], spectrogram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The network as published, filter by filter, on (n, 187, 96): embeddings and tags."""
    a = {name: torch.from_numpy(array).double() for name, array in arrays.items()}

    def norm(x: torch.Tensor, number: int) -> torch.Tensor:
        layer = convert.layer_name("batch_normalization", number)
        mean, variance, gamma, beta = (a[f"{layer}/{n}"] for n in ("moving_mean", "moving_variance", "gamma", "beta"))
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)

    def conv(x: torch.Tensor, number: int) -> torch.Tensor:
        layer = convert.layer_name("conv2d", number)
        weight = a[f"{layer}/kernel"].permute(3, 2, 0, 1)
        frames = weight.shape[2] - 1
        padded = functional.pad(x, (0, 0, frames // 2, frames - frames // 2))
        return norm(functional.conv2d(padded, weight, a[f"{layer}/bias"]).relu(), number + 1)

    def dense(x: torch.Tensor, number: int) -> torch.Tensor:
        layer = convert.layer_name("dense", number)
        return x @ a[f"{layer}/kernel"] + a[f"{layer}/bias"]

    x = norm(spectrogram.double()[:, None], 0)
    front = torch.cat([conv(x, i).amax(3) for i in range(5)], 1).transpose(1, 2)[:, None]  # channels instead of bands
    layers = [front, conv(front, 5).permute(0, 3, 2, 1)]
    layers.append(conv(layers[1], 6).permute(0, 3, 2, 1) + layers[1])
    layers.append(conv(layers[2], 7).permute(0, 3, 2, 1) + layers[2])
    features = torch.cat(layers, 3)[:, 0]  # (n, t, c)
    pooled = torch.stack([features.amax(1), features.mean(1)], 2).flatten(1)
    embedding = norm(dense(norm(pooled, 9), 0).relu(), 10)
    return embedding, dense(embedding, 1).sigmoid()


def test_a_network_without_its_dead_filters_computes_the_same(arrays):
    network = MusiCNNNetwork.of(convert.network_state(arrays))
    living = [total - dead for total, dead in zip(FILTERS, DEAD, strict=True)]
    assert [len(network.get_parameter(f"front.{i}.conv.bias")) for i in range(5)] == living
    spectrogram = 3 * torch.rand(2, 187, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = network(spectrogram)
    for ours, expected in zip(output, published(arrays, spectrogram), strict=True):
        torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.01


def test_a_wheel_is_converted(arrays, tmp_path, monkeypatch):
    wheel, file = tmp_path / "musicnn.whl", tmp_path / "musicnn.safetensors"
    index, data = bundle(arrays)
    with ZipFile(wheel, "w") as archive:
        archive.writestr("musicnn/configuration.py", "SR = 1/0\nMTT_LABELS = ['guitar']\n\nMSD_LABELS = ['rock','pop']")
        for folder in ("MSD_musicnn", "MTT_musicnn"):
            archive.writestr(f"musicnn/{folder}/.index", index)
            archive.writestr(f"musicnn/{folder}/.data-00000-of-00001", data)
    with pytest.raises(ValueError, match="not the wheel of musicnn"):
        convert.convert_wheel(wheel, file)
    assert not file.exists()
    monkeypatch.setattr(convert, "WHEEL_SHA256", convert.sha256_of(wheel))
    convert.convert_wheel(wheel, file)
    expected = convert.network_state(arrays)
    with safe_open(file, "pt") as converted:
        assert json.loads(converted.metadata()["tags"]) == {"msd": ["rock", "pop"], "mtt": ["guitar"]}
        assert set(converted.keys()) == {f"{name}.{key}" for name in ("msd", "mtt") for key in expected}
        assert all(torch.equal(converted.get_tensor(f"mtt.{key}"), tensor) for key, tensor in expected.items())


def test_what_is_not_a_bundle_is_refused(arrays):
    index, _ = bundle(arrays)
    with pytest.raises(ValueError, match="not the index of a TensorFlow bundle"):
        convert.read_index(index[:-1] + b"x")
    compressed = bytearray(index)
    offset, size = convert.read_handle(index[-48:], convert.read_handle(index[-48:], 0)[1])[0]
    compressed[offset + size] = 1
    with pytest.raises(ValueError, match="compressed"):
        convert.read_index(bytes(compressed))


def test_numbers_of_any_size_are_read():
    for value in (0, 1, 127, 128, 300, 2**35 + 5):
        assert convert.read_varint(b"x" + varint(value), 1) == (value, 1 + len(varint(value)))
    message = field(1, 7) + varint(6 << 3 | 5) + b"abcd" + field(9, b"text") + varint(3 << 3 | 1) + bytes(8)
    assert list(convert.read_fields(message)) == [(1, 7), (6, b"abcd"), (9, b"text"), (3, bytes(8))]
