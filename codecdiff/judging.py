"""The command that judges music: `codecdiff evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import chosen_device, err, out, progress
from codecdiff.files import require_writable

if TYPE_CHECKING:
    import torch

    from codecdiff.data.audio import Track
    from codecdiff.data.faults import Fault
    from codecdiff.data.prompts import Asked
    from codecdiff.evaluation import Maker, Reference
    from codecdiff.reports import Report

SHOWN = 10  # faults on the screen
Names = list[str] | None


def evaluate(
    judged: Annotated[
        Path | None, typer.Argument(help="Folder or manifest of the music to judge.", show_default=False)
    ] = None,
    *,
    reference: Annotated[
        Path, typer.Option(help="Folder, manifest, or .safetensors of statistics to compare with.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report, clips and cache.", show_default=False)
    ],
    suite: Annotated[str, typer.Option(help="Judges and scores: smoke, panel or paper.")] = "smoke",
    embedders: Annotated[Names, typer.Option("--embedder", help="Judge to hear by, any number.")] = None,
    scores: Annotated[Names, typer.Option("--score", help="Score to take, any number. Default: the suite's.")] = None,
    options: Annotated[
        Names, typer.Option("--set", metavar="EMBEDDER.KEY=VALUE", help="An option of an embedder; any number.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model that makes, or made, the music to judge.")] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(help="What to make: .txt, .jsonl, MusicCaps or another .csv, a manifest.", show_default=False),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Prompts, drawn at random. Default: all.")] = None,
    split: Annotated[str, typer.Option(help="Of prompts and manifests, or all. MusicCaps: test unless told.")] = "",
    seconds: Annotated[float | None, typer.Option(help="Of a clip. Default: the suite's.", show_default="10")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips and intervals.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps asked of every sampler. Default: the model's.")] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option(metavar="WEIGHT|NAME=WEIGHT", help="How strictly prompts are followed, as with generate."),
    ] = None,
    loudness: Annotated[
        float | None, typer.Option(metavar="DBFS", help="RMS level to bring clips to, as -20. Default: as they are.")
    ] = None,
    adherence: Annotated[
        bool | None,
        typer.Option("--adherence/--no-adherence", help="Hear tempo, key, instruments. Default: where asked for."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to remember what was heard in.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Add the scores to the model's card.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch what a suite, or the model, names and is not here.")
    ] = False,
) -> None:
    """Judge music, or what a model makes, against other music: scores with intervals and what to read them by.

    Run it again to go on where it was interrupted.
    """
    from codecdiff import evaluation, suites
    from codecdiff.diffusion.guidance import parse_guidance_scale
    from codecdiff.listeners import Cutting

    chosen = suites.suite_named(suite)
    wanted = chosen.wanted(embedders or (), scores or ())
    if judged is None and model and prompts is None:
        raise ValueError("--model makes music of --prompts LIST: a .txt, .jsonl or .csv file, or a manifest.")
    if (judged is None) == (prompts is None) or (prompts and not model):
        raise ValueError("Say what to judge: music, or else what to make it of: --model MODEL --prompts LIST.")
    if card and not Path(model, "codecdiff.json").is_file():
        raise ValueError("--card needs --model with a model folder, whose README.md takes the scores.")
    require_writable(output)
    place = evaluation.Place(
        output / "clips", cache or output / "cache", Cutting(seconds or chosen.seconds, loudness), progress
    )
    against = reference_of(reference, split)
    music = asked_of(prompts, split, n, seed) if prompts else tracks_of(judged or Path(), split)
    told = {
        "list of prompts": prompts.name if prompts else "",
        "reference split": split_of(reference, split),
        "judged split": split_of(prompts or judged, split),
    }
    where = chosen_device(device)
    sampling = {"seed": seed, "steps": steps, "guidance": parse_guidance_scale(guidance or [])}
    maker = maker_of(model, allow_download, where, **sampling) if model else None
    judges, absent = evaluation.find_judges(
        wanted,
        by_embedder(options or []),
        pipeline=maker and maker.pipeline,
        required=bool(embedders),
        allow_download=allow_download,
    )
    for judge in judges:
        judge.embedder.to(where)
    result = evaluation.evaluate(
        judges,
        against,
        music,
        place,
        name=maker.name if maker else str(judged and judged.name),
        maker=maker,
        adherence=adherence,
        seed=seed,
        facts={"suite": suite, **{name: value for name, value in told.items() if value}},
        absent=absent,
    )
    for line in result.faults:
        err.print(f"Skipped: {line}", style="yellow", soft_wrap=True)
    result.report.write(output)
    if card:
        from codecdiff.pipeline.model_card import add_model_index

        add_model_index(model, result.report.model_index())
    show(result.report)
    for line in result.left_out:
        err.print(line, style="yellow", soft_wrap=True)
    out.print(f"Written: report.md and report.json in {output}", soft_wrap=True)


def reference_of(path: Path, split: str) -> Reference:
    """Give the music, or the statistics of music, that a path names."""
    from codecdiff.embedded import Statistics
    from codecdiff.evaluation import Reference

    if path.suffix == ".safetensors":
        return Reference(path.stem, statistics=Statistics.load(path))
    return Reference(path.resolve().stem if path.is_file() else path.resolve().name, tracks_of(path, split))


def split_of(path: Path | None, split: str) -> str:
    """Give the split that is taken of prompts or music, empty for what has none, as folders and lines of text."""
    from codecdiff.data.manifests import Manifest
    from codecdiff.data.prompts import EVALUATION, usual_split
    from codecdiff.data.sources import musiccaps
    from codecdiff.data.tables import header_of

    if path is not None and path.suffix == ".parquet":
        manifest = Manifest.read(path)
        return (split or usual_split(manifest)) if any(each.split for each in manifest.recordings) else ""
    is_table = path is not None and path.suffix in (".csv", ".tsv") and musiccaps.is_table(header_of(path))
    return (split or EVALUATION) if is_table else ""


def tracks_of(path: Path, split: str) -> list[Track]:
    """Find the recordings of a folder, or of a split of a manifest, and say how many of the latter have no audio.

    A manifest that names no splits is taken whole, as a folder is.
    """
    from codecdiff.data.audio import find_tracks
    from codecdiff.data.manifests import Manifest
    from codecdiff.data.prompts import ALL, of_split

    if not path.exists():
        raise FileNotFoundError(f"There is no folder and no manifest '{path}' of music to hear.")
    if path.suffix != ".parquet":
        return find_tracks(path)
    manifest = Manifest.read(path)
    manifest = replace(manifest, recordings=of_split(manifest.recordings, split_of(path, split) or ALL))
    tracks = manifest.tracks()
    if missing := len(manifest) - len(tracks):
        err.print(f"{missing} of {len(manifest)} recordings of {path} have no audio here.", style="yellow")
    if not tracks:
        raise FileNotFoundError(f"'{path}' names no audio that is there, and judges have to hear it.")
    return tracks


def asked_of(file: Path, split: str, count: int | None, seed: int) -> list[Asked]:
    """Read a list of prompts and draw as many as asked for; what cannot be asked is said."""
    from codecdiff.data.prompts import drawn, read_prompts

    faults: list[Fault] = []
    prompts = read_prompts(file, faults.append, split=split)
    for fault in faults[:SHOWN]:
        err.print(f"Skipped: {fault}", style="yellow", soft_wrap=True)
    if len(faults) > SHOWN:
        err.print(f"... and {len(faults) - SHOWN} more of {file}", style="yellow", soft_wrap=True)
    return drawn(prompts, count, seed)


def maker_of(model: str, allow_download: bool, device: torch.device, **sampling: Any) -> Maker:
    """Load a model, and name it by its folder's name or its id."""
    from codecdiff.evaluation import Maker
    from codecdiff.pipeline.hub import load

    with err.status(f"Loading {model}"):
        pipeline = load(model, allow_download=allow_download).to(device)
    folder = Path(model)
    parts = [part for part in folder.resolve().parts[-2:] if part != "/"]
    return Maker("/".join(parts) if folder.exists() else model, pipeline, **sampling)


