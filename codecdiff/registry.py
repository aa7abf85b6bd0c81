"""Which parts are installed. Listing reads metadata only: no plugin is imported, and neither is torch.

A part of version 1 of its kind's interface is an entry point in the group `codecdiff.codecs`, one of version N in
`codecdiff.codecs.N`. Packages add kinds of their own by the group `codecdiff.kinds`. The environment variable
CODECDIFF_PLUGINS, names of packages with commas between them, switches all others off; codecdiff itself always counts,
and an empty value leaves it alone.
"""

from __future__ import annotations

import configparser
import glob
import os
import re
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any

from entrypoints import BadEntryPoint, CaseSensitiveConfigParser, Distribution, EntryPoint

# Of each kind's interface, codecdiff.interfaces: what would break parts that are written raises its number.
VERSIONS = {"codecs": 1, "splitters": 1, "conditioners": 1, "denoisers": 1, "embedders": 1}

KINDS = tuple(VERSIONS)  # of the core; `kinds` has those of packages too

MODELS = "models"  # trained models that packages carry: an entry point names a function that gives the folder

METRICS, SUITES = "metrics", "suites"  # of codecdiff-eval, which reads them

COMMANDS = "commands"  # of the command line that packages bring: an entry point names a function, written for typer

ADDED_KINDS = "kinds"  # kinds of parts that packages add: an entry point names the interface, a subclass of Part

CHECKS = "checks"  # of such kinds: an entry point, named like the kind, names a function: part -> results

RUN_END = "run_end"  # an entry point names a function that is called with the folder of a training run that has ended

GROUPS = (*KINDS, MODELS, COMMANDS, METRICS, SUITES, ADDED_KINDS, CHECKS, RUN_END)

SWITCH = "CODECDIFF_PLUGINS"  # the environment variable that lists the packages whose parts count

FIRST_PARTY = {
    ("codecs", "starter"): "codecdiff-starter",
    ("conditioners", "words"): "codecdiff-starter",
    ("codecs", "dac"): "codecdiff-dac",
    ("codecs", "encodec"): "codecdiff-encodec",
    ("codecs", "mimi"): "codecdiff-mimi",
    ("conditioners", "t5"): "codecdiff-t5",
    ("conditioners", "clap"): "codecdiff-clap",
    ("conditioners", "clap-text"): "codecdiff-clap",
    ("conditioners", "clap-audio"): "codecdiff-clap",
    ("denoisers", "unet"): "codecdiff-unet",
    ("denoisers", "dit"): "codecdiff-dit",
    ("embedders", "logmel"): "codecdiff-eval",
    ("embedders", "codec"): "codecdiff-eval",
    ("embedders", "clap-music"): "codecdiff-clap",
    ("embedders", "clap-general"): "codecdiff-clap",
    ("embedders", "vggish"): "codecdiff-vggish",
    ("embedders", "mert"): "codecdiff-mert",
    ("captioners", "describe"): "codecdiff-datasets",
    ("captioners", "tags"): "codecdiff-datasets",
    ("captioners", "rephrase"): "codecdiff-datasets",
    ("kinds", "captioners"): "codecdiff-datasets",
    ("commands", "data"): "codecdiff-datasets",
}


class UnknownPart(LookupError):
    """No installed part has the name asked for, or several have."""


class BrokenPlugin(ImportError):
    """An installed part was asked for and could not be loaded, or may not be used."""


