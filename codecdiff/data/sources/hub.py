"""Data sets of the Hugging Face hub, or folders in its formats, through its library `datasets` (`codecdiff[hub-data]`).

Audio stays encoded, and is written into a folder of the data set's own within the audio folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from codecdiff.data.audio import CAPTION_FIELDS, SUFFIXES
from codecdiff.data.faults import Fault, Report
from codecdiff.data.licences import licence_name
from codecdiff.data.manifests import Recording
from codecdiff.data.sources.folders import tags_of
from codecdiff.data.subsets import SPLITS, split_name
from codecdiff.files import atomic_write

KNOWN = {"artist": ("artist", "artist_name"), "title": ("title", "name"), "licence": ("license", "licence")}
IDS = ("track", "id", "track_id", "ytid")  # columns that are taken for names of tracks, if --id-column is not given


@dataclass(frozen=True)
class Columns:
    """Which columns of a data set hold what. Empty ones are found by their usual names and types."""

    captions: Sequence[str] = ()
    tags: Sequence[str] = ()
    track: str = ""


FOUND = Columns()  # all by their usual names


def load(name: str) -> dict[str, Any]:
    """Give a data set by its id on the hub or its folder, as splits by name.

    Raises ImportError if `datasets` is not installed, FileNotFoundError for a name that can be neither, and ValueError,
    with the reason, for what cannot be loaded.
    """
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ImportError("Data sets of the hub need the package datasets: pip install codecdiff[hub-data].") from error
    folder = Path(name)
    if not folder.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(f"'{name}' is neither a folder nor a data set of the hub, as in owner/name.")
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name)
    except (ValueError, OSError, LookupError, RuntimeError, DatasetsError) as error:
        reason = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise ValueError(f"The data set '{name}' cannot be loaded: {reason[0]}") from error
    if isinstance(found, dict):
        return {str(split): table for split, table in found.items()}
    return {str(found.split or ""): found}


def plain_rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of all splits of a data set, audio left encoded and labels by their names."""
    for table in load(name).values():
        yield from _plain_rows(table)


def _plain_rows(table: Any) -> Iterator[dict[str, Any]]:
    import datasets

    labels: dict[str, Sequence[str]] = {}
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Audio):
            table = table.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(feature, datasets.ClassLabel):
            labels[column] = feature.names
    for row in table:
        named = {column: names[row[column]] for column, names in labels.items() if row[column] not in (None, -1)}
        yield {**row, **{column: None for column in labels}, **named}


def read(name: str, audio: Path | None, columns: Columns, report: Report) -> list[Recording]:
    """Read a data set into recordings, its audio written into the folder `audio`, if any.

    Raises ValueError for columns that it does not have.
    """
    splits = load(name)
    import datasets  # which `load` says how to install

    recordings: list[Recording] = []
    seen: set[str] = set()
    for split, table in splits.items():
        sounds = [column for column, feature in table.features.items() if isinstance(feature, datasets.Audio)]
        _check(name, table.column_names, [*columns.captions, *columns.tags, *filter(None, [columns.track])])
        for number, row in enumerate(_plain_rows(table), 1):
            recording = _recording(name, split_name(split), number, row, columns, sounds)
            if recording.track in seen:
                what = f"'{recording.track}' stands in an earlier row too."
                field = columns.track or "id"
                report(Fault(f"{name} {split}", what, "Leave one of them out.", number, recording.track, field))
                continue
            seen.add(recording.track)
            if sounds and audio:
                _keep(row[sounds[0]], audio, recording.file)
            recordings.append(recording)
    return recordings


def _check(name: str, has: Sequence[str], asked: Sequence[str]) -> None:
    for column in asked:
        if column not in has:
            raise ValueError(f"The data set '{name}' has no column '{column}'. It has: {', '.join(has)}.")


def _recording(
    name: str, split: str, number: int, row: Mapping[str, Any], columns: Columns, sounds: Sequence[str]
) -> Recording:
    id_column = columns.track or next((key for key in IDS if row.get(key) not in (None, "")), "")
    track = str(row[id_column]) if id_column else f"{split or 'row'}-{number:07d}"
    caption_columns = columns.captions or [key for key in CAPTION_FIELDS if key in row]
    tag_columns = columns.tags or [key for key in ("tags",) if key in row]
    known = {to: next((str(row[key]) for key in keys if row.get(key)), "") for to, keys in KNOWN.items()}
    tags = {key: found for column in tag_columns for key, found in _tags(column, row[column]).items()}
    used = {id_column, *caption_columns, *tag_columns, *sounds, *(key for keys in KNOWN.values() for key in keys)}
    more = {key: value for key, value in row.items() if key not in used and _is_plain(value)}
    return Recording(
        track,
        file=f"{_folder_name(name)}/{_file_name(track, row[sounds[0]])}" if sounds else "",
        tags=tags,
        captions=_texts([row[column] for column in caption_columns]),
        licence=licence_name(known["licence"], known["licence"]),
        artist=known["artist"],
        title=known["title"],
        split=split if split in SPLITS else "",
        source=f"{Path(name).name if Path(name).is_dir() else name}, {track}",
        metadata=more,
    )


def _tags(column: str, value: Any) -> Mapping[str, Sequence[str]]:
    """Read a column of tags, under its own name unless that is only `tags`."""
    found = tags_of(value)
    return {column: found["tag"]} if column != "tags" and set(found) == {"tag"} else found


def _texts(values: Sequence[Any]) -> list[str]:
    listed = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(str(text).strip() for text in listed if text and str(text).strip()))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) and value == value


def _folder_name(name: str) -> str:
    """Name the folder of a data set's audio: two data sets whose tracks have the same names share none."""
    folder = Path(name)
    return f"{_safe(folder.name)}-{_digest(str(folder.resolve()))}" if folder.is_dir() else _safe(name)


def _file_name(track: str, sound: Mapping[str, Any] | None) -> str:
    """Name a file for a track, with the ending its audio came with."""
    ending = PurePosixPath((sound or {}).get("path") or "").suffix.lower()
    return f"{_safe(track)}{ending if ending in SUFFIXES else '.wav'}"


def _safe(name: str) -> str:
    """Spell a name by letters that are safe, told apart from others that are left with the same letters."""
    safe = re.sub(r"[^\w-]+", "_", name)
    return safe if safe == name else f"{safe}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _keep(sound: Mapping[str, Any] | None, audio: Path, file: str) -> None:
    """Put the encoded audio of a row into the audio folder, unless it is there: an import that stopped goes on."""
    target = audio / file
    if not sound:
        return
    data, path = sound.get("bytes"), Path(sound.get("path") or "")
    if data is None and path.suffix.lower() in SUFFIXES and path.is_file():
        data = path.read_bytes()
    if data and not (target.is_file() and target.stat().st_size == len(data)):  # of another size, it is of before
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            temporary.write_bytes(data)
