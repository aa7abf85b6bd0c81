"""`codecdiff inspect`: show how a file was generated, and generate it again; or what a model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff.cli.console import Device, Force, Json, err, folded_table, out, output_files, print_json
from codecdiff.cli.generate import (
    Adapters,
    AllowDownload,
    AllowLocalParts,
    Controls,
    generate_files,
    load_model,
    parse_controls,
    worded,
)
from codecdiff.errors import InvalidValue

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import AnyEdit
    from codecdiff.pipeline.pipeline import Pipeline
    from codecdiff.pipeline.provenance import GenerationRequest


def inspect_file(
    file: Annotated[Path, typer.Argument(metavar="FILE|MODEL", help="Audio file that codecdiff wrote, or a model.")],
    as_json: Json = False,
    model: Annotated[str, typer.Option(help="Model that generated the file, to generate it again.")] = "",
    adapters: Adapters = None,
    source: Annotated[Path | None, typer.Option(metavar="FILE", help="Source of the edit, if the file is one.")] = None,
    controls: Controls = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="New file for --model.")] = None,
    force: Force = False,
    device: Device = "",
    allow_download: AllowDownload = False,
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Show how a file was generated, or what a model is: its parts, stages, steps, guidance and words.

    With --model, a file is also generated again, and compared.
    """
    from codecdiff.data.audio import SUFFIXES, stream_audio
    from codecdiff.pipeline.provenance import GenerationRequest

    allowed = {"allow_download": allow_download, "allow_local_parts": allow_local_parts}
    if file.is_dir() or not (file.exists() or file.suffix.lower() in SUFFIXES):
        return print_model(load_model(str(file), device or "cpu", adapters, **allowed), as_json)
    request = GenerationRequest.from_file(file)
    print_request(request, as_json)
    if not model:
        if output or source or controls or adapters:
            raise InvalidValue("To generate the file again, name its model: --model MODEL.")
        return None
    request.check_source(source)
    seconds = sum(block.shape[1] for block in stream_audio(file, 8000, 1)) / 8000  # counted: a header may lie
    request.check_duration(seconds)
    request, issue = request.with_controls(parse_controls(controls or [])).bounded(seconds)
    if issue:
        err.print(issue, style="yellow", soft_wrap=True)
    (again,) = output_files(output, file.with_stem(f"{file.stem}-again"), 1, force=force)
    pipeline = load_model(model, device, adapters, **allowed)
    request.check_model(pipeline.fingerprint, is_adapted=bool(pipeline.adapters))
    generate_files(request, pipeline, [again], source)
    return out.print(compare_files(file, again), soft_wrap=True)


def print_model(pipeline: Pipeline, as_json: bool) -> None:
    """Print name and fingerprint of a model, what it is, and the words of its captions, most frequent first."""
    words, adapters = str(pipeline.data.get("words", "")).split(), {a.name: a.weights for a in pipeline.adapters}
    if as_json:
        identity = {"model": pipeline.name, "fingerprint": pipeline.fingerprint}
        return print_json({**identity, **pipeline.describe(), "adapters": adapters, "words": words})
    out.print(f"{pipeline.name} ({pipeline.fingerprint})")
    for name, weights in adapters.items():
        out.print(f"with the adapter {name}: {', '.join(f'{stage} {w:g}' for stage, w in weights.items())}")
    out.print(repr(pipeline), soft_wrap=True)
    if words:
        out.print(f"\n{len(words):,} words in its captions, the most frequent first: {', '.join(words)}")
    return None


def print_request(request: GenerationRequest, as_json: bool) -> None:
    """Print what a request says."""
    if as_json:
        return print_json(request.model_dump(mode="json", exclude_none=True))
    table = folded_table("field", "value")
    for key, value in describe(request).items():
        table.add_row(key, value)
    return out.print(table)


def edit_line(edit: AnyEdit) -> str:
    """Return an edit with its options, as in `inpaint, from 2 to 3.5 s`."""
    options = edit.model_dump(exclude_none=True, exclude={"name"})
    if regions := options.pop("regions", None):
        options = {"from": " and ".join(f"{start:g} to {stop:g} s" for start, stop in regions), **options}
    return f"{edit.name}, {worded(options)}"


def describe(request: GenerationRequest) -> dict[str, str]:
    """Return what a request says, in the order in which a reader looks for it, without what is empty."""
    generation = request.generation
    prompt = {key: value for key, value in request.prompt.items() if value not in (None, "")}
    sampling = {
        f"{name}": f"{stage.num_inference_steps} steps of {stage.scheduler}, guidance scale "
        f"{worded(stage.guidance_scale)}"
        + "".join(
            f", {what} {' to '.join(map(worded, value)) if isinstance(value, tuple) else worded(value)}"
            for what in ("method", "rescale", "interval")
            if (value := getattr(stage, f"guidance_{what}")) is not None
        )
        for name, stage in request.stages.items()
    }
    shown = {
        "prompt": worded(prompt),
        "negative prompt": worded(generation.negative_prompt),
        "model": f"{request.model_name} ({request.model})" if request.model_name else request.model,
        **{f"adapter {adapter.name}": worded(adapter.weights) for adapter in request.adapters or ()},
        **sampling,
        "seed": str(generation.seed),
        "sample": str(generation.first_sample_index) if generation.first_sample_index else "",
        "seconds": "" if request.edit else f"{request.generation.audio_length_in_s:g}",
        "loudness": "" if request.edit or generation.loudness == "off" else f"{generation.loudness:g} LUFS",
        "quality": generation.quality or "",
        "window": f"{generation.window_in_s:g} s" if generation.window_in_s else "",
        "loop": "yes" if generation.loop else "",
        "edit": edit_line(request.edit) if request.edit else "",
        "source": request.source_name or "",
        "source (SHA-256)": request.source or "",
        "codecdiff": request.codecdiff,
    }
    return {key: value for key, value in shown.items() if value or key == "prompt"}


def compare_files(first: Path, second: Path) -> str:
    """Return a sentence on whether two files hold the same samples."""
    import numpy as np
    import soundfile

    a, b = (soundfile.read(file, dtype="float32")[0] for file in (first, second))
    if a.shape == b.shape and np.array_equal(a, b):
        return f"{second} holds the same samples as {first}."
    difference = f"up to {np.abs(a - b).max():.2g}" if a.shape == b.shape else "in length"
    return f"{second} differs from {first}, {difference}: perhaps another device, or version of torch or codecdiff."
