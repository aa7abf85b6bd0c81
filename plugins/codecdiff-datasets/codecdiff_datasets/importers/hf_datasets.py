"""Data sets of the Hugging Face hub, or folders in its formats, through `datasets` (`codecdiff-datasets[hf]`).

Audio stays encoded, and is written into a folder of the data set's own within the audio folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field

from codecdiff.data.audio import SUFFIXES
from codecdiff.data.manifest import SPLITS, ManifestRow, split_name
from codecdiff.data.metadata import CAPTION_FIELDS, Issue, Report, captions_in
from codecdiff.errors import BrokenPlugin, InvalidValue, MissingFile, UserError
from codecdiff.files import atomic_write, read_json
from codecdiff.huggingface import downloads, hub_problem
from codecdiff_datasets.importers.content import check_content
from codecdiff_datasets.importers.folder import tags_of
from codecdiff_datasets.licenses import license_name

BUILDERS = ("arrow", "audiofolder", "csv", "json", "parquet", "text", "webdataset")
OWN_COLUMNS = {"artist": ("artist", "artist_name"), "title": ("title", "name"), "license": ("license", "licence")}
IDS = ("track", "id", "track_id", "ytid")  # columns used as names of tracks unless --id-column is set
MAX_NAME = 230  # bytes; file systems take 255, with digests and suffix


@dataclass(frozen=True)
class Columns:
    """Which columns of a data set hold what. Empty ones are found by their usual names and types."""

    captions: Sequence[str] = ()
    tags: Sequence[str] = ()
    track: str = ""


USUAL_COLUMNS = Columns()


def load_splits(name: str) -> dict[str, Any]:
    """Load a data set by its id on the hub or its folder, as splits by name.

    What it says of itself may name files: only those of its own are read.
    Raises BrokenPlugin if `datasets` is not installed, MissingFile for a name that can be neither, and InvalidValue,
    with the reason, for what cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        hint = "pip install codecdiff-datasets[hf]"
        raise BrokenPlugin(f"Data sets of the hub need the package datasets: {hint}.") from error
    folder, problem = Path(name), ""
    if folder.is_file():
        raise InvalidValue(f"'{name}' is a file. Name the folder of the data set.")
    if not name or (not folder.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name)):
        raise MissingFile(f"'{name}' is neither a folder nor a data set of the hub, as in owner/name.")
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            for file in (folder / "dataset_dict.json", folder / "state.json", *folder.glob("*/state.json")):
                if file.is_file():
                    paths = [str(file.parent / path) for path in read_json(file, _SavedFiles).paths]
                    _check_files(name, paths)
                    for path in filter(os.path.isfile, paths):
                        check_content(Path(path))
            loaded = datasets.load_from_disk(name)
        else:
            problem = "" if folder.is_dir() else hub_problem()
            with downloads(not problem):  # without a connection, what was downloaded before still loads
                builder = datasets.load_dataset_builder(name)
                _check_files(name, [path for files in (builder.config.data_files or {}).values() for path in files])
                if builder.name not in BUILDERS:
                    raise InvalidValue(f"The data set '{name}' has files of '{builder.name}', which are not read.")
                builder.download_and_prepare(dl_manager=_manager(builder))
                loaded = builder.as_dataset()
    except UserError:
        raise
    except Exception as error:  # whatever its parsers of YAML, JSON, archives and tables raise
        reason = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise InvalidValue(f"The data set '{name}' cannot be loaded: {problem or reason[0][:500]}") from error
    if isinstance(loaded, dict):
        return {str(split): table for split, table in loaded.items()}
    return {str(loaded.split or ""): loaded}


