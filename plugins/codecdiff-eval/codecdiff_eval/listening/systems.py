"""What a listening test compares: clips of several systems that match item by item.

A folder is what `generate`, `evaluate` or `compare` wrote, or any folder of audio. That of `compare` holds several
systems, and the music that they are compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from codecdiff.data.metadata import Track, find_tracks
from codecdiff.errors import InvalidValue
from codecdiff.files import read_json
from codecdiff.pipeline import GenerationRequest
from codecdiff_eval.eval_sets import GENERATED
from codecdiff_eval.report import Players

ANCHOR, REFERENCE = "anchor", "reference"
UNPROCESSED = "Real"  # title of the music as it is, in a comparison


@dataclass(frozen=True)
class System:
    """What is compared: its name, and its clips with their prompts as captions."""

    name: str
    clips: Sequence[Track]


@dataclass(frozen=True)
class Item:
    """Clips of one prompt, or of one name, by the names of their systems."""

    name: str
    prompt: str
    files: Mapping[str, Path]


class CompareFile(BaseModel):
    """What a listening test reads of the report.json of a comparison."""

    variants: dict[str, Any]
    players: list[Players]


def read_systems(folders: Sequence[Path]) -> tuple[list[System], System | None]:
    """Read the systems of folders, and the reference of a comparison if one is among them.

    A system is called as its folder; folders of one name are called with the folder above them.
    """
    systems, reference = [], None
    names = Counter([ANCHOR, REFERENCE, *(folder.resolve().name for folder in folders)])
    for folder in folders:
        is_report = (folder / "report.json").is_file()
        if is_report and "variants" in read_json(folder / "report.json", dict[str, Any]):
            variants, reference = read_comparison(folder)
            systems += variants
            continue
        path = folder.resolve()
        name = path.name if names[path.name] == 1 else "/".join(path.parts[-2:])
        generated = folder / "clips" / GENERATED  # of an evaluation
        if is_report and not generated.is_dir():
            raise InvalidValue(f"'{folder}' is the report of a folder of audio: name that folder instead.")
        systems.append(System(name, with_prompts(find_tracks(generated if generated.is_dir() else folder))))
    if repeated := [name for name, count in Counter(system.name for system in systems).items() if count > 1]:
        raise InvalidValue(f"Two systems are called '{repeated[0]}': rename a folder, names tell systems apart.")
    return systems, reference


def read_comparison(folder: Path) -> tuple[list[System], System | None]:
    """Read the variants of a comparison as systems, and the music that it evaluated them on."""
    report = read_json(folder / "report.json", CompareFile)
    clips: dict[str, list[Track]] = {}
    for i, row in enumerate(report.players):
        for player in row.players:
            is_shown = player.title == UNPROCESSED or (player.generated and not player.caption.startswith("oracle"))
            if is_shown:
                track = Track(folder / player.path, f"{i:03d}", (row.title.strip("“”"),))
                clips.setdefault(player.title, []).append(track)
    reference = System(REFERENCE, clips[UNPROCESSED]) if UNPROCESSED in clips else None
    return [System(name, clips[name]) for name in report.variants if name in clips], reference


def with_prompts(tracks: Sequence[Track]) -> list[Track]:
    """Return tracks with the prompts in the comments of their files as captions, where they have none."""

    def captions(track: Track) -> tuple[str, ...]:
        try:
            return track.captions or (str(GenerationRequest.from_file(track.file).prompt.get("text", "")),)
        except InvalidValue:
            return ()

    return [replace(track, captions=captions(track)) for track in tracks]


def match_items(systems: Sequence[System]) -> list[Item]:
    """Return the items that all systems have a clip of: by the names of files, or by prompts where more of these match.

    Raises InvalidValue if nothing matches.
    """
    by_name = [{Path(track.name).with_suffix("").as_posix(): track for track in each.clips} for each in systems]
    by_prompt = [_by_prompt(system.clips) for system in systems]
    tables = max(by_name, by_prompt, key=lambda tables: len(_common(tables)))  # the first, where both are equal
    if not (keys := _common(tables)):
        listed = "; ".join(f"{each.name}: {', '.join(track.name for track in each.clips[:3])}" for each in systems)
        raise InvalidValue(
            f"The folders have no clip in common, neither by file name nor by prompt ({listed}). Generate the same "
            "prompts with every model, or name the files alike."
        )
    items = []
    for key in keys:
        tracks = [table[key] for table in tables]
        prompts = {track.captions[0] if track.captions else "" for track in tracks}
        files = {system.name: track.file for system, track in zip(systems, tracks, strict=True)}
        items.append(Item(key, prompts.pop() if len(prompts) == 1 else "", files))
    return items


def _common(tables: Sequence[Mapping[str, Track]]) -> list[str]:
    return [key for key in tables[0] if all(key in table for table in tables)]


def _by_prompt(tracks: Sequence[Track]) -> dict[str, Track]:
    """Return tracks by their prompts; further ones of a prompt are numbered."""
    counts: Counter[str] = Counter()
    table = {}
    for track in tracks:
        if text := track.captions[0] if track.captions else "":
            counts[text] += 1
            table[text if counts[text] == 1 else f"{text} ({counts[text]})"] = track
    return table
