"""The command `codecdiff listen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from codecdiff.cli.console import Force, err, out
from codecdiff.errors import FileExists, InvalidValue, MissingFile
from codecdiff.files import require_writable


def listening_test(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders to compare; with --analyze, the files of votes.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Page to write, or folder for it; with --analyze, folder of the report."),
    ] = None,
    mode: Annotated[
        Literal["ab", "mushra"],
        typer.Option(metavar="MODE", help="ab: prefer one of two clips; mushra: score all of an item, 0 to 100."),
    ] = "ab",
    reference: Annotated[
        Path | None, typer.Option(help="Folder of the music that mushra rates against.", show_default=False)
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Items, drawn at random. Default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the items that are drawn, and of intervals.")] = 0,
    loudness: Annotated[float, typer.Option(metavar="LUFS", min=-40, max=-5, help="Of all clips.")] = -23.0,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Listening test",
    analyze: Annotated[bool, typer.Option("--analyze", help="Analyze files of votes instead.")] = False,
    force: Force = False,
) -> None:
    """Write a blind listening test of what models generated, or analyze its votes.

    The page is one file that works offline. Each rater opens it, votes, and sends back the file that it exports.
    """
    if analyze:
        _analyze(folders, output, seed)
    else:
        _write(folders, reference, output, n, seed, force=force, mode=mode, loudness=loudness, title=title)


def _write(
    folders: list[Path],
    reference: Path | None,
    output: Path | None,
    n: int | None,
    seed: int,
    *,
    force: bool,
    **options: Any,
) -> None:
    """Write the page of a test with these options, and print how long it is."""
    from codecdiff_eval.listening.builder import ListeningTest
    from codecdiff_eval.listening.systems import System, read_systems

    if output is None:
        raise InvalidValue("Name the page to write: -o PAGE, as in -o test.html.")
    file = output if output.suffix == ".html" else output / "index.html"
    require_writable(file.parent)
    if file.exists() and not force:
        raise FileExists(f"'{file}' exists already. Choose another name with -o, or overwrite it with --force.")
    systems, compared = read_systems(folders)
    if reference:
        if options["mode"] == "ab":
            raise InvalidValue("A test of pairs has no reference: leave --reference out, or choose --mode mushra.")
        variants, evaluated_on = read_systems([reference])
        compared = evaluated_on or System("reference", variants[0].clips)
    test = ListeningTest(systems=systems, reference=compared, **options)
    items = test.items(n, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    test.write(file, items)
    pairs = len(systems) * (len(systems) - 1) // 2
    rounds, size = len(items) * (pairs if test.mode == "ab" else 1), file.stat().st_size / 1e6
    out.print(f"{file}: {len(items)} items, {rounds} rounds, {size:.1f} MB. Open it in a browser.", soft_wrap=True)


def _analyze(files: list[Path], output: Path | None, seed: int) -> None:
    """Print what votes say, and write it as a report if a folder is named."""
    from codecdiff_eval.listening.votes import VoteAnalysis, read_votes
    from codecdiff_eval.report import console_table, write_report

    if missing := [file for file in files if not file.is_file()]:
        raise MissingFile(f"File of votes '{missing[0]}' does not exist.")
    analysis = VoteAnalysis(read_votes(files), seed)
    for table in (analysis.overall_table(), analysis.table("rater"), analysis.table("item")):
        out.print(console_table(table))
    for line in analysis.warnings():
        err.print(line, style="yellow", soft_wrap=True)
    if output:
        require_writable(output)
        write_report(analysis.report(), output, analysis.to_json())
        out.print(f"Written: index.html, report.md and report.json in {output}", soft_wrap=True)
