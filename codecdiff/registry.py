"""Installed parts, models, commands and other extensions, found by the entry points of installed distributions.

Listing reads metadata only: no plugin is imported, and neither is torch. What the core brings comes in the same way.

    codecdiff.kinds              kinds of parts: name = plural of the kind, value = the interface, a subclass of Part
    codecdiff.codecs, ...        parts of a kind: classes that derive from its interface
    codecdiff.checks             name = kind, value = function that checks a part of it (codecdiff.testing.runner)
    codecdiff.models             functions that return the folder of a trained model
    codecdiff.commands           functions with Typer annotations, or typer.Typer apps
    codecdiff.engines            functions (device, workers) -> engine, which says where audio is encoded
    codecdiff.metrics, .suites, .generation_engines   of evaluation; read by the distribution that evaluates
    codecdiff.run_end            functions that are called with the folder of a run when training ends

Version N > 1 of an interface is the kind `codecs.N`, and its parts are in the group `codecdiff.codecs.N`.
The environment variable CODECDIFF_PLUGINS, a comma-separated list of distributions, disables all others except
codecdiff itself.
"""

from __future__ import annotations

import configparser
import glob
import json
import os
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from entrypoints import BadEntryPoint, CaseSensitiveConfigParser, Distribution, EntryPoint

from codecdiff.errors import BrokenPlugin, UnknownPart, did_you_mean, line_in

__all__ = [
    "MetadataIssue",
    "Plugin",
    "entries",
    "find",
    "folder_of",
    "install_command",
    "install_hint",
    "install_hints",
    "installed",
    "installed_model",
    "interface",
    "kind_of",
    "kinds",
    "load_entry",
    "scan",
]

KINDS, CHECKS, MODELS, COMMANDS, ENGINES = "kinds", "checks", "models", "commands", "engines"
METRICS, SUITES, GENERATION_ENGINES, RUN_END = "metrics", "suites", "generation_engines", "run_end"
FUNCTIONS = (MODELS, COMMANDS, ENGINES, GENERATION_ENGINES, CHECKS, RUN_END)  # groups whose entries are called
GROUPS = (*FUNCTIONS, METRICS, SUITES, KINDS)  # beside those of the kinds of parts

SWITCH = "CODECDIFF_PLUGINS"
CORE = "codecdiff"
INSTALL_OWN = "Install a package of your own with `pip install -e FOLDER`, and again after its entry points change."


