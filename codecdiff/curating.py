"""The commands that make a collection of recordings fit to train on: `codecdiff data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codecdiff.terminal import err, out, progress

FAULTS_SHOWN = 5

data = typer.Typer(
    help="Import, check, caption, rank and measure collections of music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.command("caption")
def caption(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the tracks.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines to write, or to go on with.", show_default=False)
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
        Path | None, typer.Option(help="Where a server's answers are kept. Default: OUTPUT.answers.jsonl.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, where that was moved.")] = None,
    retry_faults: Annotated[bool, typer.Option("--retry-faults", help="Try tracks again that had a fault.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a server is asked.")] = False,
) -> None:
    """Caption the tracks of a manifest; the same command goes on where a run stopped."""
    from contextlib import closing

    from codecdiff.captioning import one_line, pending, read_captions, with_captions, write_captions
    from codecdiff.config import build
    from codecdiff.data.manifests import Manifest
    from codecdiff.journals import Journal

    rows = Manifest.read(manifest, audio=audio).rows()
    if sources:
        rows = with_captions(rows, read_captions(sources))
    spec, kept = captioner_spec(name, options or []), answers or output.with_name(f"{output.stem}.answers.jsonl")
    with Journal(output) as journal, closing(build("captioners", spec, answers=kept)) as captioner:
        left = pending(rows, journal, captioner, retry_faults=retry_faults)
        foreseen = captioner.estimate(left)
        if foreseen.requests:
            err.print(f"{len(left)} tracks to caption: about {foreseen}, second tries not foreseen.", soft_wrap=True)
        if foreseen.requests and not yes:
            typer.confirm("Ask the server?", abort=True, err=True)
        try:
            with progress("captioning", len(left)) as advance:
                tally = write_captions(left, captioner, journal, progress=advance)
        finally:
            if captioner.bill().requests:
                err.print(f"The server answered {captioner.bill()}.", soft_wrap=True)
    for track, fault in list(tally.faults.items())[:FAULTS_SHOWN]:
        err.print(f"{one_line(track)}: {fault}", style="yellow", soft_wrap=True)
    there = f", {len(rows) - len(left)} were settled before" if len(left) < len(rows) else ""
    out.print(f"{tally.captioned} captions and {len(tally.faults)} faults in {output}{there}.", soft_wrap=True)


def captioner_spec(name: str, options: list[str]) -> dict[str, Any]:
    """Give the configuration of a captioner, its `key=value` options read by their types."""
    from pydantic import BaseModel

    from codecdiff import config

    class Captioning(BaseModel):
        captioner: config.CaptionerSpec

    assignments = [f"captioner.{option}" for option in options]
    return config.override({"captioner": {"name": name}}, Captioning, assignments)["captioner"]
