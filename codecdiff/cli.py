"""The command line. Every command imports what it needs when it runs: `--help` and `plugins` load no torch.

A package brings a command of its own, or a group of them, by an entry point; it is imported when it is called or its
own help is asked for.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import codecdiff
from codecdiff import checking, comparing, making, registry
from codecdiff.files import require_writable
from codecdiff.terminal import chosen_device, err, out, ticker

if TYPE_CHECKING:
    from codecdiff.data.encoding import Engine
    from codecdiff.data.metadata import Track
    from codecdiff.data.store import CodeStore

EXPECTED = (ValueError, LookupError, OSError, ImportError)  # told in one sentence


class Commands(TyperGroup):
    """The commands. What goes wrong in one is told in a sentence, or with its traceback under `--debug`."""

    def brought(self) -> dict[str, registry.Plugin]:
        """Give the commands of plugins by name: those of the core keep theirs."""
        found = registry.commands()
        return {f"{p.distribution}:{name}" if name in self.commands else name: p for name, p in found.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands of the core, then those of plugins."""
        return [*super().list_commands(ctx), *self.brought()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give a command by name; of a plugin, without importing it."""
        plugin = None if cmd_name in self.commands else self.brought().get(cmd_name)
        package = registry.FIRST_PARTY.get((registry.COMMANDS, cmd_name))
        if package and plugin is None and cmd_name not in self.commands:
            raise registry.UnknownPart(f"The command '{cmd_name}' comes with {package}: pip install {package}.")
        return Brought(cmd_name, plugin) if plugin else super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            if ctx.params["debug"]:
                raise
            err.print(_sentence(error), style="red", soft_wrap=True)
            raise typer.Exit(1) from error


class Brought(TyperCommand):
    """A command of a plugin, which is imported once it has to answer."""

    def __init__(self, name: str, plugin: registry.Plugin):
        super().__init__(name, help=f"From {plugin.distribution}.", hidden=bool(plugin.obstacle))
        self.plugin = plugin

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Import the command and leave everything to it. Raises BrokenPlugin if that fails."""
        loaded = self.plugin.load()
        app = loaded if isinstance(loaded, typer.Typer) else typer.Typer(add_completion=False, rich_markup_mode=None)
        if app is not loaded:
            app.command(self.name)(loaded)
        return typer.main.get_command(app).make_context(*args, **options)


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


Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="What importing one plugin may take.")]


@app.command()
def plugins(
    check: Annotated[bool, typer.Option("--check", help="Load each part, and show what is wrong with it.")] = False,
    timeout: Timeout = 60.0,
) -> None:
    """List the parts and the models that are installed."""
    from rich.table import Table

    parts, faults = registry.scan()
    wrong: dict[registry.Plugin, str] = {}
    if check:
        from codecdiff.quarantine import problems

        with err.status("Importing everything once"):
            wrong = problems([plugin for plugin in parts if plugin.switched_on], timeout)
    states = {plugin: wrong.get(plugin) or plugin.obstacle or "loads" * check for plugin in parts}
    states |= {plugin: f"switched off by {registry.SWITCH}" for plugin in parts if not plugin.switched_on}
    shown = bool(faults or any(states.values()))
    table = Table("kind", "name", "package", "version", *["state"] * shown)
    for plugin, state in states.items():
        style = "dim" if not plugin.switched_on else "red" if state not in ("", "loads") else None
        table.add_row(plugin.kind, plugin.name, plugin.distribution, plugin.version, *[state] * shown, style=style)
    for fault in faults:
        table.add_row("?", "?", fault.distribution, "", f"{fault.error} ({fault.remedy})", style="red")
    out.print(table)
    if check and (faults or wrong):
        raise typer.Exit(1)


