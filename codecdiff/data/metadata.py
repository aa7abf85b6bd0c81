"""Tables of text as data sets publish them, read row by row: what is wrong in one is told, and the rest goes on."""

from __future__ import annotations

import ast
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

Made = TypeVar("Made")
ENCODING_MEND = "Save the file as UTF-8: iconv -f latin1 -t utf-8 FILE."
FIELD_LIMIT = 2**24  # characters; Python's own limit is shorter than some biographies


@dataclass(frozen=True)
class Fault:
    """One fault. `what` and `mend` are sentences; where a line, a track or a field says nothing, they are empty."""

    file: str
    what: str
    mend: str
    line: int | None = None
    track: str = ""
    field: str = ""

    def __str__(self) -> str:
        """Say it in one line, without the control characters that a file may hold: they would reach the terminal."""
        line = f"line {self.line}" if self.line else ""
        place = ", ".join(filter(None, (line, self.track if self.track != self.file else "", self.field)))
        text = f"{self.file}{', ' if place else ''}{place}: {self.what} {self.mend}"
        return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


Report = Callable[[Fault], None]  # is told every fault as it is found


class BadRow(ValueError):
    """A row that cannot be used, for the one fault it has."""

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


def unsafe(path: str) -> str:
    """Say why a path that somebody published may not be followed, empty if it may: it has to stay in its folder."""
    if "\0" in path or "\\" in path:
        return f"The path {path!r} has a backslash or a zero byte."
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
        return f"The path '{path}' is absolute."
    if ".." in PurePosixPath(path).parts:
        return f"The path '{path}' leads out of its folder."
    return ""


@dataclass(frozen=True)
class Row:
    """One row: its fields by the names of the header, and the cells beyond them."""

    file: str
    line: int
    values: Mapping[str, str]
    beyond: Sequence[str] = ()

    def __getitem__(self, field: str) -> str:
        """Give a field without the white space around it, empty if the table has no such column."""
        return self.values.get(field, "").strip()

    def bad(self, field: str, what: str, mend: str = "Correct the row, or leave it out.") -> BadRow:
        """Give the error to raise for this row."""
        return BadRow(Fault(self.file, what, mend, line=self.line, field=field))

    def needed(self, field: str) -> str:
        """Give a field that may not be empty."""
        if not self[field]:
            raise self.bad(field, "It is empty.")
        return self[field]

    def number(self, field: str) -> float | None:
        """Give a field as a number, None if it is empty."""
        if not self[field]:
            return None
        try:
            value = float(self[field])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.bad(field, f"'{self[field]}' is not a number.")
        return value

    def items(self, field: str) -> list[Any]:
        """Give a field that is written as a list or set of Python literals, in order; a set's order is its numbers'."""
        if self[field] in ("", "[]"):  # most of them, and literals take their time
            return []
        try:
            value = ast.literal_eval(self[field])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
        if not isinstance(value, list | tuple | set):
            raise self.bad(field, f"'{self[field][:40]}' is not a list, as in ['rock', 'calm'].")
        return sorted(value, key=str) if isinstance(value, set) else list(value)


def delimiter_of(file: Path) -> str:
    """Tell how the cells of a table are kept apart, by the end of its name: `.tsv` by tabs, all else by commas."""
    return "\t" if file.suffix.lower() == ".tsv" else ","


def cells(file: Path, report: Report, *, delimiter: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a file with the line each begins at. Tabs are never quoted. Faulty ones are reported.

    Raises FileNotFoundError, and ValueError for a file that is no text.
    """
    delimiter = delimiter or delimiter_of(file)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(FIELD_LIMIT)
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader, line = csv.reader(stream, delimiter=delimiter, quoting=quoting), 1
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                report(Fault(file.name, f"It cannot be read: {error}.", "Look for a quote that is left open.", line))
                line = reader.line_num + 1
                continue
            if _is_utf8(record):
                yield line, record
            else:
                report(Fault(file.name, "It holds bytes that are not UTF-8.", ENCODING_MEND, line))
            line = reader.line_num + 1


def _is_utf8(record: Iterable[str]) -> bool:
    try:
        "".join(record).encode()
    except UnicodeEncodeError:  # at the surrogates that stand for bytes nobody could decode
        return False
    return True


def header_of(file: Path) -> list[str]:
    """Give the names of a table's columns; of FMA's three header rows, as `track.title`. Empty if it has none.

    Raises FileNotFoundError if there is no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file '{file}'.")
    records = [record for _, (_, record) in zip(range(3), cells(file, _unheard), strict=False)]
    if len(records) == 3 and records[2][:1] == ["track_id"] and not records[0][0]:
        return ["track_id", *(f"{a}.{b}" for a, b in zip(records[0][1:], records[1][1:], strict=False))]
    return [name.strip() for name in records[0]] if records else []


def _unheard(fault: Fault) -> None:
    """Leave a fault of the header's lines to whoever reads the rows."""


def rows(file: Path, report: Report, *, ragged: bool = False) -> Iterator[Row]:
    """Yield the rows of a table; one with too few fields, or unless `ragged` with too many, is reported."""
    columns = header_of(file)
    heading = 3 if columns[:1] == ["track_id"] and any("." in name for name in columns) else 1
    for number, (line, record) in enumerate(cells(file, report)):
        if number < heading or not any(record):
            continue
        if len(record) < len(columns) or (len(record) > len(columns) and not ragged):
            what = f"It has {len(record)} fields; the header names {len(columns)}."
            report(Fault(file.name, what, "Quote fields that hold the delimiter, or leave the row out.", line))
            continue
        yield Row(file.name, line, dict(zip(columns, record, strict=False)), record[len(columns) :])


def made(source: Iterable[Row], make: Callable[[Row], Made], report: Report) -> Iterator[Made]:
    """Yield what `make` gives for every row, and report those it refuses with BadRow."""
    for row in source:
        try:
            yield make(row)
        except BadRow as error:
            report(error.fault)


def json_lines(file: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the mappings of a JSON-lines file with their lines; what is none is reported."""
    for line, text in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            row = json.loads(text.decode("utf-8-sig")) if text.strip() else None
            if b"\\ud" in text.lower():  # half of a letter, escaped, is valid JSON and no text
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeError:
            report(Fault(file.name, "It holds bytes that are not UTF-8.", ENCODING_MEND, line))
            continue
        except (ValueError, RecursionError) as error:
            report(Fault(file.name, f"It is not valid JSON: {error}.", "Correct the line, or leave it out.", line))
            continue
        if isinstance(row, dict):
            yield line, row
        elif row is not None:
            report(Fault(file.name, "It is no mapping.", 'Write {"file_name": ...}.', line))
