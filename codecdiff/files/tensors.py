"""Tensors in safetensors files."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecdiff.files.documents import require_file
from codecdiff.files.hashes import DamagedFile
from codecdiff.files.writing import atomic_write

if TYPE_CHECKING:  # the command line imports this module, and must start quickly
    from torch import Tensor

BLOCK_BYTES, BLOCKS_AHEAD, FLUSH_BYTES = 2**22, 16, 2**25  # BLOCKS_AHEAD: that are written before they are hashed
SAFETENSORS_DTYPES = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{"bfloat16": "BF16", "uint8": "U8", "bool": "BOOL"},
}


def write_safetensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors to a safetensors file, whole or not at all, and return its SHA-256.

    They are written one by one, so that no more than one and 64 MB of others are held twice.
    """
    with atomic_write(path) as temporary:
        return save_tensors(temporary, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file, and return its SHA-256. It is hashed while it is written and flushed to the disk."""
    digest, hashing, unflushed = hashlib.sha256(), deque[Future[None]](), 0
    with path.open("wb") as stream, ThreadPoolExecutor(1) as pool:
        for block in _safetensors_blocks(tensors, metadata):
            hashing.append(pool.submit(digest.update, block))
            stream.write(block)
            unflushed += len(block)
            if unflushed > FLUSH_BYTES:
                stream.flush()
                os.fsync(stream.fileno())
                unflushed = 0
            if len(hashing) > BLOCKS_AHEAD:
                hashing.popleft().result()
    return digest.hexdigest()


def _safetensors_blocks(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> Iterator[bytes | memoryview]:
    """Yield the contents of a safetensors file: the length of the header, the header, and each tensor's bytes."""
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name in names:
        tensor, end = tensors[name], start + tensors[name].nbytes
        dtype = SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield from (len(text).to_bytes(8, "little"), text)
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().data
        yield from (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES))


def read_safetensors(path: Path | str, names: Iterable[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of these names, or all, of a safetensors file, and its metadata.

    Raises FileNotFoundError, and DamagedFile for a file that is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(f"'{path}' is damaged: {error}. Delete it, then fetch or make it again.") from error
