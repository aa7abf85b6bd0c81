"""What the commands that generate audio from audio share: refine, inpaint, extend, vary and restore."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from codecdiff.cli.console import Device, Force, numbered, output_files
from codecdiff.cli.generate import (
    AllowDownload,
    AllowLocalParts,
    Controls,
    Fields,
    GuidanceScale,
    Model,
    NegativePrompt,
    NumWaveforms,
    Output,
    Quality,
    Seed,
    Steps,
    choose_seed,
    generate_files,
    generation_config,
    load_model,
    new_request,
    options_named,
    request_of,
)
from codecdiff.errors import FileExists

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


def run_edit(
    edit: Edit,
    name: str,
    source: Annotated[Path, typer.Argument(help="Audio file to start from.", show_default=False)],
    output: Output = None,
    prompt: Annotated[str, typer.Option(help="Description of the music.", show_default="none")] = "",
    negative_prompt: NegativePrompt = "",
    model: Model = "starter",
    quality: Quality = None,
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    fields: Fields = None,
    controls: Controls = None,
    seed: Seed = None,
    num_waveforms: NumWaveforms = 1,
    force: Force = False,
    device: Device = "",
    allow_download: AllowDownload = False,
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Generate audio from audio: the part that all editing commands share."""
    from codecdiff.files import missing_file, sha256

    if not source.is_file():
        raise missing_file(source, "Audio file")
    if output and any(file.exists() and file.samefile(source) for file in numbered(output, num_waveforms)):
        raise FileExists(f"'{output}' is the source itself. Choose another name.")
    default = source.with_name(f"{source.stem}-{name}{source.suffix if source.suffix in ('.wav', '.flac') else '.wav'}")
    files = output_files(output, default, num_waveforms, force=force, is_allowed=request_of)
    pipeline = load_model(model, device, allow_download=allow_download, allow_local_parts=allow_local_parts)
    generation = generation_config(
        pipeline,
        guidance_scale,
        quality=quality,
        num_inference_steps=num_inference_steps,
        negative_prompt=negative_prompt or None,
        num_waveforms_per_prompt=num_waveforms,
        seed=choose_seed(seed, [] if force else files),
    )
    request = new_request(pipeline, prompt, fields, controls, generation=generation, edit=edit, source=sha256(source))
    generate_files(request, pipeline, files, source, force=force)


def edit_command(edit: Callable[..., Edit]) -> Callable[..., None]:
    """Return the command of a function that returns an edit, with its options and those of `run_edit`."""
    own, shared = _parameters(edit), _parameters(run_edit)[2:]

    def run(**options: Any) -> None:
        values = {parameter.name: options.pop(parameter.name) for parameter in own}
        with options_named():
            instance = edit(**values)
        run_edit(instance, edit.__name__, **options)

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