def _manager(builder: Any) -> Any:
    """Return a download manager that checks what it has fetched, or found, before it is read."""
    import datasets
    from datasets.utils.py_utils import NestedDataStructure

    class CheckedDownloads(datasets.DownloadManager):
        def download(self, url_or_urls: Any) -> Any:
            paths = super().download(url_or_urls)
            for path in NestedDataStructure(paths).flatten():
                check_content(Path(path))
            return paths

    options = {"token": builder.token, "storage_options": builder.storage_options, "use_etag": False}
    return CheckedDownloads(builder.dataset_name, download_config=datasets.DownloadConfig(**options))


class _SavedFiles(BaseModel):
    """What the files of a saved data set say of others: its parts, or the splits that it has."""

    data_files: list[dict[str, Any]] = Field([], alias="_data_files")
    splits: list[str] = []

    @property
    def paths(self) -> list[str]:
        return [*(str(file.get("filename")) for file in self.data_files), *self.splits]


def _check_files(name: str, paths: Sequence[str]) -> None:
    """Raise InvalidValue if one of the files that a data set is read from is not its own, links followed."""
    folder = Path(name)
    for path in paths:
        own = (
            Path(path).resolve().is_relative_to(_home(folder))
            if folder.is_dir()
            else path.startswith(f"hf://datasets/{name}@")
        )
        if not own:
            raise InvalidValue(f"The data set '{name}' names a file outside of it, '{path[:200]}', which is not read.")


