"""`codecdiff data caption`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecdiff.terminal import err, out, progress

SHOWN = 5  # failures on the screen; all are in the output


def caption(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the tracks.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines to write, or to resume.", show_default=False)
    ],
    name: Annotated[
        str, typer.Option("--with", help="Captioner: describe, tags, rephrase or another.", show_default=False)
    ],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the captioner; any number.")
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Captions to rephrase, from an earlier step. Default: those of the manifest."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="File that keeps a server's answers. Default: OUTPUT.answers.jsonl.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, if it was moved.")] = None,
    retry_failures: Annotated[bool, typer.Option("--retry-failures", help="Retry tracks that failed before.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Use a server without confirmation.")] = False,
) -> None:
    """Caption the tracks of a manifest; the same command resumes a run that stopped."""
    from contextlib import closing

    from codecdiff_datasets.append_log import AppendLog
    from codecdiff_datasets.captioning import one_line, pending, read_captions, with_captions, write_captions

    from codecdiff.config import build, chosen
    from codecdiff.data.manifest import Manifest

    if output.suffix != ".jsonl" and not output.exists():
        raise ValueError(f"'{output}' cannot be written: the name of a file of captions ends in .jsonl.")
    rows = Manifest.read(manifest, audio=audio).as_dicts()
    if sources:
        rows = with_captions(rows, read_captions(sources))
    answers = answers or output.with_name(f"{output.stem}.answers.jsonl")
    config = chosen("captioners", name, options or [])
    with AppendLog(output) as log, closing(build("captioners", config, answers=answers)) as captioner:
        remaining = pending(rows, log, captioner, retry_failures=retry_failures)
        estimate = captioner.estimate(remaining)
        if estimate.requests:
            what = f"{len(remaining)} tracks to caption: about {estimate}, without repeated requests."
            err.print(what, soft_wrap=True)
        if estimate.requests and not yes:
            typer.confirm("Send the requests?", abort=True, err=True)
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
