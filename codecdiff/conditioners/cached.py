"""Features of prompts on disk, so that training needs no text encoder.

folder/FINGERPRINT/ab/cdef....safetensors   the features of one prompt: FINGERPRINT is the conditioner's, and the name
                                            of the file the hash of the prompt's key

Files are written whole or not at all: processes may share a folder, and an interrupted run resumes.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.files import DamagedFile, read_safetensors, write_safetensors
from codecdiff.fingerprint import device_of
from codecdiff.interfaces.condition import Condition, ConditionTokens, Prompt
from codecdiff.interfaces.conditioner import Conditioner
from codecdiff.interfaces.part import Part

DIGEST = "sha256"  # of an entry, in its metadata
NARROW = (torch.bfloat16, torch.float16)


def narrowest(tokens: Tensor) -> Tensor:
    """Return tokens in the narrowest type that represents them exactly: bfloat16 if they were computed in it."""
    candidates = (tokens.to(dtype) for dtype in NARROW)
    return next((t for t in candidates if torch.equal(t.to(tokens.dtype), tokens)), tokens)


def tokenizer_rules(tokenizer: Any) -> str:
    """Describe a tokenizer of transformers for a fingerprint, without the padding and truncation of its last call."""
    rules = tokenizer.backend_tokenizer
    rules.no_padding()  # every call sets padding and truncation again
    rules.no_truncation()
    return rules.to_str()


class FeatureCache:
    """A folder with the features of one conditioner, by the keys of prompts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, key: str) -> Path:
        """Return the file for the features of a prompt."""
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def read(self, key: str, names: Sequence[str]) -> Condition | None:
        """Read a condition of one row, bit for bit as written; None if it is missing or damaged."""
        try:
            tensors, types = read_safetensors(self.file(key))
            if types.get(DIGEST, digest := _digest(tensors)) != digest or not types.keys() <= {*names, DIGEST}:
                return None
            tokens = {name: tensors[f"{name}.tokens"].to(getattr(torch, types[name])) for name in names}
            return Condition({name: ConditionTokens(tokens[name], tensors[f"{name}.mask"]) for name in names})
        except (OSError, DamagedFile, KeyError, AttributeError, TypeError):  # whatever stands there in place of it
            return None

    def write(self, key: str, row: Condition) -> None:
        """Write the condition of one prompt."""
        tensors = {f"{name}.tokens": narrowest(entry.tokens) for name, entry in row.items()}
        tensors |= {f"{name}.mask": entry.mask for name, entry in row.items()}
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        types = {name: str(entry.tokens.dtype).removeprefix("torch.") for name, entry in row.items()}
        write_safetensors(self.file(key), copies, types | {DIGEST: _digest(copies)})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rebuild(part: Any) -> Any:
    """Build a part again from its arguments, and the parts among them likewise; return anything else unchanged."""
    if isinstance(part, Part):
        return type(part)(**{name: rebuild(value) for name, value in part.arguments.items()})
    return [rebuild(item) for item in part] if isinstance(part, list | tuple) else part


class CachedConditioner(Conditioner):
    """A conditioner whose features are cached in a folder, permanently.

    `prepare` encodes what is missing and `release` frees the weights: training then reads files and holds no encoder.
    A prompt that was not prepared loads the encoder again, with a warning. Prompts are encoded one by one, so that what
    is read is bit for bit what was computed, whatever else was in its batch.

    A model folder names the conditioner, and not its cache, which belongs to this machine. Wrap the encoder itself,
    inside of `joined`, so that features that change with every crop are not cached.

    Args:
        conditioner: The conditioner that encodes.
        folder: Features of any number of conditioners. Each has its own subfolder, named by its fingerprint, so that
            nothing outdated is ever read.

    """

    path_options: ClassVar = {"folder": "write"}
    conditioner: Conditioner

    def __init__(self, conditioner: Conditioner, folder: Path | str) -> None:
        super().__init__()
        object.__setattr__(self, "conditioner", conditioner)  # not as a submodule: its weights come and go
        self.folder = Path(folder)
        self.fields = conditioner.fields
        self.register_buffer("device_marker", torch.empty(0), persistent=False)
        self._is_released = False

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every name."""
        return self.conditioner.widths

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The fields that every name depends on."""
        return self.conditioner.sources

    @property
    def control_rates(self) -> dict[str, float]:
        """Tokens in a second of every control."""
        return self.conditioner.control_rates

    def portable(self) -> Part:
        """Return the conditioner without its cache, which belongs to this machine."""
        return self.conditioner.portable()

    def key(self, prompt: Prompt) -> str:
        """Return the conditioner's key."""
        return self.conditioner.key(prompt)

    def fingerprint(self) -> str:
        """Return the conditioner's fingerprint."""
        return self.cache.folder.name

    @cached_property
    def cache(self) -> FeatureCache:
        """The features of this conditioner, in a folder that its fingerprint names."""
        return FeatureCache(self.folder / self.conditioner.fingerprint())

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Encode n prompts as the conditioner does, from the cache where it has them."""
        unique = {self.key(prompt): prompt for prompt in prompts or [""]}
        rows = {key: self._row(key, prompt) for key, prompt in unique.items()}
        conditions = [rows[self.key(prompt)] for prompt in prompts]
        condition = Condition.cat(conditions) if conditions else rows[self.key("")].rows(slice(0, 0))
        return condition.to(device_of(self))

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode the prompts that are not in the cache yet, and the empty one."""
        for prompt in ("", *prompts):
            self._row(self.key(prompt), prompt)

    def release(self) -> None:
        """Free the weights."""
        self.fingerprint()  # which needs them
        self.conditioner.to("meta")
        self._is_released = True

    def _row(self, key: str, prompt: Prompt) -> Condition:
        """Return the features of a prompt, computed if they are missing in the cache, or damaged."""
        if (row := self.cache.read(key, list(self.widths))) is None:
            row = self._load_conditioner().to(device_of(self)).encode([prompt]).to("cpu")
            self.cache.write(key, row)
        return row

    def _load_conditioner(self) -> Conditioner:
        """Return the conditioner with its weights. Raises ValueError if they have changed since they were released."""
        if self._is_released:
            warnings.warn(
                "A prompt that was not prepared is encoded: the encoder is loaded again, and stays in memory.",
                stacklevel=2,
            )
            conditioner = rebuild(self.conditioner)
            if conditioner.fingerprint() != self.fingerprint():
                raise InvalidValue(
                    f"The weights or files of {type(conditioner).__name__} have changed since this run began, and it "
                    "needs them for a new prompt. Start the run again."
                )
            object.__setattr__(self, "conditioner", conditioner)
            self._is_released = False
        return self.conditioner
