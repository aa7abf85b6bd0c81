"""Captions and numbers that others published for the tracks of a manifest, joined to it by id."""

from __future__ import annotations

import datetime
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from codecdiff.data.audio import SUFFIXES
from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import CAPTION_FIELDS, Report, captions_in, json_lines, read_table
from codecdiff.errors import InvalidValue, UserError
from codecdiff.files import check_parquet_size, missing_file
from codecdiff_datasets.importers import hf_datasets

IDS = ("track", "track_id", "id", "ytid", "file_name", "file", "path")  # columns used as the id, the first there is


class JoinResult(NamedTuple):
    """The joined rows, how many records matched one, and the ids of those that matched none or several."""

    rows: Sequence[ManifestRow]
    records: int
    matched: int
    changed: int  # rows of the manifest
    unmatched: Sequence[str]
    ambiguous: Sequence[str]


@dataclass(frozen=True)
class JoinColumns:
    """Which columns of a table are joined; empty ones are found by their usual names.

    id: the track, as `on` names it in the manifest: `track`, matched by all its spellings, or a key of the metadata,
        which has to be equal.
    captions: appended to a track's captions, or with `replace_captions` put in their place.
    metadata: copied to a track's metadata as they are; of a table without captions all numbers are.
    """

    id: str = ""
    captions: Sequence[str] = ()
    metadata: Sequence[str] = ()
    on: str = "track"
    replace_captions: bool = False

    def resolve(self, records: Sequence[Mapping[str, Any]]) -> JoinColumns:
        """Return the columns with those filled in that were left empty. Raises InvalidValue for columns not there."""
        if not records:
            raise InvalidValue("The table has no rows: name another.")
        columns = list(dict.fromkeys(name for record in records for name in record))
        available = ", ".join(columns)
        for name in filter(None, [self.id, *self.captions, *self.metadata]):
            if name not in columns:
                raise InvalidValue(f"The table has no column '{name}'. It has: {available}.")
        id_column = self.id or next((name for name in IDS if name in columns), "")
        if not id_column:
            raise InvalidValue(f"Which column holds the ids? Name it by --id-column. There are: {available}.")
        captions, metadata = self.captions, self.metadata
        captions = captions or [name for name in CAPTION_FIELDS if name in columns and name not in metadata]
        if not captions and not metadata:
            numeric = (name for name in columns if _are_numbers(record.get(name) for record in records))
            metadata = [name for name in numeric if name != id_column]
        if not captions and not metadata:
            raise InvalidValue(f"Which column holds the captions? Name it by --column. There are: {available}.")
        return replace(self, id=id_column, captions=captions, metadata=metadata)