@dataclass(frozen=True)
class Plugin:
    """An entry point: its kind (or other group) and name, its distribution and the object that it names."""

    kind: str
    name: str
    distribution: str
    version: str
    entry: EntryPoint
    interface: int = 1  # version of its kind's interface that it was built for
    supported: int = 1  # version of that interface that is installed
    enabled: bool = True

    @property
    def source(self) -> str:
        """What it is and where it comes from, as in "codec 'dac' of codecdiff-dac 0.1.0"."""
        return f"{singular(self.kind)} '{self.name}' of {self.distribution} {self.version}".rstrip()

    @property
    def is_current(self) -> bool:
        """Whether it was built for the version of its interface that is installed."""
        return self.interface == self.supported

    @property
    def problem(self) -> str:
        """Why its metadata rules it out, as in "is disabled: ..."; empty if it does not."""
        if not self.enabled:
            return f"is disabled: {SWITCH} lists the distributions that may be used, and its own is not among them"
        if self.is_current:
            return ""
        outdated = "codecdiff" if self.interface > self.supported else "the plugin"
        return (
            f"was built for version {self.interface} of the {singular(self.kind)} interface, and this codecdiff has "
            f"version {self.supported}: upgrade {outdated} ({self.hint})"
        )

    @property
    def hint(self) -> str:
        """How to fix what its metadata, or the process that imports it, says is wrong with it."""
        if self.is_current:
            return f"Correct it, or remove it with `pip uninstall {self.distribution}`."
        return "git pull" if self.interface > self.supported else f"pip install --upgrade {self.distribution}"

    def load(self) -> Any:
        """Import the object. Raises BrokenPlugin with the cause if that fails or it does not belong in its group."""
        if self.problem:
            raise BrokenPlugin(f"The {self.source} {self.problem}.")
        try:
            value = self.entry.load()
        except KeyboardInterrupt:  # the user has waited long enough
            raise
        except BaseException as error:  # third-party code may fail in any way, and try to end the program too
            message = f"The {self.source} cannot be loaded: {type(error).__name__}: {error}."
            raise BrokenPlugin(message, self._fix(error)) from error
        if problem := _misfit(self.kind, value):
            text = f"The {self.source} names {_shown(value)}, which {problem[0]}."
            target = f"{value.__name__}:NAME" if isinstance(value, ModuleType) else ""
            raise BrokenPlugin(text, problem[1] or self._correct(target))
        return value

    def _correct(self, target: str = "") -> str:
        """Say to correct the entry point in the metadata of its package, to `target` if that is known."""
        home, name = self.entry.module_name, self.entry.object_name
        value = f"'{self.name} = \"{home}{f':{name}' * bool(name)}\"'"
        right = f" to '{self.name} = \"{target}\"'" if target else ""
        return f"Correct {value}{right} in the pyproject.toml of {self.distribution}, and install it again."

    def _fix(self, error: BaseException) -> str:
        """Return a sentence on how to fix an error of importing the object."""
        home, name = self.entry.module_name, self.entry.object_name
        if isinstance(error, ModuleNotFoundError) and error.name and not f"{home}.".startswith(f"{error.name}."):
            return f"Install '{error.name}', or add it to the dependencies of {self.distribution}."
        if isinstance(error, ModuleNotFoundError):
            package, _, last = home.rpartition(".")
            return self._correct(f"{package}:{last}" if package in sys.modules and not name else "")
        module = sys.modules.get(home)
        if isinstance(error, AttributeError) and module and error.obj is module:
            names = [each for each, value in vars(module).items() if getattr(value, "__module__", "") == home]
            hint = did_you_mean(name, names) or f" {home} has {', '.join(names[:9]) or 'nothing to name'}."
            return f"{self._correct()}{hint}"
        line = line_in(home, error)
        fix = f"Correct {line}" if line else "Correct it"
        return f"{fix}, or remove it with `pip uninstall {self.distribution}` and choose another {singular(self.kind)}."


def _shown(value: Any) -> str:
    """Return an object as an error message names it, without an address in memory."""
    if isinstance(value, type | FunctionType):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__module__}.{value.__qualname__}"
    return f"the module {value.__name__}" if isinstance(value, ModuleType) else repr(value)


def _misfit(group: str, value: Any) -> tuple[str, str] | None:
    """Return why an imported object does not belong in a group, and what to do if that is known; None if it does."""
    if group in (METRICS, SUITES):  # objects, of classes that their reader knows
        is_object = not isinstance(value, type | FunctionType)
        example = f"`my_{singular(group)} = {singular(group).title()}(...)`"
        return None if is_object else (f"is not an object, such as {example}", "")
    if group in FUNCTIONS:
        is_function = callable(value) and not (group == COMMANDS and isinstance(value, type))
        return None if is_function else ("is not a function", "")
    base = import_module("codecdiff.interfaces").Part if group == KINDS else interface(group)
    if not (isinstance(value, type) and issubclass(value, base)):
        other = kind_of(value) if group != KINDS and isinstance(value, type) else None
        hint = f"; it belongs in the group 'codecdiff.{other}'" if other else ""
        fix = f"Move the entry point to 'codecdiff.{other}' in pyproject.toml, and install the package again."
        return f"is not a subclass of {base.__module__.partition('.')[0]}.{base.__name__}{hint}", fix if other else ""
    if group != KINDS and (missing := sorted(getattr(value, "__abstractmethods__", ()))):
        names = " and ".join(missing)
        return f"does not implement {names}", f"Implement {names} in {value.__module__}.{value.__qualname__}."
    return None


