"""Captions and numbers that others published for the tracks of a manifest, joined to it by id."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from codecdiff_datasets.importers import hf_datasets

from codecdiff.data.audio import CAPTION_FIELDS, SUFFIXES, without_ending
from codecdiff.data.manifest import Recording
from codecdiff.data.metadata import Report, json_lines
from codecdiff.data.metadata import rows as table_rows

IDS = ("track", "track_id", "id", "ytid", "file_name", "file", "path")  # columns taken for the id, the first there is


@dataclass(frozen=True)
class Joined:
    """What a join gave: the recordings, how many rows fitted one, and the ids that fitted none or several."""

    recordings: Sequence[Recording]
    rows: int
    matched: int
    changed: int  # recordings
    unmatched: Sequence[str] = field(default_factory=list)
    ambiguous: Sequence[str] = field(default_factory=list)


def read_rows(name: str, report: Report) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a `.jsonl`, `.csv`, `.tsv` or `.parquet` file, or of a data set of the hub by id or folder.

    Raises FileNotFoundError for a file that is not there, ValueError for one of another kind.
    """
    file = Path(name)
    if file.suffix not in (".jsonl", ".csv", ".tsv", ".parquet"):
        if file.is_file():
            raise ValueError(f"'{name}' is no table that is read. Those end in .jsonl, .csv, .tsv or .parquet.")
        yield from hf_datasets.plain_rows(name)
    elif not file.is_file():
        raise FileNotFoundError(f"There is no file '{name}'.")
    elif file.suffix == ".jsonl":
        yield from (row for _, row in json_lines(file, report))
    elif file.suffix == ".parquet":
        yield from _parquet_rows(file)
    else:
        yield from (row.values for row in table_rows(file, report))


def _parquet_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for batch in pq.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"'{file}' is no parquet file: {error}. Fetch it again.") from error


def spellings(recording: Recording) -> set[str]:
    """Give the ways in which others write a track's id where they write no path.

    Of Jamendo's track_0000382 they are `382` and `0000382`, of FMA's 2 `2` and `000002`. A number alone may be of
    either: in a manifest of both it can be ambiguous.
    """
    found = {recording.track, *_path_spellings(recording)}
    if number := re.fullmatch(r"(?:track_)?(\d+)", recording.track):
        found |= {number[1], number[1].lstrip("0") or "0"}
    return found


def _path_spellings(recording: Recording) -> set[str]:
    """Give a recording's file with its folders and without, always without its ending."""
    path = without_ending(recording.file)
    return {path, PurePosixPath(path).name} if recording.file else set()


