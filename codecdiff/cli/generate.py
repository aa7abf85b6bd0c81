"""`codecdiff generate`: audio from a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import codecdiff
from codecdiff.cli.console import check_writable, err, numbered, out, progress, select_device

if TYPE_CHECKING:
    from codecdiff.interfaces import Conditioner
    from codecdiff.pipeline.pipeline import Pipeline
    from codecdiff.pipeline.provenance import Request


Output = Annotated[Path, typer.Option("--output", "-o", help="Audio file to write.", show_default=False)]
Negative = Annotated[str, typer.Option(help="What the music is to be unlike.")]
Model = Annotated[str, typer.Option(help="A model folder, an installed model, or a hub id.")]
Steps = Annotated[int | None, typer.Option(help="Steps asked of every sampler. Default: the model's.")]
Guidance = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WEIGHT|NAME=WEIGHT",
        help="How strictly the prompt is followed; 1 for plain. For single fields: text=3, again and again. "
        "Default: the model's.",
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="KEY=VALUE", help="What else the conditioner reads of a prompt; any number."),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same music.")]
Takes = Annotated[int, typer.Option(min=1, max=1000, help="How many; more than one are numbered.")]
Device = Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the hub ids that the model names for its parts.")
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What the music is like; empty for anything.", show_default=False)],
    output: Output,
    negative: Negative = "",
    model: Model = "starter",
    seconds: Annotated[float, typer.Option(help="Duration.")] = 10.0,
    steps: Steps = None,
    guidance: Guidance = None,
    fields: Fields = None,
    seed: Seed = 0,
    takes: Takes = 1,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Make music from a prompt."""
    pipeline = ready(output, takes, model, allow_download, device)
    pipeline.frames(seconds)  # absurd ones are refused with the durations there can be
    sampling = {"seed": seed, "steps": steps, "guidance": guided(guidance, pipeline)}
    told = request_of(pipeline, prompt, negative, fields, seconds=seconds, **sampling)
    write(told, pipeline, output, takes)


def ready(output: Path, takes: int, model: str, allow_download: bool, device: str) -> Pipeline:
    """Try the files to be written, then load the model."""
    for file in numbered(output, takes):
        check_writable(file)
    from codecdiff.pipeline.pipeline import load

    with err.status(f"Loading {model}"):
        return load(model, allow_download=allow_download).to(select_device(device))


def request_of(pipeline: Pipeline, prompt: str, negative: str, fields: list[str] | None, **options: Any) -> Request:
    """Give what is asked of a model, and say what of it the model does not read."""
    from codecdiff.pipeline.provenance import Request

    conditioner, values = pipeline.conditioner, prompt_values(fields or [], pipeline.conditioner)
    if conditioner is None:
        err.print("This model was trained without conditions: the prompt is ignored.")
    elif not prompt.strip() and not fields:
        err.print("The prompt is empty: the music is unconditional.")
    elif prompt.strip() and "text" not in conditioner.fields:
        err.print(f"This model reads no text, only --field {', '.join(conditioner.fields)}: the text is ignored.")
    told: dict[str, Any] = {"codecdiff": codecdiff.__version__, "model": pipeline.fingerprint or ""}
    told |= {"prompt": {"text": prompt, **values}, "negative": {"text": negative} if negative.strip() else {}}
    return Request(**told, **options)


def guided(words: list[str] | None, pipeline: Pipeline) -> Any:
    """Give the guidance that `--guidance` asks for, if any. Raises ValueError for names the model does not have."""
    from codecdiff.diffusion.guidance import parse, resolved

    asked = parse(words or [])
    if asked is not None:
        resolved(asked, pipeline.conditioner)
    return asked


def write(told: Request, pipeline: Pipeline, output: Path, takes: int, source: Path | None = None) -> None:
    """Make every take and write it, with what it follows from as its comment."""
    from codecdiff.data.audio import keeps_comment, write_audio

    files, kept, comment = numbered(output, takes), True, ""
    with progress("generating", takes) as advance:
        for count, (file, audio) in enumerate(zip(files, told.make(pipeline, source, takes=takes), strict=True)):
            comment = told.model_copy(update={"take": told.take + count}).comment()
            kept = keeps_comment(file, comment)
            write_audio(file, audio, pipeline.sample_rate, comment=comment if kept else "")
            advance(count + 1)
    if not kept:
        err.print(f"A {output.suffix} file has no room to say how this was made: {len(comment)} bytes. Use .flac.")
    for file in files:
        out.print(str(file), soft_wrap=True)


def prompt_values(assignments: list[str], conditioner: Conditioner | None) -> dict[str, Any]:
    """Give the fields of a prompt from `key=value` words, each value as JSON or else as text.

    Raises ValueError for a field that the conditioner does not read.
    """
    read = conditioner.fields if conditioner else ()
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"'{assignment}' gives a field no value. Write --field KEY=VALUE, as in --field bpm=120.")
        if key not in read:
            raise ValueError(f"This model reads no field '{key}' of a prompt. It reads: {', '.join(read) or 'none'}.")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values
