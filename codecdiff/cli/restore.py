"""`codecdiff restore`: what a file of a low bit rate lost."""

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
    """Generate the levels that a file coded with few lacks."""
    from codecdiff.pipeline.editing import Restore

    return Restore(levels=levels)
