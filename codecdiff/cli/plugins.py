"""`codecdiff plugins`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff import registry
from codecdiff.cli.console import Json, err, folded_table, out, print_json

TIMEOUT = 60.0  # seconds
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Time limit for importing one plugin.")]
COLUMNS = ("kind", "name", "package", "version", "state")


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Load each entry, and show what is wrong with it.")] = False,
    as_json: Json = False,
    timeout: Timeout = TIMEOUT,
) -> None:
    """List installed parts, models and commands.

    With --check, the exit status is 1 if one cannot be loaded.
    """
    listed, issues = registry.scan().plugins, registry.scan().issues
    problems: dict[registry.Plugin, str] = {}
    if check:
        from codecdiff.cli.plugin_probe import find_problems

        with err.status("Importing everything once"):
            problems = find_problems([plugin for plugin in listed if plugin.enabled], timeout)
    states = {plugin: problems.get(plugin) or plugin.problem or "loads" * check for plugin in listed}
    states |= {plugin: f"disabled by {registry.SWITCH}" for plugin in listed if not plugin.enabled}
    rows = [((p.kind, p.name, p.distribution, p.version, state), p.enabled) for p, state in states.items()]
    rows += [(("?", "?", issue.distribution, "", f"{issue.error} ({issue.hint})"), True) for issue in issues]
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row, _ in rows])
    else:
        shown = len(COLUMNS) if any(row[-1] for row, _ in rows) else len(COLUMNS) - 1
        table = folded_table(*COLUMNS[:shown])
        for row, enabled in rows:
            table.add_row(*row[:shown], style="dim" if not enabled else "red" if row[-1] not in ("", "loads") else None)
        out.print(table)
    if check and (issues or problems):
        raise typer.Exit(1)
