"""`codecdiff restore`: generate the levels missing from a file of a low bit rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.edit import edit_command

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


@edit_command
def restore(
    levels: Annotated[int, typer.Option(min=1, help="How many of the coarsest levels the source was coded with.")],
) -> Edit:
    """Generate the levels missing from a file of a low bit rate."""
    from codecdiff.pipeline.editing import Restore

    return Restore(levels=levels)
