"""Features of prompts kept on disk, so that training needs no text encoder.

folder/FINGERPRINT/ab/cdef....safetensors   the features of one prompt; FINGERPRINT is that of the conditioner, the name
                                            the hash of the prompt's key

A file appears whole or not at all, so processes may share a folder, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codecdiff.files import atomic_write
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Condition, Conditioner, ConditionTokens, Part, Prompt

NARROW = (torch.bfloat16, torch.float16)  # types that features are written in where they hold every bit


def narrowed(tokens: Tensor) -> Tensor:
    """Give tokens in the narrowest type that holds them exactly: bfloat16 for features computed in it."""
    fits = (t for t in (tokens.to(dtype) for dtype in NARROW) if torch.equal(t.to(tokens.dtype), tokens))
    return next(fits, tokens)


def tokenizer_rules(tokenizer: Any) -> str:
    """Describe a tokenizer of transformers for a fingerprint: all but how its last call padded and cut."""
    rules = tokenizer.backend_tokenizer
    rules.no_padding()  # every call says anew whether it pads and cuts
    rules.no_truncation()
    return rules.to_str()


class Features:
    """A folder with the features of one conditioner, by the keys of prompts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, key: str) -> Path:
        """Give where the features of a prompt are, or will be."""
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Tell whether there are features of a prompt."""
        return self.file(key).exists()

    def read(self, key: str, names: Sequence[str]) -> Condition | None:
        """Give the entries of these names of one row, bit for bit as written; None if damaged or not there."""
        try:
            with safe_open(self.file(key), "pt") as opened:
                types = opened.metadata()
                tokens = {name: opened.get_tensor(f"{name}.tokens") for name in names}
                masks = {name: opened.get_tensor(f"{name}.mask") for name in names}
        except (FileNotFoundError, SafetensorError):
            return None
        return Condition(
            {name: ConditionTokens(tokens[name].to(getattr(torch, types[name])), masks[name]) for name in names}
        )

    def write(self, key: str, row: Condition) -> None:
        """Keep the condition of one prompt."""
        file = self.file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}.tokens": narrowed(entry.tokens) for name, entry in row.entries.items()}
        tensors |= {f"{name}.mask": entry.mask for name, entry in row.entries.items()}
        apart = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        types = {name: str(entry.tokens.dtype).removeprefix("torch.") for name, entry in row.entries.items()}
        with atomic_write(file) as temporary:
            save_file(apart, temporary, metadata=types)


def built_again(part: Any) -> Any:
    """Build a part from the arguments it was built with, and the parts among them likewise; give anything else back."""
    if isinstance(part, Part):
        return type(part)(**{name: built_again(value) for name, value in part.arguments.items()})
    return [built_again(item) for item in part] if isinstance(part, list | tuple) else part


class CachedConditioner(Conditioner):
    """A conditioner whose features are kept in a folder, each prompt's for good.

    `prepare` encodes what is missing, `release` lets the weights go: training then reads files and holds no encoder.
    A prompt that was not prepared builds the encoder again, with a warning. Prompts are encoded one by one, so that
    what is read is bit for bit what was computed, whatever stood beside it.

    A model folder names the conditioner, not its cache: the folder belongs to this machine. Put the cache around the
    encoder itself, inside of `joined`, so that what changes with every crop is not kept.

    Args:
        conditioner: What encodes.
        folder: Where features are kept, of any number of conditioners; each has its own folder inside, named by its
            fingerprint, so nothing stale is ever read.

    """

    conditioner: Conditioner

    def __init__(self, conditioner: Conditioner, folder: Path | str) -> None:
        super().__init__()
        object.__setattr__(self, "conditioner", conditioner)  # not as a module of this one: its weights come and go
        self.folder = Path(folder)
        self.fields = conditioner.fields
        self.register_buffer("place", torch.empty(0), persistent=False)  # where it computes
        self._is_released = False

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry."""
        return self.conditioner.widths

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Fields that every entry follows from."""
        return self.conditioner.sources

    def recorded(self) -> Part:
        """Give the conditioner: a cache is about this machine."""
        return self.conditioner.recorded()

    def key(self, prompt: Prompt) -> str:
        """Give the conditioner's key."""
        return self.conditioner.key(prompt)

    def fingerprint(self) -> str:
        """Give the conditioner's fingerprint."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self.conditioner.fingerprint()

    @cached_property
    def features(self) -> Features:
        """What is kept of this very conditioner."""
        return Features(self.folder / self.fingerprint())

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """Give n prompts as the conditioner does, from the folder where they are there."""
        asked = {self.key(prompt): prompt for prompt in prompts or [""]}
        rows = {key: self._row(key, prompt) for key, prompt in asked.items()}
        given = [rows[self.key(prompt)] for prompt in prompts]
        condition = Condition.cat(given) if given else rows[self.key("")].rows(slice(0, 0))
        return condition.to(device_of(self))

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode the prompts that are not in the folder yet, and the empty one."""
        for prompt in ("", *prompts):
            if (key := self.key(prompt)) not in self.features:
                self._compute(key, prompt)

    def release(self) -> None:
        """Let the weights go."""
        self.fingerprint()  # which takes them
        self.conditioner.to("meta")
        self._is_released = True

    def _row(self, key: str, prompt: Prompt) -> Condition:
        kept = self.features.read(key, list(self.widths))
        return self._compute(key, prompt) if kept is None else kept

    def _compute(self, key: str, prompt: Prompt) -> Condition:
        row = self._awake().to(device_of(self)).encode([prompt]).to("cpu")
        self.features.write(key, row)
        return row

    def _awake(self) -> Conditioner:
        """Give the conditioner with its weights. Raises ValueError if they are others than they were."""
        if self._is_released:
            warnings.warn(
                "A prompt that was not prepared is asked for: the encoder is loaded again, and stays in memory.",
                stacklevel=2,
            )
            again = built_again(self.conditioner)
            if again.fingerprint() != self.fingerprint():
                raise ValueError(
                    f"The weights or files of {type(again).__name__} are others than when this run began, and it needs "
                    "them for a new prompt. Start it again."
                )
            object.__setattr__(self, "conditioner", again)
            self._is_released = False
        return self.conditioner
