"""The command line. Every command imports what it needs when it runs: `--help` and `plugins` load no torch."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import codecdiff
from codecdiff.files import require_writable

if TYPE_CHECKING:
    import torch

    from codecdiff.data.audio import Track
    from codecdiff.interfaces import Conditioner

EXPECTED = (ValueError, LookupError, OSError, ImportError)  # told in one sentence

out = Console(markup=False, emoji=False, highlight=False)
err = Console(markup=False, emoji=False, highlight=False, stderr=True)


class Commands(TyperGroup):
    """The commands. What goes wrong in one is told in a sentence, or with its traceback under `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            if ctx.params["debug"]:
                raise
            err.print(_sentence(error), style="red", soft_wrap=True)
            raise typer.Exit(1) from error


def _sentence(error: Exception) -> str:
    plain = str(error) and not isinstance(error, KeyError)
    return str(error) if plain else f"{type(error).__name__}: {error}. --debug shows where."


app = typer.Typer(
    cls=Commands,
    help="Diffusion models on neural-codec latents, level by level.",
    no_args_is_help=True,
    rich_markup_mode=None,  # formatting help with rich doubles its time
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"codecdiff {codecdiff.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", envvar="CODECDIFF_DEBUG", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def plugins(
    check: Annotated[bool, typer.Option("--check", help="Load each part, and show what is wrong with it.")] = False,
) -> None:
    """List the parts and the models that are installed."""
    from rich.table import Table

    from codecdiff import registry

    parts, faults = registry.scan()
    problems: dict[registry.Plugin, str] = {}
    if check:
        from codecdiff.doctor import problem_of

        problems = {plugin: problem for plugin in parts if (problem := problem_of(plugin))}
    table = Table("kind", "name", "package", "version", *["state"] * (check or bool(faults)))
    for plugin in parts:
        problem = problems.get(plugin, "")
        state, style = [problem or "loads"] * check, "red" if problem else None
        table.add_row(plugin.kind, plugin.name, plugin.distribution, plugin.version, *state, style=style)
    for fault in faults:
        table.add_row("?", "?", fault.distribution, "", f"unreadable: {fault.error}", style="red")
    out.print(table)
    if check and (faults or problems):
        raise typer.Exit(1)


@app.command()
def encode(
    audio: Annotated[list[Path], typer.Argument(help="Audio files, and folders of them.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Store to make.", show_default=False)],
    codec: Annotated[str, typer.Option(help="Codec to encode with.")] = "starter",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the codec; any number.")
    ] = None,
    projections: Annotated[
        bool, typer.Option("--projections", help="Keep what the codes are quantised from too, for target=projections.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
) -> None:
    """Encode audio into a store of codes to train on."""
    from codecdiff.config import build, spec_of
    from codecdiff.data.store import clips, encode_tracks

    if output.exists():
        raise FileExistsError(f"'{output}' exists already. Choose another name, or delete it.")
    require_writable(output)
    tracks = tracks_of(audio)
    model = build("codecs", codec_spec(codec, options or [])).to(chosen_device(device))
    if not model.is_fitted:
        with err.status(f"Fitting the {codec} codec"):
            model.fit(clips(tracks, model))
    with progress("encoding", len(tracks)) as advance:
        target = "projections" if projections else "codes"
        store, skipped = encode_tracks(tracks, output, model, spec_of("codecs", model), target=target, progress=advance)
    for line in skipped:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    minutes = sum(row["seconds"] for row in store.rows) / 60
    out.print(
        f"{len(store)} of {len(tracks)} files, {minutes:.1f} minutes, {store.frames} frames in {output}", soft_wrap=True
    )


def tracks_of(paths: list[Path]) -> list[Track]:
    """Find the tracks of files and folders. Each is named by its path within the folder that holds them all."""
    from dataclasses import replace

    from codecdiff.data.audio import SUFFIXES, find_tracks

    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"There is no file or folder '{path}'.")
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"'{path}' is not audio by its name. Files that are read: {', '.join(SUFFIXES)}.")
    asked = [path.resolve() for path in paths]
    folders = sorted({path if path.is_dir() else path.parent for path in asked})
    tracks = {track.file: track for folder in folders for track in find_tracks(folder)}
    common = os.path.commonpath(folders)
    return [
        replace(track, name=file.relative_to(common).as_posix())
        for file, track in tracks.items()
        if any(path in (file, *file.parents) for path in asked)
    ]


def codec_spec(name: str, options: list[str]) -> dict[str, Any]:
    """Give the configuration of a codec, its `key=value` options read by their types."""
    from pydantic import BaseModel

    from codecdiff import config

    class Encoding(BaseModel):
        codec: config.CodecSpec

    assignments = [f"codec.{option}" for option in options]
    return config.override({"codec": {"name": name}}, Encoding, assignments)["codec"]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the music is like; empty for anything.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Audio file to write.", show_default=False)],
    model: Annotated[str, typer.Option(help="A model folder, an installed model, or a hub id.")] = "starter",
    seconds: Annotated[float, typer.Option(help="Duration.")] = 10.0,
    steps: Annotated[int | None, typer.Option(help="Steps asked of every sampler. Default: the model's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strictly the prompt is followed; 1 for plain. Default: the model's.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="KEY=VALUE", help="What else the conditioner reads of a prompt; any number."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same music.")] = 0,
    takes: Annotated[int, typer.Option(min=1, max=1000, help="How many; more than one are numbered.")] = 1,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch the hub ids that the model names for its parts.")
    ] = False,
) -> None:
    """Make music from a prompt."""
    files = numbered(output, takes)
    for file in files:
        check_writable(file)

    from codecdiff.data.audio import write_audio
    from codecdiff.pipeline import load

    with err.status(f"Loading {model}"):
        pipeline = load(model, allow_download=allow_download).to(chosen_device(device))
    whole = {"text": prompt, **prompt_values(fields or [], pipeline.conditioner)}
    if pipeline.conditioner is None:
        err.print("This model was trained without conditions: the prompt is ignored.")
    elif not prompt.strip() and not fields:
        err.print("The prompt is empty: the music is unconditional.")
    elif prompt.strip() and "text" not in pipeline.conditioner.fields:
        err.print(
            f"This model reads no text, only --field {', '.join(pipeline.conditioner.fields)}: the text is ignored."
        )
    options: dict[str, Any] = {"seed": seed, "takes": takes, "steps": steps, "guidance": guidance}
    codes = pipeline.generate_codes([whole], pipeline.frames(seconds), **options)
    with progress("generating", takes) as advance:
        for count, (file, take) in enumerate(zip(files, codes, strict=True), 1):
            audio = pipeline.decode([take], round(seconds * pipeline.sample_rate))
            write_audio(file, audio[0], pipeline.sample_rate)
            advance(count)
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


def numbered(file: Path, count: int) -> list[Path]:
    """Give the files of so many takes: `out.wav` alone, or `out-1.wav`, `out-2.wav`..."""
    return [file] if count == 1 else [file.with_stem(f"{file.stem}-{i + 1}") for i in range(count)]


def check_writable(file: Path) -> None:
    """Raise ValueError or OSError unless audio can be written to this file, by trying its folder."""
    import soundfile

    if not soundfile.check_format(file.suffix[1:]):
        raise ValueError(f"'{file}' names no audio format that can be written. Use .wav or .flac.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"There is no folder '{file.parent}'. Make it first: mkdir -p '{file.parent}'.")
    if file.is_dir() or (file.exists() and not os.access(file, os.W_OK)):
        raise OSError(f"'{file}' is a folder or cannot be written over. Choose another name.")
    require_writable(file.parent)


def chosen_device(name: str) -> torch.device:
    """Give the device of this name, or the best one here if it is empty. Raises ValueError if it cannot be used."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"Device '{name}' cannot be used: {reason}. `codecdiff doctor` lists those here.") from error


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar, and give the function that says how many of `total` are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, completed=count)


@app.command()
def doctor() -> None:
    """Look for what is wrong here, and how to mend it."""
    from rich.table import Table

    from codecdiff.doctor import examine

    with err.status("Importing everything once"):
        findings = list(examine())
    table = Table("", "what", "finding")
    for finding in findings:
        table.add_row(
            "" if finding.fine else "wrong", finding.what, finding.state, style=None if finding.fine else "red"
        )
    out.print(table)
    wrong = [finding for finding in findings if not finding.fine]
    for finding in wrong:
        out.print(f"{finding.what}: {finding.remedy}", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    out.print("Nothing is wrong.")


def main() -> None:
    """Run the command line."""
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    app(prog_name=Path(sys.argv[0]).stem)
