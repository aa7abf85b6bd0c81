"""`codecdiff distill`: make stages of a model need few steps and no guidance."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff.cli.train import AllowChanges, adapted, config_file, installed_recipe


def distill(
    model: Annotated[str, typer.Argument(help="Model to distill: a folder, an installed model or a hub id.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as in data.audio=FOLDER output=runs/fast."),
    ] = None,
    stage: Annotated[str, typer.Option(help="Name of the stage to distill, or all.")] = "all",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps that it is to be sampled in.")] = 4,
    config: Annotated[str, typer.Option(metavar="NAME|FILE", help="Installed configuration or YAML file.")] = "distill",
    allow_changes: AllowChanges = False,
) -> None:
    """Train stages of a model to be sampled in few steps without guidance.

    The result is a new model. Run it again to resume from the last checkpoint.
    """
    named = [f"start_from={model}", f"stage={stage}", f"distill.steps={steps}"]
    file = config_file(config)
    changes = ["allow_changes=true"] if allow_changes else []
    installed_recipe("distill")(file, [*adapted([*(overrides or []), *named], file, "distilled"), *changes])
