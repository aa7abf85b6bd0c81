"""`codecdiff data caption`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import Options, err, out, progress
from codecdiff.errors import InvalidValue
from codecdiff_datasets.outputs import beside

if TYPE_CHECKING:
    from codecdiff_datasets.captioner import Usage

SHOWN = 5  # failures on the screen; all are in the output


Source = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest of the tracks.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="JSON lines to write, or to resume. Default: MANIFEST-CAPTIONER.jsonl."
    ),
]
Name = Annotated[str, typer.Option("--with", metavar="NAME", help="Captioner: describe, tags, rephrase or another.")]
Earlier = Annotated[
    list[Path] | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Captions to rephrase, from an earlier step; repeatable. Default: those of the manifest.",
    ),
]
Answers = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where the answers of a server are kept. Default: OUTPUT.answers.jsonl."),
]
Audio = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder of the audio, if it was moved.")]
Retry = Annotated[bool, typer.Option("--retry-failures", help="Retry tracks that failed before.")]
Yes = Annotated[bool, typer.Option("--yes", help="Use a server without confirmation.")]


def caption(
    manifest: Source,
    name: Name,
    output: Output = None,
    options: Options = None,
    earlier: Earlier = None,
    answers: Answers = None,
    audio: Audio = None,
    retry_failures: Retry = False,
    yes: Yes = False,
) -> None:
    """Caption the tracks of a manifest.

    The same command resumes a run that stopped.
    """
    from contextlib import closing

    from codecdiff.config import build, parse_options
    from codecdiff.data.manifest import Manifest
    from codecdiff_datasets.append_log import AppendLog
    from codecdiff_datasets.captioning import one_line, pending, read_captions, with_captions, write_captions

    output = output or beside(manifest, f"-{name.rpartition(':')[2]}.jsonl")
    if output.suffix != ".jsonl" and not output.exists():
        raise InvalidValue(f"'{output}' cannot be written: the name of a file of captions ends in .jsonl.")
    rows = Manifest.read(manifest, audio=audio).as_dicts()
    if earlier:
        rows = with_captions(rows, read_captions(earlier))
    config, answers = parse_options("captioners", name, options or []), answers or output.with_suffix(".answers.jsonl")
    with AppendLog(output) as log, closing(build("captioners", config, answers=answers)) as captioner:
        remaining = pending(rows, log, captioner, retry_failures=retry_failures)
        confirm(captioner.estimate(remaining), len(remaining), yes)
        try:
            with progress("captioning", len(remaining)) as advance:
                run = write_captions(remaining, captioner, log, progress=advance)
        finally:
            if captioner.usage().requests:
                err.print(f"The server answered {captioner.usage()}.", soft_wrap=True)
    for track, failure in list(run.failures.items())[:SHOWN]:
        err.print(f"{one_line(track)}: {failure}", style="yellow", soft_wrap=True)
    before = len(rows) - len(remaining)
    done = f", {before} were done before" if before else ""
    out.print(f"{run.captioned} captions and {len(run.failures)} failures in {output}{done}.", soft_wrap=True)


def confirm(estimate: Usage, num_tracks: int, yes: bool) -> None:
    """Print what captioning is estimated to use of a server, and ask for confirmation unless `yes` is set."""
    if not estimate.requests:
        return
    err.print(f"{num_tracks} tracks to caption: about {estimate}, without repeated requests.", soft_wrap=True)
    if not yes:
        typer.confirm("Send the requests?", abort=True, err=True)
