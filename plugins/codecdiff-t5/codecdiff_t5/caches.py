"""Features of prompts already seen: the latest in memory, all of them on disk when asked."""

import os
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from safetensors.torch import load_file, save_file
from torch import Tensor


class Recent:
    """The features of the `limit` prompts used last, in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def read(self, text: str) -> Tensor | None:
        """Give the features (n, e) of a prompt, or None."""
        if text in self._features:
            self._features.move_to_end(text)
        return self._features.get(text)

    def write(self, text: str, features: Tensor) -> None:
        """Keep features (n, e), and forget those used longest ago."""
        self._features[text] = features
        while len(self._features) > self.limit:
            self._features.popitem(last=False)


class Folder:
    """Features as one safetensors file per prompt, named by the prompt's hash. Processes may share a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, text: str) -> Tensor | None:
        """Give the features (n, e) of a prompt, or None."""
        file = self._file(text)
        return load_file(file)["features"] if file.exists() else None

    def write(self, text: str, features: Tensor) -> None:
        """Keep features (n, e); the file is complete from the moment it has its name."""
        file = self._file(text)
        self.path.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{uuid4().hex}.part")
        try:
            save_file({"features": features}, unfinished)
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)

    def _file(self, text: str) -> Path:
        return self.path / f"{sha256(text.encode()).hexdigest()}.safetensors"
