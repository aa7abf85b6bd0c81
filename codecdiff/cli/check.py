"""`codecdiff check`: run the checks of an installed part."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import Options, err, folded_table, out
from codecdiff.errors import InvalidValue
from codecdiff.registry import singular

if TYPE_CHECKING:
    from codecdiff.interfaces import Prompt
    from codecdiff.testing import Result

STYLES = {"failed": "red", "expected failure": "yellow", "not applicable": "dim"}


def check(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Part to check, as `codecdiff plugins` lists it.", show_default=False)
    ] = "",
    kind: Annotated[str, typer.Option(help="Its kind, as in codecs, where several kinds have one of this name.")] = "",
    options: Options = None,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Longest clip, for a codec.")] = 10.0,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompts of a conditioner (.jsonl).")] = None,
    full: Annotated[bool, typer.Option("--full", help="Check the part at its default size, not a small one.")] = False,
) -> None:
    """Run the conformance checks of a part.

    The exit status is 1 if one fails.
    """
    from codecdiff.testing.runner import start_checks

    if not name:
        raise InvalidValue("Name a part to check, as in `codecdiff check parallel`. `codecdiff plugins` lists them.")
    with TemporaryDirectory() as folder:
        with err.status(f"Building {name}"):
            request, run = start_checks(
                name,
                kind=kind,
                assignments=options or [],
                seconds=seconds,
                prompts=prompts_of(prompts) if prompts else [],
                folder=Path(folder),
                full=full,
            )
        out.print(f"The {singular(request.kind)} '{name}'{''.join(f'; {note}' for note in run.notes)}.")
        results = []
        with err.status("Running its checks") as status:
            for result in run.results:
                results.append(result)
                status.update(f"Checked {result.check.name}")
    print_results(results)
    failed = [result for result in results if result.state == "failed"]
    print_causes(name, failed, debug=context.find_root().params.get("debug", False))
    if failed:
        raise typer.Exit(1)


def prompts_of(file: Path) -> list[Prompt]:
    """Read prompts, a string or a mapping of fields on each line. Raises InvalidValue with the first invalid line."""
    from codecdiff.files import BadDocument, parse_json, read_bytes

    prompts = []
    for number, line in enumerate(read_bytes(file).splitlines(), 1):
        try:
            prompts.append(parse_json(line, f"'{file}' line {number}", str | dict[str, Any]))
        except BadDocument as error:
            what = f"'{file}' line {number} is not a prompt: expected a string or an object in JSON."
            raise InvalidValue(what) from error
    if len(prompts) < 2:
        raise InvalidValue(f"'{file}' has {len(prompts)} prompts: expected at least two.")
    return prompts


def print_results(results: list[Result]) -> None:
    """Print a row for each check, with its text where it fails, and how many pass; an error that repeats, once."""
    table = folded_table("check", "", "s", "note")
    first: dict[str, str] = {}
    for result in results:
        note = f"{result.note}\nExpected: {result.check.text}" if result.state == "failed" else result.note
        error = re.sub(r"\d+", "0", result.note) if result.note.startswith("raised ") else result.note
        if result.state == "failed" and (name := first.setdefault(error, result.check.name)) != result.check.name:
            note = f"the same error as in {name}"
        style = STYLES.get(result.state)
        table.add_row(result.check.name, result.state, f"{result.seconds:.1f}", note, style=style)
    out.print(table)
    counts = Counter(result.state for result in results)
    expected = counts["expected failure"]
    parts = [f"{counts['passed']} passed", f"{counts['failed']} failed"]
    parts += [f"{expected} expected failure{'s' * (expected != 1)}"] * bool(expected)
    parts += [f"{counts['not applicable']} not applicable"] * bool(counts["not applicable"])
    out.print(f"{', '.join(parts)}.")


def print_causes(name: str, failed: Sequence[Result], *, debug: bool) -> None:
    """Print the tracebacks of checks that failed, or how to see those of errors that the part raised."""
    from codecdiff.testing.runner import DEBUG

    if debug:
        for cause in (result.cause for result in failed if result.cause):
            err.print("".join(traceback.format_exception(cause)), soft_wrap=True)
    elif any(result.cause and not isinstance(result.cause, AssertionError) for result in failed):
        out.print(DEBUG.format(name=name))