def read_records(name: str, report: Report) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a `.jsonl`, `.csv`, `.tsv` or `.parquet` file, or of a data set of the hub by id or folder.

    Raises MissingFile for a file that does not exist, InvalidValue for one of another kind.
    """
    file = Path(name)
    if file.suffix not in (".jsonl", ".csv", ".tsv", ".parquet"):
        if file.is_file():
            raise InvalidValue(f"'{name}' cannot be read: a table ends in .jsonl, .csv, .tsv or .parquet.")
        for table in hf_datasets.load_splits(name).values():
            for row in hf_datasets.plain_rows(table, name):
                yield {column: as_json(value) for column, value in row.items()}
    elif not file.is_file():
        raise missing_file(file)
    elif file.suffix == ".jsonl":
        yield from (record for _, record in json_lines(file, report))
    elif file.suffix == ".parquet":
        try:
            check_parquet_size(file)
            for batch in pq.ParquetFile(file).iter_batches(2**12):
                yield from ({name: as_json(value) for name, value in row.items()} for row in batch.to_pylist())
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:  # of times, too
            raise InvalidValue(f"'{file}' is not a parquet file that can be read: {error}. Fetch it again.") from error
    else:
        yield from (row.values for row in read_table(file, report))


def as_json(value: Any) -> Any:
    """Return a value of a table as JSON has it: dates and times as ISO 8601 writes them, bytes as the text they are.

    Bytes that are not UTF-8, such as audio, and numbers that are not finite are None.
    """
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
        return None
    if isinstance(value, date | datetime.time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        value = float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def join(
    rows: Sequence[ManifestRow], records: Iterable[Mapping[str, Any]], columns: JoinColumns | None = None
) -> JoinResult:
    """Join records to the rows of a manifest.

    Records that match several tracks change nothing, and neither do records that name one track by different ids.
    Raises InvalidValue for columns that are not there.
    """
    records = list(records)
    columns = (columns or JoinColumns()).resolve(records)
    index = _Index.of(rows, columns.on)
    matches: defaultdict[int, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    unmatched: list[str] = []
    ambiguous: list[str] = []
    for record in records:
        name = _id(record.get(columns.id))
        places = index.places(name)
        if len(places) == 1:
            matches[next(iter(places))].append((name, record))
        else:
            (ambiguous if places else unmatched).append(name)
    for place in [place for place, named in matches.items() if len({name for name, _ in named}) > 1]:
        ambiguous += [name for name, _ in matches.pop(place)]
    joined = list(rows)
    for place, named in matches.items():
        joined[place] = _merged(joined[place], [record for _, record in named], columns)
    changed = sum(new is not old and new != old for new, old in zip(joined, rows, strict=True))
    return JoinResult(joined, len(records), sum(map(len, matches.values())), changed, unmatched, ambiguous)


@dataclass(frozen=True)
class _Index:
    """Where tracks are, by the ids and by the paths that others may write for them."""

    ids: Mapping[str, set[int]]
    paths: Mapping[str, set[int]]

    @classmethod
    def of(cls, rows: Sequence[ManifestRow], on: str) -> _Index:
        ids: defaultdict[str, set[int]] = defaultdict(set)
        paths: defaultdict[str, set[int]] = defaultdict(set)
        by_track = on == "track"
        for place, row in enumerate(rows):
            for name in spellings(row) if by_track else {_id(row.metadata.get(on))} - {""}:
                ids[name].add(place)
            for name in _path_spellings(row) if by_track else ():
                paths[name].add(place)
        if not ids:
            raise InvalidValue(f"No track has '{on}' in its metadata. Join on track, or on a key that is there.")
        return cls(dict(ids), dict(paths))

    def places(self, name: str) -> set[int]:
        """Find an id; a path matches by as many of its last parts as possible, so that 82/382.mp3 is not FMA's 382."""
        if name in self.ids or not ("/" in name or name.lower().endswith(SUFFIXES)):
            return self.ids.get(name, set())
        parts = PurePosixPath(without_suffix(name)).parts
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((self.paths[end] for end in ends if end in self.paths), set())


def spellings(row: ManifestRow) -> set[str]:
    """Return the ways in which others write a track's id where they do not write a path.

    For Jamendo's track_0000382 they are `382` and `0000382`, for FMA's 2 `2` and `000002`. A number alone may be of
    either: in a manifest of both it can be ambiguous.
    """
    names = {row.track, *_path_spellings(row)}
    if number := re.fullmatch(r"(?:track_)?(\d+)", row.track):
        names |= {number[1], number[1].lstrip("0") or "0"}
    return names


def _path_spellings(row: ManifestRow) -> set[str]:
    """Return a track's file with its folders and without, always without its suffix."""
    path = without_suffix(row.file)
    return {path, PurePosixPath(path).name} if row.file else set()


def without_suffix(path: str) -> str:
    """Return a path without the suffix of its audio, `.mp3` or `.low.mp3` alike; other dots are part of its name."""
    stem, dot, suffix = path.rpartition(".")
    return stem.removesuffix(".low") if dot + suffix.lower() in SUFFIXES else path


def _id(value: Any) -> str:
    """Return an id as text; a number that a table turned into a float is written as the integer it was."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"\d+\.0", text) else text


def _are_numbers(values: Iterable[Any]) -> bool:
    filled = [value for value in values if value not in (None, "")]
    return bool(filled) and all(number(value) is not None for value in filled)


def number(value: Any) -> int | float | None:
    """Read a finite number; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, int) else number


def _merged(row: ManifestRow, records: Sequence[Mapping[str, Any]], columns: JoinColumns) -> ManifestRow:
    """Return a row with what the records that match it say. If several state a number, the first counts."""
    texts = [text for record in records for text in captions_in(record, columns.captions)]
    old = [] if columns.replace_captions and texts else row.captions
    metadata = dict(row.metadata)
    for record in reversed(records):
        filled = {name: record[name] for name in columns.metadata if record.get(name) not in (None, "")}
        metadata |= {name: value if number(value) is None else number(value) for name, value in filled.items()}
    return replace(row, captions=list(dict.fromkeys([*old, *texts])), metadata=metadata)
