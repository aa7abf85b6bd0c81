"""Which parts are installed. Listing reads metadata only: no plugin is imported, and neither is torch."""

from __future__ import annotations

import configparser
import glob
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from entrypoints import BadEntryPoint, CaseSensitiveConfigParser, Distribution, EntryPoint

KINDS = ("codecs", "splitters", "conditioners", "denoisers", "captioners", "embedders")

MODELS = "models"  # trained models that packages carry: an entry point names a function that gives the folder

COMMANDS = "commands"  # of the command line that packages bring: an entry point names a function, written for typer

GROUPS = (*KINDS, MODELS, COMMANDS)

FIRST_PARTY = {
    ("codecs", "starter"): "codecdiff-starter",
    ("conditioners", "words"): "codecdiff-starter",
    ("codecs", "dac"): "codecdiff-dac",
    ("conditioners", "t5"): "codecdiff-t5",
    ("conditioners", "clap"): "codecdiff-clap",
    ("conditioners", "clap-text"): "codecdiff-clap",
    ("conditioners", "clap-audio"): "codecdiff-clap",
    ("denoisers", "unet"): "codecdiff-unet",
    ("embedders", "clap-music"): "codecdiff-clap",
    ("embedders", "clap-general"): "codecdiff-clap",
    ("embedders", "vggish"): "codecdiff-vggish",
    ("embedders", "mert"): "codecdiff-mert",
    ("captioners", "describe"): "codecdiff-captions",
    ("captioners", "tags"): "codecdiff-captions",
    ("captioners", "rephrase"): "codecdiff-captions",
}


class UnknownPart(LookupError):
    """No installed part has the name asked for, or several have."""


class BrokenPlugin(ImportError):
    """An installed part was asked for and could not be loaded."""


@dataclass(frozen=True)
class Plugin:
    """An installed part: its kind and name, the distribution it comes from and the class it names."""

    kind: str
    name: str
    distribution: str
    version: str
    entry: EntryPoint

    def load(self) -> Any:
        """Import the class or function. Raises BrokenPlugin with the cause if that fails or it is not of its kind."""
        source = f"{self.kind[:-1]} '{self.name}' of {self.distribution} {self.version}"
        try:
            part = self.entry.load()
        except Exception as error:  # a stranger's code may fail in any way
            raise BrokenPlugin(
                f"The {source} cannot be loaded: {type(error).__name__}: {error}. "
                f"Mend or remove it (pip uninstall {self.distribution}), or choose another."
            ) from error
        if self.kind not in KINDS:
            if not callable(part):
                raise BrokenPlugin(f"The {source} names {part!r}, which is no function.")
            return part
        interface = import_module("codecdiff.interfaces").KINDS[self.kind]
        if not (isinstance(part, type) and issubclass(part, interface)):
            raise BrokenPlugin(
                f"The {source} names {part!r}, which is not a subclass of codecdiff.{interface.__name__}."
            )
        return part


@dataclass(frozen=True)
class Fault:
    """A distribution whose entry points cannot be read."""

    distribution: str
    error: str


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions() -> Iterator[tuple[Distribution, Path]]:
    """Every entry_points.txt on the path; of distributions with one name, the first, as Python imports it."""
    seen = set()
    for folder in sys.path:
        root = glob.escape(folder or ".")
        for suffix in ("dist-info", "egg-info"):
            for file in sorted(glob.glob(f"{root}/*.{suffix}/entry_points.txt")):
                distribution = Distribution.from_name_version(Path(file).parent.name.removesuffix(f".{suffix}"))
                distribution.name = _normal(distribution.name)
                if distribution.name not in seen:
                    seen.add(distribution.name)
                    yield distribution, Path(file)


def _read(distribution: Distribution, file: Path) -> Iterator[Plugin]:
    parser = CaseSensitiveConfigParser(delimiters=("=",))
    parser.read_string(file.read_text(encoding="utf-8"), source=file.name)
    for kind in GROUPS:
        group = f"codecdiff.{kind}"
        for name, target in parser[group].items() if parser.has_section(group) else ():
            entry = EntryPoint.from_string(target, name, distribution)
            yield Plugin(kind, name, distribution.name, distribution.version or "", entry)


def _mentions_codecdiff(file: Path) -> bool:
    try:
        return "codecdiff" in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "codecdiff" in str(file.parent.name)


@cache
def scan() -> tuple[tuple[Plugin, ...], tuple[Fault, ...]]:
    """Give every installed part, and the distributions that could not be read. Cached; `scan.cache_clear()` forgets."""
    plugins: list[Plugin] = []
    faults: list[Fault] = []
    for distribution, file in _distributions():
        try:
            plugins.extend(_read(distribution, file))
        except (OSError, ValueError, BadEntryPoint, configparser.Error) as error:
            if _mentions_codecdiff(file):
                faults.append(Fault(distribution.name, f"{type(error).__name__}: {error}"))
    return tuple(sorted(plugins, key=lambda p: (GROUPS.index(p.kind), p.name, p.distribution))), tuple(faults)


def installed(kind: str) -> list[Plugin]:
    """Give the installed parts of one kind, by name."""
    if kind not in KINDS:
        raise UnknownPart(f"No kind of part is called '{kind}'. There are: {', '.join(KINDS)}.")
    return [plugin for plugin in scan()[0] if plugin.kind == kind]


def find(kind: str, name: str) -> Plugin:
    """Find the part called `name`, or `distribution:name` where several distributions share a name."""
    distribution, _, short = name.rpartition(":")
    matches = [
        plugin
        for plugin in installed(kind)
        if plugin.name == short and (not distribution or plugin.distribution == _normal(distribution))
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = ", ".join(f"'{plugin.distribution}:{plugin.name}'" for plugin in matches)
        raise UnknownPart(f"Several installed packages have a {kind[:-1]} named '{name}'. Say which: {choices}.")
    raise UnknownPart(_unknown(kind, name))


def _unknown(kind: str, name: str) -> str:
    names = [plugin.name for plugin in installed(kind)]
    text = f"No {kind[:-1]} named '{name}'. Installed: {', '.join(dict.fromkeys(names)) or 'none'}."
    if package := FIRST_PARTY.get((kind, name)):
        return f"{text} It comes with {package}: pip install {package}."
    known = [*names, *(part for group, part in FIRST_PARTY if group == kind)]
    near = get_close_matches(name, known, n=1)
    return f"{text} Did you mean '{near[0]}'?" if near else text


def load(kind: str, name: str) -> type:
    """Import the class of the part called `name`. Raises UnknownPart or BrokenPlugin."""
    return find(kind, name).load()


def models() -> list[str]:
    """Give the names of the trained models that installed packages carry."""
    return [plugin.name for plugin in scan()[0] if plugin.kind == MODELS]


def model_folder(name: str) -> Path:
    """Give the folder of an installed model."""
    plugin = next(plugin for plugin in scan()[0] if plugin.kind == MODELS and plugin.name == name)
    return Path(plugin.entry.load()())


def commands() -> dict[str, Plugin]:
    """Give the commands that installed packages bring, by name; where several share one, as `distribution:name`."""
    brought = [plugin for plugin in scan()[0] if plugin.kind == COMMANDS]
    names = [plugin.name for plugin in brought]
    return {
        plugin.name if names.count(plugin.name) == 1 else f"{plugin.distribution}:{plugin.name}": plugin
        for plugin in brought
    }
