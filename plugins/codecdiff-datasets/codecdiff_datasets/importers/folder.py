"""A folder of audio with `metadata.jsonl`, `metadata.csv` or `.txt` files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecdiff.data.manifest import ManifestRow, split_name
from codecdiff.data.metadata import Report, Track, read_audio_folder
from codecdiff_datasets.licenses import license_name

COLUMNS = ("artist", "title", "split", "source")  # of a manifest that metadata may name


def read(folder: Path, report: Report) -> list[ManifestRow]:
    """Read a folder: every audio file in it, and every file that its metadata names and that is missing.

    Raises MissingFile if the folder does not exist or holds no audio.
    """
    return [_row(track) for track in read_audio_folder(folder, report)]


def _row(track: Track) -> ManifestRow:
    metadata = {key: value for key, value in track.metadata.items() if value not in (None, "")}
    published = str(metadata.pop("licence", "") or metadata.pop("license", ""))
    name = license_name(published, published)
    columns: dict[str, Any] = {key: str(metadata.pop(key)) for key in COLUMNS if key in metadata}
    columns |= {"split": split_name(columns["split"])} if "split" in columns else {}
    columns["tags"] = tags_of(metadata.pop("tags", {}))
    metadata |= {"license_text": published} if published != name else {}
    return ManifestRow(track.name, track.name, captions=track.captions, license=name, metadata=metadata, **columns)


def tags_of(value: Any) -> Mapping[str, list[str]]:
    """Read tags written as a mapping of categories, a list, or a text with commas; the last two are of category tag."""
    if isinstance(value, Mapping):
        return {str(key): tags_of(inner).get("tag", []) for key, inner in value.items() if inner}
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    tags = [str(tag).strip() for tag in listed if tag is not None and str(tag).strip()]
    return {"tag": tags} if tags else {}
