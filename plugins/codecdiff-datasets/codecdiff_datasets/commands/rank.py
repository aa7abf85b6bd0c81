"""`codecdiff data rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecdiff.files import replace_text, require_writable
from codecdiff.terminal import chosen_device, err, out, progress


def rank(
    like: Annotated[Path, typer.Option(help="Manifest of the reference tracks.", show_default=False)],
    of: Annotated[Path, typer.Option(help="Manifest of the tracks to rank.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Ranking to write, .parquet.", show_default=False)],
    keep: Annotated[str, typer.Option(help="Fraction or number of tracks to select.")] = "20%",
    embedder: Annotated[str, typer.Option(help="Embedder to rank by.")] = "clap-music",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the embedder; any number.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Folder that caches embeddings. Default: OUTPUT-embeddings.", show_default=False)
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Ranking to compare with, such as FMA-rank.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
) -> None:
    """Select the tracks that are most like those of another data set."""
    from codecdiff_datasets import ranking
    from codecdiff_datasets.commands.manifests import beside, show_issues
    from codecdiff_datasets.licenses import attribution

    from codecdiff import config
    from codecdiff.data.manifest import Manifest
    from codecdiff.embedders import CachedEmbedder

    ranking.check_output(output, [like, of, *([compare] if compare else [])])
    require_writable(output.parent)
    issues = []
    others = ranking.read_likelihoods(compare, issues.append) if compare else {}
    show_issues(issues)
    reference, candidates = Manifest.read(like), Manifest.read(of)
    model = config.build("embedders", config.chosen("embedders", embedder, options or [])).to(chosen_device(device))
    folder = embeddings or output.with_name(f"{output.stem}-embeddings")
    cache = CachedEmbedder(model, config.spec_of("embedders", model), folder)
    with progress("embedding", len(reference.tracks()) + len(candidates.tracks())) as advance:
        result, skipped = ranking.rank_manifests(reference, candidates, cache, keep=keep, progress=advance)
    for line in skipped:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    result.write(output)
    selected, report = ranking.selected_file(output), output.with_suffix(".html")
    manifest = ranking.selected_manifest(result, candidates)
    manifest.write(selected)
    replace_text(beside(selected, ".attribution.md"), attribution(manifest.rows))
    ranking.write_report(report, result, candidates)
    if compare:
        agreement = ranking.compare(result, candidates, others)
        what = f"Spearman {agreement.spearman:.4f} with {compare}, {agreement.matched} tracks matched"
        out.print(what, soft_wrap=True)
    count = f"{len(result.selected)} of {len(result.rows)} tracks selected"
    out.print(f"{count} in {selected}; ranking in {output}, shown in {report}", soft_wrap=True)