@dataclass(frozen=True)
class MetadataIssue:
    """Something wrong with the entry points of a distribution, and how to fix it; `names` are those it concerns."""

    distribution: str
    error: str
    hint: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """All entry points, those that cannot be used included, and what is wrong with the metadata of distributions."""

    plugins: tuple[Plugin, ...]
    issues: tuple[MetadataIssue, ...]

    @cached_property
    def usable(self) -> Mapping[str, list[Plugin]]:
        """The entries of every group that can be used, by name."""
        groups = defaultdict[str, list[Plugin]](list)
        for plugin in self.plugins:
            if not plugin.problem:
                groups[plugin.kind].append(plugin)
        return groups

    @cached_property
    def interfaces(self) -> dict[str, Any]:
        """The classes that parts derive from, by kind, of those that were imported."""
        return {}


# Reading metadata.

Groups = Mapping[str, Mapping[str, str]]  # the entry points of a distribution: group -> name -> target


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files() -> Iterator[tuple[Distribution, Path]]:
    """Every entry_points.txt on the path; of distributions with one name, the first, as Python imports it."""
    seen = set()
    for folder in sys.path:
        root = glob.escape(folder or ".")
        for suffix in ("dist-info", "egg-info"):
            for file in sorted(glob.glob(f"{root}/[!~]*.{suffix}/entry_points.txt")):  # pip leaves some with a tilde
                distribution = Distribution.from_name_version(Path(file).parent.name.removesuffix(f".{suffix}"))
                distribution.name = _normalize(distribution.name)
                if distribution.name not in seen:
                    seen.add(distribution.name)
                    yield distribution, Path(file)


def _groups(file: Path) -> Groups:
    """Read the groups of codecdiff in an entry_points.txt. Raises OSError, ValueError or configparser.Error."""
    parser = CaseSensitiveConfigParser(delimiters=("=",))
    parser.read_string(file.read_text(encoding="utf-8-sig"), source=file.name)
    return {group: dict(parser[group]) for group in parser.sections() if _is_ours(group)}


def _is_ours(group: str) -> bool:
    """Return whether the name of a group begins with "codecdiff", or nearly so."""
    return bool(get_close_matches(re.split(r"[^a-z]", group.lower())[0], [CORE], cutoff=0.85))


def _mentions_codecdiff(file: Path) -> bool:
    try:
        return b"codecdiff" in file.read_bytes().replace(b"\0", b"")  # UTF-16 has those
    except OSError:
        return "codecdiff" in str(file.parent.name)


def _read(owner: Distribution, groups: Groups, kinds: Mapping[str, int], on: bool) -> Iterator[Plugin | MetadataIssue]:
    """Yield the entry points of a distribution, and what is wrong with single ones."""
    for group, targets in groups.items():
        words = re.fullmatch(r"codecdiff\.([^.]*)(?:\.(\d+))?", group)
        if words is None or (words[1] not in kinds and (words[1] not in GROUPS or words[2])):
            yield from _unknown_group(owner.name, group, kinds, (*targets,))
            continue
        for name, target in targets.items():
            try:
                entry = EntryPoint.from_string(target, name, owner)
            except BadEntryPoint as error:
                yield _unreadable(owner.name, error)
                continue
            name = name.partition(".")[0] if words[1] == KINDS else name
            if words[1] in kinds and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                error = f"Invalid name '{name}' in '{group}': expected lower case words joined by '-'"
                better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
                yield MetadataIssue(owner.name, error, f"rename it in the package's pyproject.toml, as in '{better}'")
            versions = (int(words[2] or 1), kinds.get(words[1], 1))
            yield Plugin(words[1], name, owner.name, owner.version or "", entry, *versions, on)


def _unreadable(distribution: str, error: Exception) -> MetadataIssue:
    hint = f"correct the entry points in its pyproject.toml, or remove it with `pip uninstall {distribution}`"
    return MetadataIssue(distribution, f"unreadable: {type(error).__name__}: {error}", hint)


