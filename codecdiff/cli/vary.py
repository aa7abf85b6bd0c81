"""`codecdiff vary`: generate a variation of an audio file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.edit import edit_command

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


@edit_command
def vary(strength: Annotated[float, typer.Option(help="Distance from the source: above 0, at most 1.")] = 0.4) -> Edit:
    """Generate a variation of an audio file."""
    from codecdiff.pipeline.editing import Vary

    return Vary(strength=strength)
