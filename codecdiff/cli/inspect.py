"""`codecdiff inspect`: how a file was made, and making it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import out

if TYPE_CHECKING:
    pass

from codecdiff.cli.generate import AllowDownload, Device, ready, write


def again(
    file: Annotated[Path, typer.Argument(help="Audio file that codecdiff made.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model it was made with, to make it again.")] = "",
    source: Annotated[Path | None, typer.Option(help="The recording it was made out of, if any.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it again. Default: beside it.")
    ] = None,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Show how a file was made; with --model, make it again."""
    import soundfile
    from rich.table import Table

    from codecdiff.pipeline.provenance import Request

    told = Request.of_file(file)
    table = Table("what", "value")
    for key, value in told.model_dump(exclude_none=True).items():
        table.add_row(key, printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    out.print(table)
    if not model:
        return
    told.check_source(source)
    told.check_length(soundfile.info(file).duration)
    output = output or file.with_stem(f"{file.stem}-again")
    if output.exists():
        raise FileExistsError(f"'{output}' exists already. Choose another name with -o, or delete it.")
    pipeline = ready(output, 1, model, allow_download, device)
    told.check_model(pipeline)
    write(told, pipeline, output, 1, source)
    out.print(same(file, output), soft_wrap=True)


def printable(text: str) -> str:
    """Give text in which nothing commands a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def same(one: Path, other: Path) -> str:
    """Say whether two files hold the same samples."""
    import numpy as np
    import soundfile

    a, b = (soundfile.read(file, dtype="float32")[0] for file in (one, other))
    if a.shape == b.shape and np.array_equal(a, b):
        return f"{other} holds the same samples as {one}."
    far = f"they differ by up to {np.abs(a - b).max():.2g}" if a.shape == b.shape else "they differ in length"
    return f"{other} is not the same as {one} to the last bit: {far}. Another device or version of torch may be why."
