"""The commands `codecdiff evaluate` and `codecdiff compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecdiff.cli.console import err, out, progress, select_device
from codecdiff.files import require_writable

if TYPE_CHECKING:
    import torch

    from codecdiff.data.metadata import Issue, Track
    from codecdiff_eval.evaluator import ReferenceMusic
    from codecdiff_eval.generation import Generator
    from codecdiff_eval.prompts import EvalPrompt
    from codecdiff_eval.results import EvalReport

SHOWN = 10  # bad rows on the screen
Names = list[str] | None


def evaluate(
    music: Annotated[
        Path | None, typer.Argument(help="Folder or manifest of the music to evaluate.", show_default=False)
    ] = None,
    *,
    reference: Annotated[
        Path, typer.Option(help="Folder, manifest, or .safetensors of statistics to compare with.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report, clips and cache.", show_default=False)
    ],
    suite: Annotated[str, typer.Option(help="Embedders and metrics: smoke, panel, paper, or a plugin's.")] = "smoke",
    embedders: Annotated[Names, typer.Option("--embedder", help="Embedder to use, any number.")] = None,
    metrics: Annotated[
        Names, typer.Option("--metric", "--score", help="Metric to measure, any number. Default: the suite's.")
    ] = None,
    options: Annotated[
        Names, typer.Option("--set", metavar="EMBEDDER.KEY=VALUE", help="An option of an embedder; any number.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model that generates, or generated, the music.")] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(help="What to generate: .txt, .jsonl, MusicCaps or another .csv, a manifest.", show_default=False),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Prompts, drawn at random. Default: all.")] = None,
    split: Annotated[str, typer.Option(help="Of prompts and manifests, or all. Default: of MusicCaps, test.")] = "",
    seconds: Annotated[float | None, typer.Option(help="Of a clip. Default: the suite's.", show_default="10")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips and intervals.")] = 0,
    steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Of every stage. Default: the model's.")
    ] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option(
            "--guidance-scale",
            "--guidance",
            metavar="WEIGHT|NAME=WEIGHT",
            help="As with generate. Default: the model's.",
        ),
    ] = None,
    loudness: Annotated[
        float | None, typer.Option(metavar="DBFS", help="RMS level to scale clips to, as -20. Default: unchanged.")
    ] = None,
    adherence: Annotated[
        bool | None,
        typer.Option("--adherence/--no-adherence", help="Measure tempo, key, instruments. Default: where requested."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep embeddings in.")] = None,
    model_card: Annotated[
        bool, typer.Option("--model-card", "--card", help="Add the results to the model card of the model.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Download what a suite, or the model, names and is not here.")
    ] = False,
) -> None:
    """Evaluate music, or what a model generates, against other music: metrics with intervals and their context.

    Run it again to resume where it was interrupted.
    """
    from codecdiff.diffusion import parse_guidance_scale
    from codecdiff_eval.embeddings import ClipCutter
    from codecdiff_eval.evaluation_report import add_model_index, model_index, write_evaluation
    from codecdiff_eval.evaluator import EvalConfig, Evaluator, build_embedders
    from codecdiff_eval.prompts import split_of
    from codecdiff_eval.suites import load_suite

    loaded_suite = load_suite(suite)
    selected = loaded_suite.select(embedders or (), metrics or ())
    _check_arguments(music, model, prompts, model_card)
    require_writable(output)
    config = EvalConfig(selected, ClipCutter(seconds or loaded_suite.seconds, loudness), adherence, seed)
    against = read_reference(reference, split)
    inputs = read_inputs(prompts, split, n, seed) if prompts else read_tracks(music or Path(), split)
    where = select_device(device)
    sampling = {"seed": seed, "steps": steps, "guidance": parse_guidance_scale(guidance or [])}
    generator = load_generator(model, allow_download, where, **sampling) if model else None
    built, left_out = build_embedders(
        list(selected),
        options_by_embedder(options or []),
        pipeline=generator and generator.pipeline,
        required=bool(embedders),
        allow_download=allow_download,
    )
    built = {name: embedder.to(where) for name, embedder in built.items()}
    folders = output / "clips", cache or output / "cache"
    evaluator = Evaluator(config, built, against, *folders, progress, generator, left_out=left_out)
    facts = {
        "suite": suite,
        "list of prompts": prompts.name if prompts else "",
        "reference split": split_of(reference, split),
        "evaluated split": split_of(prompts or music, split),
    }
    name = generator.name if generator else str(music and music.name)
    result = evaluator.evaluate(inputs, name, {key: value for key, value in facts.items() if value})
    warn(f"Skipped: {line}" for line in result.skipped)
    write_evaluation(result.report, output)
    if model_card:
        add_model_index(model, model_index(result.report))
    show(result.report)
    warn(result.left_out)
    out.print(f"Written: index.html, report.md and report.json in {output}", soft_wrap=True)


def _check_arguments(music: Path | None, model: str, prompts: Path | None, model_card: bool) -> None:
    """Raise ValueError unless it is clear what to evaluate, and whose model card to write."""
    if music is None and model and prompts is None:
        raise ValueError("--model generates music from --prompts LIST: a .txt, .jsonl or .csv file, or a manifest.")
    if (music is None) == (prompts is None) or (prompts and not model):
        raise ValueError("Specify what to evaluate: music, or else what to generate: --model MODEL --prompts LIST.")
    if model_card and not Path(model, "codecdiff.json").is_file():
        raise ValueError("--model-card needs --model with a model folder, to whose README.md the results are added.")


def read_reference(path: Path, split: str) -> ReferenceMusic:
    """Return the music, or the statistics of music, that a path names."""
    from codecdiff_eval.embeddings import ReferenceStats
    from codecdiff_eval.evaluator import ReferenceMusic

    if path.suffix == ".safetensors":
        return ReferenceMusic(path.stem, statistics=ReferenceStats.load(path))
    return ReferenceMusic(path.resolve().stem if path.is_file() else path.resolve().name, read_tracks(path, split))


def read_tracks(path: Path, split: str) -> list[Track]:
    """Find the tracks of a folder, or of a split of a manifest, and say how many of the latter have no audio.

    A manifest that names no splits is taken whole, as a folder is.
    """
    from codecdiff.data.manifest import Manifest
    from codecdiff.data.metadata import find_tracks
    from codecdiff_eval.prompts import ALL, select_split, split_of

    if not path.exists():
        raise FileNotFoundError(f"'{path}' is neither a folder nor a manifest of music.")
    if path.suffix != ".parquet":
        return find_tracks(path)
    manifest = Manifest.read(path)
    selected = select_split(manifest.rows, split_of(path, split) or ALL, lambda track: track.split)
    tracks = replace(manifest, rows=selected).tracks()
    if missing := len(selected) - len(tracks):
        warn([f"{missing} of {len(selected)} tracks of {path} have no audio here."])
    if not tracks:
        raise FileNotFoundError(f"'{path}' names no audio that is here to be evaluated.")
    return tracks


def read_inputs(file: Path, split: str, count: int | None, seed: int) -> list[EvalPrompt]:
    """Read a list of prompts and draw as many as requested; bad rows are printed."""
    from codecdiff_eval.prompts import read_prompts, sample_prompts

    bad: list[Issue] = []
    prompts = read_prompts(file, bad.append, split=split)
    warn(f"Skipped: {row}" for row in bad[:SHOWN])
    if len(bad) > SHOWN:
        warn([f"... and {len(bad) - SHOWN} more of {file}"])
    return sample_prompts(prompts, count, seed)


def load_generator(model: str, allow_download: bool, device: torch.device, **sampling: Any) -> Generator:
    """Load a model, and name it by its folder's name or its id."""
    from codecdiff.pipeline import load
    from codecdiff_eval.generation import Generator

    with err.status(f"Loading {model}"):
        pipeline = load(model, allow_download=allow_download).to(device)
    folder = Path(model)
    parts = [part for part in folder.resolve().parts[-2:] if part != "/"]
    return Generator(pipeline, "/".join(parts) if folder.exists() else model, **sampling)


