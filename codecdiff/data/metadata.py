"""The reader of metadata: tables (.csv, .tsv), JSON lines, lines of text, and the folders of audio they describe.

What is wrong in one row is reported as an `Issue` with its place and a hint, and the other rows are read.
"""

from __future__ import annotations

import ast
import csv
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TextIO, TypeVar

from codecdiff.data.audio import SUFFIXES
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import BadDocument, is_unicode, missing_file, parse_json

__all__ = [
    "CAPTION_FIELDS",
    "Issue",
    "Report",
    "RowError",
    "TableRow",
    "Track",
    "captions_in",
    "column_names",
    "convert_rows",
    "find_tracks",
    "json_lines",
    "read_audio_folder",
    "read_table",
    "text_lines",
    "unsafe_path",
    "warn_of",
]

CAPTION_FIELDS = ("text", "caption", "captions")
OTHER_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".ape", ".wv", ".alac", ".webm", ".mka", ".caf", ".au")
OTHER_SUFFIXES += (".mp2", ".amr")
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN")
SYSTEM_FOLDERS += ("RECYCLER", "System Volume Information", "lost+found")
FIELD_LIMIT = 2**24  # characters; Python's own limit is shorter than some biographies
LINE_LIMIT = 1000  # lines of a record
LONG_LINE = 16  # as many times the limit are skipped in search of the next line
NOT_UTF8 = "It holds bytes that are not UTF-8."
ENCODING_HINT = "Save the file as UTF-8: iconv -f latin1 -t utf-8 FILE."

Converted = TypeVar("Converted")


@dataclass(frozen=True)
class Issue:
    """Something wrong in a file. `what` and `hint` are sentences; `line`, `track` and `field` are empty if unknown."""

    file: str
    what: str
    hint: str
    line: int | None = None
    track: str = ""
    field: str = ""

    def __str__(self) -> str:
        """Format as one line, without the control characters that a file may hold: they would reach the terminal."""
        line = f"line {self.line}" if self.line else ""
        place = ", ".join(filter(None, (line, self.track if self.track != self.file else "", self.field)))
        text = f"{self.file}{', ' if place else ''}{place}: {self.what} {self.hint}"
        return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


Report = Callable[[Issue], None]  # called with every issue as it is found


class RowError(InvalidValue):
    """A row that cannot be used because of one issue."""

    def __init__(self, issue: Issue):
        super().__init__(str(issue))
        self.issue = issue


def unsafe_path(path: str) -> str:
    """Return why a path from published metadata must not be followed, "" if it stays within its folder."""
    if "\0" in path or "\\" in path:
        return f"The path {path!r} has a backslash or a zero byte."
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
        return f"The path '{path}' is absolute."
    if ".." in PurePosixPath(path).parts:
        return f"The path '{path}' leads out of its folder."
    if len(path) > 1000 or any(len(part.encode(errors="replace")) > 255 for part in PurePosixPath(path).parts):
        return f"The path '{path[:60]}...' is longer than any name of a file."
    return ""


# Tables


