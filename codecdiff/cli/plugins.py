"""`codecdiff plugins`: what is installed, and what of it can be imported.

Plugins are imported in a subprocess: one that hangs or kills it is reported like one that raises. One worker loads them
all, because each would import torch again; it is replaced when a plugin hangs or kills it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from codecdiff import registry
from codecdiff.cli.console import Json, err, error_line, folded_table, out, print_json
from codecdiff.errors import UnknownName, UserError
from codecdiff.registry import Plugin

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TIMEOUT = 60.0  # seconds
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Time limit for importing one plugin.")]
COLUMNS = ("kind", "name", "package", "version", "state")


class Problem(NamedTuple):
    """What is wrong with a plugin, and how to fix that."""

    text: str
    fix: str


def plugins(
    shown: Annotated[
        str, typer.Argument(metavar="[NAME|KIND]", help="Only those of this name, kind or package.", show_default=False)
    ] = "",
    check: Annotated[bool, typer.Option("--check", help="Load each entry, and show what is wrong with it.")] = False,
    as_json: Json = False,
    timeout: Timeout = TIMEOUT,
) -> None:
    """List installed parts, models and commands.

    With --check, the exit status is 1 if one cannot be loaded.
    """
    everything, issues = registry.scan().plugins, registry.scan().issues
    listed = [p for p in everything if shown in ("", p.name, p.kind, registry.singular(p.kind), p.distribution)]
    issues = [issue for issue in issues if shown in ("", issue.distribution, *issue.names)]
    if shown and not listed and not issues:
        names = {word for plugin in everything for word in (plugin.name, plugin.kind, plugin.distribution)}
        hint = registry.did_you_mean(shown, names) or " To list everything: codecdiff plugins"
        raise UnknownName(f"Nothing called '{shown}' is installed.{hint}")
    problems: dict[registry.Plugin, Problem] = {}
    if check:
        with err.status("Importing everything once"):
            problems = find_problems([plugin for plugin in listed if plugin.enabled], timeout)
    states = {plugin: plugin.problem or "loads" * check for plugin in listed}
    states |= {p: f"{problem.text} {problem.fix}" for p, problem in problems.items() if not p.problem}
    states |= {plugin: f"disabled by {registry.SWITCH}" for plugin in listed if not plugin.enabled}
    rows = [(p.kind, p.name, p.distribution, p.version, state) for p, state in states.items()]
    if as_json:
        rows += [("?", "?", issue.distribution, "", f"{issue.error} ({issue.hint})") for issue in issues]
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        broken = {p: state for p, state in states.items() if p.enabled and state not in ("", "loads")}
        texts = [f"{issue.distribution}: {issue.error} ({issue.hint})" for issue in issues]
        for text in [*texts, *(f"{p.name} of {p.distribution}: {state}" for p, state in broken.items())]:
            out.print(" ".join(text.split()), style="red", soft_wrap=True)  # in one line
        table = folded_table(*COLUMNS[: 5 if any(states.values()) else 4])
        for plugin, (*row, state) in zip(states, rows, strict=True):
            state = "see above" if plugin in broken else state
            table.add_row(*row, *[state] * (len(table.columns) > len(row)), style=None if plugin.enabled else "dim")
        out.print(table)
    if check and (issues or problems):
        raise typer.Exit(1)


def find_problems(plugins: Iterable[Plugin], seconds: float) -> dict[Plugin, Problem]:
    """Load each plugin, for so many seconds at most, and return what is wrong with those that fail.

    One that its metadata rules out is not imported, and a module that hung or killed the worker is not tried again.
    """
    problems = {plugin: _of_metadata(plugin) for plugin in plugins}
    fatal: dict[tuple[str, str], Problem | None] = {}
    worker = _Worker()
    try:
        for plugin in [plugin for plugin, problem in problems.items() if not problem]:
            module = (plugin.distribution, plugin.entry.module_name)
            problems[plugin] = fatal.get(module) or worker.load(plugin, seconds)
            if worker.line is None:
                fatal[module] = problems[plugin]
    finally:
        worker.stop()
    return {plugin: problem for plugin, problem in problems.items() if problem}


def _of_metadata(plugin: Plugin) -> Problem | None:
    return Problem(plugin.problem, plugin.hint) if plugin.problem else None


def problem_of(plugin: Plugin) -> Problem | None:
    """Load a plugin in this process, and return what is wrong with it; None if nothing is."""
    try:
        if plugin.kind == registry.MODELS:
            from codecdiff.pipeline.checkpoint import read_config

            read_config(registry.folder_of(plugin))
        else:
            plugin.load()
    except BaseException as error:  # third-party code may fail in any way
        fix = getattr(error, "fix", "")
        text = str(error) if isinstance(error, UserError) else error_line(error)
        return Problem(" ".join(text.removesuffix(fix).split()), fix or plugin.hint)
    return None


class _Worker:
    """A process that loads one plugin after another. It starts with the first, and again after it was lost."""

    process: Any = None
    line: Connection[Any, Any] | None = None  # to the process, while there is one

    def load(self, plugin: Plugin, seconds: float) -> Problem | None:
        """Return what is wrong with a plugin, also if the process does not respond or has died."""
        line = self.line or self.start()
        try:
            line.send(plugin)
            if line.poll(seconds):
                return line.recv()
            problem = f"has not been imported within {seconds:g} s: it hangs, or needs a longer --timeout"
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            ending = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
            problem = f"ends the Python process that imports it ({ending})"
        self.stop()
        return Problem(f"{problem}.", plugin.hint)

    def start(self) -> Connection[Any, Any]:
        """Start the process, and wait until it has imported what all parts import: that is not the first one's time."""
        from multiprocessing import get_context

        context = get_context("spawn")  # a fork would inherit what this process has imported, and its locks
        self.line, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        with suppress(EOFError, OSError):
            self.line.recv()
        return self.line

    def stop(self) -> None:
        """Kill the process, if it runs."""
        if self.line is not None:
            self.line.close()
            self.process.kill()
            self.process.join()
            self.line = None


def _serve(line: Connection[Any, Any]) -> None:
    """Reply to each plugin with what is wrong with it. What plugins print is discarded."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    broken: Problem | None = None
    try:
        import_module("codecdiff.interfaces")
    except Exception as error:  # not because of a plugin, but none can be loaded
        broken = Problem(f"codecdiff itself cannot be imported: {error_line(error)}", "codecdiff doctor")
    line.send("")
    with suppress(EOFError, OSError):
        while True:
            line.send(broken or problem_of(line.recv()))
