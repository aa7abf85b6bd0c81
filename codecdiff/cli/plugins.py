"""`codecdiff plugins`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff import registry
from codecdiff.cli.console import Json, err, folded_table, out, print_json
from codecdiff.errors import UnknownName

TIMEOUT = 60.0  # seconds
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Time limit for importing one plugin.")]
COLUMNS = ("kind", "name", "package", "version", "state")


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
        raise UnknownName(f"Nothing called '{shown}' is installed.{registry.did_you_mean(shown, names)}")
    problems: dict[registry.Plugin, str] = {}
    if check:
        from codecdiff.cli.plugin_probe import find_problems

        with err.status("Importing everything once"):
            problems = find_problems([plugin for plugin in listed if plugin.enabled], timeout)
    states = {plugin: problems.get(plugin) or plugin.problem or "loads" * check for plugin in listed}
    states |= {plugin: f"disabled by {registry.SWITCH}" for plugin in listed if not plugin.enabled}
    rows = [(p.kind, p.name, p.distribution, p.version, state) for p, state in states.items()]
    if as_json:
        rows += [("?", "?", issue.distribution, "", f"{issue.error} ({issue.hint})") for issue in issues]
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        broken = {p: state for p, state in states.items() if p.enabled and state not in ("", "loads")}
        texts = [f"{issue.distribution}: {issue.error} ({issue.hint})" for issue in issues]
        for text in [*texts, *(f"{p.name} of {p.distribution}: {state}" for p, state in broken.items())]:
            out.print(text, style="red", soft_wrap=True)
        table = folded_table(*COLUMNS)
        for plugin, (*row, state) in zip(states, rows, strict=True):
            state = "see above" if plugin in broken else state
            table.add_row(*row, state, style=None if plugin.enabled else "dim")
        out.print(table)
    if check and (issues or problems):
        raise typer.Exit(1)
