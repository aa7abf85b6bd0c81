"""`codecdiff data rank`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import Device, Force, Options, err, out, progress, select_device
from codecdiff_datasets.outputs import beside, new_table, show_issues, write_manifest

if TYPE_CHECKING:
    from codecdiff.data import CachedEmbedder

Like = Annotated[Path, typer.Option(metavar="MANIFEST", help="Manifest of the reference tracks.", show_default=False)]
Of = Annotated[Path, typer.Option(metavar="MANIFEST", help="Manifest of the tracks to rank.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Ranking to write, .parquet. Default: named after --of."),
]
Keep = Annotated[str, typer.Option(metavar="FRACTION|NUMBER", help="How many tracks to select, as 20% or 500.")]
EmbedderName = Annotated[str, typer.Option(metavar="NAME", help="Embedder to rank by.")]
Embeddings = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Cache of embeddings. Default: named after the output.")
]
Compare = Annotated[Path | None, typer.Option(metavar="FILE", help="Ranking to compare with, such as FMA-rank.")]


def rank(
    context: typer.Context,
    like: Like,
    of: Of,
    output: Output = None,
    keep: Keep = "20%",
    embedder: EmbedderName = "clap-music",
    options: Options = None,
    embeddings: Embeddings = None,
    compare: Compare = None,
    device: Device = "",
    force: Force = False,
) -> None:
    """Select the tracks that are most like another data set."""
    from codecdiff.data.manifest import Manifest
    from codecdiff_datasets import ranking

    output = output or beside(of, "-ranked.parquet")
    selected, report = beside(output, "-selected.parquet"), output.with_suffix(".html")
    others, inputs = (output.with_suffix(".csv"), report, selected), (like, of, *([compare] if compare else []))
    with new_table(context, output, force=force, inputs=inputs, others=others) as request:
        issues = []
        table = ranking.read_likelihoods(compare, issues.append) if compare else None
        show_issues(issues)
        reference, candidates = Manifest.read(like), Manifest.read(of)
        cache = open_cache(embedder, options or [], device, embeddings or beside(output, "-embeddings"))
        with progress("embedding", len(reference.tracks()) + len(candidates.tracks())) as advance:
            result, skipped = ranking.rank_manifests(reference, candidates, cache, keep=keep, progress=advance)
        for line in skipped:
            err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
        write_manifest(ranking.selected_manifest(result, candidates), selected)
        ranking.write_ranking_report(report, result, candidates)
        replace(result, facts={**result.facts, "request": request}).write(output)
    count = f"{len(result.selected)} of {len(result.rows)} tracks selected"
    out.print(f"{count} in {selected}; ranking in {output}, shown in {report}", soft_wrap=True)
    if table:
        spearman, matched = ranking.agreement(result, candidates, *table)
        out.print(f"Spearman {spearman:.4f} with {compare}, {matched} tracks matched", soft_wrap=True)


def open_cache(embedder: str, options: list[str], device: str, folder: Path) -> CachedEmbedder:
    """Build an embedder on a device, with the cache of its embeddings in a folder."""
    from codecdiff import config
    from codecdiff.data import CachedEmbedder

    model = config.build("embedders", config.parse_options("embedders", embedder, options)).to(select_device(device))
    return CachedEmbedder(model, config.to_config("embedders", model), folder)
