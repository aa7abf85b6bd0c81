"""`codecdiff plugins`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff import registry
from codecdiff.cli.console import err, out

TIMEOUT = 60.0  # seconds
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Time limit for importing one plugin.")]


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Load each entry, and show what is wrong with it.")] = False,
    timeout: Timeout = TIMEOUT,
) -> None:
    """List installed parts, models, commands and other extensions."""
    from rich.table import Table

    listed, issues = registry.scan()
    problems: dict[registry.Plugin, str] = {}
    if check:
        from codecdiff.cli.plugin_probe import find_problems

        with err.status("Importing everything once"):
            problems = find_problems([plugin for plugin in listed if plugin.enabled], timeout)
    states = {plugin: problems.get(plugin) or plugin.problem or "loads" * check for plugin in listed}
    states |= {plugin: f"disabled by {registry.SWITCH}" for plugin in listed if not plugin.enabled}
    has_states = bool(issues or any(states.values()))
    table = Table("kind", "name", "package", "version", *["state"] * has_states)
    for plugin, state in states.items():
        style = "dim" if not plugin.enabled else "red" if state not in ("", "loads") else None
        table.add_row(plugin.kind, plugin.name, plugin.distribution, plugin.version, *[state] * has_states, style=style)
    for issue in issues:
        table.add_row("?", "?", issue.distribution, "", f"{issue.error} ({issue.hint})", style="red")
    out.print(table)
    if check and (issues or problems):
        raise typer.Exit(1)
