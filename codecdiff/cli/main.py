"""The command line. Every command imports what it needs when it runs: `--help` and `plugins` load no torch.

A package brings a command of its own, or a group of them, by an entry point; it is imported when it is called or its
own help is asked for.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import codecdiff
from codecdiff import comparing, registry
from codecdiff.cli.check import check
from codecdiff.cli.console import err, out
from codecdiff.cli.edit import extend, inpaint, refine, restore, vary
from codecdiff.cli.encode import encode
from codecdiff.cli.generate import generate
from codecdiff.cli.inspect import inspect_file

if TYPE_CHECKING:
    pass

from codecdiff.cli.plugins import Timeout, plugins
from codecdiff.cli.push import push

EXPECTED = (ValueError, LookupError, OSError, ImportError)  # told in one sentence


class Commands(TyperGroup):
    """The commands. What goes wrong in one is told in a sentence, or with its traceback under `--debug`."""

    def brought(self) -> dict[str, registry.Plugin]:
        """Give the commands of plugins by name: those of the core keep theirs."""
        found = registry.commands()
        return {f"{p.distribution}:{name}" if name in self.commands else name: p for name, p in found.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands of the core, then those of plugins."""
        return [*super().list_commands(ctx), *self.brought()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give a command by name; of a plugin, without importing it."""
        plugin = None if cmd_name in self.commands else self.brought().get(cmd_name)
        package = registry.FIRST_PARTY.get((registry.COMMANDS, cmd_name))
        if package and plugin is None and cmd_name not in self.commands:
            raise registry.UnknownPart(f"The command '{cmd_name}' comes with {package}: pip install {package}.")
        return Brought(cmd_name, plugin) if plugin else super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            if ctx.params["debug"]:
                raise
            err.print(_sentence(error), style="red", soft_wrap=True)
            raise typer.Exit(1) from error


class Brought(TyperCommand):
    """A command of a plugin, which is imported once it has to answer."""

    def __init__(self, name: str, plugin: registry.Plugin):
        super().__init__(name, help=f"From {plugin.distribution}.", hidden=bool(plugin.obstacle))
        self.plugin = plugin

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Import the command and leave everything to it. Raises BrokenPlugin if that fails."""
        loaded = self.plugin.load()
        app = loaded if isinstance(loaded, typer.Typer) else typer.Typer(add_completion=False, rich_markup_mode=None)
        if app is not loaded:
            app.command(self.name)(loaded)
        return typer.main.get_command(app).make_context(*args, **options)


def _sentence(error: Exception) -> str:
    plain = str(error) and not isinstance(error, KeyError)
    return str(error) if plain else f"{type(error).__name__}: {error}. --debug shows where."


app = typer.Typer(
    cls=Commands,
    help="Diffusion models on neural-codec latents, level by level.",
    no_args_is_help=True,
    rich_markup_mode=None,  # formatting help with rich doubles its time
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"codecdiff {codecdiff.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", envvar="CODECDIFF_DEBUG", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def doctor(timeout: Timeout = 60.0) -> None:
    """Look for what is wrong here, and how to mend it."""
    from rich.table import Table

    from codecdiff.cli.doctor import examine

    with err.status("Importing everything once"):
        findings = list(examine(timeout))
    table = Table("", "what", "finding")
    for finding in findings:
        table.add_row(
            "" if finding.fine else "wrong", finding.what, finding.state, style=None if finding.fine else "red"
        )
    out.print(table)
    wrong = [finding for finding in findings if not finding.fine]
    for finding in wrong:
        out.print(f"{finding.what}: {finding.remedy}", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    out.print("Nothing is wrong.")


@app.command()
def new_plugin(
    kind: Annotated[str, typer.Argument(help="codec, splitter, conditioner or denoiser.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Of the part, as in 'my-part'.", show_default=False)],
    into: Annotated[Path, typer.Option(help="Folder to make the package's folder in.")] = Path("."),
) -> None:
    """Write a package with a small working part of your own, to change as you like."""
    from codecdiff.cli.new_plugin import new_plugin

    folder = new_plugin(kind, name, into)
    command = f"pip install --editable '{folder}[test]'"
    out.print(f"{folder}: install it with {command}. Its README.md goes on from there.", soft_wrap=True)  # to be copied


for function in (plugins, encode, push, generate, check):
    app.command()(function)
for edit in (refine, inpaint, extend, vary, restore):
    app.command(edit.__name__)(edit)
app.command("inspect")(inspect_file)
app.command()(comparing.compare)


def main() -> None:
    """Run the command line."""
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    app(prog_name=Path(sys.argv[0]).stem)
