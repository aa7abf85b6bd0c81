"""The commands that make and edit a manifest: import, filter, split, join, attribution, check."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import err, out, progress
from codecdiff.errors import FileExists, InvalidValue, MissingFile
from codecdiff.files import atomic_write_text, require_writable

if TYPE_CHECKING:
    from codecdiff_datasets.importers import Columns

    from codecdiff.data.manifest import Manifest
    from codecdiff.data.metadata import Issue

LICENSES_SHOWN = 15
ISSUES_SHOWN = 10  # all are in the file beside the manifest

Source = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest to read.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.", show_default=False)]
Format = Annotated[
    str, typer.Argument(metavar="FORMAT", help="jamendo, fma, musiccaps, folder or hf.", show_default=False)
]
Paths = Annotated[
    list[str], typer.Argument(help="Its tables; a folder; or a data set's hub id or folder.", show_default=False)
]
Audio = Annotated[
    Path | None, typer.Option(help="Folder of the audio. Without it no file is looked for.", show_default=False)
]
CaptionColumns = Annotated[list[str] | None, typer.Option("--column", help="hf: column of captions, any number.")]
TagColumns = Annotated[list[str] | None, typer.Option("--tag-column", help="hf: column of tags.")]
Licenses = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-license",
        metavar="PATTERN",
        help="License to keep, any number. 'CC BY *' is attribution alone, 'CC BY*' all its family, NC and ND too.",
    ),
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split to keep, any number.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Tag to keep, as rock or genre=rock; any number.")]
Decode = Annotated[str, typer.Option("--decode", help="How much of each file is decoded: none, ends or full.")]


def import_data_set(
    format_name: Format,
    paths: Paths,
    output: Output,
    audio: Audio = None,
    licenses: Licenses = None,
    splits: Splits = None,
    tags: Tags = None,
    decode: Decode = "ends",
    captions: CaptionColumns = None,
    tag_columns: TagColumns = None,
    id_column: Annotated[str, typer.Option(help="hf: column that names the tracks.")] = "",
) -> None:
    """Make a manifest of a data set as it is published."""
    from codecdiff_datasets.audio_check import MISSING, AudioChecker, find_audio
    from codecdiff_datasets.importers import Columns, read_data_set
    from codecdiff_datasets.splits import Filter

    from codecdiff.data.manifest import Manifest

    check_new(output)
    columns = Columns(captions or (), tag_columns or (), id_column)
    check_hf_options(format_name, audio, columns)
    select, depth = Filter(licenses or (), splits or (), tags or ()), check_depth(decode)
    issues: list[Issue] = []
    published = read_data_set(format_name, paths, issues.append, audio=audio, columns=columns)
    if not published:
        raise InvalidValue("\n".join(["Nothing could be imported.", *map(str, issues[:ISSUES_SHOWN])]))
    rows, home = select(published), Path(paths[0]) if format_name == "folder" else audio
    facts = {"source": format_name, "of": [Path(path).name for path in paths], "read": len(published)}
    facts |= {"refused": len(issues), "missing": 0, "broken": 0}
    if home and home.is_dir():
        output.parent.mkdir(parents=True, exist_ok=True)
        with progress("trying files", len(rows)) as advance:
            checker = AudioChecker(depth, beside(output, ".audio-check.jsonl"), advance)
            rows = find_audio(rows, home, issues.append, checker)
        facts["missing"] = sum(issue.what == MISSING for issue in issues)
        facts["broken"] = len(issues) - facts["refused"] - facts["missing"]
    deliver(Manifest(home or output.parent, rows, facts), output, issues, of=published)


def filter_manifest(
    manifest: Source, output: Output, licenses: Licenses = None, splits: Splits = None, tags: Tags = None
) -> None:
    """Keep the tracks that licenses, splits and tags allow."""
    from codecdiff_datasets.splits import Filter

    check_new(output)
    before = read_manifest(manifest)
    rows = Filter(licenses or (), splits or (), tags or ())(before.rows)
    deliver(with_rows(before, rows), output, of=before.rows)


def split_manifest(
    manifest: Source,
    output: Output,
    validation: Annotated[str, typer.Option(help="Fraction of the artists for validation.")] = "5%",
    test: Annotated[str, typer.Option(help="Fraction of the artists for tests.")] = "5%",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same splits.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace published splits.")] = False,
) -> None:
    """Assign a split to every track, so that no artist is in two."""
    from codecdiff_datasets.splits import artists_in_several_splits, fraction, split_by_artist

    check_new(output)
    before = read_manifest(manifest)
    fractions = {"validation": fraction(validation), "test": fraction(test)}
    rows = split_by_artist(before.rows, **fractions, seed=seed, force=force)
    if crossing := artists_in_several_splits(rows):
        err.print(f"{len(crossing)} artists are in several published splits. --force replaces them.", style="yellow")
    deliver(with_rows(before, rows), output)


def join_captions(
    manifest: Source,
    table: Annotated[str, typer.Argument(help="A .jsonl, .csv or .parquet file, or a hub id.", show_default=False)],
    output: Output,
    on: Annotated[str, typer.Option(help="track, or a key of the manifest's metadata.")] = "track",
    id_column: Annotated[str, typer.Option(help="Column of the ids. Default: the first of the usual names.")] = "",
    captions: Annotated[list[str] | None, typer.Option("--column", help="Column of captions, any number.")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="Column to put into metadata, any number.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the captions that tracks have.")] = False,
) -> None:
    """Add captions or numbers that others published."""
    from codecdiff_datasets.join import JoinColumns, join, read_records

    check_new(output)
    before = read_manifest(manifest)
    issues: list[Issue] = []
    columns = JoinColumns(id_column, captions or (), keep or (), on, replace)
    joined = join(before.rows, read_records(table, issues.append), columns)
    if not joined.matched:
        examples = ", ".join([*joined.unmatched, *joined.ambiguous][:3])
        raise InvalidValue(
            f"None of {joined.records} rows matches one track. Ids are like {examples}; "
            f"tracks like {before.rows[0].track}."
        )
    deliver(with_rows(before, joined.rows), output, issues)
    out.print(
        f"{joined.matched} of {joined.records} rows match one track each, and changed {joined.changed} tracks; "
        f"{len(joined.unmatched)} match none, {len(joined.ambiguous)} are ambiguous.",
        soft_wrap=True,
    )
    for what, names in (("Match none", joined.unmatched), ("Ambiguous", joined.ambiguous)):
        if names:
            err.print(f"{what}: {', '.join(names[:5])}{'...' * (len(names) > 5)}", style="yellow", soft_wrap=True)


def write_attribution(
    manifest: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("ATTRIBUTION.md"),
) -> None:
    """Write title, artist, license and source of every track."""
    from codecdiff_datasets.licenses import attribution

    rows = read_manifest(manifest).rows
    require_writable(output.parent)
    atomic_write_text(output, attribution(rows))
    out.print(f"{len(rows)} tracks in {output}", soft_wrap=True)


def check_data(
    path: Annotated[Path, typer.Argument(help="Manifest, or store of codes.", show_default=False)],
    decode: Decode = "ends",
) -> None:
    """List every issue, with its place and how to fix it."""
    from codecdiff_datasets.audio_check import AudioChecker
    from codecdiff_datasets.validate import validate

    issues: list[Issue] = []
    log = None if path.is_dir() else beside(path, ".audio-check.jsonl")
    checker = AudioChecker(check_depth(decode), log)
    with err.status(f"Checking {path}"):
        count = validate(path, issues.append, checker)
    for issue in issues:
        out.print(str(issue), soft_wrap=True)
    what = "rows of the store" if path.is_dir() else "tracks"
    out.print(f"{len(issues)} {'issue' if len(issues) == 1 else 'issues'} in {count} {what}.")
    if issues:
        raise typer.Exit(1)


def check_hf_options(format_name: str, audio: Path | None, columns: Columns) -> None:
    """Raise InvalidValue or MissingFile for columns, or a new folder of audio, of any format but hf."""
    if audio and format_name != "hf" and not audio.is_dir():
        raise MissingFile(f"Folder '{audio}' does not exist. Leave --audio out to import without audio.")
    if format_name != "hf" and (columns.captions or columns.tags or columns.track):
        raise InvalidValue("--column, --tag-column and --id-column are for hf: other formats have known columns.")


def check_depth(decode: str) -> Any:
    """Return how much of files is decoded. Raises InvalidValue."""
    if decode not in ("none", "ends", "full"):
        raise InvalidValue(f"Invalid --decode {decode}: expected none, ends or full.")
    return decode


def check_new(output: Path) -> None:
    """Raise OSError or InvalidValue unless a new manifest can be written here."""
    if output.exists():
        raise FileExists(f"'{output}' exists already. Choose another name, or delete it.")
    if output.suffix != ".parquet":
        raise InvalidValue(f"'{output}' cannot be written: the name of a manifest ends in .parquet.")
    require_writable(output.parent)


def beside(output: Path, ending: str) -> Path:
    """Return the path of a file that belongs to a manifest."""
    return output.with_name(output.stem + ending)


def read_manifest(file: Path) -> Manifest:
    """Read a manifest that is not empty."""
    from codecdiff.data.manifest import Manifest

    manifest = Manifest.read(file)
    if not len(manifest):
        raise InvalidValue(f"'{file}' holds no tracks.")
    return manifest


def with_rows(manifest: Manifest, rows: Sequence[Any]) -> Manifest:
    """Return a manifest with other rows of the same audio folder, without the facts that were of the former ones."""
    from dataclasses import replace

    facts = {key: value for key, value in manifest.facts.items() if key in ("source", "of")}
    return replace(manifest, rows=rows, facts=facts)


def deliver(manifest: Manifest, output: Path, issues: Sequence[Issue] = (), *, of: Sequence[Any] = ()) -> None:
    """Write a manifest with its attribution and its issues beside it, and print what is in it.

    Raises InvalidValue if none of the rows that it comes from is left.
    """
    from codecdiff_datasets.licenses import attribution, by_license

    if not len(manifest):
        licenses = ", ".join(group.name for group in by_license(of)[:LICENSES_SHOWN])
        splits = ", ".join(sorted({row.split or "none" for row in of}))
        raise InvalidValue(f"None of {len(of)} tracks is left. Their licenses: {licenses}. Their splits: {splits}.")
    manifest.write(output)
    atomic_write_text(beside(output, ".attribution.md"), attribution(manifest.rows))
    issues_file = beside(output, ".issues.jsonl")
    issues_file.unlink(missing_ok=True)
    if issues:
        lines = (json.dumps(asdict(issue), ensure_ascii=False) + "\n" for issue in issues)
        atomic_write_text(issues_file, "".join(lines))
    show_issues(issues, issues_file)
    show_contents(manifest, output, len(of) or len(manifest))


def show_issues(issues: Sequence[Issue], file: Path | None = None) -> None:
    """Print the first issues, and where all of them are."""
    for issue in issues[:ISSUES_SHOWN]:
        err.print(str(issue), style="yellow", soft_wrap=True)
    if len(issues) > ISSUES_SHOWN:
        where = f", all in {file}" if file else ""
        err.print(f"... and {len(issues) - ISSUES_SHOWN} more issues{where}", style="yellow", soft_wrap=True)


def show_contents(manifest: Manifest, output: Path, of: int) -> None:
    """Print how many tracks, splits and licenses a manifest holds."""
    from codecdiff_datasets.licenses import Group, by_license
    from rich.table import Table

    splits = Counter(row.split for row in manifest.rows)
    counts = ", ".join(f"{count} {split or 'without split'}" for split, count in splits.most_common())
    audio = {"present": sum(row.present for row in manifest.rows)}
    audio |= {key: manifest.facts[key] for key in ("missing", "broken") if manifest.facts.get(key)}
    files = ", ".join(f"{count} {key}" for key, count in audio.items())
    total = f" of {of}" if of != len(manifest) else ""
    out.print(f"{len(manifest)}{total} tracks in {output}: {counts}. Audio: {files}.", soft_wrap=True)
    table = Table("license", "tracks", "hours")
    groups = by_license(manifest.rows)
    if others := groups[LICENSES_SHOWN:]:
        total = Group(f"{len(others)} others", sum(g.tracks for g in others), sum(g.hours for g in others))
        groups[LICENSES_SHOWN:] = [total]
    for group in groups:
        table.add_row(group.name, str(group.tracks), f"{group.hours:.2f}")
    out.print(table)
