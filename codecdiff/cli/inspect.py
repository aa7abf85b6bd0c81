"""`codecdiff inspect`: how a file was generated, and generating it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from codecdiff.cli.console import out
from codecdiff.cli.generate import AllowDownload, Device, generate_files, load_model
from codecdiff.errors import FileExists


def inspect_file(
    file: Annotated[Path, typer.Argument(help="Audio file that codecdiff generated.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model that generated it, to generate it again.")] = "",
    source: Annotated[Path | None, typer.Option(help="The source of an edit.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it again. Default: beside the file.")
    ] = None,
    device: Device = "",
    allow_download: AllowDownload = False,
) -> None:
    """Show how a file was generated; with --model, generate it again."""
    import soundfile
    from rich.table import Table

    from codecdiff.pipeline.provenance import GenerationRequest

    request = GenerationRequest.from_file(file)
    table = Table("field", "value")
    metadata = request.model_dump(exclude_none=True)
    metadata |= metadata.pop("generation")
    for key, value in metadata.items():
        table.add_row(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    out.print(table)
    if not model:
        return
    request.check_source(source)
    request.check_duration(soundfile.info(file).duration)
    output = output or file.with_stem(f"{file.stem}-again")
    if output.exists():
        raise FileExists(f"'{output}' exists already. Choose another name with -o, or delete it.")
    pipeline = load_model(model, allow_download, device, [output])
    request.check_model(pipeline)
    generate_files(request, pipeline, output, source)
    out.print(compare_files(file, output), soft_wrap=True)


def compare_files(first: Path, second: Path) -> str:
    """Return a sentence on whether two files hold the same samples."""
    import numpy as np
    import soundfile

    a, b = (soundfile.read(file, dtype="float32")[0] for file in (first, second))
    if a.shape == b.shape and np.array_equal(a, b):
        return f"{second} holds the same samples as {first}."
    difference = f"up to {np.abs(a - b).max():.2g}" if a.shape == b.shape else "in length"
    return f"{second} differs from {first}, {difference}: perhaps another device, or version of torch or codecdiff."
