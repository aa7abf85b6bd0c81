"""`codecdiff data stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecdiff.cli.console import err, out, progress
from codecdiff.errors import MissingFile
from codecdiff.files import require_writable


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
    """Measure a store or a manifest: hours, licenses, tags, durations, codebook usage, latents."""
    from codecdiff_datasets import statistics_report
    from codecdiff_datasets.statistics import manifest_statistics, store_statistics
    from rich.table import Table

    from codecdiff.data import CodeStore
    from codecdiff.data.manifest import Manifest

    if not source.exists():
        raise MissingFile(f"'{source}' is neither a store nor a manifest.")
    if output:
        statistics_report.require_new(output)
        require_writable(output)
    if source.is_dir():
        store = CodeStore(source)
        with progress("counting", len(store) * (1 + store.has_continuous)) as advance:
            statistics = store_statistics(store, top=top, allow_download=allow_download, progress=advance)
    else:
        statistics = manifest_statistics(Manifest.read(source), source.name, top=top)
    for section in statistics_report.tables(statistics):
        table = Table(title=section.title, title_justify="left")
        for i, column in enumerate(section.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in section.rows:
            table.add_row(*row)
        out.print(table, section.note, sep="\n", end="\n\n" if section.note else "\n")
    if output:
        statistics_report.write_statistics(statistics, output)
        err.print(f"Written: stats.json, stats.md and stats.html in {output}", soft_wrap=True)
