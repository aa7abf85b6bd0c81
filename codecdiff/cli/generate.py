"""`codecdiff generate`: audio from a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import codecdiff
from codecdiff.cli.console import check_writable, err, numbered, out, progress, select_device
from codecdiff.errors import InvalidValue

if TYPE_CHECKING:
    from codecdiff.interfaces import Conditioner
    from codecdiff.pipeline.generation import GenerationConfig
    from codecdiff.pipeline.pipeline import Pipeline
    from codecdiff.pipeline.provenance import GenerationRequest


Output = Annotated[Path, typer.Option("--output", "-o", help="Audio file to write.", show_default=False)]
NegativePrompt = Annotated[
    str, typer.Option("--negative-prompt", "--negative", help="What the music should not be like.")
]
Model = Annotated[str, typer.Option(help="A model folder, an installed model, or a hub id.")]
Steps = Annotated[
    int | None,
    typer.Option("--num-inference-steps", "--steps", help="Sampling steps of every stage. Default: the model's."),
]
GuidanceScale = Annotated[
    list[str] | None,
    typer.Option(
        "--guidance-scale",
        "--guidance",
        metavar="WEIGHT|NAME=WEIGHT",
        help="How closely to follow the prompt; 1 disables guidance. For single fields: text=3; repeatable. "
        "Default: the model's.",
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="KEY=VALUE", help="Another field of the prompt; repeatable."),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed generates the same music.")]
NumWaveforms = Annotated[
    int,
    typer.Option("--num-waveforms", "--takes", min=1, max=1000, help="How many to generate; several are numbered."),
]
Device = Annotated[str, typer.Option(help="Device to compute on, e.g. 'cuda:1'. Default: a GPU if available.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the hub ids that the model names for its parts.")
]


def generate(
    prompt: Annotated[str, typer.Argument(help="Description of the music; may be empty.", show_default=False)],
    output: Output,
    negative_prompt: NegativePrompt = "",
    model: Model = "starter",
    seconds: Annotated[float, typer.Option(help="Duration.")] = 10.0,
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    fields: Fields = None,
    seed: Seed = 0,
    num_waveforms: NumWaveforms = 1,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Generate music from a prompt."""
    pipeline = load_model(model, allow_download, device, numbered(output, num_waveforms))
    generation = generation_config(
        pipeline,
        guidance_scale,
        audio_length_in_s=seconds,
        num_inference_steps=num_inference_steps,
        negative_prompt=negative_prompt,
        num_waveforms_per_prompt=num_waveforms,
        seed=seed,
    )
    request = new_request(pipeline, prompt, fields, generation=generation)
    generate_files(request, pipeline, output)


def load_model(model: str, allow_download: bool, device: str, outputs: list[Path]) -> Pipeline:
    """Check that the output files can be written, then load the model."""
    for file in outputs:
        check_writable(file)
    from codecdiff.pipeline.pipeline import Pipeline

    with err.status(f"Loading {model}"):
        return Pipeline.from_pretrained(model, device=select_device(device), allow_download=allow_download)


def generation_config(pipeline: Pipeline, guidance_scale: list[str] | None, **options: Any) -> GenerationConfig:
    """Return the options of the command line. Raises InvalidValue for a guidance scale that the model lacks."""
    from codecdiff.diffusion.guidance import parse_guidance_scale, resolve_guidance

    scale = parse_guidance_scale(guidance_scale or [])
    if scale is not None:
        resolve_guidance(scale, pipeline.conditioner)
    return pipeline.generation_config.merge(guidance_scale=scale, **options)


def new_request(pipeline: Pipeline, prompt: str, fields: list[str] | None, **options: Any) -> GenerationRequest:
    """Return the request for a prompt, and report what of it the model ignores."""
    from codecdiff.pipeline.provenance import GenerationRequest

    conditioner, values = pipeline.conditioner, prompt_values(fields or [], pipeline.conditioner)
    if conditioner is None:
        err.print("This model was trained without conditions: the prompt is ignored.")
    elif not prompt.strip() and not fields:
        err.print("The prompt is empty: the music is unconditional.")
    elif prompt.strip() and "text" not in conditioner.fields:
        err.print(f"This model reads only --field {', '.join(conditioner.fields)}: the text is ignored.")
    metadata = {"codecdiff": codecdiff.__version__, "model": pipeline.fingerprint or ""}
    return GenerationRequest(**metadata, prompt={"text": prompt, **values}, **options)


def generate_files(request: GenerationRequest, pipeline: Pipeline, output: Path, source: Path | None = None) -> None:
    """Generate every sample and write it, with its own request as its comment."""
    from codecdiff.data.audio import keeps_comment, write_audio

    generation, has_room, comment = request.generation, True, ""
    files = numbered(output, generation.num_waveforms_per_prompt)
    with progress("generating", len(files)) as advance:
        for i, (file, audio) in enumerate(zip(files, request.generate(pipeline, source), strict=True)):
            single = generation.merge(num_waveforms_per_prompt=1, first_sample_index=generation.first_sample_index + i)
            comment = request.model_copy(update={"generation": single}).comment()
            has_room = keeps_comment(file, comment)
            write_audio(file, audio, pipeline.sample_rate, comment=comment if has_room else "")
            advance(i + 1)
    if not has_room:
        err.print(f"The metadata of generation, {len(comment)} bytes, is too long for {output.suffix}. Use .flac.")
    for file in files:
        out.print(str(file), soft_wrap=True)


def prompt_values(assignments: list[str], conditioner: Conditioner | None) -> dict[str, Any]:
    """Parse `key=value` words as fields of a prompt, each value as JSON or else as text.

    Raises InvalidValue for a field that the conditioner does not read.
    """
    fields = conditioner.fields if conditioner else ()
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InvalidValue(f"Invalid --field '{assignment}': expected KEY=VALUE, e.g. --field bpm=120.")
        if key not in fields:
            raise InvalidValue(
                f"Unknown field '{key}' of this model's prompts. Available: {', '.join(fields) or 'none'}."
            )
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values
