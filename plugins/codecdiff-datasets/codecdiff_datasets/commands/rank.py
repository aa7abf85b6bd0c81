"""`codecdiff data rank`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from codecdiff_datasets.commands.manifests import beside, show_issues

from codecdiff.cli.console import err, out, progress, select_device
from codecdiff.files import atomic_write_text, require_writable

if TYPE_CHECKING:
    from codecdiff_datasets.ranking import Ranking

    from codecdiff.data.manifest import Manifest


Like = Annotated[Path, typer.Option(help="Manifest of the reference tracks.", show_default=False)]
Of = Annotated[Path, typer.Option(help="Manifest of the tracks to rank.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Ranking to write, .parquet.", show_default=False)]
Keep = Annotated[str, typer.Option(help="Fraction or number of tracks to select.")]
EmbedderName = Annotated[str, typer.Option(help="Embedder to rank by.")]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the embedder; any number.")
]
Embeddings = Annotated[
    Path | None, typer.Option(help="Folder that caches embeddings. Default: OUTPUT-embeddings.", show_default=False)
]
Compare = Annotated[Path | None, typer.Option(help="Ranking to compare with, such as FMA-rank.", show_default=False)]
Device = Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")]


def rank(
    like: Like,
    of: Of,
    output: Output,
    keep: Keep = "20%",
    embedder: EmbedderName = "clap-music",
    options: Options = None,
    embeddings: Embeddings = None,
    compare: Compare = None,
    device: Device = "",
) -> None:
    """Select the tracks that are most like those of another data set."""
    from codecdiff_datasets import ranking

    from codecdiff import config
    from codecdiff.data.manifest import Manifest
    from codecdiff.embedders import CachedEmbedder

    ranking.check_output(output, [like, of, *([compare] if compare else [])])
    require_writable(output.parent)
    issues = []
    others = ranking.Likelihoods.read(compare, issues.append) if compare else None
    show_issues(issues)
    reference, candidates = Manifest.read(like), Manifest.read(of)
    model = config.build("embedders", config.parse_options("embedders", embedder, options or [])).to(
        select_device(device)
    )
    folder = embeddings or output.with_name(f"{output.stem}-embeddings")
    cache = CachedEmbedder(model, config.to_config("embedders", model), folder)
    with progress("embedding", len(reference.tracks()) + len(candidates.tracks())) as advance:
        result, skipped = ranking.rank_manifests(reference, candidates, cache, keep=keep, progress=advance)
    for line in skipped:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    write_ranking(result, candidates, output)
    if others:
        agreement = ranking.Agreement.of(result, candidates, others)
        what = f"Spearman {agreement.spearman:.4f} with {compare}, {agreement.matched} tracks matched"
        out.print(what, soft_wrap=True)


def write_ranking(ranking: Ranking, candidates: Manifest, output: Path) -> None:
    """Write a ranking, its report and the manifest of the selected tracks, and print where they are."""
    from codecdiff_datasets.licenses import attribution
    from codecdiff_datasets.ranking import selected_file, selected_manifest, write_ranking_report

    ranking.write(output)
    selected, report = selected_file(output), output.with_suffix(".html")
    manifest = selected_manifest(ranking, candidates)
    manifest.write(selected)
    atomic_write_text(beside(selected, ".attribution.md"), attribution(manifest.rows))
    write_ranking_report(report, ranking, candidates)
    count = f"{len(ranking.selected)} of {len(ranking.rows)} tracks selected"
    out.print(f"{count} in {selected}; ranking in {output}, shown in {report}", soft_wrap=True)