@dataclass(frozen=True)
class Plugin:
    """An installed part: its kind and name, the distribution it comes from and the class it names."""

    kind: str
    name: str
    distribution: str
    version: str
    entry: EntryPoint
    interface: int = 1  # version of its kind's interface that it was built for
    switched_on: bool = True

    @property
    def source(self) -> str:
        """What and whose it is, as in "codec 'dac' of codecdiff-dac 0.1.0"."""
        return f"{self.kind[:-1]} '{self.name}' of {self.distribution} {self.version}".rstrip()

    @property
    def is_of_this_version(self) -> bool:
        """Whether it was built for the interface that this codecdiff has."""
        return self.interface == VERSIONS.get(self.kind, 1)

    @property
    def obstacle(self) -> str:
        """Say why it cannot be used, as in "is switched off: ..."; empty if its metadata speaks not against it."""
        if not self.switched_on:
            return f"is switched off: {SWITCH} lists the packages that may be used, and its package is not among them"
        if self.is_of_this_version:
            return ""
        known = VERSIONS.get(self.kind, 1)
        late = "codecdiff" if self.interface > known else "the plugin"
        return (
            f"was built for version {self.interface} of the {self.kind[:-1]} interface, and this codecdiff has version "
            f"{known}: upgrade {late} ({self.remedy})"
        )

    @property
    def remedy(self) -> str:
        """Give the command that mends or removes it, should anything be wrong with it."""
        if self.is_of_this_version:
            return f"pip uninstall {self.distribution}"
        newer = self.interface > VERSIONS.get(self.kind, 1)
        return f"pip install --upgrade {'codecdiff' if newer else self.distribution}"

    def load(self) -> Any:
        """Import the class or function. Raises BrokenPlugin with the cause if that fails or it is not of its kind."""
        if self.obstacle:
            raise BrokenPlugin(f"The {self.source} {self.obstacle}.")
        try:
            part = self.entry.load()
        except KeyboardInterrupt:  # somebody has waited long enough
            raise
        except BaseException as error:  # a stranger's code may fail in any way, and try to end the program too
            raise BrokenPlugin(
                f"The {self.source} cannot be loaded: {type(error).__name__}: {error}. "
                f"Mend or remove it (pip uninstall {self.distribution}), or choose another."
            ) from error
        if fault := _misfit(self.kind, part):
            raise BrokenPlugin(f"The {self.source} names {part!r}, which {fault}.")
        return part


def _misfit(kind: str, part: Any) -> str:
    """Say why something that was imported cannot be a part of this kind; empty if it can."""
    if kind == ADDED_KINDS:
        base = import_module("codecdiff.interfaces").Part
        return "" if isinstance(part, type) and issubclass(part, base) else "is not a subclass of codecdiff.Part"
    if kind not in kinds():
        return "" if callable(part) or kind in (METRICS, SUITES) else "is no function"
    expected = interface(kind)
    if not (isinstance(part, type) and issubclass(part, expected)):
        core = import_module("codecdiff.interfaces").KINDS
        of = [group for group, base in core.items() if isinstance(part, type) and issubclass(part, base)]
        hint = f"; it belongs into the group 'codecdiff.{of[0]}'" if of else ""
        return f"is not a subclass of {expected.__module__.partition('.')[0]}.{expected.__name__}{hint}"
    if isabstract(part):
        return f"is not complete: it has to define {', '.join(sorted(part.__abstractmethods__))}"
    return ""


@dataclass(frozen=True)
class Fault:
    """Something wrong with what packages say of themselves: whose, what, and what to do."""

    distribution: str
    error: str
    remedy: str


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions() -> Iterator[tuple[Distribution, Path]]:
    """Every entry_points.txt on the path; of distributions with one name, the first, as Python imports it."""
    seen = set()
    for folder in sys.path:
        root = glob.escape(folder or ".")
        for suffix in ("dist-info", "egg-info"):
            for file in sorted(glob.glob(f"{root}/[!~]*.{suffix}/entry_points.txt")):  # pip leaves some with a tilde
                distribution = Distribution.from_name_version(Path(file).parent.name.removesuffix(f".{suffix}"))
                distribution.name = _normal(distribution.name)
                if distribution.name not in seen:
                    seen.add(distribution.name)
                    yield distribution, Path(file)


def _switched_on() -> set[str] | None:
    """Which distributions count; None for all of them."""
    listed = os.environ.get(SWITCH)
    return (
        None
        if listed is None
        else {"codecdiff", *(_normal(name.strip()) for name in listed.split(",") if name.strip())}
    )


def _parsed(file: Path) -> CaseSensitiveConfigParser:
    parser = CaseSensitiveConfigParser(delimiters=("=",))
    parser.read_string(file.read_text(encoding="utf-8-sig"), source=file.name)
    return parser


def _added_kinds(files: Iterable[Path]) -> Iterator[str]:
    """Yield the kinds that packages add: they are needed before the parts can be read."""
    group = f"codecdiff.{ADDED_KINDS}"
    for file in files:
        with suppress(OSError, ValueError, configparser.Error):  # a faulty file is reported when its parts are read
            if group in file.read_text(encoding="utf-8-sig") and group in (parser := _parsed(file)):
                yield from parser[group]