def _home(folder: Path) -> Path:
    """Return the folder that all files of a local data set lie in: of the hub's cache, the one with what links name."""
    folder = folder.resolve()
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def plain_rows(table: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a data set of this name, audio left encoded and labels by their names.

    Columns of images and the like, and of several sounds, are None. Raises InvalidValue for a row that cannot be read.
    """
    import datasets
    from datasets.features.features import require_decoding

    labels: dict[str, Sequence[str]] = {}
    others: list[str] = []
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Audio):
            table = table.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(feature, datasets.ClassLabel):
            labels[column] = feature.names
        elif require_decoding(feature):
            others.append(column)
    rows, number = iter(table.remove_columns(others)), 0
    while True:
        number += 1
        try:
            row = next(rows, None)
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:  # of a time that Python has not
            raise InvalidValue(f"Row {number} of '{name}' cannot be read: {error}. Leave it out.") from error
        if row is None:
            return
        named = {column: _label(names, row[column]) for column, names in labels.items()}
        yield {**row, **named, **dict.fromkeys(others)}


def _label(names: Sequence[str], value: Any) -> str | None:
    """Return the name of a label, None if it has none."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def read(name: str, audio: Path | None, columns: Columns, report: Report) -> list[ManifestRow]:
    """Read a data set into rows of a manifest, its audio written into the folder `audio`, if any.

    Raises InvalidValue for columns that it does not have.
    """
    splits = load_splits(name)
    import datasets  # `load_splits` says how to install it

    rows: dict[str, ManifestRow] = {}
    for split, table in splits.items():
        for column in (*columns.captions, *columns.tags, *filter(None, [columns.track])):
            if column not in table.column_names:
                available = ", ".join(table.column_names)
                raise InvalidValue(f"The data set '{name}' has no column '{column}'. It has: {available}.")
        sounds = [column for column, feature in table.features.items() if isinstance(feature, datasets.Audio)]
        manifest_row = partial(_manifest_row, name, split_name(split), columns, sounds)
        for number, row in enumerate(plain_rows(table, name), 1):
            new = manifest_row(row, number)
            if new.track in rows:
                what, field = f"'{new.track}' stands in an earlier row too.", columns.track or "id"
                report(Issue(f"{name} {split}", what, "Leave one of them out.", number, new.track, field))
                continue
            rows[new.track] = new
            if sounds and audio and (problem := _write_sound(row[sounds[0]], name, audio / new.file)):
                hint = "Store the audio itself, as bytes, or copy its file into the folder of the data set."
                report(Issue(f"{name} {split}", problem, hint, number, new.track, sounds[0]))
    return list(rows.values())


def _manifest_row(
    name: str, split: str, columns: Columns, sounds: Sequence[str], row: Mapping[str, Any], number: int
) -> ManifestRow:
    """Return a row of a split of a data set; `sounds` are its columns of audio."""
    id_column = columns.track or next((key for key in IDS if row.get(key) not in (None, "")), "")
    track = str(row[id_column]) if id_column else f"{split or 'row'}-{number:07d}"
    tag_columns = columns.tags or [key for key in ("tags",) if key in row]
    caption_columns = columns.captions or CAPTION_FIELDS
    own = {to: next((str(row[key]) for key in keys if row.get(key)), "") for to, keys in OWN_COLUMNS.items()}
    used = {id_column, *caption_columns, *tag_columns, *sounds}
    used |= {key for keys in OWN_COLUMNS.values() for key in keys}
    others = {key: value for key, value in row.items() if key not in used and isinstance(value, str | int | float)}
    folder = Path(name)
    return ManifestRow(
        track,
        file=f"{_folder_name(name)}/{_file_name(track, row[sounds[0]])}" if sounds else "",
        tags={key: tags for column in tag_columns for key, tags in _tags(column, row[column]).items()},
        captions=captions_in(row, caption_columns),
        license=license_name(own["license"], own["license"]),
        artist=own["artist"],
        title=own["title"],
        split=split if split in SPLITS else "",
        source=f"{folder.name if folder.is_dir() else name}, {track}",
        metadata={key: value for key, value in others.items() if value == value},  # not NaN
    )


def _tags(column: str, value: Any) -> Mapping[str, Sequence[str]]:
    """Read a column of tags, under its own name unless that is only `tags`."""
    tags = tags_of(value)
    return {column: tags["tag"]} if column != "tags" and set(tags) == {"tag"} else tags


def _folder_name(name: str) -> str:
    """Return the folder of a data set's audio, so that two data sets with the same track names do not share one."""
    folder = Path(name)
    return f"{_safe(folder.name)}-{_digest(str(folder.resolve()))}" if folder.is_dir() else _safe(name)


def _file_name(track: str, sound: Mapping[str, Any] | None) -> str:
    """Return the file name of a track, with the suffix its audio came with."""
    suffix = PurePosixPath((sound or {}).get("path") or "").suffix.lower()
    return f"{_safe(track)}{suffix if suffix in SUFFIXES else '.wav'}"


def _safe(name: str) -> str:
    """Spell a name with safe letters, no more than names of files have, and a digest if another may be spelled so."""
    safe = re.sub(r"[^\w-]+", "_", name).encode()[:MAX_NAME].decode(errors="ignore")
    return safe if safe == name else f"{safe}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write_sound(sound: Mapping[str, Any] | None, name: str, file: Path) -> str:
    """Write the encoded audio of a row unless it was written before: an import that stopped can be resumed.

    A row may name a file instead of holding its bytes. It is read only if it lies in the data set: in its folder, or
    for one of the hub in the cache it was fetched into. Returns what is wrong, "" if nothing.
    """
    sound = sound or {}
    data, path = sound.get("bytes"), sound.get("path") or ""
    if data is None and path:
        inside = _inside(path, name)
        if not inside:
            return f"The audio '{path[:200]}' is a file outside the data set, which is not read."
        if inside.suffix.lower() in SUFFIXES and inside.is_file():
            data = inside.read_bytes()
    elif not data:
        return "It holds no audio."
    if data and not (file.is_file() and file.stat().st_size == len(data)):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_bytes(data)
    return ""


def _inside(path: str, name: str) -> Path | None:
    """Return the file that a row names if it lies in its data set, links followed; None for any other."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    folder, fetched = Path(name), f"datasets--{name.replace('/', '--')}"
    homes = [Path(HF_HUB_CACHE) / fetched, Path(config.DOWNLOADED_DATASETS_PATH)] if not folder.is_dir() else [folder]
    for home in homes if "\0" not in path and len(path) < 4096 else ():
        file = (home / path).resolve()
        if file.is_relative_to(_home(home)):
            return file
    return None
