"""What the commands that generate audio from audio share: refine, inpaint, extend, vary and restore."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from codecdiff.cli.console import Device, Force, err, numbered, output_files
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
    config_options,
    generate_files,
    load_model,
    new_request,
    options_named,
    request_of,
    worded,
)
from codecdiff.errors import FileExists

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit
    from codecdiff.pipeline.pipeline import Pipeline


EditPrompt = Annotated[
    str | None, typer.Option(help="Description of the music; '' for none. Default: the prompt of SOURCE.")
]


def run_edit(
    edit: Edit,
    name: str,
    source: Annotated[Path, typer.Argument(help="Audio file to start from.", show_default=False)],
    output: Output = None,
    prompt: EditPrompt = None,
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
    from codecdiff.files import require_file, sha256

    require_file(source)
    if output and any(file.exists() and file.samefile(source) for file in numbered(output, num_waveforms)):
        raise FileExists(f"'{output}' is the source itself. Choose another name.")
    default = source.with_name(f"{source.stem}-{name}{source.suffix if source.suffix in ('.wav', '.flac') else '.wav'}")
    files = output_files(output, default, num_waveforms, force=force, is_allowed=request_of)
    options = config_options(
        guidance_scale,
        quality=quality,
        num_inference_steps=num_inference_steps,
        negative_prompt=negative_prompt or None,
        num_waveforms_per_prompt=num_waveforms,
        seed=choose_seed(seed, [] if force else files),
    )
    pipeline = load_model(model, device, allow_download=allow_download, allow_local_parts=allow_local_parts)
    words = prompt_of_source(source, pipeline) if prompt is None else {"text": prompt}
    edited = {"edit": edit, "source": sha256(source), "source_name": source.name}
    request = new_request(pipeline, words, fields, controls, options, **edited)
    generate_files(request, pipeline, files, source, force=force)


def prompt_of_source(source: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Return and print the prompt that an audio file was generated from, without what the model does not read."""
    from codecdiff.interfaces import prompt_fields

    request, fields = request_of(source), pipeline.conditioner.fields if pipeline.conditioner else ()
    every = prompt_fields(request.prompt).items() if request else ()
    prompt = {k: v for k, v in every if k in fields and v not in (None, "") and not isinstance(v, dict)}
    if prompt:
        err.print(f"Prompt of the source: {worded(prompt)} (for none, add --prompt '')", soft_wrap=True)
    return prompt


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
