"""Lists of prompts: what a model is asked for when its music is judged.

`.txt`         a prompt a line
`.jsonl`       a prompt a line, a string or an object with `text`, `caption` or `captions` and other fields
`.csv .tsv`    a table with such columns; the published MusicCaps, of which the evaluation split is taken
`.parquet`     a manifest; the first caption of a recording, and what else is known of it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import (
    CAPTION_FIELDS,
    Issue,
    Report,
    RowError,
    Track,
    captions_in,
    column_names,
    json_lines,
    read_table,
    text_lines,
)
from codecdiff.interfaces import prompt_fields

FACTS = ("bpm", "tempo", "key", "mode", "instruments")  # fields that music can be heard to keep to
EVALUATION = "test"  # the split of MusicCaps that is asked for unless told otherwise
ALL = "all"  # splits
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Asked:
    """A prompt of a list: its number among those that can be read, from 0, and its fields, `text` among them."""

    number: int
    fields: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Hash of the fields, 12 hexadecimal digits."""
        text = json.dumps(dict(self.fields), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def kept(self, names: Sequence[str]) -> Asked:
        """Keep the fields of these names, and the text."""
        return Asked(self.number, {k: v for k, v in self.fields.items() if k == "text" or k in names})

    def seed(self, seed: int) -> int:
        """Give the seed of this prompt: a function of `seed` and the fields, whatever prompts stand beside it."""
        return int(hashlib.sha256(f"{seed} {self.digest}".encode()).hexdigest()[:12], 16)


def read_prompts(file: Path | str, report: Report, *, split: str = "") -> list[Asked]:
    """Read a list of prompts, in order. Rows that cannot be asked for, or were already, are reported and left out.

    `split` keeps that of a manifest or of MusicCaps, "all" keeps every one; by default it is the evaluation split of
    MusicCaps and all of others. Raises FileNotFoundError, and ValueError for a file that is no list or has none.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file of prompts '{file}'.")
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"'{file}' is no list of prompts by its name. Lists that are read: {', '.join(SUFFIXES)}.")
    asked: dict[str, Asked] = {}
    for number, (line, fields) in enumerate(_rows(file, report, split)):
        prompt = Asked(number, fields)
        if not str(fields.get("text") or "").strip():
            report(Issue(file.name, "There is no text to ask for.", "Write a caption, or leave it out.", line))
        elif prompt.digest in asked:
            what = f"It asks for what prompt {asked[prompt.digest].number + 1} asks for."
            report(Issue(file.name, what, "Asking once is enough: it is left out.", line))
        else:
            asked[prompt.digest] = prompt
    if not asked:
        raise ValueError(f"'{file}' holds no prompt{f' of the split {split}' if split else ''}.")
    return list(asked.values())


def drawn(prompts: Sequence[Asked], count: int | None, seed: int) -> list[Asked]:
    """Draw so many prompts at random, in the order of their list. Those of a smaller count are among those of a larger.

    What is drawn follows from the seed and the prompts, not from their order. Raises ValueError for too many.
    """
    if count is None:
        return list(prompts)
    if not 1 <= count <= len(prompts):
        raise ValueError(f"{count} prompts were asked for, and there are {len(prompts)}: --n 1 to {len(prompts)}.")
    chosen = sorted(prompts, key=lambda prompt: prompt.seed(seed))[:count]
    return sorted(chosen, key=lambda prompt: prompt.number)


def prompt_of(track: Track) -> dict[str, Any]:
    """Give what a track was made from, or is said to be: its first caption, if any, and the facts of its metadata."""
    known = {name: track.metadata[name] for name in FACTS if track.metadata.get(name)}
    tags = track.metadata.get("tags")
    instruments = tags.get("instrument") if isinstance(tags, Mapping) else None  # others' tags are of no category
    heard = {"instruments": [instruments] if isinstance(instruments, str) else list(instruments)} if instruments else {}
    return {"text": track.captions[0] if track.captions else "", **heard, **known}


def usual_split(manifest: Manifest) -> str:
    """Give the split that is taken of a manifest unless told otherwise: of MusicCaps that for evaluation, else all."""
    return EVALUATION if manifest.facts.get("source") == "musiccaps" else ALL


def of_split(recordings: Sequence[ManifestRow], split: str) -> list[ManifestRow]:
    """Keep the recordings of a split, or of "all". Raises ValueError, naming the splits there are, if none is left."""
    kept = [recording for recording in recordings if split in (ALL, recording.split)]
    if not kept:
        there = ", ".join(sorted({recording.split or "none" for recording in recordings}))
        raise ValueError(f"No recording is of the split '{split}'. There are: {there}; 'all' takes every one.")
    return kept


def _rows(file: Path, report: Report, split: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the fields of every row with its line, where it has one."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        manifest = Manifest.read(file)
        found = of_split(manifest.rows, split or usual_split(manifest))
        yield from ((None, _of_recording(recording)) for recording in found)
    elif suffix in (".csv", ".tsv"):
        columns = column_names(file)
        if is_musiccaps(columns):
            yield from _musiccaps_rows(file, report, split or EVALUATION)
            return
        if not set(columns) & set(CAPTION_FIELDS):
            raise ValueError(
                f"'{file}' has no column of captions ({', '.join(CAPTION_FIELDS)}); it has: {', '.join(columns)}."
            )
        yield from ((row.line, _fields(row.values)) for row in read_table(file, report))
    elif suffix == ".jsonl":
        for line, value in json_lines(file, report, (str, dict)):
            if value:
                yield line, _fields(prompt_fields(value))
    else:
        yield from ((line, {"text": text}) for line, text in text_lines(file, report))


def is_musiccaps(columns: Sequence[str]) -> bool:
    """Return whether a table with these columns is the published MusicCaps."""
    return set(columns) >= {"ytid", "aspect_list", "caption", "is_audioset_eval"}


def _musiccaps_rows(file: Path, report: Report, split: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the captions of a split of MusicCaps, or of all. Raises ValueError if there are none of the split."""
    splits = {"True": EVALUATION, "False": "train"}
    count = 0
    for row in read_table(file, report):
        try:
            if row["is_audioset_eval"] not in splits:
                raise row.error("is_audioset_eval", f"'{row['is_audioset_eval']}' is neither True nor False.")
            if split in (ALL, splits[row["is_audioset_eval"]]):
                count += 1
                yield None, {"text": row.required("caption")}
        except RowError as error:
            report(error.issue)
    if not count:
        raise ValueError(f"No recording is of the split '{split}'. There are: test, train; 'all' takes every one.")


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row as the fields of a prompt: one text, and whatever else it holds."""
    others = {k: v for k, v in values.items() if k not in (*CAPTION_FIELDS, "file_name") and v not in ("", None)}
    return {"text": next(iter(captions_in(values)), ""), **others}


def _of_recording(recording: ManifestRow) -> dict[str, Any]:
    track = Track(Path(recording.file), recording.track, tuple(recording.captions), recording.track_metadata())
    return {**track.metadata, **prompt_of(track)}
