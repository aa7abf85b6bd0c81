"""The commands that make and edit a manifest: import, filter, split, join, merge, attribution, check."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import Force, err, folded_table, out, progress
from codecdiff.errors import FileExists, InvalidValue, MissingFile
from codecdiff.files import atomic_write_text, require_writable
from codecdiff_datasets.outputs import ISSUES_SHOWN, FolderState, beside, new_table, write_manifest

if TYPE_CHECKING:
    from codecdiff.data.manifest import Manifest, ManifestRow
    from codecdiff.data.metadata import Issue
    from codecdiff_datasets.importers import Columns
    from codecdiff_datasets.join import JoinResult

LICENSES_SHOWN = 15
ID_SHOWN = 80  # letters of an id in a message

Source = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest to read.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Manifest to write. Default: named after what is read."),
]
Format = Annotated[
    str, typer.Argument(metavar="FORMAT", help="jamendo, fma, musiccaps, folder, hf or game-music.", show_default=False)
]
Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Its tables; a folder; a data set's hub id or folder; for game-music, packages or .deb files.",
    ),
]
Audio = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of the audio. Default: none; game-music for packages.")
]
CaptionColumns = Annotated[
    list[str] | None, typer.Option("--column", metavar="NAME", help="For hf: column of captions; repeatable.")
]
TagColumns = Annotated[
    list[str] | None, typer.Option("--tag-column", metavar="NAME", help="For hf: column of tags; repeatable.")
]
IdColumn = Annotated[str, typer.Option(metavar="NAME", help="For hf: column that names the tracks.")]
Licenses = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-license",
        metavar="PATTERN",
        help="License to keep; repeatable. 'CC BY *' is attribution alone, 'CC BY*' its whole family, NC and ND too.",
    ),
]
Splits = Annotated[list[str] | None, typer.Option("--split", metavar="NAME", help="Split to keep; repeatable.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="Tag to keep, as rock or genre=rock; repeatable.")
]
Decode = Annotated[
    str, typer.Option("--decode", metavar="DEPTH", help="How much of each file is decoded: none, ends or full.")
]


def import_data_set(
    context: typer.Context,
    format_name: Format,
    paths: Paths = None,
    output: Output = None,
    audio: Audio = None,
    licenses: Licenses = None,
    splits: Splits = None,
    tags: Tags = None,
    decode: Decode = "ends",
    captions: CaptionColumns = None,
    tag_columns: TagColumns = None,
    id_column: IdColumn = "",
    force: Force = False,
) -> None:
    """Make a manifest of a data set or of a folder of audio.

    Formats: jamendo, fma and musiccaps are read from their published tables, folder from audio with metadata beside it,
    hf from the Hugging Face hub or a folder in its formats, game-music from Debian packages of free games.
    """
    from codecdiff.data.manifest import Manifest
    from codecdiff_datasets.audio_check import MISSING, AudioChecker, find_audio
    from codecdiff_datasets.importers import Columns, audio_folder, input_folders
    from codecdiff_datasets.splits import Filter

    paths, columns = paths or [], Columns(captions or (), tag_columns or (), id_column)
    check_hf_options(format_name, audio, columns)
    select, depth = Filter(licenses or (), splits or (), tags or ()), check_depth(decode)
    name = Path(paths[0]).resolve().name if paths and format_name in ("folder", "hf") else format_name
    output = output or Path(f"{name}.parquet")
    state = FolderState.of(*input_folders(format_name, paths, audio, output))
    with new_table(context, output, force=force, state=state) as request:
        issues: list[Issue] = []
        published = read_source(format_name, paths, issues, audio, columns)
        rows, home = select(published), audio_folder(format_name, paths, audio)
        facts = {"source": format_name, "of": [Path(path).name for path in paths], "read": len(published)}
        facts |= {"refused": len(issues), "missing": 0, "broken": 0}
        if home and home.is_dir():
            with progress("trying files", len(rows)) as advance:
                checker = AudioChecker(depth, beside(output, ".audio-check.jsonl"), advance)
                rows = find_audio(rows, home, issues.append, checker)
            facts["missing"] = sum(issue.what == MISSING for issue in issues)
            facts["broken"] = sum(bool(row.file) and not row.present for row in rows) - facts["missing"]
        deliver(Manifest(home or output.parent, rows, facts), output, request, published, issues)


def read_source(
    format_name: str, paths: Sequence[str], issues: list[Issue], audio: Path | None, columns: Columns
) -> list[ManifestRow]:
    """Read what is imported, and add what is wrong with it to `issues`. Raises InvalidValue if nothing can be used."""
    from codecdiff_datasets.importers import read_data_set

    with err.status(f"Reading {format_name}") as status:
        rows = read_data_set(format_name, paths, issues.append, audio=audio, columns=columns, progress=status.update)
    if not rows:
        reason = "" if issues else f" {', '.join(map(repr, paths))} holds no rows."
        raise InvalidValue("\n".join([f"Nothing could be imported.{reason}", *map(str, issues[:ISSUES_SHOWN])]))
    return rows


def filter_manifest(
    context: typer.Context,
    manifest: Source,
    output: Output = None,
    licenses: Licenses = None,
    splits: Splits = None,
    tags: Tags = None,
    force: Force = False,
) -> None:
    """Keep the tracks that licenses, splits and tags allow."""
    from codecdiff_datasets.splits import Filter

    select = Filter(licenses or (), splits or (), tags or ())
    edit(context, manifest, output or beside(manifest, "-filtered.parquet"), select, force)


def split_manifest(
    context: typer.Context,
    manifest: Source,
    output: Output = None,
    validation: Annotated[str, typer.Option(metavar="FRACTION", help="Fraction of artists for validation.")] = "5%",
    test: Annotated[str, typer.Option(metavar="FRACTION", help="Fraction of artists for tests.")] = "5%",
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="The same seed gives the same splits.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace published splits.")] = False,
    force: Force = False,
) -> None:
    """Assign a split to every track, so that no artist is in two."""
    from codecdiff_datasets.splits import artists_in_several_splits, fraction, split_by_artist

    fractions = {"validation": fraction(validation), "test": fraction(test)}

    def split(before: Sequence[ManifestRow]) -> list[ManifestRow]:
        rows = split_by_artist(before, **fractions, seed=seed, replace_published=replace)
        if crossing := artists_in_several_splits(rows):
            what = f"{len(crossing)} artists are in several published splits. --replace replaces them."
            err.print(what, style="yellow", soft_wrap=True)
        return rows

    edit(context, manifest, output or beside(manifest, "-split.parquet"), split, force)


def join_captions(
    context: typer.Context,
    manifest: Source,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A .jsonl, .csv, .tsv or .parquet file, or a hub id.")],
    output: Output = None,
    on: Annotated[str, typer.Option(metavar="KEY", help="track, or a key of the manifest's metadata.")] = "track",
    id_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the ids. Default: the first of the usual names.")
    ] = "",
    captions: Annotated[
        list[str] | None, typer.Option("--column", metavar="NAME", help="Column of captions; repeatable.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="NAME", help="Column to put into metadata; repeatable.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the captions that tracks have.")] = False,
    force: Force = False,
) -> None:
    """Add captions or numbers that others published."""
    from codecdiff_datasets.join import JoinColumns, join, read_records

    issues: list[Issue] = []

    def joined(before: Sequence[ManifestRow]) -> Sequence[ManifestRow]:
        columns = JoinColumns(id_column, captions or (), keep or (), on, replace)
        if not (records := list(read_records(table, issues.append))):
            reasons = [f"'{table}' holds no row that can be read: name another.", *map(str, issues[:ISSUES_SHOWN])]
            raise InvalidValue("\n".join(reasons))
        result = join(before, records, columns)
        if not result.matched:
            examples = ", ".join(name[:ID_SHOWN] for name in [*result.unmatched, *result.ambiguous][:3])
            raise InvalidValue(
                f"None of {result.records} rows matches one track. Ids are like {examples}; "
                f"tracks like {before[0].track[:ID_SHOWN]}."
            )
        show_join(result)
        return result.rows

    edit(context, manifest, output or beside(manifest, "-joined.parquet"), joined, force, issues)


def show_join(result: JoinResult) -> None:
    """Print how many rows of a table match, and the first that do not."""
    out.print(
        f"{result.matched} of {result.records} rows match one track each, and changed {result.changed} tracks; "
        f"{len(result.unmatched)} match none, {len(result.ambiguous)} are ambiguous.",
        soft_wrap=True,
    )
    for what, names in (("Match none", result.unmatched), ("Ambiguous", result.ambiguous)):
        if names:
            listed = f"{what}: {', '.join(name[:ID_SHOWN] for name in names[:5])}{'...' * (len(names) > 5)}"
            err.print(listed, style="yellow", soft_wrap=True)


def merge_manifests(
    context: typer.Context,
    manifests: Annotated[
        list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests to read.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Manifest to write.")] = Path(
        "merged.parquet"
    ),
    force: Force = False,
) -> None:
    """Write the tracks of several manifests as one.

    Its audio folder is the nearest one that contains those of all. Facts about the imports stay with their manifests.
    """
    from dataclasses import replace

    from codecdiff.data.manifest import Manifest

    with new_table(context, output, force=force, inputs=manifests) as request:
        parts = [read_manifest(file) for file in manifests]
        homes = [part.audio.resolve() for part in parts]
        audio = Path(os.path.commonpath(homes))
        rows = [
            replace(row, file=(home.relative_to(audio) / row.file).as_posix() if row.file else "")
            for home, part in zip(homes, parts, strict=True)
            for row in part.rows
        ]
        if repeated := [name for name, count in Counter(row.track for row in rows).items() if count > 1]:
            raise InvalidValue(f"{len(repeated)} tracks are in two manifests, such as '{repeated[0]}': merge others.")
        deliver(Manifest(audio, rows, {"of": [file.name for file in manifests]}), output, request, rows, [])


def write_attribution(
    manifest: Source,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")] = Path(
        "ATTRIBUTION.md"
    ),
    force: Force = False,
) -> None:
    """Write title, artist, license and source of every track."""
    from codecdiff_datasets.licenses import attribution

    rows = read_manifest(manifest).rows
    text = attribution(rows)
    is_same = output.is_file() and output.read_bytes() == text.encode()
    if output.exists() and not force and not is_same:
        raise FileExists(f"'{output}' exists already. Choose another name, or overwrite it with --force.")
    require_writable(output.parent)
    atomic_write_text(output, text)
    out.print(f"{len(rows)} tracks in {output}", soft_wrap=True)


def check_data(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A manifest, or a store of codes.", show_default=False)],
    decode: Decode = "ends",
    audio: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder of the manifest's audio.")] = None,
) -> None:
    """List every issue, with its place and how to fix it.

    Exits with status 1 if there is one.
    """
    from codecdiff_datasets.audio_check import AudioChecker
    from codecdiff_datasets.validate import validate

    issues: list[Issue] = []
    checker = AudioChecker(check_depth(decode), None if path.is_dir() else beside(path, ".audio-check.jsonl"))
    with err.status(f"Checking {path}"):
        count = validate(path, issues.append, checker, audio)
    for issue in issues:
        out.print(str(issue), soft_wrap=True)
    noun, rows = "issue" if len(issues) == 1 else "issues", "rows of the store" if path.is_dir() else "tracks"
    out.print(f"{len(issues)} {noun} in {count} {rows}.")
    if issues:
        raise typer.Exit(1)


def check_hf_options(format_name: str, audio: Path | None, columns: Columns) -> None:
    """Raise InvalidValue or MissingFile for columns, or a new folder of audio, of any format but hf."""
    if audio and format_name not in ("hf", "game-music") and not audio.is_dir():
        raise MissingFile(f"Folder '{audio}' does not exist. Leave --audio out to import without audio.")
    if format_name != "hf" and (columns.captions or columns.tags or columns.track):
        raise InvalidValue("--column, --tag-column and --id-column are for hf: other formats have fixed columns.")


def check_depth(decode: str) -> Any:
    """Return how much of files is decoded. Raises InvalidValue."""
    if decode not in ("none", "ends", "full"):
        raise InvalidValue(f"Invalid --decode {decode}: expected none, ends or full.")
    return decode


def read_manifest(file: Path) -> Manifest:
    """Read a manifest that is not empty."""
    from codecdiff.data.manifest import Manifest

    manifest = Manifest.read(file)
    if not len(manifest):
        raise InvalidValue(f"'{file}' holds no tracks.")
    return manifest


def edit(
    context: typer.Context,
    source: Path,
    output: Path,
    change: Callable[[Sequence[ManifestRow]], Sequence[ManifestRow]],
    force: bool,
    issues: Sequence[Issue] = (),
) -> None:
    """Write a manifest with other rows of the same audio folder, without the facts that were of the former ones."""
    from dataclasses import replace

    with new_table(context, output, force=force, inputs=[source]) as request:
        before = read_manifest(source)
        facts = {key: value for key, value in before.facts.items() if key in ("source", "of")}
        after = replace(before, rows=change(before.rows), facts=facts)
        deliver(after, output, request, before.rows, issues)


def deliver(manifest: Manifest, output: Path, request: str, of: Sequence[ManifestRow], issues: Sequence[Issue]) -> None:
    """Write a manifest and what belongs to it, and print what is in it.

    Raises InvalidValue if none of the rows that it comes from is left.
    """
    from codecdiff_datasets.licenses import by_license

    if not len(manifest):
        licenses = ", ".join(group.name for group in by_license(of)[:LICENSES_SHOWN])
        splits = ", ".join(sorted({row.split or "none" for row in of}))
        raise InvalidValue(
            f"None of {len(of)} tracks is left. Allow one of their licenses ({licenses}) and splits ({splits})."
        )
    write_manifest(manifest, output, request=request, issues=issues)
    show_contents(manifest, output, len(of))


def show_contents(manifest: Manifest, output: Path, of: int) -> None:
    """Print how many tracks, splits and licenses a manifest holds."""
    from codecdiff_datasets.licenses import Group, by_license

    splits = Counter(row.split for row in manifest.rows)
    counts = ", ".join(f"{count} {split or 'without split'}" for split, count in splits.most_common())
    audio = {"present": sum(row.present for row in manifest.rows)}
    audio |= {key: manifest.facts[key] for key in ("missing", "broken") if manifest.facts.get(key)}
    files = ", ".join(f"{count} {key}" for key, count in audio.items())
    total = f" of {of}" if of != len(manifest) else ""
    out.print(f"{len(manifest)}{total} tracks in {output}: {counts}. Audio: {files}.", soft_wrap=True)
    table = folded_table("license", "tracks", "hours")
    groups = by_license(manifest.rows)
    if others := groups[LICENSES_SHOWN:]:
        total = Group(f"{len(others)} others", sum(g.tracks for g in others), sum(g.hours for g in others))
        groups[LICENSES_SHOWN:] = [total]
    for group in groups:
        table.add_row(group.name, str(group.tracks), f"{group.hours:.2f}")
    out.print(table)
