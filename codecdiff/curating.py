"""The commands that make a collection of recordings fit to train on: `codecdiff data ...`."""

from __future__ import annotations

import typer

from codecdiff import collecting

data = typer.Typer(
    help="Import, check, caption, rank and measure collections of music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
collecting.add_to(data)
