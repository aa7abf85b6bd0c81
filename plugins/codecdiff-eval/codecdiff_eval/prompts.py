"""Lists of prompts: what a model generates music from when it is evaluated.

`.txt`         a prompt a line
`.jsonl`       a prompt a line, a string or an object with `text`, `caption` or `captions` and other fields
`.csv .tsv`    a table with such columns; of the published MusicCaps, the evaluation split
`.parquet`     a manifest; the first caption of a track, and what else is known of it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import (
    CAPTION_FIELDS,
    Issue,
    Report,
    TableRow,
    Track,
    captions_in,
    column_names,
    convert_rows,
    json_lines,
    read_table,
    text_lines,
)
from codecdiff.errors import InvalidValue
from codecdiff.files import missing_file
from codecdiff.interfaces import prompt_fields

ATTRIBUTES = ("bpm", "tempo", "key", "mode", "instruments", "chords", "melody")  # estimated from audio
EVALUATION, ALL = "test", "all"  # splits; the first is that of MusicCaps unless another is specified
MUSICCAPS = {"ytid", "caption", "aspect_list", "is_audioset_eval"}  # columns by which the table is recognized
MUSICCAPS_SPLITS = {"True": "test", "False": "train"}  # of is_audioset_eval
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
T = TypeVar("T")


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt of a list: its number among those that can be read, from 0, and its fields, `text` among them."""

    number: int
    fields: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Hash of the fields, 12 hexadecimal digits."""
        text = json.dumps(dict(self.fields), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def only(self, names: Sequence[str]) -> EvalPrompt:
        """Return the prompt with the fields of these names, and the text."""
        return EvalPrompt(self.number, {k: v for k, v in self.fields.items() if k == "text" or k in names})

    def seed(self, seed: int) -> int:
        """Return the seed of this prompt: a function of `seed` and the fields, whatever other prompts there are."""
        return int(hashlib.sha256(f"{seed} {self.hash}".encode()).hexdigest()[:12], 16)


def read_prompts(file: Path | str, report: Report, *, split: str = "") -> list[EvalPrompt]:
    """Read a list of prompts, in order. Rows without a text, and repeated ones, are reported and left out.

    `split` selects that of a manifest or of MusicCaps, "all" takes every one; by default it is the evaluation split of
    MusicCaps and all of others. Raises FileNotFoundError, and ValueError for a file that is not a list or is empty.
    """
    file = Path(file)
    if not file.is_file():
        raise missing_file(file, "File of prompts")
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidValue(f"'{file}' is not a list of prompts by its name: expected {', '.join(SUFFIXES)}.")
    prompts: dict[str, EvalPrompt] = {}
    for number, (line, fields) in enumerate(_rows(file, report, split)):
        prompt = EvalPrompt(number, fields)
        if not str(fields.get("text") or "").strip():
            report(Issue(file.name, "It has no text.", "Write a caption, or leave it out.", line))
        elif prompt.hash in prompts:
            what = f"It is the same as prompt {prompts[prompt.hash].number + 1}."
            report(Issue(file.name, what, "Once is enough: it is left out.", line))
        else:
            prompts[prompt.hash] = prompt
    if not prompts:
        raise InvalidValue(f"'{file}' holds no prompt{f' of the split {split}' if split else ''}.")
    return list(prompts.values())


def sample_prompts(prompts: Sequence[EvalPrompt], count: int | None, seed: int) -> list[EvalPrompt]:
    """Draw `count` prompts at random, in the order of their list. A smaller count draws a subset of a larger one.

    What is drawn follows from the seed and the prompts, not from their order. Raises ValueError for too many.
    """
    if count is None:
        return list(prompts)
    if not 1 <= count <= len(prompts):
        raise InvalidValue(f"Invalid --n {count}: there are {len(prompts)} prompts. Leave --n out for all of them.")
    selected = sorted(prompts, key=lambda prompt: prompt.seed(seed))[:count]
    return sorted(selected, key=lambda prompt: prompt.number)


def prompt_of(track: Track) -> dict[str, Any]:
    """Return what a track was generated from, or is said to be: its first caption, if any, and its attributes."""
    attributes = {name: track.metadata[name] for name in ATTRIBUTES if track.metadata.get(name)}
    tags = track.metadata.get("tags")
    played = tags.get("instrument") if isinstance(tags, Mapping) else None  # other tags have no category
    instruments = {"instruments": [played] if isinstance(played, str) else list(played)} if played else {}
    return {"text": track.captions[0] if track.captions else "", **instruments, **attributes}


def split_of(path: Path | None, split: str) -> str:
    """Return the split that is taken of prompts or music, empty for what has none, as folders and lines of text."""
    suffix = path.suffix.lower() if path is not None else ""
    if path is not None and suffix == ".parquet":
        manifest = Manifest.read(path)
        default = EVALUATION if manifest.facts.get("source") == "musiccaps" else ALL
        return (split or default) if any(each.split for each in manifest.rows) else ""
    is_musiccaps = path is not None and suffix in (".csv", ".tsv") and set(column_names(path)) >= MUSICCAPS
    return (split or EVALUATION) if is_musiccaps else ""


def select_split(items: Sequence[T], split: str, split_of: Callable[[T], str]) -> list[T]:
    """Return the items of a split, or of "all". Raises ValueError, naming the splits there are, if none is left."""
    selected = [item for item in items if split in (ALL, split_of(item))]
    if not selected:
        there = ", ".join(sorted({split_of(item) or "none" for item in items}))
        raise InvalidValue(f"Nothing is of the split '{split}'. There are: {there}; 'all' takes every one.")
    return selected


def _rows(file: Path, report: Report, split: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the fields of every row with its line, where it has one."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        rows = select_split(Manifest.read(file).rows, split_of(file, split) or ALL, lambda track: track.split)
        yield from ((None, _of_row(row)) for row in rows)
    elif suffix in (".csv", ".tsv"):
        if split := split_of(file, split):
            captions = list(convert_rows(read_table(file, report), _musiccaps_caption, report))
            yield from ((None, {"text": text}) for text, _ in select_split(captions, split, lambda row: row[1]))
            return
        if not set(columns := column_names(file)) & set(CAPTION_FIELDS):
            raise InvalidValue(
                f"'{file}' has no column of captions ({', '.join(CAPTION_FIELDS)}); it has: {', '.join(columns)}."
            )
        yield from ((row.line, _fields(row.values)) for row in read_table(file, report))
    elif suffix == ".jsonl":
        values = json_lines(file, report, (str, dict))
        yield from ((line, _fields(prompt_fields(value))) for line, value in values if value)
    else:
        yield from ((line, {"text": text}) for line, text in text_lines(file, report))


def _musiccaps_caption(row: TableRow) -> tuple[str, str]:
    """Return the caption and the split of a row of MusicCaps. Raises RowError."""
    if row["is_audioset_eval"] not in MUSICCAPS_SPLITS:
        raise row.error("is_audioset_eval", f"'{row['is_audioset_eval']}' is neither True nor False.")
    return row.required("caption"), MUSICCAPS_SPLITS[row["is_audioset_eval"]]


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as the fields of a prompt: one text, and whatever else it holds."""
    others = {k: v for k, v in values.items() if k not in (*CAPTION_FIELDS, "file_name") and v not in ("", None)}
    return {"text": next(iter(captions_in(values)), ""), **others}


def _of_row(row: ManifestRow) -> dict[str, Any]:
    track = Track(Path(row.file), row.track, tuple(row.captions), row.track_metadata())
    return {**track.metadata, **prompt_of(track)}