def join(
    recordings: Sequence[Recording],
    rows: Iterable[Mapping[str, Any]],
    *,
    on: str = "track",
    id_column: str = "",
    captions: Sequence[str] = (),
    keep: Sequence[str] = (),
    replacing: bool = False,
) -> Joined:
    """Join rows to recordings: captions are appended, or put in the place of those there were.

    `on` is a recording's `track`, which is matched by all its spellings, or a key of its metadata, which has to be
    equal. `id_column` and the caption columns are found by their usual names. `keep` names what goes to `metadata` as
    it is; of a table without captions all numbers do. Rows that fit several recordings change nothing, and neither do
    rows that name one recording by different ids. Raises ValueError for columns that are not there.
    """
    rows = list(rows)
    id_column, captions, keep = _columns(rows, id_column, captions, keep)
    index = _Index.of(recordings, on)
    written: defaultdict[int, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    unmatched: list[str] = []
    ambiguous: list[str] = []
    for row in rows:
        name = _id(row.get(id_column))
        places = index.places(name)
        if len(places) == 1:
            written[next(iter(places))].append((name, row))
        else:
            (ambiguous if places else unmatched).append(name)
    for place in [place for place, found in written.items() if len({name for name, _ in found}) > 1]:
        ambiguous += [name for name, _ in written.pop(place)]
    joined = list(recordings)
    for place, found in written.items():
        joined[place] = _with(joined[place], [row for _, row in found], captions, keep, replacing)
    changed = sum(a is not b and a != b for a, b in zip(joined, recordings, strict=True))
    return Joined(joined, len(rows), sum(map(len, written.values())), changed, unmatched, ambiguous)


@dataclass(frozen=True)
class _Index:
    """Where recordings are, by the ids and by the paths that may be written of them."""

    ids: Mapping[str, set[int]]
    paths: Mapping[str, set[int]]

    @classmethod
    def of(cls, recordings: Sequence[Recording], on: str) -> _Index:
        ids: defaultdict[str, set[int]] = defaultdict(set)
        paths: defaultdict[str, set[int]] = defaultdict(set)
        for place, recording in enumerate(recordings):
            by_track = on == "track"
            for name in spellings(recording) if by_track else {_id(recording.metadata.get(on))} - {""}:
                ids[name].add(place)
            for name in _path_spellings(recording) if by_track else ():
                paths[name].add(place)
        if not ids:
            raise ValueError(f"No recording has '{on}' in its metadata. Join on track, or on a key that is there.")
        return cls(dict(ids), dict(paths))

    def places(self, name: str) -> set[int]:
        """Find an id; one that is a path by as many of its last parts as fit, so that 82/382.mp3 is never FMA's 382."""
        if name in self.ids or not ("/" in name or name.lower().endswith(SUFFIXES)):
            return self.ids.get(name, set())
        parts = PurePosixPath(without_ending(name)).parts
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((self.paths[end] for end in ends if end in self.paths), set())


def _id(value: Any) -> str:
    """Give an id as text; a number that a table made a float of is written as the integer it was."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"\d+\.0", text) else text


def _columns(
    rows: Sequence[Mapping[str, Any]], id_column: str, captions: Sequence[str], keep: Sequence[str]
) -> tuple[str, Sequence[str], Sequence[str]]:
    """Settle which columns hold the ids, the captions and what goes to metadata."""
    if not rows:
        raise ValueError("The table has no rows.")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for asked in filter(None, [id_column, *captions, *keep]):
        if asked not in columns:
            raise ValueError(f"The table has no column '{asked}'. It has: {', '.join(columns)}.")
    found = id_column or next((name for name in IDS if name in columns), "")
    if not found:
        raise ValueError(f"Which column holds the ids? Name it by --id-column. There are: {', '.join(columns)}.")
    captions = captions or [name for name in CAPTION_FIELDS if name in columns and name not in keep]
    if not captions and not keep:
        keep = [name for name in columns if name != found and _is_numeric(row.get(name) for row in rows)]
    if not captions and not keep:
        raise ValueError(f"Which column holds the captions? Name it by --column. There are: {', '.join(columns)}.")
    return found, captions, keep


def _is_numeric(values: Iterable[Any]) -> bool:
    given = [value for value in values if value not in (None, "")]
    return bool(given) and all(_number(value) is not None for value in given)


def _number(value: Any) -> int | float | None:
    """Read a number; None for what is none, or not finite."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, int) else number


def _with(
    recording: Recording,
    rows: Sequence[Mapping[str, Any]],
    captions: Sequence[str],
    keep: Sequence[str],
    replacing: bool,
) -> Recording:
    """Give a recording with what the rows that fit it say. Of a number that several say, the first is kept."""
    texts = [text for row in rows for name in captions for text in _texts(row.get(name))]
    before = [] if replacing and texts else recording.captions
    said = [{name: _kept(row[name]) for name in keep if row.get(name) not in (None, "")} for row in rows]
    metadata = dict(recording.metadata)
    for more in reversed(said):
        metadata |= more
    return replace(recording, captions=list(dict.fromkeys([*before, *texts])), metadata=metadata)


def _texts(value: Any) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [text.strip() for text in listed if isinstance(text, str) and text.strip()]


def _kept(value: Any) -> Any:
    number = _number(value)
    return value if number is None else number
