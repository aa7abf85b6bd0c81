"""The commands that generate audio from audio."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from codecdiff.cli.console import numbered
from codecdiff.cli.generate import (
    AllowDownload,
    Device,
    Fields,
    GuidanceScale,
    Model,
    NegativePrompt,
    NumWaveforms,
    Output,
    Seed,
    Steps,
    generate_files,
    generation_config,
    load_model,
    new_request,
)
from codecdiff.errors import FileExists, InvalidValue, MissingFile

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


def run_edit(
    edit: Edit,
    source: Annotated[Path, typer.Argument(help="Audio file to start from.", show_default=False)],
    output: Output,
    prompt: Annotated[str, typer.Option(help="Description of the music; may be empty.")] = "",
    negative_prompt: NegativePrompt = "",
    model: Model = "starter",
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    fields: Fields = None,
    seed: Seed = 0,
    num_waveforms: NumWaveforms = 1,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Generate audio from audio: the part that all editing commands share."""
    from codecdiff.files import sha256

    files = numbered(output, num_waveforms)
    if not source.is_file():
        raise MissingFile(f"The source '{source}' does not exist.")
    if any(file.exists() and file.samefile(source) for file in files):
        raise FileExists(f"'{output}' is the source itself. Choose another name.")
    pipeline = load_model(model, allow_download, device, files)
    generation = generation_config(
        pipeline,
        guidance_scale,
        num_inference_steps=num_inference_steps,
        negative_prompt=negative_prompt,
        num_waveforms_per_prompt=num_waveforms,
        seed=seed,
    )
    request = new_request(pipeline, prompt, fields, generation=generation, edit=edit, source=sha256(source))
    generate_files(request, pipeline, output, source)


def edit_command(edit: Callable[..., Edit]) -> Callable[..., None]:
    """Return the command of a function that returns an edit, with its options and those of `run_edit`."""
    own, shared = _parameters(edit), _parameters(run_edit)[1:]

    def run(**options: Any) -> None:
        from pydantic import ValidationError

        values = {parameter.name: options.pop(parameter.name) for parameter in own}
        try:
            instance = edit(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name, message = first["loc"][0], first["msg"][:1].lower() + first["msg"][1:]
            raise InvalidValue(f"{name}={first['input']}: {message}.") from error
        run_edit(instance, **options)

    both = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
    run.__signature__ = inspect.Signature(both)  # pyright: ignore[reportFunctionMemberAccess]  # typer reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in both}
    run.__name__, run.__doc__ = edit.__name__, edit.__doc__
    return run


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function with their annotations evaluated, without importing the class of an edit."""
    hints = get_type_hints(function, localns={"Edit": Any}, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]


@edit_command
def refine(
    keep: Annotated[str, typer.Option(help="Levels to keep, 0 the coarsest, e.g. '0' or '0-3'.")] = "0",
) -> Edit:
    """Keep the coarse levels of an audio file and generate the finer ones."""
    from codecdiff.pipeline.editing import Refine, parse_levels

    return Refine(keep=parse_levels(keep))


@edit_command
def inpaint(
    starts: Annotated[
        list[float], typer.Option("--from", metavar="SECONDS", help="Start of a region.", show_default=False)
    ],
    stops: Annotated[list[float], typer.Option("--to", metavar="SECONDS", help="Its end.", show_default=False)],
) -> Edit:
    """Generate one region of an audio file again, or several: --from 1 --to 2 --from 5.5 --to 6."""
    from codecdiff.pipeline.editing import Inpaint

    if len(starts) != len(stops):
        raise InvalidValue(f"{len(starts)} --from and {len(stops)} --to: every region needs both.")
    return Inpaint(regions=tuple(zip(starts, stops, strict=True)))


@edit_command
def extend(
    seconds: Annotated[float, typer.Option(min=0, help="Duration to add.")] = 10.0,
) -> Edit:
    """Continue an audio file after its end."""
    from codecdiff.pipeline.editing import Extend

    return Extend(seconds=seconds)


@edit_command
def vary(
    strength: Annotated[float, typer.Option(help="Above 0, up to 1: how far from the source.")] = 0.4,
) -> Edit:
    """Generate a variation of an audio file."""
    from codecdiff.pipeline.editing import Vary

    return Vary(strength=strength)


@edit_command
def restore(
    levels: Annotated[int, typer.Option(min=1, help="How many of the coarsest levels the source was coded with.")],
) -> Edit:
    """Generate the finer levels of an audio file that was coded with few."""
    from codecdiff.pipeline.editing import Restore

    return Restore(levels=levels)
