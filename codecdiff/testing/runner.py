"""`codecdiff check`: find an installed part by name, build it, and run the checks of its kind.

The checks of a kind are an entry point of the group `codecdiff.checks`: a function `run_checks(request) -> CheckRun`.

A part that is large by default declares a small version, which is checked unless the real one is requested:

    small_options = {"width": 16, "depth": 2}  # of a network
    small_options = {"model": "{tiny}"}  # {tiny}: a folder of random weights, which codecdiff.testing.tiny writes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codecdiff import registry
from codecdiff.config import ConfigError, build, parse_options, part_options
from codecdiff.errors import UnknownName, UnknownPart, UserError, line_in
from codecdiff.interfaces import Part, Prompt
from codecdiff.testing.checks import Result

DEBUG = "`codecdiff --debug check {name}` shows the traceback."


@dataclass(frozen=True)
class CheckRun:
    """A part that was built, notes about how it is checked, and the results, which come one by one."""

    part: Part
    notes: Sequence[str]
    results: Iterator[Result]


@dataclass(frozen=True)
class CheckRequest:
    """Which part to check, and on what.

    seconds: of the longest clip, for a codec.
    prompts: at least two, for a conditioner; empty for examples.
    folder: for audio files that a part reads.
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    seconds: float
    prompts: Sequence[Prompt]
    folder: Path

    def build(self, **derived: Any) -> Any:
        """Build the part, with the arguments that follow from other parts.

        A UserError is raised with the options that the part has, unless its constructor refuses a value. Anything else
        that the constructor raises is a ConfigError, except the ValueError of one that refuses the derived arguments.
        """
        try:
            return build(self.kind, self.spec, **derived)
        except UserError as error:
            if isinstance(error, ConfigError | LookupError | OSError):
                error.args = (f"{error} {self.hint()}",)
            raise
        except Exception as error:  # third-party code may fail in any way
            if isinstance(error, ValueError) and derived:
                raise
            part, place = (
                registry.singular(self.kind),
                line_in(registry.find(self.kind, self.name).entry.module_name, error),
            )
            message = f"The {part} '{self.name}' cannot be built: {type(error).__name__}: {error}"
            where = f"{f' ({place})' if place else ''}. {self.hint()} {DEBUG.format(name=self.name)}"
            raise ConfigError(f"{message}{where}") from error

    def hint(self) -> str:
        """Return a sentence about the options that can be set."""
        options = ", ".join(part_options(self.kind, self.name))
        return f"Its options, set with --set KEY=VALUE: {options}." if options else "It has no options."


def start_checks(
    name: str,
    *,
    kind: str = "",
    assignments: Sequence[str] = (),
    seconds: float = 10.0,
    prompts: Sequence[Prompt] = (),
    folder: Path,
    full: bool = False,
) -> tuple[CheckRequest, CheckRun]:
    """Find a part, build it with the `option=value` assignments, and prepare to run its checks.

    It has the small size that it declares, unless it is to be `full`. Other arguments are those of CheckRequest. Raises
    LookupError for a part that is not installed, ConfigError for options that it does not have or that are missing,
    ValueError for a part that cannot be checked, and what its constructor raises.
    """
    kind = find_kind(name, kind)
    spec = parse_options(kind, name, assignments)
    declared = {} if full else registry.load_entry(kind, name).small_options
    small = small_options(name, {key: value for key, value in declared.items() if key not in spec}, folder)
    request = CheckRequest(kind, name, {**small, **spec}, seconds, prompts, folder)
    run = registry.load_entry(registry.CHECKS, kind)(request)
    if small:
        shown = ("of random weights" if "{tiny}" in str(declared[key]) else f"{key}={declared[key]}" for key in small)
        note = (
            f"tried at a small size ({', '.join(shown)}). At the size it has by default: codecdiff check {name} --full"
        )
        run = replace(run, notes=[note, *run.notes])
    return request, run


def small_options(name: str, declared: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of a small version of a part as it declares them, with a tiny model written to the folder."""
    from codecdiff.testing.tiny import write_tiny

    if not any(isinstance(value, str) and "{tiny}" in value for value in declared.values()):
        return dict(declared)
    try:
        tiny = str(write_tiny(name.rpartition(":")[2], folder / "tiny"))
    except UnknownName:  # of a package that has no tiny model
        return {}
    return {key: value.replace("{tiny}", tiny) if isinstance(value, str) else value for key, value in declared.items()}


def find_kind(name: str, kind: str = "") -> str:
    """Find the kind of the part called `name`, or `distribution:name`. `kind`, plural or singular, selects one.

    Raises UnknownPart if no kind has it, or several have it and none is selected.
    """
    if kind:
        plural = f"{kind}s" if f"{kind}s" in registry.kinds() else kind
        registry.find(plural, name)
        return plural
    short = name.rpartition(":")[2]
    same = [plugin for plugin in registry.scan().plugins if plugin.kind in registry.kinds() and plugin.name == short]
    usable = [plugin for plugin in same if not plugin.problem] or same  # one that cannot be used says why
    kinds = list(dict.fromkeys(plugin.kind for plugin in usable))
    if len(kinds) > 1:
        owners = " and ".join(f"a {registry.singular(kind)}" for kind in kinds)
        choices = " or ".join(f"--kind {kind}" for kind in kinds)
        raise UnknownPart(f"'{name}' is the name of {owners}. Choose one: {choices}.")
    if kinds:
        registry.find(kinds[0], name)
        return kinds[0]
    for kind, hints in registry.install_hints().items():
        if kind not in registry.GROUPS and (package := hints.get(name)):
            text = f"No {registry.singular(kind)} '{name}' is installed."
            raise UnknownPart(f"{text} It comes with {package}: {registry.install_command(package)}")
    if others := [plugin for plugin in registry.scan().plugins if plugin.name == short]:
        kinds = registry.kinds()
        text = f"'{name}' is a {registry.singular(others[0].kind)} of {others[0].distribution}."
        raise UnknownPart(f"{text} Only parts have checks: {', '.join(kinds[:-1])} and {kinds[-1]}.")
    names = sorted({plugin.name for kind in registry.kinds() for plugin in registry.installed(kind)})
    hint = registry.unknown_group_of(name) or registry.did_you_mean(name, names) or f" {registry.INSTALL_OWN}"
    raise UnknownPart(f"No part named '{name}' is installed.{hint} Installed: {', '.join(names)}.")
