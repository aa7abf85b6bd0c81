"""Import, check, caption, rank and measure music data sets.

The commands `codecdiff data ...`. Heavy imports wait until one runs.
"""

from __future__ import annotations

import typer

from codecdiff_datasets.commands import caption, manifests, rank, stats

app = typer.Typer(
    help="Import, check, caption, rank and measure music data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
app.command("import")(manifests.import_data_set)
app.command("filter")(manifests.filter_manifest)
app.command("split")(manifests.split_manifest)
app.command("join")(manifests.join_captions)
app.command("merge")(manifests.merge_manifests)
app.command("attribution")(manifests.write_attribution)
app.command("check")(manifests.check_data)
app.command("stats")(stats.stats)
app.command("rank")(rank.rank)
app.command("caption")(caption.caption)
