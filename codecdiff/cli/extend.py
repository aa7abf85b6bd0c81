"""`codecdiff extend`: continue an audio file past its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import TIME
from codecdiff.cli.edit import edit_command

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


@edit_command
def extend(seconds: Annotated[float, typer.Option(**TIME, help="Duration to add, as in 90 or 1:30.")] = 10.0) -> Edit:
    """Continue an audio file past its end."""
    from codecdiff.pipeline.editing import Extend

    return Extend(seconds=seconds)
