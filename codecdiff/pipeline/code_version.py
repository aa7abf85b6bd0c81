"""The code of parts, recorded beside their options, because it can change while a model is trained."""

from __future__ import annotations

import hashlib
import inspect
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from codecdiff import registry
from codecdiff.fingerprint import module_fingerprint
from codecdiff.interfaces import Codec, Part

MAX_HASHED = 2**24  # bytes of a codec that are hashed when a model is loaded, in some hundredths of a second


def code_versions(*parts: Any) -> dict[str, str]:
    """Return package, version and hash of the sources for the class of each part, and of the parts inside it."""
    versions: dict[str, str] = {}
    for part in parts:
        if isinstance(part, Part):
            part = part.portable()
            versions[f"{type(part).__module__}.{type(part).__qualname__}"] = _code_version(type(part))
            versions |= code_versions(*part.arguments.values())
        elif isinstance(part, list | tuple):
            versions |= code_versions(*part)
    return versions


@cache  # of the first save: later edits of the files do not change what this process runs
def _code_version(part: type) -> str:
    top = part.__module__.partition(".")[0]
    owners = [plugin for plugin in registry.scan().plugins if plugin.entry.module_name.partition(".")[0] == top]
    name = f"{owners[0].distribution} {owners[0].version}" if owners else top
    digest = hashlib.sha256()
    for file in _sources(part, top):
        digest.update(file.read_bytes())
    return f"{name}, {digest.hexdigest()[:16]}"


def _sources(part: type, top: str) -> list[Path]:
    """Return the modules of a part's package; only the part's own for the core and for packages of one module."""
    folders = [] if top == "codecdiff" else getattr(sys.modules.get(top), "__path__", [])
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    if not files:
        with suppress(TypeError, OSError):  # it was typed in
            files = [Path(inspect.getfile(part))]
    return [file for file in files if file.is_file()]


def warn_of_code_changes(saved: Mapping[str, str], current: Mapping[str, str], folder: Path) -> None:
    """Warn of classes whose code differs from what `folder` has recorded; classes it lacks are not compared."""
    names = [name for name in current if name in saved and saved[name] != current[name]]
    if changed := [f"{name} ({saved[name]} then, {current[name]} now)" for name in names]:
        warnings.warn(
            f"Code has changed since {folder} was started: {'; '.join(changed)}. Its results may not be consistent; "
            "choose another output folder to start over.",
            stacklevel=2,
        )


def warn_of_other_weights(codec: Codec, saved: str) -> None:
    """Warn if the codec that a model is loaded with has other weights than in training, whose hash is `saved`.

    A large codec is not compared, and neither is one whose weights are in the model folder.
    """
    codec = codec.arguments.get("codec", codec)  # without its normalization
    size = sum(tensor.nbytes for tensor in codec.state_dict().values())
    if saved and size <= MAX_HASHED and not codec.fitted_state() and (now := module_fingerprint(codec)) != saved:
        warnings.warn(
            f"This model was trained with other weights of the codec {type(codec).__name__} ({saved:.6}..., now "
            f"{now:.6}...): what it generates may be meaningless. Restore the codec, or train the model again.",
            stacklevel=3,
        )