@dataclass(frozen=True)
class TableRow:
    """One row of a table: its fields by column name, and the cells beyond the last column."""

    file: str
    line: int
    values: Mapping[str, str]
    beyond: Sequence[str] = ()

    def __getitem__(self, column: str) -> str:
        """Return a field without surrounding white space, "" if the table has no such column."""
        return self.values.get(column, "").strip()

    def error(self, column: str, what: str, hint: str = "Correct the row, or leave it out.") -> RowError:
        """Return the error to raise for this row."""
        return RowError(Issue(self.file, what, hint, line=self.line, field=column))

    def required(self, column: str) -> str:
        """Return a field that must not be empty. Raises RowError."""
        if not self[column]:
            raise self.error(column, "It is empty.")
        return self[column]

    def number(self, column: str) -> float | None:
        """Return a field as a number, None if it is empty. Raises RowError."""
        if not self[column]:
            return None
        try:
            value = float(self[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(column, f"'{self[column]}' is not a number.")
        return value

    def items(self, column: str) -> list[Any]:
        """Return a field written as a list or set of Python literals, in order; a set is sorted. Raises RowError."""
        if self[column] in ("", "[]"):  # most of them, and parsing literals is slow
            return []
        try:
            value = ast.literal_eval(self[column])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
        if not isinstance(value, list | tuple | set):
            raise self.error(column, f"'{self[column][:40]}' is not a list, as in ['rock', 'calm'].")
        return sorted(value, key=str) if isinstance(value, set) else list(value)


def column_names(file: Path, header_rows: int = 1) -> list[str]:
    """Return the column names of a table, [] if it is empty; several header rows give names such as `track.title`.

    Raises FileNotFoundError.
    """
    if not file.is_file():
        raise missing_file(file)
    issues: list[Issue] = []  # are left to whoever reads the rows
    records = [record for _, (_, record) in zip(range(header_rows), _records(file, issues.append), strict=False)]
    return [".".join(filter(None, map(str.strip, names))) for names in zip_longest(*records, fillvalue="")]


def read_table(file: Path, report: Report, *, header_rows: int = 1, ragged: bool = False) -> Iterator[TableRow]:
    """Yield the rows of a table, `.tsv` separated by tabs, all else by commas.

    A row with too few fields, or unless `ragged` with too many, is reported and left out. Raises FileNotFoundError.
    """
    columns = column_names(file, header_rows)
    if repeated := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
        what = f"Several columns are named {', '.join(map(repr, repeated))}: the last of them is read."
        report(Issue(file.name, what, "Name them differently.", 1))
    for number, (line, record) in enumerate(_records(file, report)):
        if number < header_rows:
            continue
        if len(record) < len(columns) or (len(record) > len(columns) and not ragged):
            what = f"It has {len(record)} fields; the header names {len(columns)}."
            report(Issue(file.name, what, "Quote fields that hold the delimiter, or leave the row out.", line))
            continue
        yield TableRow(file.name, line, dict(zip(columns, record, strict=False)), record[len(columns) :])


def convert_rows(
    rows: Iterable[TableRow], convert: Callable[[TableRow], Converted], report: Report
) -> Iterator[Converted]:
    """Yield `convert(row)` for every row, and report the rows for which it raises RowError."""
    for row in rows:
        try:
            yield convert(row)
        except RowError as error:
            report(error.issue)


def _records(file: Path, report: Report) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a table that are not blank, with the line that each begins at; what is not text is reported.

    A quote that is left open takes up lines up to the next quote: its record is reported, and these lines are read.
    """
    tabs = file.suffix.lower() == ".tsv"
    form: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    csv.field_size_limit(FIELD_LIMIT)
    taken: list[str] = []  # lines of the current record
    again: list[str] = []  # lines that are read again, last one first

    encoding = _encoding(file)
    errors = "replace" if encoding == "utf-16" else "surrogateescape"  # which UTF-16 knows not
    with file.open(encoding=encoding, errors=errors, newline="") as stream:
        reader, line = csv.reader(_noted(stream, taken, again), **form), 1
        while True:
            taken.clear()
            what, hint, record = "", "Look for a quote that is left open.", list[str]()
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = f"It cannot be read: {error}."
            else:
                if not tabs and len(taken) > 1 and "".join(taken).count('"') % 2:
                    what = f"A quote is left open: it takes up this line and the {len(taken) - 1} behind it."
                    hint = "Close the quote."
            if what:
                report(Issue(file.name, what, hint, line))
                again += reversed(taken[1:])
                reader, line = csv.reader(_noted(stream, taken, again), **form), line + 1
                continue
            if (text := "".join(record).strip()) and _is_text(text, encoding):  # others were decoded as surrogates
                yield line, record
            elif text:
                report(Issue(file.name, NOT_UTF8, ENCODING_HINT, line))
                if line == 1:  # the header, without which no row can be read
                    header = ",".join(record).encode(errors="surrogateescape")
                    yield line, header.decode("cp1252", "replace").split(",")
            line += len(taken)


def _noted(lines: TextIO, taken: list[str], again: list[str]) -> Iterator[str]:
    """Yield the lines to read `again`, last one first, then those of a stream, and note which were `taken`."""
    while text := again.pop() if again else lines.readline(FIELD_LIMIT + 1):
        is_long = len(text) > FIELD_LIMIT
        taken.append(_cut_line(lines, text) if is_long else text)
        if is_long:
            raise csv.Error(f"a line has more than {FIELD_LIMIT // 2**20} million characters")
        if len(taken) > LINE_LIMIT:
            raise csv.Error(f"a record has more than {LINE_LIMIT:,} lines")
        yield text


def _cut_line(lines: TextIO, line: str) -> str:
    """Return the start of a long line as a line, and skip what follows; a line without an end is that of the file."""
    remainder = line
    for _ in range(LONG_LINE):
        if not remainder or remainder.endswith("\n"):
            break
        remainder = lines.readline(FIELD_LIMIT)
    else:
        lines.seek(0, os.SEEK_END)
    return line if line.endswith("\n") else f"{line}\n"


def _is_text(text: str, encoding: str) -> bool:
    """Return whether all of a text was decoded. Zeros are those of an encoding that no mark names."""
    return is_unicode(text) and "\0" not in text and not (encoding == "utf-16" and "\ufffd" in text)


def _encoding(file: Path) -> str:
    """Return the encoding that the first bytes of a file mark: UTF-16, or else UTF-8."""
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


# Lines


def text_lines(file: Path, report: Report) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text that are not blank, with their numbers; those that are not UTF-8 are reported.

    A text that is marked as UTF-16 is read as such.
    """
    encoding, number = _encoding(file), 0
    errors = "replace" if encoding == "utf-16" else "surrogateescape"
    with file.open(encoding=encoding, errors=errors) as stream:
        while line := stream.readline(FIELD_LIMIT + 1):
            number += 1
            if len(line) > FIELD_LIMIT:
                what = f"It has more than {FIELD_LIMIT // 2**20} million characters."
                report(Issue(file.name, what, "Divide it into lines.", number))
                _cut_line(stream, line)
            elif not _is_text(text := line.strip(), encoding):
                report(Issue(file.name, NOT_UTF8, ENCODING_HINT, number))
            elif text:
                yield number, text


def json_lines(file: Path, report: Report, types: type | tuple[type, ...] = dict) -> Iterator[tuple[int, Any]]:
    """Yield the values of a JSON-lines file that are of these types, with their lines; the others are reported."""
    for number, text in text_lines(file, report):
        try:
            value = parse_json(text, "It")
        except BadDocument as error:
            issue = str(error), "Correct the line, or leave it out."
        else:
            if isinstance(value, types):
                yield number, value
                continue
            issue = "It is not an object.", 'Write an object, as in {"file_name": "a.wav", "text": "..."}.'
        report(Issue(file.name, *issue, number))


def captions_in(values: Mapping[str, Any], fields: Iterable[str] = CAPTION_FIELDS) -> list[str]:
    """Return the texts in these fields, without empty ones and repetitions. A field may hold one text or a list."""
    listed = [value if isinstance(value, list) else [value] for value in map(values.get, fields)]
    present = [text for texts in listed for text in texts if isinstance(text, str | int | float) and text == text]
    return list(dict.fromkeys(filter(None, (str(text).replace("\0", " ").strip() for text in present))))  # NaN is not


# Folders of audio


@dataclass(frozen=True)
class Track:
    """One audio file, its captions (any number) and whatever else its metadata says."""

    file: Path
    name: str  # path within the folder it came from
    captions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None  # duration, if known without opening the file


def warn_of(issue: Issue) -> None:
    """Report an issue as a warning."""
    warnings.warn(str(issue), stacklevel=3)


def find_tracks(folder: Path | str, report: Report = warn_of) -> list[Track]:
    """Find the audio files of a folder, in order of name, with their captions.

    Captions come from `metadata.jsonl` or `metadata.csv` (columns file_name and text, the audio-folder
    convention of Hugging Face datasets) or from a `.txt` file beside the audio, one caption per line. A file may have
    none. What is wrong in them is reported, with the number of rows that name no file.
    Raises FileNotFoundError if the folder holds no audio.
    """
    folder = Path(folder)
    tracks = read_audio_folder(folder, report)
    present = [track for track in tracks if track.file.is_file()]
    if missing := [track.name for track in tracks if not track.file.is_file()]:
        what = f"{len(missing)} rows of metadata name no file, '{missing[0]}' first."
        report(Issue(str(folder), what, "Correct file_name, or leave them out."))
    return present


def read_audio_folder(folder: Path | str, report: Report) -> list[Track]:
    """Read a folder as `find_tracks` does, with the files that its metadata names and that are missing at the end.

    Links are followed. Hidden files and folders are left out, and those that systems keep trash and shadows in; audio
    in other formats is counted. What is wrong in the metadata is reported. A row is about the file of its name, or else
    the only one whose name differs from it in forms of Unicode, case or suffix alone. Raises FileNotFoundError if the
    folder holds no audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = f"'{folder}' is a file" if folder.is_file() else f"Folder '{folder}' does not exist"
        raise MissingFile(f"{what}. Name a folder of audio files (in training, data.audio=FOLDER).")
    paths = _walk(folder, report)
    audio = [path for path in paths if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() for path in paths if path.suffix.lower() in OTHER_SUFFIXES)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    if not audio:
        hint = f" It holds {listed}: convert them." if others else ""
        raise MissingFile(f"'{folder}' holds no audio. Files that are read: {', '.join(SUFFIXES)}.{hint}")
    if others:
        report(Issue(str(folder), f"Audio in other formats is left out: {listed}.", "Convert it with ffmpeg."))
    names = {path.relative_to(folder).as_posix() for path in audio}
    rows = _match_rows(_rows_by_file(folder, paths, report), names)
    texts = [path.relative_to(folder).as_posix() for path in paths if path.suffix.lower() == ".txt"]
    beside = {name: folder / text for name, text in _match_texts(texts, names).items()}
    ordered = [*sorted(names), *sorted(rows.keys() - names)]
    return [_track(folder / name, name, rows.get(name, {}), beside.get(name), report) for name in ordered]


def _walk(folder: Path, report: Report) -> list[Path]:
    """Return the files of a folder and those in it, links included, in order."""
    paths: list[Path] = []
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        report(Issue(str(error.filename), f"It cannot be read: {error.strerror}.", "Change its permissions."))

    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        state = os.stat(parent)
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SYSTEM_FOLDERS)
        for name in files:
            path = Path(parent, name)
            within = path.relative_to(folder).as_posix()
            if name.startswith("."):
                continue
            if not is_unicode(within):
                report(Issue(ascii(within), "The name of the file is not UTF-8.", "Rename it.", field="file"))
            elif path.is_file():
                paths.append(path)
            elif path.is_symlink() and not path.exists() and path.suffix.lower() in SUFFIXES:
                report(Issue(within, "It is a link to a file that does not exist.", "Correct or delete the link."))
    return sorted(paths)


def _match_rows(rows: Mapping[str, Mapping[str, Any]], names: set[str]) -> dict[str, Mapping[str, Any]]:
    """Return rows by the names of files: their own, or that of the only file that is meant."""
    result = {name: row for name, row in rows.items() if name in names}
    free = names - result.keys()
    remaining = {name: row for name, row in rows.items() if name not in names}
    for form in (_composed, lambda name: _composed(name).casefold(), _without_suffix):
        keys: dict[str, list[str]] = {}
        for name in free:
            keys.setdefault(form(name), []).append(name)
        for name in list(remaining):
            meant = keys.get(form(name), [])
            if len(meant) == 1 and meant[0] in free:
                result[meant[0]] = remaining.pop(name)
                free.discard(meant[0])
    return result | remaining


def _match_texts(texts: Sequence[str], names: set[str]) -> dict[str, str]:
    """Return the text beside each file: of its name without suffix, or the only one in other Unicode forms and case."""
    result: dict[str, str] = {}
    for form in (lambda path: path, lambda path: _composed(path).casefold()):
        keys: dict[str, list[str]] = {}
        for text in texts:
            keys.setdefault(form(text[:-4]), []).append(text)
        for name in names - result.keys():
            if len(meant := keys.get(form(name[: -len(PurePosixPath(name).suffix)]), [])) == 1:
                result[name] = meant[0]
    return result


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _without_suffix(name: str) -> str:
    path = PurePosixPath(_composed(name).casefold())
    return path.with_suffix("").as_posix() if path.suffix in (*SUFFIXES, *OTHER_SUFFIXES) else path.as_posix()


def _rows_by_file(folder: Path, paths: Sequence[Path], report: Report) -> dict[str, Mapping[str, Any]]:
    """Map paths within a folder to the first row of its metadata files about each."""
    rows: dict[str, Mapping[str, Any]] = {}
    for file, line, row in _metadata_rows(paths, report):
        name = str(row.get("file_name") or "")
        path = Path(os.path.normpath(file.parent.relative_to(folder) / name)).as_posix()
        if not name:
            issue = "It names no file.", "Add it, or leave the row out."
        elif reason := unsafe_path(path):
            issue = reason, "Write it relative to the metadata file."
        elif path in rows:
            issue = f"'{name}' stands in an earlier row too.", "Write all captions in one row."
        else:
            rows[path] = row
            continue
        report(Issue(file.name, *issue, line, field="file_name"))
    return rows


def _metadata_rows(paths: Sequence[Path], report: Report) -> Iterator[tuple[Path, int, Mapping[str, Any]]]:
    for file in (path for path in paths if path.name == "metadata.jsonl"):
        for line, value in json_lines(file, report, object):
            yield file, line, value if isinstance(value, dict) else {}
    for file in (path for path in paths if path.name == "metadata.csv"):
        columns = column_names(file)
        if columns and "file_name" not in columns:
            what = f"It has no column file_name; its columns are {', '.join(map(repr, columns[:9]))}."
            report(Issue(file.name, what, "Name the column so, and separate columns by commas.", 1))
            continue
        yield from ((file, row.line, row.values) for row in read_table(file, report) if row["file_name"])


def _track(file: Path, name: str, row: Mapping[str, Any], beside: Path | None, report: Report) -> Track:
    """Return a track with what its row, or the `.txt` that lies `beside` it, says."""
    captions = captions_in(row)
    if not captions and beside is not None:
        captions = list(dict.fromkeys(text for _, text in text_lines(beside, report)))
    metadata = {key: value for key, value in row.items() if key not in (*CAPTION_FIELDS, "file_name")}
    return Track(file, name, tuple(captions), metadata)
