"""`codecdiff data stats`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import Force, Json, err, folded_table, out, progress
from codecdiff.files import missing_file, require_writable

if TYPE_CHECKING:
    from codecdiff_datasets.statistics_report import StatsTable


def stats(
    source: Annotated[
        Path, typer.Argument(metavar="PATH", help="A manifest, or a store of codes.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write stats.json, stats.md and stats.html there."),
    ] = None,
    as_json: Json = False,
    top: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="How many tags and artists to show.")] = 20,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch the hub id that a store names for its codec.")
    ] = False,
    allow_local_parts: Annotated[
        bool, typer.Option("--allow-local-parts", help="Use files outside of the store that it names for its codec.")
    ] = False,
    force: Force = False,
) -> None:
    """Measure a store or a manifest.

    Hours, licenses, tags, durations, captions and artists; of a store also the use of its codebooks, and its latents.
    """
    from codecdiff_datasets import statistics_report

    if not source.exists():
        raise missing_file(source, "Store or manifest")
    if output:
        statistics_report.require_new(output)
        require_writable(output)
    statistics = statistics_of(source, top, allow_download=allow_download, allow_local_parts=allow_local_parts)
    if as_json:
        sys.stdout.write(statistics_report.statistics_json(statistics))
    else:
        show_tables(statistics_report.tables(statistics))
    if output:
        statistics_report.write_statistics(statistics, output, force=force)
        err.print(f"Written: stats.json, stats.md and stats.html in {output}", soft_wrap=True)


def statistics_of(source: Path, top: int, **allowed: bool) -> dict[str, Any]:
    """Return the statistics of a store or a manifest."""
    from codecdiff.data import CodeStore
    from codecdiff.data.manifest import Manifest
    from codecdiff_datasets.statistics import manifest_statistics, store_statistics

    if not source.is_dir():
        return manifest_statistics(Manifest.read(source), source.name, top=top)
    store = CodeStore(source)
    with progress("counting", len(store) * (1 + store.has_continuous)) as advance:
        return store_statistics(store, top=top, progress=advance, **allowed)


def show_tables(sections: Sequence[StatsTable]) -> None:
    """Print tables."""
    for section in sections:
        table = folded_table(*section.columns, title=section.title)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in section.rows:
            table.add_row(*row)
        out.print(table, section.note, sep="\n", end="\n\n" if section.note else "\n")
