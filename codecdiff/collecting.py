"""The commands that make a manifest and keep it in order: import, filter, split, join, attribution, check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import err, out, progress
from codecdiff.files import atomic_write_text, require_writable

if TYPE_CHECKING:
    from codecdiff.data.faults import Fault
    from codecdiff.data.manifests import Manifest

LICENCES = 15  # on the screen
SHOWN = 10  # faults on the screen; all are in the file beside the manifest

Source = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest to read.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.", show_default=False)]
Licences = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-licence",
        metavar="PATTERN",
        help="Licence to keep, any number. 'CC BY *' is attribution alone, 'CC BY*' all its family, NC and ND too.",
    ),
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split to keep, any number.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Tag to keep, as rock or genre=rock; any number.")]
Probing = Annotated[str, typer.Option("--probe", help="How much of each file is decoded: none, ends or full.")]


def import_collection(
    kind: Annotated[str, typer.Argument(help="jamendo, fma, musiccaps, folder or hf.", show_default=False)],
    paths: Annotated[
        list[str], typer.Argument(help="Its tables; a folder; or a data set's hub id or folder.", show_default=False)
    ],
    output: Output,
    audio: Annotated[
        Path | None, typer.Option(help="Folder of the audio. Without it no file is looked for.", show_default=False)
    ] = None,
    licences: Licences = None,
    splits: Splits = None,
    tags: Tags = None,
    probe: Probing = "ends",
    captions: Annotated[list[str] | None, typer.Option("--column", help="hf: column of captions, any number.")] = None,
    tag_columns: Annotated[list[str] | None, typer.Option("--tag-column", help="hf: column of tags.")] = None,
    id_column: Annotated[str, typer.Option(help="hf: column that names the tracks.")] = "",
) -> None:
    """Make a manifest of a collection as it is published."""
    from codecdiff.data.manifests import Manifest
    from codecdiff.data.probes import MISSING, look_up
    from codecdiff.data.sources import hub, read_source
    from codecdiff.data.subsets import kept

    check_new(output)
    if audio and kind != "hf" and not audio.is_dir():
        raise FileNotFoundError(f"There is no folder '{audio}'. Leave --audio out to import without audio.")
    if kind != "hf" and (captions or tag_columns or id_column):
        raise ValueError("--column, --tag-column and --id-column are for hf: the others' columns are known.")
    faults: list[Fault] = []
    columns = hub.Columns(captions or (), tag_columns or (), id_column)
    found = read_source(kind, paths, faults.append, audio=audio, columns=columns)
    if not found:
        raise ValueError("\n".join(["Nothing could be imported.", *map(str, faults[:SHOWN])]))
    recordings = kept(found, licences=licences or (), splits=splits or (), tags=tags or ())
    home, in_rows = Path(paths[0]) if kind == "folder" else audio, len(faults)
    if home and home.is_dir():
        output.parent.mkdir(parents=True, exist_ok=True)
        with progress("trying files", len(recordings)) as advance:
            notes = beside(output, ".probes.jsonl")
            recordings = look_up(recordings, home, faults.append, depth=depth_of(probe), notes=notes, progress=advance)
    missing = sum(fault.what == MISSING for fault in faults)
    counts = {"read": len(found), "refused": in_rows, "missing": missing, "broken": len(faults) - in_rows - missing}
    facts = {"source": kind, "of": [Path(path).name for path in paths], **counts}
    deliver(Manifest(home or output.parent, recordings, facts), output, faults, of=found)


def filter_manifest(
    manifest: Source, output: Output, licences: Licences = None, splits: Splits = None, tags: Tags = None
) -> None:
    """Keep the recordings that licences, splits and tags allow."""
    from codecdiff.data.subsets import kept

    check_new(output)
    before = manifest_of(manifest)
    recordings = kept(before.recordings, licences=licences or (), splits=splits or (), tags=tags or ())
    deliver(changed(before, recordings), output, of=before.recordings)


def split_manifest(
    manifest: Source,
    output: Output,
    validation: Annotated[str, typer.Option(help="Share of the artists for validation.")] = "5%",
    test: Annotated[str, typer.Option(help="Share of the artists for tests.")] = "5%",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same splits.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Make published splits anew.")] = False,
) -> None:
    """Give every recording a split, so that no artist is in two."""
    from codecdiff.data.subsets import crossing, fraction, split_by_artist

    check_new(output)
    before = manifest_of(manifest)
    shares = {"validation": fraction(validation), "test": fraction(test)}
    recordings = split_by_artist(before.recordings, **shares, seed=seed, force=force)
    if crossed := crossing(recordings):
        err.print(
            f"{len(crossed)} artists cross the splits that were published. --force makes them anew.", style="yellow"
        )
    deliver(changed(before, recordings), output)


def join_captions(
    manifest: Source,
    table: Annotated[str, typer.Argument(help="A .jsonl, .csv or .parquet file, or a hub id.", show_default=False)],
    output: Output,
    on: Annotated[str, typer.Option(help="track, or a key of the manifest's metadata.")] = "track",
    id_column: Annotated[str, typer.Option(help="Column of the ids. Default: the first of the usual names.")] = "",
    captions: Annotated[list[str] | None, typer.Option("--column", help="Column of captions, any number.")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="Column to put into metadata, any number.")] = None,
    replacing: Annotated[bool, typer.Option("--replace", help="Put captions in the place of those there are.")] = False,
) -> None:
    """Add captions or numbers that others published."""
    from codecdiff.data.joins import join, read_rows

    check_new(output)
    before = manifest_of(manifest)
    faults: list[Fault] = []
    found = list(read_rows(table, faults.append))
    options = {"on": on, "id_column": id_column, "captions": captions or (), "keep": keep or ()}
    joined = join(before.recordings, found, **options, replacing=replacing)
    if not joined.matched:
        examples = ", ".join([*joined.unmatched, *joined.ambiguous][:3])
        raise ValueError(
            f"None of {joined.rows} rows fits one track. Ids are like {examples}; "
            f"tracks like {before.recordings[0].track}."
        )
    deliver(changed(before, joined.recordings), output, faults)
    out.print(
        f"{joined.matched} of {joined.rows} rows fit one track each, and changed {joined.changed} recordings; "
        f"{len(joined.unmatched)} fit none, {len(joined.ambiguous)} are ambiguous.",
        soft_wrap=True,
    )
    for word, names in (("Fit none", joined.unmatched), ("Ambiguous", joined.ambiguous)):
        if names:
            err.print(f"{word}: {', '.join(names[:5])}{'...' * (len(names) > 5)}", style="yellow", soft_wrap=True)


def attribute(
    manifest: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("ATTRIBUTION.md"),
) -> None:
    """Write title, artist, licence and source of every recording."""
    from codecdiff.data.licences import attribution

    before = manifest_of(manifest)
    require_writable(output.parent)
    atomic_write_text(output, attribution(before.recordings))
    out.print(f"{len(before)} recordings in {output}", soft_wrap=True)


def check_collection(
    path: Annotated[Path, typer.Argument(help="Manifest, or store of codes.", show_default=False)],
    probe: Probing = "ends",
) -> None:
    """Name every fault, with its place and how to mend it."""
    from codecdiff.data.checks import check

    faults: list[Fault] = []
    notes = None if path.is_dir() else beside(path, ".probes.jsonl")
    with err.status(f"Checking {path}"):
        count = check(path, faults.append, depth=depth_of(probe), notes=notes)
    for fault in faults:
        out.print(str(fault), soft_wrap=True)
    what = "rows of the store" if path.is_dir() else "recordings"
    out.print(f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'} in {count} {what}.")
    if faults:
        raise typer.Exit(1)


def depth_of(probe: str) -> Any:
    """Check how deep files are to be tried. Raises ValueError."""
    if probe not in ("none", "ends", "full"):
        raise ValueError(f"--probe {probe}: there are none, ends and full.")
    return probe


def check_new(output: Path) -> None:
    """Raise OSError unless a new manifest can be written here."""
    if output.exists():
        raise FileExistsError(f"'{output}' exists already. Choose another name, or delete it.")
    if output.suffix != ".parquet":
        raise ValueError(f"'{output}' is to be a manifest, whose name ends in .parquet.")
    require_writable(output.parent)


def beside(output: Path, ending: str) -> Path:
    """Name a file that belongs to a manifest."""
    return output.with_name(output.stem + ending)


def manifest_of(file: Path) -> Manifest:
    """Read a manifest that holds something."""
    from codecdiff.data.manifests import Manifest

    manifest = Manifest.read(file)
    if not len(manifest):
        raise ValueError(f"'{file}' holds no recordings.")
    return manifest


def changed(manifest: Manifest, recordings: Sequence[Any]) -> Manifest:
    """Give a manifest with other recordings of the same audio folder, and no facts that were of the former."""
    from dataclasses import replace

    facts = {key: value for key, value in manifest.facts.items() if key in ("source", "of")}
    return replace(manifest, recordings=recordings, facts=facts)


def deliver(manifest: Manifest, output: Path, faults: Sequence[Fault] = (), *, of: Sequence[Any] = ()) -> None:
    """Write a manifest with its attribution and its faults beside it, and say what is in it.

    Raises ValueError if nothing is left of the recordings that it was made of.
    """
    from codecdiff.data.faults import write_faults
    from codecdiff.data.licences import attribution, by_licence

    if not len(manifest):
        licences = ", ".join(list(by_licence(of))[:LICENCES])
        splits = ", ".join(sorted({recording.split or "none" for recording in of}))
        raise ValueError(f"None of {len(of)} recordings is left. Their licences: {licences}. Their splits: {splits}.")
    manifest.write(output)
    atomic_write_text(beside(output, ".attribution.md"), attribution(manifest.recordings))
    write_faults(beside(output, ".faults.jsonl"), faults)
    for fault in faults[:SHOWN]:
        err.print(str(fault), style="yellow", soft_wrap=True)
    if len(faults) > SHOWN:
        where = beside(output, ".faults.jsonl")
        err.print(f"... and {len(faults) - SHOWN} more faults, all in {where}", style="yellow", soft_wrap=True)
    describe(manifest, output, len(of) or len(manifest))


def describe(manifest: Manifest, output: Path, of: int) -> None:
    """Say how many recordings, splits and licences a manifest holds."""
    from rich.table import Table

    from codecdiff.data.licences import by_licence

    splits = Counter(recording.split for recording in manifest.recordings)
    divided = ", ".join(f"{count} {split or 'in no split'}" for split, count in splits.most_common())
    audio = {"there": sum(recording.present for recording in manifest.recordings)}
    audio |= {key: manifest.facts[key] for key in ("missing", "broken") if manifest.facts.get(key)}
    heard = ", ".join(f"{count} {key}" for key, count in audio.items())
    share = f" of {of}" if of != len(manifest) else ""
    out.print(f"{len(manifest)}{share} recordings in {output}: {divided}. Audio: {heard}.", soft_wrap=True)
    table = Table("licence", "recordings", "hours")
    rows = [(licence, count, hours) for licence, (count, hours) in by_licence(manifest.recordings).items()]
    rest = rows[LICENCES:]
    if rest:
        rows[LICENCES:] = [(f"{len(rest)} others", sum(row[1] for row in rest), sum(row[2] for row in rest))]
    for licence, count, hours in rows:
        table.add_row(licence, str(count), f"{hours:.2f}")
    out.print(table)


def add_to(data: typer.Typer) -> None:
    """Add the commands to `codecdiff data`."""
    data.command("import")(import_collection)
    data.command("filter")(filter_manifest)
    data.command("split")(split_manifest)
    data.command("join")(join_captions)
    data.command("attribution")(attribute)
    data.command("check")(check_collection)
