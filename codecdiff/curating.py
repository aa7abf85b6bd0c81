"""The commands that make a collection of recordings fit to train on: `codecdiff data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecdiff import collecting
from codecdiff.cli.console import err, out, progress, select_device
from codecdiff.files import replace_text, require_writable

FAULTS_SHOWN = 5

data = typer.Typer(
    help="Import, check, caption, rank and measure collections of music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
collecting.add_to(data)


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
    from codecdiff.data.code_store import CodeStore
    from codecdiff.data.manifests import Manifest

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
    from codecdiff.data.licences import attribution
    from codecdiff.data.manifests import Manifest

    ranking.check_output(output, [like, of, *([compare] if compare else [])])
    require_writable(output.parent)
    theirs = ranking.read_likelihoods(compare) if compare else {}
    target, candidates = Manifest.read(like), Manifest.read(of)
    judge = config.build("embedders", config.chosen("embedders", embedder, options or [])).to(select_device(device))
    folder = embeddings or output.with_name(f"{output.stem}-embeddings")
    with progress("embedding", len(target.tracks()) + len(candidates.tracks())) as advance:
        result, skipped = ranking.rank_manifests(
            target, candidates, folder, judge, config.to_config("embedders", judge), keep=keep, progress=advance
        )
    for line in skipped:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    result.write(output)
    kept, report = ranking.kept_file(output), output.with_suffix(".html")
    chosen = ranking.kept_manifest(result, candidates)
    chosen.write(kept)
    replace_text(collecting.beside(kept, ".attribution.md"), attribution(chosen.recordings))
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


@data.command("caption")
def caption(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the tracks.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines to write, or to go on with.", show_default=False)
    ],
    name: Annotated[
        str, typer.Option("--with", help="Captioner: describe, tags, rephrase or another.", show_default=False)
    ],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the captioner; any number.")
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Captions to rephrase, from an earlier step. Default: those of the manifest."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Where a server's answers are kept. Default: OUTPUT.answers.jsonl.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, where that was moved.")] = None,
    retry_faults: Annotated[bool, typer.Option("--retry-faults", help="Try tracks again that had a fault.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a server is asked.")] = False,
) -> None:
    """Caption the tracks of a manifest; the same command goes on where a run stopped."""
    from contextlib import closing

    from codecdiff.captioning import one_line, pending, read_captions, with_captions, write_captions
    from codecdiff.config import build, chosen
    from codecdiff.data.manifests import Manifest
    from codecdiff.journals import Journal

    if output.suffix != ".jsonl" and not output.exists():
        raise ValueError(f"'{output}' is to hold JSON lines: give it a name that ends in .jsonl.")
    rows = Manifest.read(manifest, audio=audio).rows()
    if sources:
        rows = with_captions(rows, read_captions(sources))
    spec, kept = chosen("captioners", name, options or []), answers or output.with_name(f"{output.stem}.answers.jsonl")
    with Journal(output) as journal, closing(build("captioners", spec, answers=kept)) as captioner:
        left = pending(rows, journal, captioner, retry_faults=retry_faults)
        foreseen = captioner.estimate(left)
        if foreseen.requests:
            err.print(f"{len(left)} tracks to caption: about {foreseen}, second tries not foreseen.", soft_wrap=True)
        if foreseen.requests and not yes:
            typer.confirm("Ask the server?", abort=True, err=True)
        try:
            with progress("captioning", len(left)) as advance:
                tally = write_captions(left, captioner, journal, progress=advance)
        finally:
            if captioner.bill().requests:
                err.print(f"The server answered {captioner.bill()}.", soft_wrap=True)
    for track, fault in list(tally.faults.items())[:FAULTS_SHOWN]:
        err.print(f"{one_line(track)}: {fault}", style="yellow", soft_wrap=True)
    there = f", {len(rows) - len(left)} were settled before" if len(left) < len(rows) else ""
    out.print(f"{tally.captioned} captions and {len(tally.faults)} faults in {output}{there}.", soft_wrap=True)
