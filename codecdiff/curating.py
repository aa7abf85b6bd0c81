"""The commands that make a collection of recordings fit to train on: `codecdiff data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecdiff.files import require_writable
from codecdiff.terminal import err, out, progress

data = typer.Typer(
    help="Import, check, caption, rank and measure collections of music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.command("stats")
def stats(
    source: Annotated[Path, typer.Argument(metavar="STORE|MANIFEST", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder for stats.json, stats.md and stats.html.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many tags of a category, and artists, to show.")] = 20,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch the hub id that a store names for its codec.")
    ] = False,
) -> None:
    """Measure a store or a manifest: hours, licences, tags, durations, use of codebooks, latents."""
    from rich.table import Table

    from codecdiff.data import reports, statistics
    from codecdiff.data.manifests import Manifest
    from codecdiff.data.store import CodeStore

    if not source.exists():
        raise FileNotFoundError(f"There is no store and no manifest '{source}'.")
    if output:
        reports.require_new(output)
        require_writable(output)
    if source.is_dir():
        store = CodeStore(source)
        with progress("counting", len(store) * (1 + store.has_projections)) as advance:
            figures = statistics.of_store(store, top=top, allow_download=allow_download, progress=advance)
    else:
        figures = statistics.of_manifest(Manifest.read(source), source.name, top=top)
    for found in reports.tables(figures):
        table = Table(title=found.title, title_justify="left")
        for i, column in enumerate(found.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in found.rows:
            table.add_row(*row)
        out.print(table, found.note, sep="\n", end="\n\n" if found.note else "\n")
    if output:
        reports.write(figures, output)
        err.print(f"Written: stats.json, stats.md and stats.html in {output}", soft_wrap=True)
