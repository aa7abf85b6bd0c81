"""`codecdiff inpaint`: regenerate regions of an audio file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import TIME
from codecdiff.cli.edit import edit_command
from codecdiff.errors import InvalidValue

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import Edit


@edit_command
def inpaint(
    starts: Annotated[list[float] | None, typer.Option("--from", **TIME, help="Start of a region, as in 1:30.")] = None,
    stops: Annotated[list[float] | None, typer.Option("--to", **TIME, help="End of the region.")] = None,
    levels: Annotated[str, typer.Option(help="Levels to generate, as in 2-8; 0 is coarsest.", show_default="all")] = "",
) -> Edit:
    """Regenerate one or more regions of a file.

    Several regions: --from 1 --to 2 --from 5.5 --to 6.
    """
    from codecdiff.pipeline.editing import Inpaint, parse_levels

    starts, stops = starts or [], stops or []
    if not starts and not stops:
        raise InvalidValue("Name the region to generate: --from 1:30 --to 1:45.")
    if len(starts) != len(stops):
        number = f"got {len(starts)} --from and {len(stops)} --to"
        raise InvalidValue(f"Every region needs both its ends, as in --from 1:30 --to 1:45, but {number}.")
    regions = tuple(zip(starts, stops, strict=True))
    return Inpaint(regions=regions, levels=parse_levels(levels) if levels else None)
