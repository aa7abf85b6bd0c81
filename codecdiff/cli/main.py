"""The command line. All commands, those of the core too, are entry points of the group `codecdiff.commands`.

A command imports what it needs when it runs: `--help` and `plugins` load no torch. One of another distribution is
imported when it is called, or when its own help is requested. The list of commands reads its sentence from its source.
"""

from __future__ import annotations

import ast
import atexit
import gc
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import codecdiff
from codecdiff import registry
from codecdiff.cli.console import errors_as_sentences, out, plain

UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy of it in typer
GROUPS = {  # of commands, as the help lists them; others are of other packages
    "Generate and edit": ("generate", "refine", "inpaint", "extend", "vary", "restore", "inspect"),
    "Train": ("encode", "train", "distill", "push", "replay"),
    "Look at the installation, and add parts": ("doctor", "plugins", "check", "new-plugin"),
}
EDITING = ("continue", "edit", "remix", "variation", "variations")  # what is looked for under other names
PLACEHOLDERS = {"int": "N", "float": "NUMBER", "path": "PATH"}  # by the first word of a type's name


def load_command(name: str, plugin: registry.Plugin) -> Any:
    """Import a command: a Typer app, or a function that becomes one. Raises BrokenPlugin."""
    loaded = plugin.load()
    outer = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(loaded, typer.Typer):
        outer.add_typer(loaded, name=name)
    else:
        outer.command(name)(loaded)
    return with_placeholders(typer.main.get_group(outer).commands[name])


def with_placeholders(command: Any) -> Any:
    """Name the values of a command and its subcommands in one way in its help, cut nothing in lists, and return it.

    A value is N, NUMBER or PATH by its type, and text by the name of its option, unless the command names it otherwise.
    """
    command.short_help = command.short_help or first_sentence(command.help or "")
    for parameter in command.params:
        word = max(parameter.opts, key=len).lstrip("-").rpartition("-")[2].replace("_", "-").upper()
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name.upper().replace("_", "-") + "..." * (parameter.nargs != 1)
            shown = shown if parameter.required or shown.startswith("[") else f"[{shown}]"
        else:
            shown = parameter.metavar or PLACEHOLDERS.get(
                parameter.type.name.split()[0].replace("integer", "int"), word
            )
        parameter.make_metavar = lambda *args, shown=shown, **options: shown
    for subcommand in getattr(command, "commands", {}).values():
        with_placeholders(subcommand)
    return command


def first_sentence(text: str) -> str:
    """Return the first paragraph of a help text in one line, without its full stop."""
    return " ".join(text.partition("\n\n")[0].split()).rstrip(".")


def sentence_of(plugin: registry.Plugin) -> str:
    """Return the first sentence about a command from its source, which is not imported, else its distribution.

    It is in the docstring of the function that the entry point names, or for an app in that of its module.
    """
    package, *inner = plugin.entry.module_name.split(".")
    try:
        spec = find_spec(package)
        places = [*(spec.submodule_search_locations or [spec.origin or ""])] if spec else [""]
        file = Path(places[0]).joinpath(*inner)
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError):
        tree = ast.Module([], [])
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    named = [node for node in functions if node.name == plugin.entry.object_name]
    return first_sentence(ast.get_docstring([*named, tree][0]) or "") or f"From {plugin.distribution}"


class PluginCommand(TyperCommand):
    """A command of another distribution, which is imported once it has to run or to show its help."""

    def __init__(self, name: str, plugin: registry.Plugin):
        super().__init__(name, short_help=sentence_of(plugin), hidden=bool(plugin.problem))
        self.plugin = plugin

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command, and parse the arguments by it. Raises BrokenPlugin if that fails."""
        return load_command(self.name or "", self.plugin).make_context(info_name, args, parent, **extra)


class Commands(TyperGroup):
    """The commands. An error that a user can fix is shown as a sentence, or with its traceback under `--debug`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands of the core, then of those of other distributions."""
        available = registry.entries(registry.COMMANDS)
        return sorted(available, key=lambda name: available[name].distribution != registry.CORE)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name. Raises UserError for one that is disabled or not installed."""
        plugin = registry.entries(registry.COMMANDS).get(cmd_name)
        if plugin is None:
            disabled = [p for p in registry.scan().plugins if (p.kind, p.name) == (registry.COMMANDS, cmd_name)]
            if not disabled and not registry.install_hint(registry.COMMANDS, cmd_name):
                return None
            plugin = registry.find(registry.COMMANDS, cmd_name)
        return (
            load_command(cmd_name, plugin) if plugin.distribution == registry.CORE else PluginCommand(cmd_name, plugin)
        )

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, in groups."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        grouped = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, "From other packages": [name for name in commands if name not in grouped]}
        width = max(map(len, commands))
        for title, names in groups.items():
            shown = [(name, commands[name]) for name in names if name in commands and not commands[name].hidden]
            if shown:
                with formatter.section(title):
                    texts = [command.get_short_help_str(formatter.width - 6 - width) for _, command in shown]
                    formatter.write_dl([(name.ljust(width), t) for (name, _), t in zip(shown, texts, strict=True)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name. An error names the nearest one."""
        hint = registry.did_you_mean(args[0], names := self.list_commands(ctx))
        hint = " To edit: refine, inpaint, extend, vary, restore." if args[0] in EDITING else hint
        if hint and args[0] not in names and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        with errors_as_sentences(debug=ctx.params["debug"]):
            try:
                return super().invoke(ctx)
            except UsageError as error:
                if "unexpected extra argument" in error.message:
                    error.message += '. Put what has spaces in quotes, as in "a slow waltz".'
                elif "No such option" in error.message and error.ctx and "KEY=VALUE" in error.ctx.get_usage():
                    error.message += ". Settings have no dashes, as in data.audio=FOLDER."
                for name, plain_name in {"valid int range": "whole number", "valid float": "number"}.items():
                    error.message = error.message.replace(f"not a {name}", f"not a {plain_name}")
                raise


app = typer.Typer(
    cls=Commands,
    help="Generate and edit music with diffusion models, and train your own.",
    no_args_is_help=True,
    rich_markup_mode=None,  # formatting help with rich doubles its time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        out.print(f"codecdiff {codecdiff.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", envvar="CODECDIFF_DEBUG", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Accept the options that precede a command."""


def main() -> None:
    """Run the command line."""
    gc.set_threshold(50_000)  # modules make many objects, hardly any of them garbage: looking for it took a tenth
    atexit.register(gc.freeze)  # and looking through them at the end a fifth: the system frees them anyway
    warnings.simplefilter("once", append=True)  # whatever else changes the filters in between
    warnings.formatwarning = lambda message, *_, **__: f"{plain(str(message))}\n"
    program = Path(sys.argv[0])
    app(prog_name="codecdiff" if program.stem == "__main__" else program.stem)
