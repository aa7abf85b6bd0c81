"""What the commands write: nothing over another file, and last what says that all of it is there.

A command records its own arguments in its output. Killed at any point, the same command can be run again; run again
after it has finished, it says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from codecdiff.cli.console import err, out
from codecdiff.errors import FileExists, InvalidValue
from codecdiff.files import atomic_write_text, cached_checksum, lock_path, make_folder, require_writable

if TYPE_CHECKING:
    from codecdiff.data.manifest import Manifest
    from codecdiff.data.metadata import Issue

ISSUES_SHOWN = 10  # all are in the file beside the output
WITHOUT_EFFECT = ("output", "force", "device", "embeddings")  # arguments that do not change what is made


def beside(output: Path, ending: str) -> Path:
    """Return the path of a file that belongs to an output, such as NAME.attribution.md."""
    return output.with_name(output.stem + ending)


@contextmanager
def new_table(
    context: typer.Context,
    output: Path,
    *,
    force: bool,
    inputs: Sequence[Path] = (),
    others: Sequence[Path] = (),
    state: FolderState | None = None,
) -> Iterator[str]:
    """Lock a parquet file that the command is to write, and yield what to record in it: a digest of the command.

    Ends the command, with status 0, if an earlier run of it has finished. Raises FileExists for any other file there
    unless `force` is set, also for one of the same command if the folders that it reads had another `state`, and
    InvalidValue for a name that cannot be used, or if an input would be overwritten: by the output, or by one of the
    `others` that are written with it.
    """
    if output.suffix != ".parquet":
        raise InvalidValue(f"'{output}' cannot be written: its name has to end in .parquet.")
    for path in inputs:
        if path.resolve() in {each.resolve() for each in (output, *others)}:
            raise InvalidValue(f"'{path}' is read, and would be overwritten with '{output}'. Choose another name.")
    require_writable(output.parent)
    make_folder(output.parent)
    with lock_path(output):
        request = _request(context)
        if output.exists() and not force:
            if (written := _request_in(output, request)) is None:
                raise FileExists(f"'{output}' exists already. Choose another name, or overwrite it with --force.")
            if state and (problem := state.problem(written)):
                raise FileExists(f"'{output}' is of an earlier run of this command, and {problem}")
            out.print(f"{output} is complete: an earlier run of this command wrote it.", soft_wrap=True)
            raise typer.Exit
        yield f"{request}{state.text}" if state else request


@dataclass(frozen=True)
class FolderState:
    """What files folders had when a command began to read them: a digest of names and sizes, and one of times too."""

    sizes: str
    times: str

    @classmethod
    def of(cls, folders: Sequence[Path], is_read: Callable[[Path], bool]) -> FolderState:
        """Return the state of the files in these folders that are read; links are followed, hidden files left out."""
        sizes, times = hashlib.sha256(), hashlib.sha256()
        for folder in folders:
            for file in sorted(filter(is_read, _files(folder))):
                with suppress(OSError):  # deleted since, or a link to nothing
                    status = file.stat()
                    line = os.fsencode(f"{file.relative_to(folder).as_posix()}\0{status.st_size}\n")
                    sizes.update(line)
                    times.update(line + str(status.st_mtime_ns).encode())
        return cls(sizes.hexdigest()[:16], times.hexdigest()[:16])

    @property
    def text(self) -> str:
        """Return the state as it is recorded behind the digest of a command."""
        return f".{self.sizes}.{self.times}"

    def problem(self, earlier: str) -> str:
        """Return how the folders differ from an earlier state, with a hint, "" if they do not or nothing was."""
        if earlier in ("", self.text):
            return ""
        again = "make it again with --force, or choose another name."
        if earlier.startswith(f".{self.sizes}."):
            return f"files it was made of were copied or replaced since. Copied, it is still right; if not, {again}"
        return f"files it was made of were changed, added or removed since: {again}"


def _files(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _request(context: typer.Context) -> str:
    """Return a digest of a command that is running: its name, its arguments, and the contents of files among them."""
    arguments = {name: value for name, value in context.params.items() if name not in WITHOUT_EFFECT}
    values = [value for each in arguments.values() for value in (each if isinstance(each, list | tuple) else [each])]
    files = [Path(value) for value in values if isinstance(value, str | Path)]
    contents = [cached_checksum(file) for file in files if file.is_file()]
    text = json.dumps([context.info_name, arguments, contents], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _request_in(output: Path, request: str) -> str | None:
    """Return what a parquet file records behind this request, "" if nothing; None if it does not record it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not output.is_file():
        return None
    try:
        metadata = pq.read_schema(output).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    matches = (re.search(request.encode() + rb"([.\w]*)", value) for value in metadata.values())
    return next((match[1].decode() for match in matches if match), None)


def write_manifest(manifest: Manifest, output: Path, *, request: str = "", issues: Sequence[Issue] = ()) -> None:
    """Write the attribution and the issues of a manifest beside it, and then the manifest."""
    from dataclasses import asdict, replace

    from codecdiff_datasets.licenses import attribution

    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(beside(output, ".attribution.md"), attribution(manifest.rows))
    issues_file = beside(output, ".issues.jsonl")
    if issues:
        atomic_write_text(
            issues_file, "".join(json.dumps(asdict(issue), ensure_ascii=False) + "\n" for issue in issues)
        )
    else:
        issues_file.unlink(missing_ok=True)
    if request:
        manifest = replace(manifest, facts={**manifest.facts, "request": request})
    manifest.write(output)
    show_issues(issues, issues_file)


def show_issues(issues: Sequence[Issue], file: Path | None = None) -> None:
    """Print the first issues, and where all of them are."""
    for issue in issues[:ISSUES_SHOWN]:
        err.print(str(issue), style="yellow", soft_wrap=True)
    if len(issues) > ISSUES_SHOWN:
        where = f", all in {file}" if file else ""
        err.print(f"... and {len(issues) - ISSUES_SHOWN} more issues{where}", style="yellow", soft_wrap=True)
