"""`codecdiff data caption`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import err, out, progress
from codecdiff.errors import InvalidValue

if TYPE_CHECKING:
    from codecdiff_datasets.captioner import Usage

SHOWN = 5  # failures on the screen; all are in the output


Source = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest of the tracks.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="JSON lines to write, or to resume.", show_default=False)]
Name = Annotated[
    str, typer.Option("--with", help="Captioner: describe, tags, rephrase or another.", show_default=False)
]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the captioner; any number.")
]
Earlier = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Captions to rephrase, from an earlier step. Default: those of the manifest."),
]
Answers = Annotated[
    Path | None, typer.Option(help="File that keeps a server's answers. Default: OUTPUT.answers.jsonl.")
]
Audio = Annotated[Path | None, typer.Option(help="Folder of the audio, if it was moved.")]
Retry = Annotated[bool, typer.Option("--retry-failures", help="Retry tracks that failed before.")]
Yes = Annotated[bool, typer.Option("--yes", help="Use a server without confirmation.")]


def caption(
    manifest: Source,
    output: Output,
    name: Name,
    options: Options = None,
    earlier: Earlier = None,
    answers: Answers = None,
    audio: Audio = None,
    retry_failures: Retry = False,
    yes: Yes = False,
) -> None:
    """Caption the tracks of a manifest; the same command resumes a run that stopped."""
    from contextlib import closing

    from codecdiff_datasets.append_log import AppendLog
    from codecdiff_datasets.captioning import one_line, pending, read_captions, with_captions, write_captions

    from codecdiff.config import build, parse_options
    from codecdiff.data.manifest import Manifest

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
