"""The commands that make audio out of audio."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from codecdiff.cli.console import numbered

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit

from codecdiff.cli.generate import (
    AllowDownload,
    Device,
    Fields,
    Guidance,
    Model,
    Negative,
    Output,
    Seed,
    Steps,
    Takes,
    guided,
    ready,
    request_of,
    write,
)


def edited(
    edit: Edit,
    source: Annotated[Path, typer.Argument(help="Audio file to start from.", show_default=False)],
    output: Output,
    prompt: Annotated[str, typer.Option(help="What the music is like; empty for anything.")] = "",
    negative: Negative = "",
    model: Model = "starter",
    steps: Steps = None,
    guidance: Guidance = None,
    fields: Fields = None,
    seed: Seed = 0,
    takes: Takes = 1,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Make audio out of audio; what every editing command does once its own options are an edit."""
    from codecdiff.files import sha256

    if not source.is_file():
        raise FileNotFoundError(f"There is no file '{source}'.")
    if any(file.exists() and file.samefile(source) for file in numbered(output, takes)):
        raise FileExistsError(f"'{output}' is the recording itself. Choose another name.")
    pipeline = ready(output, takes, model, allow_download, device)
    told = request_of(
        pipeline,
        prompt,
        negative,
        fields,
        seed=seed,
        steps=steps,
        guidance=guided(guidance, pipeline),
        edit=edit,
        source=sha256(source),
    )
    write(told, pipeline, output, takes, source)


def command(edit: Callable[..., Edit]) -> Callable[..., None]:
    """Give the command of a function that makes an edit: its options, and those of `edited`."""
    own, shared = parameters_of(edit), parameters_of(edited)[1:]

    def run(**options: Any) -> None:
        from pydantic import ValidationError

        mine = {parameter.name: options.pop(parameter.name) for parameter in own}
        try:
            asked = edit(**mine)
        except ValidationError as error:
            fault = error.errors()[0]
            name, message = fault["loc"][0], fault["msg"][:1].lower() + fault["msg"][1:]
            raise ValueError(f"{name}={fault['input']}: {message}.") from error
        edited(asked, **options)

    both = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
    run.__signature__ = inspect.Signature(both)  # pyright: ignore[reportFunctionMemberAccess]  # typer reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in both}
    run.__doc__ = edit.__doc__
    return run


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Give the parameters of a function, their annotations read; an edit's class is not imported for it."""
    hints = get_type_hints(function, localns={"Edit": Any}, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]


@command
def refine(
    keep: Annotated[str, typer.Option(help="Levels to keep, 0 the coarsest, as in '0' or '0-3'.")] = "0",
) -> Edit:
    """Keep the coarse levels of a recording and make the finer ones anew."""
    from codecdiff.pipeline.editing import Refine, parse_levels

    return Refine(keep=parse_levels(keep))


@command
def inpaint(
    starts: Annotated[
        list[float], typer.Option("--from", metavar="SECONDS", help="Where a region begins.", show_default=False)
    ],
    stops: Annotated[list[float], typer.Option("--to", metavar="SECONDS", help="Where it ends.", show_default=False)],
) -> Edit:
    """Make one region of a recording anew, or several: --from 1 --to 2 --from 5.5 --to 6."""
    from codecdiff.pipeline.editing import Inpaint

    if len(starts) != len(stops):
        raise ValueError(f"{len(starts)} --from and {len(stops)} --to: give every region both.")
    return Inpaint(regions=tuple(zip(starts, stops, strict=True)))


@command
def extend(
    seconds: Annotated[float, typer.Option(min=0, help="How much to add.")] = 10.0,
) -> Edit:
    """Go on where a recording ends."""
    from codecdiff.pipeline.editing import Extend

    return Extend(seconds=seconds)


@command
def vary(
    strength: Annotated[float, typer.Option(help="Above 0, up to 1: how far it may go from the recording.")] = 0.4,
) -> Edit:
    """Make something like a recording, all of it new."""
    from codecdiff.pipeline.editing import Vary

    return Vary(strength=strength)


@command
def restore(
    levels: Annotated[int, typer.Option(min=1, help="How many of the coarsest levels the recording was coded with.")],
) -> Edit:
    """Make the finer levels that a recording lost when it was coded with few."""
    from codecdiff.pipeline.editing import Restore

    return Restore(levels=levels)