def _unknown_group(
    distribution: str, group: str, kinds: Iterable[str], names: tuple[str, ...]
) -> Iterator[MetadataIssue]:
    """Yield what is wrong with a group that is not one of ours; nothing if another program may own it."""
    first, _, kind = group.partition(".")
    near = get_close_matches(
        group, [f"codecdiff.{name}" for name in (*kinds, *GROUPS)], n=1, cutoff=0.6 if first == CORE else 0.9
    )
    hint = (f"write '{near[0]}' instead, or " if near else "") + "upgrade codecdiff if it is too old for it"
    if package := install_hint(KINDS, kind):
        hint = install_command(package)
    if near or first == CORE:
        text = f"'{group}' is not a group of entry points of this codecdiff"
        yield MetadataIssue(distribution, text, hint, names)


@cache
def scan() -> Scan:
    """Read the metadata of all distributions, once; `scan.cache_clear()` forgets it."""
    listed, issues, plugins = os.environ.get(SWITCH), [], []
    named = {_normalize(name.strip()) for name in (listed or "").split(",") if name.strip()}
    enabled = None if listed is None else {CORE, *named}  # distributions that may be used; None for all of them
    readable: list[tuple[Distribution, Groups]] = []
    for owner, file in sorted(_files(), key=lambda pair: pair[0].name != CORE):  # the core's kinds come first
        try:
            readable.append((owner, _groups(file)))
        except (OSError, ValueError, configparser.Error) as error:
            if (enabled is None or owner.name in enabled) and _mentions_codecdiff(file):
                issues.append(_unreadable(owner.name, error))
    kinds: dict[str, int] = {}
    for name in (name for _, groups in readable for name in groups.get(f"codecdiff.{KINDS}", {})):
        kind, _, version = name.partition(".")
        kinds.setdefault(kind, int(version) if version.isdigit() else 1)
    for owner, groups in readable:
        on = enabled is None or owner.name in enabled
        items = list(_read(owner, groups, kinds, on))
        plugins += [item for item in items if isinstance(item, Plugin)]
        issues += [item for item in items if isinstance(item, MetadataIssue) and on]
    present = {each.distribution for each in (*plugins, *issues)}
    for name in sorted(named - present - {CORE}):
        near = did_you_mean(name, present)
        error = f"{SWITCH} names it, and no distribution of that name has entry points here.{near}"
        issues.append(MetadataIssue(name, error, f"correct {SWITCH}"))
    # What a distribution brings for other versions of an interface beside the same part for this one is left out.
    current = {(p.kind, p.name, p.distribution) for p in plugins if p.is_current}
    plugins = [p for p in plugins if p.is_current or (p.kind, p.name, p.distribution) not in current]
    order = [*kinds, *GROUPS]
    return Scan(tuple(sorted(plugins, key=lambda p: (order.index(p.kind), p.name, p.distribution))), tuple(issues))


# Entries of any group.


def singular(group: str) -> str:
    """Return the word for one entry of a group: "codec" for "codecs"."""
    return group.removesuffix("s").replace("_", " ")


def installed(group: str) -> list[Plugin]:
    """Return the usable entries of a group, by name. Raises UnknownPart for a kind that is not installed."""
    if group not in GROUPS and group not in kinds():
        raise UnknownPart(_unknown(KINDS, group))
    return scan().usable.get(group, [])


def entries(group: str) -> dict[str, Plugin]:
    """Return the usable entries of a group by name.

    Where several distributions share a name, the core keeps it and others are called `distribution:name`.
    """
    names = [plugin.name for plugin in installed(group)]
    return {
        p.name if names.count(p.name) == 1 or p.distribution == CORE else f"{p.distribution}:{p.name}": p
        for p in installed(group)
    }


@cache
def install_hints() -> dict[str, dict[str, str]]:
    """Return which distribution of ours to install for an entry: group -> name -> distribution."""
    import tomllib

    return tomllib.loads((Path(__file__).parent / "install_hints.toml").read_text(encoding="utf-8"))


def install_hint(group: str, name: str) -> str:
    """Return the distribution of ours that has an entry of this name; empty if there is none."""
    return install_hints().get(group, {}).get(name, "")