def _read(distribution: Distribution, file: Path, switched_on: bool, added: Container[str]) -> Iterator[Plugin | Fault]:
    """Read the parts of a distribution, and what is wrong with single ones. Raises ValueError or OSError for all."""
    parser = _parsed(file)
    for group in parser.sections():
        words = re.fullmatch(r"codecdiff\.([^.]*)(?:\.(\d+))?", group)
        is_kind = bool(words) and (words[1] in KINDS or words[1] in added)
        if words and (is_kind or (words[1] in GROUPS and words[2] is None)):
            for name, target in parser[group].items():
                try:
                    entry = EntryPoint.from_string(target, name, distribution)
                except BadEntryPoint as error:
                    yield _unreadable(distribution.name, error)
                else:
                    facts = (distribution.name, distribution.version or "", entry, int(words[2] or 1), switched_on)
                    yield Plugin(words[1], name, *facts)
        elif group.startswith("codecdiff."):
            near = get_close_matches(group, [f"codecdiff.{kind}" for kind in GROUPS], n=1)
            remedy = "upgrade codecdiff if it is too old for it" + (f", or write '{near[0]}'" if near else "")
            if words and (package := FIRST_PARTY.get((ADDED_KINDS, words[1]))):
                remedy = f"pip install {package}"
            yield Fault(distribution.name, f"'{group}' is no group of entry points of this codecdiff", remedy)


def _unreadable(distribution: str, error: Exception) -> Fault:
    return Fault(distribution, f"unreadable: {type(error).__name__}: {error}", f"pip uninstall {distribution}")


def _mentions_codecdiff(file: Path) -> bool:
    try:
        return b"codecdiff" in file.read_bytes().replace(b"\0", b"")  # UTF-16 has those
    except OSError:
        return "codecdiff" in str(file.parent.name)


@cache
def scan() -> tuple[tuple[Plugin, ...], tuple[Fault, ...]]:
    """Give every installed part, those that cannot be used included, and what is wrong with the metadata of packages.

    CachedConditioner; `scan.cache_clear()` forgets.
    """
    switch = _switched_on()
    plugins: list[Plugin] = []
    faults: list[Fault] = []
    found_files = list(_distributions())
    added = dict.fromkeys(_added_kinds(file for _, file in found_files))
    order = [*KINDS, *added, *(group for group in GROUPS if group not in KINDS)]
    for distribution, file in found_files:
        on = switch is None or distribution.name in switch
        try:
            for found in _read(distribution, file, on, added):
                if isinstance(found, Plugin):
                    plugins.append(found)
                elif on:
                    faults.append(found)
        except (OSError, ValueError, configparser.Error) as error:
            if on and _mentions_codecdiff(file):
                faults.append(_unreadable(distribution.name, error))
    faults.extend(_misspelt(switch or set(), {each.distribution for each in (*plugins, *faults)}))
    return tuple(sorted(_current(plugins), key=lambda p: (order.index(p.kind), p.name, p.distribution))), tuple(faults)


def _current(plugins: list[Plugin]) -> Iterator[Plugin]:
    """Leave out what a distribution brings for other versions of an interface beside its like for this one."""
    usable = {(p.kind, p.name, p.distribution) for p in plugins if p.is_of_this_version}
    for plugin in plugins:
        if plugin.is_of_this_version or (plugin.kind, plugin.name, plugin.distribution) not in usable:
            yield plugin


def _misspelt(switch: set[str], known: set[str]) -> Iterator[Fault]:
    for name in sorted(switch - known - {"codecdiff"}):
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        yield Fault(name, f"{SWITCH} names it, and no package of that name has parts here.{hint}", f"correct {SWITCH}")


def kinds() -> tuple[str, ...]:
    """Return the kinds of parts: those of the core, then those that installed packages add."""
    return (*KINDS, *dict.fromkeys(p.name for p in scan()[0] if p.kind == ADDED_KINDS and not p.obstacle))


def interface(kind: str) -> type:
    """Import the class that every part of a kind is a subclass of. Raises UnknownPart or BrokenPlugin."""
    core = import_module("codecdiff.interfaces").KINDS
    if kind in core:
        return core[kind]
    plugin = _called(ADDED_KINDS, kind)
    if plugin is None:
        raise UnknownPart(f"No kind of part is called '{kind}'. There are: {', '.join(kinds())}.")
    return plugin.load()


