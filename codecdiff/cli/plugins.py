"""`codecdiff plugins`: what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff import registry
from codecdiff.cli.console import err, out

if TYPE_CHECKING:
    pass


Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="What importing one plugin may take.")]


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Load each part, and show what is wrong with it.")] = False,
    timeout: Timeout = 60.0,
) -> None:
    """List the parts and the models that are installed."""
    from rich.table import Table

    parts, faults = registry.scan()
    wrong: dict[registry.Plugin, str] = {}
    if check:
        from codecdiff.cli.plugin_probe import problems

        with err.status("Importing everything once"):
            wrong = problems([plugin for plugin in parts if plugin.switched_on], timeout)
    states = {plugin: wrong.get(plugin) or plugin.obstacle or "loads" * check for plugin in parts}
    states |= {plugin: f"switched off by {registry.SWITCH}" for plugin in parts if not plugin.switched_on}
    shown = bool(faults or any(states.values()))
    table = Table("kind", "name", "package", "version", *["state"] * shown)
    for plugin, state in states.items():
        style = "dim" if not plugin.switched_on else "red" if state not in ("", "loads") else None
        table.add_row(plugin.kind, plugin.name, plugin.distribution, plugin.version, *[state] * shown, style=style)
    for fault in faults:
        table.add_row("?", "?", fault.distribution, "", f"{fault.error} ({fault.remedy})", style="red")
    out.print(table)
    if check and (faults or wrong):
        raise typer.Exit(1)
