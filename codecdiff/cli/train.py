"""`codecdiff train`: run the training recipe, or a recipe of your own by its file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from codecdiff.cli.console import errors_as_sentences
from codecdiff.errors import UnknownName

Recipe = Callable[..., None]  # (configuration file, overrides, what a plan assumes or None)


def train(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, as in train.max_train_steps=100."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="YAML file, or the name of an installed configuration.",
            show_default="starter; adapter, with --adapter",
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(metavar="lora|dora", help="Train an adapter of a model, start_from=MODEL, and no model."),
    ] = None,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Resume with another seed, validation split or music, and record that."),
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what training would take, and stop.")] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Number of devices that --plan assumes.", show_default="1")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device that --plan assumes, as in h100 or cpu.", show_default="this machine's")
    ] = None,
    utilization: Annotated[
        float | None,
        typer.Option(help="Fraction of the device's peak that --plan assumes is reached.", show_default="as measured"),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Hours of music that --plan assumes where there is none yet.", show_default="the paper's"),
    ] = None,
) -> None:
    """Train a model on your own music.

    Run it again to resume from the last checkpoint.
    """
    recipe: Recipe = context.obj or installed_recipe("discodiff" if adapter is None else "adapter")
    assumptions = {"devices": devices, "device": device, "utilization": utilization, "hours": hours}
    assumptions = {name: value for name, value in assumptions.items() if value is not None}
    try:
        changes = ["allow_changes=true"] if allow_changes else []
        changes += [] if adapter is None else [f"adapter.type={adapter}"]
        file = config_file(config or ("starter" if adapter is None else "adapter"))
        recipe(file, [*(overrides or []), *changes], assumptions if plan else None)
    except KeyboardInterrupt:
        sys.exit("Stopped. Run it again to resume from the last checkpoint.")


def installed_recipe(name: str) -> Recipe:
    """Return the function `train` of an installed recipe."""
    return import_module(f"codecdiff.recipes.{name}").train  # the folder ../../recipes


def config_file(name: str) -> Path:
    """Return the configuration file of this path, or the installed one of this name. Raises UnknownName."""
    from codecdiff.recipes import CONFIGS  # pyright: ignore[reportMissingImports]  # ../../recipes, as installed

    files = sorted(file for file in CONFIGS.glob("*.yaml") if not file.stem.startswith("compare"))
    installed = {file.stem: file for file in files}
    if Path(name).is_file():
        return Path(name)
    if name not in installed:
        raise UnknownName(f"Configuration '{name}' is neither a file nor installed. Installed: {', '.join(installed)}.")
    return installed[name]


def recipe_command(recipe: Recipe) -> Any:
    """Return the command that runs a recipe, with the arguments of `codecdiff train`."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"obj": recipe, "help_option_names": ["-h", "--help"]})(train)
    return typer.main.get_command(app)


def run_recipe(recipe: Recipe) -> None:
    """Run a recipe's file as a program."""
    with errors_as_sentences():
        recipe_command(recipe).main()