@app.command()
def encode(
    audio: Annotated[
        list[Path],
        typer.Argument(help="Audio files and folders of them, or one manifest (.parquet).", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Store to make.", show_default=False)],
    codec: Annotated[str, typer.Option(help="Codec to encode with.")] = "starter",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the codec; any number.")
    ] = None,
    projections: Annotated[
        bool, typer.Option("--projections", help="Keep what the codes are quantised from too, for target=projections.")
    ] = False,
    segment: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Cut recordings into segments. Default: keep them whole.")
    ] = None,
    overlap: Annotated[float, typer.Option(metavar="SECONDS", help="What a segment shares with the one before.")] = 0,
    min_seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Drop what is shorter.")] = 0,
    silence: Annotated[
        float | None, typer.Option(metavar="DBFS", help="Drop what has a lower RMS level, as in -60.")
    ] = None,
    loudness: Annotated[
        float | None, typer.Option(metavar="DBFS", help="Bring all to this RMS level, as in -20.")
    ] = None,
    loudness_of: Annotated[str, typer.Option(help="Whose level that is: 'track' or 'segment'.")] = "track",
    engine: Annotated[str, typer.Option(help="Where to work: 'local', this machine, or 'ray', a cluster.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per core or GPU, if there is enough to do.")
    ] = None,
    shard_minutes: Annotated[
        float, typer.Option(min=0, help="Audio in a shard, which is done whole or begun again.", show_default="60")
    ] = 60.0,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: all GPUs, if any.")] = "",
) -> None:
    """Encode audio into a store of codes to train on. Run it again to go on where it was interrupted."""
    from codecdiff.config import build, chosen, spec_of
    from codecdiff.data.encoding import encode_tracks
    from codecdiff.data.segments import segmentation

    if output.exists():
        raise FileExistsError(f"'{output}' exists already. Choose another name, or delete it.")
    require_writable(output)
    rules = segmentation(
        segment=segment,
        overlap=overlap,
        min_seconds=min_seconds,
        silence=silence,
        loudness=loudness,
        loudness_of=loudness_of,
    )
    tracks, faults = recordings_of(audio)
    run = engine_named(engine, device, workers)
    place = chosen_device(device if engine == "local" else "")  # a cluster's GPUs are no devices of this machine
    model = build("codecs", chosen("codecs", codec, options or [])).to(place)
    with ticker("Preparing" if model.is_fitted else f"Fitting the {codec} codec") as tell:
        store, skipped = encode_tracks(
            tracks,
            output,
            model,
            spec_of("codecs", model),
            target="projections" if projections else "codes",
            rules=rules,
            minutes=shard_minutes,
            engine=run,
            progress=lambda tally: tell(str(tally)),
        )
    for line in [*faults, *skipped]:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    out.print(f"{_told(store, len(tracks) + len(faults))} in {output}", soft_wrap=True)


def _told(store: CodeStore, count: int) -> str:
    """Say what is in a store that was made of so many files."""
    minutes = sum(row["seconds"] for row in store.rows) / 60
    cut = f"{len(store)} segments, " if store.header["segmentation"]["segment"] else ""
    dropped = "".join(f", {number} {why} pieces dropped" for why, number in store.header["dropped"].items())
    return f"{store.header['tracks']} of {count} files, {cut}{minutes:.1f} minutes, {store.frames} frames{dropped}"


def engine_named(name: str, device: str, workers: int | None) -> Engine:
    """Give the engine of `encode` by name, to work on a device, or on GPUs if it has any and none is named.

    Raises LookupError, and ImportError if its library is not installed.
    """
    if name == "local":
        from codecdiff.data.workers import local

        return local(device or chosen_device("").type, workers)
    if name == "ray":
        from codecdiff.data.clusters import on_ray

        return on_ray(device, workers)
    raise LookupError(f"No engine named '{name}'. There are: local, ray.")


def recordings_of(paths: list[Path]) -> tuple[list[Track], list[str]]:
    """Find the tracks of files and folders, or of one manifest, with a sentence for each that has no audio there."""
    from codecdiff.data.manifest import Manifest

    if not any(path.suffix == ".parquet" for path in paths):
        return tracks_of(paths), []
    if len(paths) > 1:
        raise ValueError("A manifest is encoded alone. Give one manifest, or else audio files and folders.")
    manifest = Manifest.read(paths[0])
    tracks, faults = manifest.tracks(), list(manifest.without_audio().values())
    if not tracks:
        raise FileNotFoundError(f"'{paths[0]}' names no audio that is there. {faults[0] if faults else 'It is empty.'}")
    return tracks, faults


def tracks_of(paths: list[Path]) -> list[Track]:
    """Find the tracks of files and folders. Each is named by its path within the folder that holds them all."""
    from dataclasses import replace

    from codecdiff.data.audio import SUFFIXES
    from codecdiff.data.metadata import find_tracks

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


@app.command()
def push(
    model: Annotated[str, typer.Argument(help="Model folder, or the name of an installed model.")],
    name: Annotated[str, typer.Argument(help="Where to on the Hugging Face hub, as in 'owner/name'.")],
    private: Annotated[bool, typer.Option("--private", help="Make it for your account alone.")] = False,
) -> None:
    """Send a trained model to the Hugging Face hub, for `--model owner/name`."""
    with err.status(f"Sending to {name}"):
        address = codecdiff.push_to_hub(model, name, private=private or None)
    out.print(address, soft_wrap=True)


@app.command()
def doctor(timeout: Timeout = 60.0) -> None:
    """Look for what is wrong here, and how to mend it."""
    from rich.table import Table

    from codecdiff.doctor import examine

    with err.status("Importing everything once"):
        findings = list(examine(timeout))
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


@app.command()
def new_plugin(
    kind: Annotated[str, typer.Argument(help="codec, splitter, conditioner or denoiser.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Of the part, as in 'my-part'.", show_default=False)],
    into: Annotated[Path, typer.Option(help="Folder to make the package's folder in.")] = Path("."),
) -> None:
    """Write a package with a small working part of your own, to change as you like."""
    from codecdiff.scaffolding import new_plugin

    folder = new_plugin(kind, name, into)
    command = f"pip install --editable '{folder}[test]'"
    out.print(f"{folder}: install it with {command}. Its README.md goes on from there.", soft_wrap=True)  # to be copied


making.add_to(app)
app.command()(comparing.compare)
app.command()(checking.check)


def main() -> None:
    """Run the command line."""
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    app(prog_name=Path(sys.argv[0]).stem)
