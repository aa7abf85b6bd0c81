"""`codecdiff refine`: regenerate the finer levels of an audio file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.edit import edit_command

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


@edit_command
def refine(
    keep: Annotated[str, typer.Option(metavar="LEVELS", help="Levels to keep, as in 0-3; 0 is the coarsest.")] = "0",
) -> Edit:
    """Regenerate the finer levels of a file."""
    from codecdiff.pipeline.editing import Refine, parse_levels

    return Refine(keep=parse_levels(keep))
