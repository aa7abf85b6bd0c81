"""`codecdiff encode`: encode audio into a store of codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff import registry
from codecdiff.cli.console import TIME, Options, err, out, select_device, ticker
from codecdiff.errors import FileExists, InvalidValue, MissingFile
from codecdiff.files import missing_file, require_writable

if TYPE_CHECKING:
    from codecdiff.data.code_store import CodeStore
    from codecdiff.data.encoding.job import EncodeConfig, Engine
    from codecdiff.data.metadata import Track
    from codecdiff.data.segments import SegmentConfig


Audio = Annotated[list[Path], typer.Argument(help="Audio files, folders of them, or one manifest.", show_default=False)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Store to make. Default: stores/AUDIO-CODEC.")
]
AudioFolder = Annotated[Path | None, typer.Option("--audio", metavar="FOLDER", help="Folder of the manifest's audio.")]
Codec = Annotated[str, typer.Option(help="Codec to encode with.")]
Continuous = Annotated[bool, typer.Option("--continuous", help="Also store pre-quantization latents.")]
Segment = Annotated[float | None, typer.Option(**TIME, help="Cut tracks into segments of this duration.")]
Overlap = Annotated[float, typer.Option(**TIME, help="Overlap of a segment with the one before.")]
MinSeconds = Annotated[float, typer.Option(**TIME, help="Drop shorter segments.")]
Silence = Annotated[float | None, typer.Option(metavar="DBFS", help="Drop segments of a lower RMS level, as in -60.")]
Loudness = Annotated[float | None, typer.Option(metavar="DBFS", help="Normalize to this RMS level, as in -20.")]
LoudnessOf = Annotated[str, typer.Option(metavar="WHAT", help="What is measured for it: track or segment.")]
EngineName = Annotated[str, typer.Option(help="Where to encode: local, this machine, or ray, a cluster.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: up to one per core or GPU.")]
ShardMinutes = Annotated[float, typer.Option(min=0, metavar="MINUTES", help="Audio per shard, the unit of resuming.")]
Device = Annotated[str, typer.Option(help="Device, as in cuda:1. Default: all GPUs, if any.")]


def encode(
    audio: Audio,
    output: Output = None,
    codec: Codec = "starter-neural",
    options: Options = None,
    continuous: Continuous = False,
    segment: Segment = None,
    overlap: Overlap = 0,
    min_seconds: MinSeconds = 0,
    silence: Silence = None,
    loudness: Loudness = None,
    loudness_of: LoudnessOf = "track",
    engine: EngineName = "local",
    workers: Workers = None,
    shard_minutes: ShardMinutes = 60.0,
    device: Device = "",
    audio_folder: AudioFolder = None,
) -> None:
    """Encode audio into a store of codes to train on.

    Run it again to resume after an interruption.
    """
    from codecdiff.config import build, parse_options
    from codecdiff.data.segments import SegmentConfig

    output = output or Path("stores") / f"{audio[0].resolve().stem}-{codec}"
    segments = SegmentConfig.parse(
        segment=segment,
        overlap=overlap,
        min_seconds=min_seconds,
        silence=silence,
        loudness=loudness,
        loudness_of=loudness_of,
    )
    tracks, issues = find_all_tracks(audio, audio_folder)
    settings = _settings(tracks, [codec, *(options or [])], continuous, segments, shard_minutes)
    require_new_store(output, settings.request, tracks)
    run = registry.load_entry(registry.ENGINES, engine)(device, workers)
    place = select_device(device if engine == "local" else "")  # the GPUs of a cluster are not devices of this machine
    model = build("codecs", parse_options("codecs", codec, options or [])).to(place)
    store, skipped = _encode(tracks, output, model, settings, run)
    show_result(store, [*issues, *skipped], len(tracks) + len(issues), output)


def _settings(
    tracks: list[Track], codec: list[str], continuous: bool, segments: SegmentConfig, shard_minutes: float
) -> EncodeConfig:
    """Return how tracks are encoded, with a digest of that, of the tracks, and of the codec with its options."""
    from hashlib import sha256

    from codecdiff.data.encoding.job import EncodeConfig, hash_tracks

    target = "continuous" if continuous else "codes"
    settings = EncodeConfig(target=target, segments=segments, shard_minutes=shard_minutes)
    request = json.dumps([hash_tracks(tracks), codec, settings.model_dump(mode="json")])
    return settings.model_copy(update={"request": sha256(request.encode()).hexdigest()[:32]})


def _encode(
    tracks: list[Track], output: Path, model: Any, settings: EncodeConfig, engine: Engine
) -> tuple[CodeStore, list[str]]:
    """Encode tracks, and show how far it is."""
    from codecdiff.config import to_config
    from codecdiff.data.encoding.encode import encode_tracks

    spec = to_config("codecs", model)
    with ticker("Preparing" if model.is_fitted else f"Fitting the {spec['name']} codec") as update:
        try:
            return encode_tracks(
                tracks, output, model, spec, settings, engine=engine, progress=lambda done: update(str(done))
            )
        except FileExists:
            require_new_store(output, settings.request, tracks)  # another process may have made it meanwhile
            raise


def require_new_store(output: Path, request: str, tracks: list[Track]) -> None:
    """End the command if a folder is the store of this request. Raises FileExists or UnusableFile for another one."""
    from codecdiff.data.code_store import CodeStore
    from codecdiff.data.encoding.encode import changed_tracks, tidy_store
    from codecdiff.data.sealed import read_sealed

    header = read_sealed(output / "header.json") if (output / "header.json").is_file() else None
    if isinstance(header, dict) and header.get("request") == request:
        tidy_store(output)
        if changed := changed_tracks(CodeStore(output), tracks, err.print):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise FileExists(
                f"'{output}' was made from other audio: {changed[0]}{more} changed after it. Choose another name, or "
                "delete it to encode them again."
            )
        out.print(f"{output} is complete: an earlier run of this command wrote it.", soft_wrap=True)
        raise typer.Exit
    if output.exists() or output.is_symlink():
        raise FileExists(f"'{output}' exists already. Choose another name, or delete it.")
    require_writable(output)


def show_result(store: CodeStore, skipped: list[str], count: int, output: Path) -> None:
    """Show what is wrong with the files, `count` of them, of a new store, and what it holds."""
    for track, issue in store.header["issues"].items():
        show_issue(f"'{track}': {issue}")
    for line in skipped:
        show_issue(f"Skipped: {line}")
    minutes = sum(row["seconds"] for row in store.rows) / 60
    cut = f"{len(store)} segments, " if store.header["segmentation"]["segment"] else ""
    dropped = "".join(f", {number} {why} segments dropped" for why, number in store.header["dropped"].items())
    uncaptioned = len({row["track"] for row in store.rows if not row["captions"]})
    dropped += f", {uncaptioned} tracks without a caption" if uncaptioned else ""
    line = f"{store.header['tracks']} of {count} files, {cut}{minutes:.1f} minutes, {store.frames} frames{dropped}"
    out.print(f"{line} in {output}", soft_wrap=True)


def find_all_tracks(paths: list[Path], audio: Path | None = None) -> tuple[list[Track], list[str]]:
    """Find the tracks of files and folders, or of one manifest, with a sentence for each without audio."""
    from codecdiff.data.manifest import Manifest

    if not any(path.suffix == ".parquet" for path in paths):
        return tracks_of(paths), []
    if len(paths) > 1:
        raise InvalidValue("Expected one manifest, or audio files and folders: a manifest is encoded alone.")
    manifest = Manifest.read(paths[0], audio=audio)
    tracks, issues = manifest.tracks(), list(manifest.without_audio().values())
    if not tracks:
        raise MissingFile(f"'{paths[0]}' names no audio that exists. {issues[0] if issues else 'It is empty.'}")
    return tracks, issues


def show_issue(issue: object) -> None:
    """Show an issue of metadata."""
    err.print(str(issue), style="yellow", soft_wrap=True)


def tracks_of(paths: list[Path]) -> list[Track]:
    """Find the tracks of files and folders, and show what is wrong with their metadata.

    Each is named by its path within the folder that holds them all.
    """
    from dataclasses import replace

    from codecdiff.data.audio import SUFFIXES, how_to_convert
    from codecdiff.data.metadata import OTHER_SUFFIXES, Track, find_tracks

    for path in paths:
        if not path.exists():
            raise missing_file(path, "File or folder")
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            hint = f"Formats: {', '.join(SUFFIXES)}."
            if path.suffix.lower() in OTHER_SUFFIXES:
                hint = f"{how_to_convert(path)}."
            raise InvalidValue(f"'{path}' is not audio that can be read, by its name. {hint}")
    requested = {Path(os.path.abspath(path)) for path in paths}  # not where links lead, whose names say nothing
    folders = sorted({path if path.is_dir() else path.parent for path in requested})
    tracks = {path: Track(path, path.name) for path in sorted(requested) if path.is_file()}  # hidden ones too
    tracks |= {track.file: track for folder in folders for track in find_tracks(folder, show_issue)}
    common = os.path.commonpath(folders)
    return [
        replace(track, name=file.relative_to(common).as_posix())
        for file, track in tracks.items()
        if not requested.isdisjoint((file, *file.parents))
    ]