def by_embedder(options: Sequence[str]) -> dict[str, list[str]]:
    """Sort `embedder.option=value` words by embedder. Raises ValueError for words of another form."""
    sorted_: dict[str, list[str]] = {}
    for word in options:
        name, dot, rest = word.partition(".")
        if not dot or "=" not in rest:
            raise ValueError(f"'{word}' sets no option. Write EMBEDDER.KEY=VALUE, as in clap-music.model=FOLDER.")
        sorted_.setdefault(name, []).append(rest)
    return sorted_


def show(report: Report) -> None:
    """Print the scores, each beside what it is read against."""
    from rich.table import Table

    from codecdiff.reports import ARROWS, CONTEXT, NotMeasured

    table = Table("judge", "score", "value", "95 % interval", *(name.replace("_", " ") for name in CONTEXT))
    for result in report.results:
        score = result.score
        context = ["-" if isinstance(each, NotMeasured) else f"{each.value:.4g}" for _, each in result.context.items()]
        table.add_row(
            str(score.protocol.hearing.embedder["name"]),
            f"{score.name} {ARROWS[score.better]}",
            f"{score.value:.4g}",
            f"{score.interval.low:.4g} to {score.interval.high:.4g}",
            *context,
        )
    out.print(table)
    warnings = dict.fromkeys(f"{r.score.name}: {warning}" for r in report.results for warning in r.score.warnings)
    for warning in warnings:
        err.print(warning, style="yellow", soft_wrap=True)
