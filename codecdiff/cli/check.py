"""The command that tries a part's laws: `codecdiff check`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import err, out

if TYPE_CHECKING:
    from codecdiff.interfaces import Prompt
    from codecdiff.testing import Result

STYLES = {"broken": "red", "exception": "yellow", "does not apply": "dim"}


def check(
    name: Annotated[str, typer.Argument(help="Part to check, as `codecdiff plugins` lists it.", show_default=False)],
    kind: Annotated[str, typer.Option(help="Its kind, where several have one of this name: codecs...")] = "",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the part; any number.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest clip that a codec is tried on.")] = 10.0,
    prompts: Annotated[
        Path | None,
        typer.Option(help="For a conditioner: .jsonl, a prompt a line, two at least.", show_default=False),
    ] = None,
) -> None:
    """Try every law of a part, and tell which hold. Status 1 if one is broken."""
    from codecdiff.testing.runner import examination

    with TemporaryDirectory() as folder:
        with err.status(f"Building {name}"):
            examined = examination(
                name,
                kind=kind,
                assignments=options or [],
                seconds=seconds,
                prompts=prompts_of(prompts) if prompts else [],
                folder=Path(folder),
            )
        out.print(f"The {examined.kind[:-1]} '{name}'{''.join(f'; {note}' for note in examined.notes)}.")
        results = []
        with err.status("Trying its laws") as status:
            for result in examined.results:
                results.append(result)
                status.update(f"Tried {result.law.name}")
    show(results)
    if any(result.state == "broken" for result in results):
        raise typer.Exit(1)


def prompts_of(file: Path) -> list[Prompt]:
    """Read prompts, a string or a mapping of fields on each line. Raises ValueError with the line that is none."""
    import json

    prompts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            prompt = json.loads(line)
        except json.JSONDecodeError:
            prompt = None
        if not isinstance(prompt, str | dict):
            raise ValueError(f"'{file}' line {number} is no prompt: write a string or an object of fields in JSON.")
        prompts.append(prompt)
    if len(prompts) < 2:
        raise ValueError(f"'{file}' has {len(prompts)} prompts; a conditioner is tried with two at least.")
    return prompts


def show(results: list[Result]) -> None:
    """Print a row for each law, with what it asks where it is broken, and how many are kept."""
    from rich.table import Table

    table = Table("law", "", "s", "note")
    for result in results:
        style = STYLES.get(result.state)
        asked = f"{result.note}\nAsked: {result.law.text}" if result.state == "broken" else result.note
        table.add_row(result.law.name, result.state, f"{result.seconds:.1f}", asked, style=style)
    out.print(table)
    counts = {state: sum(result.state == state for result in results) for state in ("kept", "broken", "exception")}
    broken, excepted = counts["broken"], counts["exception"]
    declared = f", {excepted} declared exception{'s' * (excepted != 1)}" if excepted else ""
    beside = len(results) - sum(counts.values())
    verb = "does" if beside == 1 else "do"
    out.print(f"{counts['kept']} kept, {broken} broken{declared}{f', {beside} {verb} not apply' if beside else ''}.")
