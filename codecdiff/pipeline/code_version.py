"""Whose code parts are, to be recorded beside their options: what a run began with may be edited before it goes on."""

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
from codecdiff.interfaces import Part


def code_versions(*parts: Any) -> dict[str, str]:
    """Give for the class of each part, and of those inside it, its package, the version and a hash of the sources."""
    found: dict[str, str] = {}
    for part in parts:
        if isinstance(part, Part):
            part = part.portable()
            found[f"{type(part).__module__}.{type(part).__qualname__}"] = _origin(type(part))
            found |= code_versions(*part.arguments.values())
        elif isinstance(part, list | tuple):
            found |= code_versions(*part)
    return found


@cache  # at its first save: what is edited while a run goes on is not what it runs
def _origin(part: type) -> str:
    top = part.__module__.partition(".")[0]
    owners = [plugin for plugin in registry.scan().plugins if plugin.entry.module_name.partition(".")[0] == top]
    name = f"{owners[0].distribution} {owners[0].version}" if owners else top
    digest = hashlib.sha256()
    for file in _sources(part, top):
        digest.update(file.read_bytes())
    return f"{name}, {digest.hexdigest()[:16]}"


def _sources(part: type, top: str) -> list[Path]:
    """Give the modules of a part's package; of the core, and of a package of one module, the part's own alone."""
    folders = [] if top == "codecdiff" else getattr(sys.modules.get(top), "__path__", [])
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    if not files:
        with suppress(TypeError, OSError):  # it was typed in
            files = [Path(inspect.getfile(part))]
    return [file for file in files if file.is_file()]


def warn_of_changes(there: Mapping[str, str], here: Mapping[str, str], folder: Path) -> None:
    """Warn of classes whose code is other than what `folder` has recorded; those that it does not name may be any."""
    known = [name for name in here if name in there]
    changed = [f"{name} ({there[name]} then, {here[name]} now)" for name in known if there[name] != here[name]]
    if changed:
        warnings.warn(
            f"Code has changed since {folder} was begun: {'; '.join(changed)}. What is there may not fit what comes; "
            "choose another output folder to begin anew.",
            stacklevel=2,
        )
