"""`codecdiff encode`: audio into a store of codes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import chosen_device, err, out, ticker
from codecdiff.files import require_writable

if TYPE_CHECKING:
    from codecdiff.data.code_store import CodeStore
    from codecdiff.data.encoding.job import Engine
    from codecdiff.data.metadata import Track


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
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Store the latents before quantization, too, for target=continuous.")
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
    from codecdiff.config import build, parse_options, to_config
    from codecdiff.data.encoding.encode import encode_tracks
    from codecdiff.data.encoding.job import EncodeConfig
    from codecdiff.data.segments import SegmentConfig

    if output.exists():
        raise FileExistsError(f"'{output}' exists already. Choose another name, or delete it.")
    require_writable(output)
    segments = SegmentConfig.parse(
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
    model = build("codecs", parse_options("codecs", codec, options or [])).to(place)
    with ticker("Preparing" if model.is_fitted else f"Fitting the {codec} codec") as tell:
        store, skipped = encode_tracks(
            tracks,
            output,
            model,
            to_config("codecs", model),
            EncodeConfig(
                target="continuous" if continuous else "codes", segments=segments, shard_minutes=shard_minutes
            ),
            engine=run,
            progress=lambda progress: tell(str(progress)),
        )
    for line in [*faults, *skipped]:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    out.print(f"{_told(store, len(tracks) + len(faults))} in {output}", soft_wrap=True)


def _told(store: CodeStore, count: int) -> str:
    """Say what is in a store that was made of so many files."""
    minutes = sum(row["seconds"] for row in store.rows) / 60
    cut = f"{len(store)} segments, " if store.header["segmentation"]["segment"] else ""
    dropped = "".join(f", {number} {why} segments dropped" for why, number in store.header["dropped"].items())
    return f"{store.header['tracks']} of {count} files, {cut}{minutes:.1f} minutes, {store.frames} frames{dropped}"


def engine_named(name: str, device: str, workers: int | None) -> Engine:
    """Give the engine of `encode` by name, to work on a device, or on GPUs if it has any and none is named.

    Raises LookupError, and ImportError if its library is not installed.
    """
    if name == "local":
        from codecdiff.data.encoding.local import local_engine

        return local_engine(device or chosen_device("").type, workers)
    if name == "ray":
        from codecdiff.data.encoding.ray import ray_engine

        return ray_engine(device, workers)
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