def options_by_embedder(options: Sequence[str]) -> dict[str, list[str]]:
    """Sort `embedder.option=value` words by embedder. Raises ValueError for words of another form."""
    by_embedder: dict[str, list[str]] = {}
    for word in options:
        name, dot, setting = word.partition(".")
        if not dot or "=" not in setting:
            raise ValueError(f"'{word}' sets no option: expected EMBEDDER.KEY=VALUE, as in clap-music.model=FOLDER.")
        by_embedder.setdefault(name, []).append(setting)
    return by_embedder


def show(report: EvalReport) -> None:
    """Print the metrics, each beside what it is read against, and their warnings."""
    from codecdiff_eval.evaluation_report import metrics_table
    from codecdiff_eval.report import console_table

    out.print(console_table(metrics_table(report.rows)))
    warn(dict.fromkeys(f"{row.result.name}: {line}" for row in report.rows for line in row.result.warnings))


def warn(lines: Any) -> None:
    """Print lines in yellow."""
    for line in lines:
        err.print(line, style="yellow", soft_wrap=True)


def compare(
    file: Annotated[Path, typer.Argument(help="YAML file of what to compare.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override those of the file.")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models, clips and the report.")],
    plan: Annotated[bool, typer.Option("--plan", help="Print the costs of every variant, and stop.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute, as in 'cuda:1'. Default: a GPU if any.")] = "",
) -> None:
    """Train variants of one experiment at an equal budget of FLOPs, and compare what they generate in one report.

    Run it again to resume where it was interrupted, or in several terminals at once: they share the runs.
    """
    import shlex
    import sys

    from codecdiff import config
    from codecdiff_eval.compare.budget import cost_table, make_variants
    from codecdiff_eval.compare.config import CompareConfig
    from codecdiff_eval.compare.experiment import Experiment
    from codecdiff_eval.report import console_table
    from codecdiff_eval.report.numbers import format_count

    comparison = config.load_config(CompareConfig, file, overrides or [])
    if not plan:
        require_writable(output)
    variants = make_variants(comparison)
    out.print(console_table(cost_table(variants)))
    flops = len(comparison.seeds) * sum(variant.training_flops for variant in variants)
    seconds = f"A clip lasts {comparison.evaluation.seconds:g} seconds."
    out.print(
        f"{len(variants)} variants × {len(comparison.seeds)} seeds: {format_count(flops)}FLOPs of training. {seconds}",
        soft_wrap=True,
    )
    if not plan:
        experiment = Experiment(comparison, variants, output, select_device(device), log)
        report = experiment.run(shlex.join(["codecdiff", *sys.argv[1:]]))
        out.print(f"{report}: open it in a browser", soft_wrap=True)


def log(line: str) -> None:
    """Print a line of progress with the time."""
    from datetime import datetime

    err.print(f"{datetime.now():%H:%M:%S} {line}", soft_wrap=True)
