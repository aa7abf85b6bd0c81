"""The command that compares: `codecdiff compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from codecdiff.cli.console import err, out, select_device
from codecdiff.files import require_writable


def compare(
    file: Annotated[Path, typer.Argument(help="YAML file that says what is compared.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings over those of the file.")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models, clips and the page.")],
    plan: Annotated[bool, typer.Option("--plan", help="Print what every variant takes, and stop.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
) -> None:
    """Train variants of one experiment at an equal budget of FLOPs and write one page that compares them.

    Run it again to go on where it was interrupted, or at once in several terminals: they share the runs.
    """
    from codecdiff import config
    from codecdiff.comparisons import plans, runs, work
    from codecdiff.comparisons.settings import Comparison

    comparison = config.load_config(Comparison, file, overrides or [])
    if not plan:
        require_writable(output)
    variants = runs.variants_of(comparison)
    out.print(plans.table(comparison, variants), soft_wrap=True)
    if plan:
        return
    all_of_it = work.Work(comparison, variants, output, select_device(device), told)
    page = work.compare(all_of_it, shlex.join(["codecdiff", *sys.argv[1:]]))
    out.print(f"{page}: open it in a browser", soft_wrap=True)


def told(line: str) -> None:
    """Print a line of progress with the time."""
    from datetime import datetime

    err.print(f"{datetime.now():%H:%M:%S} {line}", soft_wrap=True)
