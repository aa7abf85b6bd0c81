"""What the commands share: consoles, errors, options that several have, checks of outputs and devices, progress."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from unicodedata import category

import typer
from rich.console import Console
from rich.text import Text

from codecdiff.errors import FileExists, InvalidValue, MissingFile, UnusableFile, UserError
from codecdiff.files import require_writable

if TYPE_CHECKING:
    import torch
    from rich.table import Table

__all__ = [
    "TIME",
    "Device",
    "Force",
    "Json",
    "Options",
    "check_writable",
    "err",
    "error_line",
    "errors_as_sentences",
    "file_exists",
    "folded_table",
    "numbered",
    "out",
    "output_files",
    "parse_time",
    "plain",
    "print_json",
    "progress",
    "select_device",
    "ticker",
    "track",
]

# What a system refuses to do with a file, whatever a program does
REFUSALS = {
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOSPC),
    errno.ELOOP,
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS),
}
INVISIBLE = ("Cc", "Cf", "Cs")  # categories of Unicode: control, format, surrogate
STANDARD_OUTPUT = "<stdout>"
STOPPED = "Stopped. Run the same command again to resume."
CLOCK = re.compile(r"(?:(\d+):(?=\d\d:))?(\d+):(\d\d(?:\.\d*)?)", re.ASCII)  # h:mm:ss, m:ss

Item = TypeVar("Item")

Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Device = Annotated[str, typer.Option(help="Device to compute on, as in cuda:1. Default: a GPU if there is one.")]
Options = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of a part; repeatable.")]


def parse_time(text: str | float) -> float:
    """Return a time in seconds: a number of them, m:ss or h:mm:ss, as in 90, 1:30 and 1:02:30.5."""
    try:
        if clock := CLOCK.fullmatch(str(text).strip()):  # a default is a number
            hours, minutes, seconds = (float(part or 0) for part in clock.groups())
            if seconds < 60 and (clock[1] is None or minutes < 60):
                return 3600 * hours + 60 * minutes + seconds
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a time: write seconds, as in 90, or m:ss, as in 1:30.") from None


TIME: Any = {"parser": parse_time, "metavar": "TIME"}  # of typer.Option: seconds, or m:ss


def plain(text: str) -> str:
    """Return text without control characters: tags, names and titles come from anywhere."""
    return "".join("\ufffd" if category(letter) in INVISIBLE and letter not in "\n\t" else letter for letter in text)


class Screen(Console):
    """A console that prints all text plain, that of tables as well."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text that can be shown."""
        return super().render_str(plain(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, as a rich console does. The error of an output that takes no more says which it is."""
        with _naming_output():
            super().print(*objects, **options)


@contextmanager
def _naming_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = error.filename or STANDARD_OUTPUT
        raise


out = Screen(markup=False, emoji=False, highlight=False)
err = Screen(markup=False, emoji=False, highlight=False, stderr=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII: control characters in it do not reach the terminal."""
    with _naming_output():
        typer.echo(json.dumps(value, indent=2))


def error_line(error: BaseException) -> str:
    """Return an error as one line."""
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()


@contextmanager
def errors_as_sentences(*, debug: bool | None = None) -> Iterator[None]:
    """Show an error that a user can fix as a sentence, and exit with status 1; with `debug`, let it through.

    Ctrl+C is a sentence and status 130. What a user can fix is a UserError, or a refusal of the system such as a full
    disk. Any other exception is a bug and passes.
    `debug` is whether CODECDIFF_DEBUG is set, unless specified.
    """
    debug = bool(os.environ.get("CODECDIFF_DEBUG")) if debug is None else debug
    try:
        _require_working_folder()
        yield
    except KeyboardInterrupt as stop:
        err.print(str(stop) or STOPPED, soft_wrap=True)
        sys.exit(130)
    except (UserError, OSError) as error:
        sentence = str(error) if isinstance(error, UserError) else _refusal(error)
        if debug or not sentence:
            raise
        err.print(sentence, style="red", soft_wrap=True)
        sys.exit(1)


def _require_working_folder() -> None:
    """Raise MissingFile if the working folder was deleted: some libraries end the process as they are loaded there."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise MissingFile("The working folder does not exist any more: change to another.") from error


def _refusal(error: OSError) -> str:
    """Return a sentence for what the system refused to do with a file; empty for other errors."""
    if error.errno not in REFUSALS:
        return ""
    if error.filename == STANDARD_OUTPUT:
        return f"Standard output cannot be written: {error.strerror}. Free space, or write it to another file."
    file = f"'{error.filename}'" if error.filename else "A file"
    return f"{file} cannot be read or written: {error.strerror}. Free space, change its permissions or name another."


def numbered(file: Path, number: int) -> list[Path]:
    """Return the files of so many waveforms: `out.wav` alone, or `out-1.wav`, `out-2.wav`...

    `{n}` in a name stands for the number, as in `PipelineOutput.save`.
    """
    if "{n}" in str(file):
        return [Path(str(file).replace("{n}", str(i + 1))) for i in range(number)]
    return [file] if number == 1 else [file.with_stem(f"{file.stem}-{i + 1}") for i in range(number)]


def output_files(
    output: Path | None, default: Path, number: int, *, force: bool, is_allowed: Callable[[Path], Any] = lambda _: False
) -> list[Path]:
    """Return the files of so many waveforms: of `output`, or of the first new one of `default`, `default-2`...

    Raises FileExists for one of `output` that exists and is not allowed to, unless it may be overwritten by `force`,
    and what `check_writable` raises.
    """
    if braces := [text for text in re.findall(r"\{.*?\}", str(output or "")) if text != "{n}"]:
        raise InvalidValue(f"Invalid -o '{output}': {braces[0]} is not known. The number of a waveform is {{n}}.")
    files, attempt = numbered(output or default, number), 1
    while not output and any(file.exists() for file in files):
        attempt += 1
        files = numbered(default.with_stem(f"{default.stem}-{attempt}"), number)
    for file in files:
        check_writable(file)
        if file.exists() and not force and not is_allowed(file):
            raise file_exists(file)
    return files


def file_exists(file: Path) -> FileExists:
    """Return the error for a file that would be overwritten."""
    return FileExists(f"'{file}' exists already. Choose another name with -o, or overwrite it with --force.")


def check_writable(file: Path) -> None:
    """Raise a UserError unless audio can be written to this file, by trying its folder."""
    import soundfile

    if file.is_dir():
        raise UnusableFile(f"'{file}' is a folder. Name a file in it, as in {file / 'out.wav'}.")
    if not soundfile.check_format(file.suffix[1:]):
        raise InvalidValue(f"Cannot write '{file}': unknown audio format. Use .wav, .flac, .ogg or .mp3.")
    if not file.parent.is_dir():
        raise MissingFile(f"Folder '{file.parent}' does not exist. Make it first: mkdir -p '{file.parent}'.")
    if file.exists() and not os.access(file, os.W_OK):
        raise UnusableFile(f"'{file}' may not be overwritten. Choose another name, or change its permissions.")
    require_writable(file.parent)


def select_device(name: str) -> torch.device:
    """Return the device of this name, or the best one if it is empty. Raises InvalidValue if it cannot be used."""
    import torch

    from codecdiff.pipeline.base import usable_device

    return usable_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def folded_table(*columns: str, title: str | None = None) -> Table:
    """Return a table that breaks what is wider than the terminal into lines, where rich would cut it."""
    from rich import box
    from rich.table import Table

    table = Table(title=title and Text(title), title_justify="left", box=box.MINIMAL, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(fill(column, 12, break_long_words=False), overflow="fold")
    return table


@contextmanager
def progress(what: str, total: int | None, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar with the time that is left; yields the function that updates how many, and of how many, are done.

    Without a terminal, a line says so at the end, and once in a minute.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = console or err
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, printed = bar.add_task(what, total=total), time.monotonic()

        def update(done: int, of: int | None = total) -> None:
            nonlocal printed
            bar.update(task, completed=done, total=of)
            if not console.is_terminal and (done == of or time.monotonic() - printed >= 60):
                printed = time.monotonic()
                console.print(f"{what}: {done} of {of}", soft_wrap=True)

        yield update


def track(items: Sequence[Item], *, what: str, console: Console | None = None) -> Iterator[Item]:
    """Yield items, with the progress of what is done with them."""
    with progress(what, len(items), console) as update:
        for count, item in enumerate(items, 1):
            yield item
            update(count)


@contextmanager
def ticker(line: str, every: float = 60.0) -> Iterator[Callable[[str], None]]:
    """Show a status line; yields the function that changes it. Without a terminal, it is printed now and then."""
    printed = time.monotonic()

    def update(line: str) -> None:
        nonlocal printed
        if err.is_terminal:
            status.update(line)
        elif time.monotonic() - printed >= every:
            printed = time.monotonic()
            err.print(line, soft_wrap=True)

    with err.status(line) as status:
        yield update