def check_of(kind: str) -> Any:
    """Import the function that checks a part of a kind that a package adds. Raises UnknownPart or BrokenPlugin."""
    plugin = _called(CHECKS, kind)
    if plugin is None:
        raise UnknownPart(f"No installed package checks {kind}: an entry point '{kind}' in 'codecdiff.{CHECKS}' would.")
    return plugin.load()


def installed(kind: str) -> list[Plugin]:
    """Give the installed parts of one kind that can be used, by name."""
    if kind not in kinds():
        package = FIRST_PARTY.get((ADDED_KINDS, kind))
        hint = f" It comes with {package}: pip install {package}." if package else ""
        raise UnknownPart(f"No kind of part is called '{kind}'. There are: {', '.join(kinds())}.{hint}")
    return [plugin for plugin in scan()[0] if plugin.kind == kind and not plugin.obstacle]


def find(kind: str, name: str) -> Plugin:
    """Find the part called `name`, or `distribution:name` where several distributions share a name.

    One that cannot be used is found only if no other is called so, and says why when it is loaded.
    """
    names = [plugin.name for plugin in installed(kind)]
    plugin = _called(kind, name)
    if plugin is None:
        raise UnknownPart(_unknown(kind, name, names))
    return plugin


def _called(group: str, name: str) -> Plugin | None:
    distribution, _, short = name.rpartition(":")
    named = [
        plugin
        for plugin in scan()[0]
        if (plugin.kind, plugin.name) == (group, short) and _normal(distribution) in ("", plugin.distribution)
    ]
    matches = [plugin for plugin in named if not plugin.obstacle] or named
    if len(matches) > 1:
        choices = ", ".join(f"'{plugin.distribution}:{plugin.name}'" for plugin in matches)
        raise UnknownPart(f"Several installed packages have a {group[:-1]} named '{name}'. Say which: {choices}.")
    return matches[0] if matches else None


def _unknown(kind: str, name: str, names: list[str]) -> str:
    text = f"No {kind[:-1]} named '{name}'. Installed: {', '.join(dict.fromkeys(names)) or 'none'}."
    if package := FIRST_PARTY.get((kind, name)):
        return f"{text} It comes with {package}: pip install {package}."
    known = [*names, *(part for group, part in FIRST_PARTY if group == kind)]
    near = get_close_matches(name, known, n=1)
    return f"{text} Did you mean '{near[0]}'?" if near else text


def load(kind: str, name: str) -> type:
    """Import the class of the part called `name`. Raises UnknownPart or BrokenPlugin."""
    return find(kind, name).load()


def _told_apart(group: str) -> dict[str, Plugin]:
    """Give what can be used of a group by name; where several share one, as `distribution:name`."""
    usable = [plugin for plugin in scan()[0] if plugin.kind == group and not plugin.obstacle]
    names = [plugin.name for plugin in usable]
    return {p.name if names.count(p.name) == 1 else f"{p.distribution}:{p.name}": p for p in usable}


def entries(group: str) -> dict[str, Plugin]:
    """Return what can be used of a group by name; where several share one, as `distribution:name`."""
    return _told_apart(group)


def models() -> list[str]:
    """Give the names of the trained models that installed packages carry."""
    return list(_told_apart(MODELS))


def model_folder(name: str) -> Path | None:
    """Give the folder of an installed model, None if there is none of this name.

    Raises UnknownPart if several packages have one, and BrokenPlugin.
    """
    plugin = _called(MODELS, name)
    return None if plugin is None else folder_of(plugin)


def folder_of(model: Plugin) -> Path:
    """Ask a package for the folder of a model it carries. Raises BrokenPlugin."""
    function = model.load()
    try:
        return Path(function())
    except Exception as error:  # a stranger's code may fail in any way
        raise BrokenPlugin(f"The {model.source} has no folder: {type(error).__name__}: {error}.") from error


def commands() -> dict[str, Plugin]:
    """Give the commands that installed packages bring, by name; where several share one, as `distribution:name`.

    Those that cannot be used are among them, unless another is called so: they say why when they are loaded.
    """
    refused = {plugin.name: plugin for plugin in scan()[0] if plugin.kind == COMMANDS and plugin.obstacle}
    return refused | _told_apart(COMMANDS)
