"""The commands that make audio: from a prompt, out of audio, and again as a file says it was made."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

import codecdiff
from codecdiff.terminal import check_writable, chosen_device, err, numbered, out, progress

if TYPE_CHECKING:
    from codecdiff.interfaces import Conditioner
    from codecdiff.pipeline.editing import Edit
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


def refine(
    keep: Annotated[str, typer.Option(help="Levels to keep, 0 the coarsest, as in '0' or '0-3'.")] = "0",
) -> Edit:
    """Keep the coarse levels of a recording and make the finer ones anew."""
    from codecdiff.pipeline.editing import Refine, parse_levels

    return Refine(keep=parse_levels(keep))


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


def extend(
    seconds: Annotated[float, typer.Option(min=0, help="How much to add.")] = 10.0,
) -> Edit:
    """Go on where a recording ends."""
    from codecdiff.pipeline.editing import Extend

    return Extend(seconds=seconds)


def vary(
    strength: Annotated[float, typer.Option(help="Above 0, up to 1: how far it may go from the recording.")] = 0.4,
) -> Edit:
    """Make something like a recording, all of it new."""
    from codecdiff.pipeline.editing import Vary

    return Vary(strength=strength)


def restore(
    levels: Annotated[int, typer.Option(min=1, help="How many of the coarsest levels the recording was coded with.")],
) -> Edit:
    """Make the finer levels that a recording lost when it was coded with few."""
    from codecdiff.pipeline.editing import Restore

    return Restore(levels=levels)


def again(
    file: Annotated[Path, typer.Argument(help="Audio file that codecdiff made.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model it was made with, to make it again.")] = "",
    source: Annotated[Path | None, typer.Option(help="The recording it was made out of, if any.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it again. Default: beside it.")
    ] = None,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Show how a file was made; with --model, make it again."""
    import soundfile
    from rich.table import Table

    from codecdiff.pipeline.provenance import Request

    told = Request.of_file(file)
    table = Table("what", "value")
    for key, value in told.model_dump(exclude_none=True).items():
        table.add_row(key, printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    out.print(table)
    if not model:
        return
    told.check_source(source)
    told.check_length(soundfile.info(file).duration)
    output = output or file.with_stem(f"{file.stem}-again")
    if output.exists():
        raise FileExistsError(f"'{output}' exists already. Choose another name with -o, or delete it.")
    pipeline = ready(output, 1, model, allow_download, device)
    told.check_model(pipeline)
    write(told, pipeline, output, 1, source)
    out.print(same(file, output), soft_wrap=True)


def printable(text: str) -> str:
    """Give text in which nothing commands a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def same(one: Path, other: Path) -> str:
    """Say whether two files hold the same samples."""
    import numpy as np
    import soundfile

    a, b = (soundfile.read(file, dtype="float32")[0] for file in (one, other))
    if a.shape == b.shape and np.array_equal(a, b):
        return f"{other} holds the same samples as {one}."
    far = f"they differ by up to {np.abs(a - b).max():.2g}" if a.shape == b.shape else "they differ in length"
    return f"{other} is not the same as {one} to the last bit: {far}. Another device or version of torch may be why."


def ready(output: Path, takes: int, model: str, allow_download: bool, device: str) -> Pipeline:
    """Try the files to be written, then load the model."""
    for file in numbered(output, takes):
        check_writable(file)
    from codecdiff.pipeline.pipeline import load

    with err.status(f"Loading {model}"):
        return load(model, allow_download=allow_download).to(chosen_device(device))


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


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(generate)
    for edit in (refine, inpaint, extend, vary, restore):
        app.command(edit.__name__)(command(edit))
    app.command("inspect")(again)
