"""`codecdiff train`: run an installed recipe, or one of your own by its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from codecdiff.cli.console import errors_as_sentences
from codecdiff.errors import InvalidValue, UnknownName, did_you_mean
from codecdiff.files import read_yaml

__all__ = ["config_file", "default_output", "recipe_command", "run_recipe", "train"]

AllowChanges = Annotated[bool, typer.Option("--allow-changes", help="Resume with another seed, split or music.")]
Recipe = Callable[..., None]  # (configuration file, overrides, what a plan assumes or None)


def train(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings, as in data.audio=FOLDER output=runs/mine train.max_train_steps=100.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Installed configuration, or YAML file.",
            show_default="starter; adapter, with --adapter",
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="KIND", help="lora or dora: train an adapter of start_from=MODEL.")
    ] = None,
    allow_changes: AllowChanges = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what training would take, and stop.")] = False,
    devices: Annotated[int | None, typer.Option(min=1, max=4096, help="For --plan: devices. Default: 1.")] = None,
    device: Annotated[str | None, typer.Option(help="For --plan: device, as in h100. Default: this machine's.")] = None,
    utilization: Annotated[float | None, typer.Option(help="For --plan: fraction of the peak that is reached.")] = None,
    hours: Annotated[float | None, typer.Option(help="For --plan: hours of music, if there is none yet.")] = None,
) -> None:
    """Train a model on your own music.

    Run it again to resume from the last checkpoint.
    """
    usual = "starter" if adapter is None else "adapter"
    recipe, usual = context.obj or (installed_recipe("discodiff" if adapter is None else "adapter"), usual)
    assumptions = {"devices": devices, "device": device, "utilization": utilization, "hours": hours}
    assumptions = {name: value for name, value in assumptions.items() if value is not None}
    is_new = adapter is None and context.obj is None
    _check_settings({text.partition("=")[0] for text in overrides or ()}, assumptions, is_plan=plan, is_new=is_new)
    changes = ["allow_changes=true"] if allow_changes else []
    changes += [] if adapter is None else [f"adapter.type={adapter}"]
    file = config_file(config or usual)
    kind = adapter or ("" if usual == "starter" else usual)
    recipe(file, [*adapted(overrides or [], file, kind), *changes], assumptions if plan else None)


def _check_settings(names: Set[str], assumptions: Mapping[str, Any], *, is_plan: bool, is_new: bool) -> None:
    """Raise InvalidValue for assumptions of a plan without one, and for a model to start from without an adapter."""
    if is_new and "start_from" in names:
        raise InvalidValue(
            "start_from=MODEL needs --adapter lora. To start one stage from another, set "
            "stages.secondary.start_from=primary."
        )
    name = "device" if "device" in names else next(iter(assumptions), "")
    if name and not (is_plan and name in assumptions):
        raise InvalidValue(
            f"--{name} is for --plan alone. Training uses the first GPU, or the CPU if there is none: select another "
            "with CUDA_VISIBLE_DEVICES, or several with `accelerate launch`."
        )


def installed_recipe(name: str) -> Recipe:
    """Return the function `train` of an installed recipe."""
    return import_module(f"codecdiff.recipes.{name}").train  # the folder ../../recipes


def default_output(values: Mapping[str, Any], config: str, kind: str = "") -> Path:
    """Return the folder of a run that names none, from the names of what is trained and of the music.

    For example runs/starter-blues of the configuration `starter`, and runs/starter-lora-blues of a `kind` of training
    that starts from a model.
    """
    place, model = values.get("data.audio") or values.get("data.store"), Path(values.get("start_from") or config)
    model = model.resolve().parent if model.name == "model" else model
    words = [model.name, kind]
    if place:
        music = Path(place).resolve()
        music = music.parent if music.name == "store" else music
        words.append(music.stem if music.is_file() else music.name)
    return Path("runs", "-".join(filter(None, words)))


def adapted(overrides: list[str], file: Path, kind: str = "") -> list[str]:
    """Add to overrides what follows from them: settings of the file that are about other music or other conditions.

    A run that names no folder gets the default one. A store that exists replaces the audio that the file names. Another
    conditioner has other conditions, so the first weight of a guidance scale that the file divides by condition holds
    for all of them.
    """
    values = {key: value for key, _, value in (assignment.partition("=") for assignment in overrides)}
    settings = read_yaml(file)
    settings = settings if isinstance(settings, dict) else {}  # which is refused later
    is_stored = "data.audio" not in values and Path(values.get("data.store", ""), "header.json").is_file()
    added = ["data.audio=null"] if is_stored else []
    if "output" not in {**values, **settings}:
        data = settings.get("data")
        named = {f"data.{key}": data[key] for key in data if not is_stored} if isinstance(data, dict) else {}
        added += [f"output={default_output({**named, **values}, file.stem, kind)}"]
    if {"conditioner", "conditioner.name"} & values.keys() and not any("guidance_scale" in key for key in values):
        groups = {"": settings, **{f"stages.{name}.": own for name, own in (settings.get("stages") or {}).items()}}
        scales = {name: ((group or {}).get("sampling") or {}).get("guidance_scale") for name, group in groups.items()}
        firsts = {name: next(iter(x.values()), 1) if isinstance(x, dict) else x for name, x in scales.items()}
        added += [f"{name}sampling.guidance_scale={x}" for name, x in firsts.items() if x is not None]
    return [*overrides, *added]


def config_file(name: str, command: str = "train") -> Path:
    """Return the configuration file of this path, or that of this name which a command has. Raises UnknownName."""
    from codecdiff.recipes import CONFIGS  # pyright: ignore[reportMissingImports]  # ../../recipes, as installed

    files = sorted(file for file in CONFIGS.glob("*.yaml") if file.stem.startswith("compare") == (command == "compare"))
    installed = {file.stem: file for file in files}
    if Path(name).is_file():
        return Path(name)
    if name not in installed:
        hint = did_you_mean(name, [*installed, *map(str, Path(name).parent.glob("*.y*ml"))])
        listed = f"Installed, in {CONFIGS}: {', '.join(installed)}"
        raise UnknownName(f"No configuration '{name}'.{hint} {listed}. Name one of them, or a YAML file of your own.")
    return installed[name]


def recipe_command(recipe: Recipe, config: str = "starter") -> Any:
    """Return the command that runs a recipe, with the arguments of `codecdiff train` and an installed configuration."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"obj": (recipe, config), "help_option_names": ["-h", "--help"]})(train)
    return typer.main.get_command(app)


def run_recipe(recipe: Recipe, config: str = "starter") -> None:
    """Run a recipe's file as a program."""
    with errors_as_sentences():
        recipe_command(recipe, config).main()
