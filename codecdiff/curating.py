"""The commands that make a collection of recordings fit to train on: `codecdiff data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecdiff.files import require_writable
from codecdiff.terminal import chosen_device, err, out, progress

data = typer.Typer(
    help="Import, check, caption, rank and measure collections of music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.command("rank")
def rank(
    like: Annotated[Path, typer.Option(help="Manifest of the tracks to be like.", show_default=False)],
    of: Annotated[Path, typer.Option(help="Manifest of the tracks to rank.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Ranking to write, .parquet.", show_default=False)],
    keep: Annotated[str, typer.Option(help="Share or number of tracks to keep.")] = "20%",
    embedder: Annotated[str, typer.Option(help="Embedder to rank by.")] = "clap-music",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the embedder; any number.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Folder to keep embeddings in. Default: OUTPUT-embeddings.", show_default=False)
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Ranking to compare with, such as FMA-rank.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
) -> None:
    """Keep the tracks that are most like those of another collection."""
    from codecdiff import config, ranking
    from codecdiff.data.manifests import Manifest

    ranking.check_output(output)
    require_writable(output.parent)
    theirs = ranking.read_likelihoods(compare) if compare else {}
    target, candidates = Manifest.read(like), Manifest.read(of)
    judge = config.build("embedders", config.chosen("embedders", embedder, options or [])).to(chosen_device(device))
    folder = embeddings or output.with_name(f"{output.stem}-embeddings")
    with progress("embedding", len(target.tracks()) + len(candidates.tracks())) as advance:
        result, skipped = ranking.rank_manifests(
            target, candidates, folder, judge, config.spec_of("embedders", judge), keep=keep, progress=advance
        )
    for line in skipped:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    result.write(output)
    kept, report = output.with_name(f"{output.stem}-kept.parquet"), output.with_suffix(".html")
    ranking.kept_manifest(result, candidates).write(kept)
    ranking.write_report(report, result, candidates)
    if compare:
        agreement = ranking.compare(result, candidates, theirs)
        out.print(
            f"Spearman {agreement.spearman:.4f} with {compare}, {agreement.matched} tracks matched", soft_wrap=True
        )
    out.print(
        f"{len(result.kept)} of {len(result.rows)} tracks kept in {kept}; ranking in {output}, shown in {report}",
        soft_wrap=True,
    )