def install_command(package: str) -> str:
    """Return the command that installs one of our distributions, from where codecdiff itself is from."""
    folder = Path(__file__).resolve().parents[1] / "plugins" / package
    if (folder / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(os.path.relpath(folder))}"
    from importlib.metadata import distribution

    source = json.loads(distribution(CORE).read_text("direct_url.json") or "{}")  # by pip; ours are not on PyPI
    if commit := source.get("vcs_info", {}).get("commit_id"):
        return f"pip install '{package} @ git+{source['url']}@{commit}#subdirectory=plugins/{package}'"
    return f"pip install ./plugins/{package} in a checkout of codecdiff"


def _unknown(group: str, name: str) -> str:
    """Say that a group has no entry of this name, which has, and how to get one."""
    names = list(dict.fromkeys(plugin.name for plugin in installed(group)))
    text = f"No {singular(group)} named '{name}'. Installed: {', '.join(names) or 'none'}."
    if package := install_hint(group, name):
        return f"{text} It comes with {package}: {install_command(package)}"
    hint = unknown_group_of(name) or did_you_mean(name, [*names, *install_hints().get(group, {})])
    return f"{text}{hint or f' {INSTALL_OWN}' * (group != KINDS)}"


def unknown_group_of(name: str) -> str:
    """Return a sentence about entries of this name in a group that this codecdiff does not have; empty without any."""
    issues = [issue for issue in scan().issues if name in issue.names]
    return "".join(f" {each.distribution} has an entry of this name, but {each.error}: {each.hint}." for each in issues)


# Parts.


def kinds() -> tuple[str, ...]:
    """Return the kinds of parts: those of the core, then those that other distributions register."""
    return tuple(entries(KINDS))


def interface(kind: str) -> Any:
    """Import the class that parts of a kind derive from. Raises UnknownPart or BrokenPlugin."""
    if kind not in (interfaces := scan().interfaces):
        installed(kind)
        interfaces[kind] = entries(KINDS)[kind].load()
    return interfaces[kind]


def kind_of(part: type) -> str | None:
    """Return the kind that a class belongs to; None for one that is not a part. Nothing is imported."""
    for kind, plugin in entries(KINDS).items():
        if plugin.entry.module_name in sys.modules and issubclass(part, interface(kind)):
            return kind
    return None


def find(group: str, name: str) -> Plugin:
    """Find the entry called `name`, or `distribution:name` where several distributions share a name.

    One that cannot be used is found only if no other has the name, and says why when it is loaded. Raises UnknownPart
    for a name that no entry has, or several have.
    """
    installed(group)
    distribution, _, short = name.rpartition(":")
    named = [plugin for plugin in scan().plugins if (plugin.kind, plugin.name) == (group, short)]
    same = [plugin for plugin in named if _normalize(distribution) in ("", plugin.distribution)]
    matches = [plugin for plugin in same if not plugin.problem] or same
    if not matches:
        raise UnknownPart(_unknown(group, name))
    if len(matches) > 1:
        choices = ", ".join(f"'{plugin.distribution}:{plugin.name}'" for plugin in matches)
        raise UnknownPart(f"Several installed packages have a {singular(group)} named '{name}'. Choose one: {choices}.")
    return matches[0]


def load_entry(group: str, name: str) -> Any:
    """Import the part, or other entry, called `name`. Raises UnknownPart or BrokenPlugin."""
    return find(group, name).load()


def installed_model(name: str) -> Path | None:
    """Return the folder of an installed model, None if there is none of this name.

    Raises UnknownPart if several packages have one, and BrokenPlugin.
    """
    short = name.rpartition(":")[2]
    is_there = any((plugin.kind, plugin.name) == (MODELS, short) for plugin in scan().plugins)
    return folder_of(find(MODELS, name)) if is_there else None


def folder_of(model: Plugin) -> Path:
    """Return the folder of a model, which its package knows. Raises BrokenPlugin."""
    function = model.load()
    try:
        return Path(function())
    except Exception as error:  # third-party code may fail in any way
        raise BrokenPlugin(f"The {model.source} has no folder: {type(error).__name__}: {error}.") from error
