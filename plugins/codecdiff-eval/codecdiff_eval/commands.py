"""The commands `codecdiff evaluate`, `compare`, `audit` and `listen`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from codecdiff.cli.console import TIME, Force, err, out, progress, select_device
from codecdiff.errors import InvalidValue, UnknownName

if TYPE_CHECKING:
    from codecdiff.data import CodeStore
    from codecdiff.pipeline import Pipeline
    from codecdiff_eval.audit import AuditResult
    from codecdiff_eval.eval_sets import EvalSets
    from codecdiff_eval.evaluator import Evaluator
    from codecdiff_eval.results import EvalReport

Names = list[str] | None
Split = Annotated[str, typer.Option(help="Split of prompts and manifests, or all. Default: test for MusicCaps.")]
Music = Annotated[Path | None, typer.Argument(help="Folder or manifest of the music to evaluate.", show_default=False)]
ReferencePath = Annotated[
    Path, typer.Option(help="Reference: folder, manifest, or .safetensors of an earlier report.", show_default=False)
]
ReportFolder = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write. Default: one in runs.")]
SuiteName = Annotated[str, typer.Option(help="Embedders and metrics: smoke, panel, paper or one of a plugin.")]
Embedders = Annotated[Names, typer.Option("--embedder", help="Embedder to use; repeatable. Default: the suite's.")]
Metrics = Annotated[Names, typer.Option("--metric", "--score", help="Metric to compute; repeatable.")]
Options = Annotated[Names, typer.Option("--set", metavar="EMBEDDER.KEY=VALUE", help="Embedder option; repeatable.")]
ModelName = Annotated[str, typer.Option(help="Model to generate with, or that generated MUSIC.")]
Prompts = Annotated[Path | None, typer.Option(help="Prompts to generate from: .txt, .jsonl, .csv or a manifest.")]
Count = Annotated[int | None, typer.Option("--n", min=1, help="Number of prompts to draw at random. Default: all.")]
Seconds = Annotated[float | None, typer.Option(**TIME, help="Duration of a clip. Default: the suite's, 10.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed results in the same clips and intervals.")]
Steps = Annotated[int | None, typer.Option("--num-inference-steps", "--steps", help="Sampling steps of every stage.")]
GuidanceScale = Annotated[
    Names, typer.Option("--guidance-scale", "--guidance", metavar="NUMBER|KEY=NUMBER", help="As in `generate`.")
]
Loudness = Annotated[
    float | None, typer.Option(metavar="DBFS", help="RMS level to scale clips to, as in -20. Default: unchanged.")
]
Adherence = Annotated[
    bool | None, typer.Option(help="Measure all or no metrics of prompts, as of tempo. Default: if prompts name them.")
]
Adapters = Annotated[
    Names, typer.Option("--adapter", metavar="FOLDER", help="Adapter of the model, as with generate; any number.")
]
Cache = Annotated[Path | None, typer.Option(help="Folder of cached embeddings. Default: cache in the output folder.")]
ModelCard = Annotated[bool, typer.Option("--model-card", "--card", help="Add the results to the model card.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]
EngineName = Annotated[str, typer.Option(help="Where to generate: local, this process, or ray, a cluster.")]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes of the engine. Default: up to one per core or GPU.")
]
Device = Annotated[str, typer.Option(help="Device to compute on, as in cuda:1. Default: a GPU if there is one.")]
AllowDownload = Annotated[bool, typer.Option("--allow-download", help="Download weights that are missing.")]
AllowLocalParts = Annotated[
    bool, typer.Option("--allow-local-parts", help="Use files outside of the model's folder that it names.")
]


def evaluate(
    reference: ReferencePath,
    music: Music = None,
    output: ReportFolder = None,
    suite: SuiteName = "smoke",
    embedders: Embedders = None,
    metrics: Metrics = None,
    options: Options = None,
    model: ModelName = "",
    prompts: Prompts = None,
    n: Count = None,
    split: Split = "",
    seconds: Seconds = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    loudness: Loudness = None,
    adherence: Adherence = None,
    adapters: Adapters = None,
    cache: Cache = None,
    model_card: ModelCard = False,
    as_json: AsJson = False,
    force: Force = False,
    engine: EngineName = "local",
    workers: WorkerCount = None,
    device: Device = "",
    allow_download: AllowDownload = False,
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Measure generated music against reference music, with confidence intervals.

    Run it again to resume where it was interrupted.
    """
    from codecdiff_eval import evaluator, inputs

    output, card = _check_arguments(music, model, prompts, model_card, output, force, n, [steps, guidance, adapters])
    plan = inputs.new_eval_config(suite, embedders or [], metrics or [], seconds, loudness, adherence, seed)
    against, tracks, facts = inputs.read_music(suite, reference, prompts, music, split, n, seed)
    cluster, device = inputs.load_engine(engine, device, workers)
    allowed = {"allow_download": allow_download, "allow_local_parts": allow_local_parts}
    generator = inputs.load_generator(model, device, allowed, seed, steps, guidance, adapters, cluster)
    built, left_out = inputs.build_embedders(plan.metrics, options, generator, device, bool(embedders), allow_download)
    job = evaluator.Evaluator(plan, built, against, output, cache or output / "cache", progress, generator, left_out)
    write_evaluated(job, *job.evaluate(tracks, str(music and music.name), facts), output, card, as_json)


def _check_arguments(
    music: Path | None,
    model: str,
    prompts: Path | None,
    model_card: bool,
    output: Path | None,
    force: bool,
    n: int | None = None,
    sampling: Sequence[Any] = (),
) -> tuple[Path, str]:
    """Return the folder to write, and the model whose card to add to, if any.

    Raises InvalidValue unless it is clear what to evaluate, FileExists if another command wrote the page in the folder.
    """
    from codecdiff.pipeline import MODEL_FILE
    from codecdiff_eval.evaluation_report import KICKER
    from codecdiff_eval.report import require_own_report

    if music and any((each / MODEL_FILE).is_file() for each in (music, music / "model")):
        raise InvalidValue(f"'{music}' is a trained model: use --model {music}, with --prompts LIST to generate from.")
    if any(sampling) and not model:
        raise InvalidValue("--adapter, --guidance-scale and --num-inference-steps need --model.")
    if music is None and model and prompts is None:
        raise InvalidValue("--model generates music from --prompts LIST: a .txt, .jsonl or .csv file, or a manifest.")
    if (music is None) == (prompts is None) or (prompts and not model):
        raise InvalidValue("Specify what to evaluate: music, or else what to generate: --model MODEL --prompts LIST.")
    if n and not prompts:
        raise InvalidValue("--n is the number of prompts to generate from: it needs --model and --prompts.")
    if model_card and not Path(model, MODEL_FILE).is_file():
        raise InvalidValue("--model-card needs --model with a model folder, to whose README.md the results are added.")
    folder = output or Path("runs", f"report-{Path(music or model).resolve().name}")
    require_own_report(folder / "index.html", KICKER, force)
    return folder, model if model_card else ""


def write_evaluated(
    evaluator: Evaluator, report: EvalReport, sets: EvalSets[Any], output: Path, model: str, as_json: bool
) -> None:
    """Write the report, add it to the card of a model if there is one, and print its metrics and warnings."""
    from codecdiff_eval.evaluation_report import (
        add_model_index,
        console_metrics,
        model_index,
        warnings_of,
        write_evaluation,
    )
    from codecdiff_eval.inputs import warn
    from codecdiff_eval.report import console_table

    warn(f"Skipped: {line}" for line in evaluator.skipped)
    write_evaluation(report, output, sets)
    if model:
        add_model_index(model, model_index(report))
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        out.print(report.title, soft_wrap=True)
        out.print(console_table(console_metrics(report.rows)))
    warn(warnings_of(report.rows))
    warn(evaluator.left_out)
    (err if as_json else out).print(f"Written: index.html, report.md and report.json in {output}", soft_wrap=True)


def compare(
    config: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Installed configuration, or YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override those of the file.")
    ] = None,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write. Default: runs/FILE.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the costs of every variant, and stop.")] = False,
    force: Force = False,
    engine: EngineName = "local",
    workers: WorkerCount = None,
    device: Device = "",
) -> None:
    """Train variants of one experiment at an equal budget of FLOPs, and compare what they generate in one report.

    Run it again to resume where it was interrupted, or in several terminals at once: they share the runs.
    """
    from codecdiff.config import load_config
    from codecdiff_eval.compare.budget import cost_table, describe_costs, make_variants, sampling_warnings
    from codecdiff_eval.compare.config import CompareConfig
    from codecdiff_eval.compare.experiment import Experiment
    from codecdiff_eval.compare.report import KICKER
    from codecdiff_eval.compare.runs import require_music
    from codecdiff_eval.inputs import load_engine, warn
    from codecdiff_eval.report import console_table, require_own_report

    file, (cluster, device) = _comparison_file(config), load_engine(engine, device, workers)
    output = output or Path("runs", file.stem)
    comparison = load_config(CompareConfig, file, overrides or [])
    if not plan:
        require_own_report(output / "index.html", KICKER, force)
    variants = make_variants(comparison)
    if not plan:
        require_music(variants, comparison.evaluation.probes)
    out.print(console_table(cost_table(variants)))
    out.print(describe_costs(comparison, variants, "cpu" if device == "cpu" else ""), soft_wrap=True)
    warn(sampling_warnings(variants))
    if not plan:
        place = select_device(device)
        experiment = Experiment(comparison, variants, output, place, log, cluster)
        report = experiment.run(shlex.join(["codecdiff", *sys.argv[1:]]))
        out.print(f"{report}: open it in a browser", soft_wrap=True)


def _comparison_file(config: str) -> Path:
    """Return the file of a configuration by its name or path. Raises InvalidValue for a folder, as of a model."""
    from codecdiff.cli.train import config_file

    try:
        return config_file(config, "compare")
    except UnknownName as error:
        if not Path(config).is_dir():
            raise
        raise InvalidValue(
            f"'{config}' is a folder: expected a YAML file. To compare trained models, write them into one, as in "
            f"variants: {{one: [model={config}], two: [model=FOLDER]}}, with experiment: {{data: {{audio: FOLDER}}}}."
        ) from error


def log(line: str) -> None:
    """Print a line of progress with the time."""
    err.print(f"{datetime.now():%H:%M:%S} {line}", soft_wrap=True)


def audit(
    model: Annotated[str, typer.Argument(help="Model folder, run, or id.", show_default=False)],
    *,
    store: Annotated[Path, typer.Option(help="Store of the codes it was trained on.", show_default=False)],
    output: ReportFolder = None,
    fresh: Annotated[
        Path | None, typer.Option(help="Store of other music. Default: validation tracks of --store.")
    ] = None,
    clips: Annotated[int, typer.Option("--n", help="Clips to generate.")] = 64,
    seconds: Annotated[float, typer.Option(**TIME, help="Duration of a clip.")] = 6.0,
    window: Annotated[float, typer.Option(help="Seconds that are compared at once.")] = 3.0,
    threshold: Annotated[float, typer.Option(help="Fraction of equal coarsest codes that makes a near copy.")] = 0.5,
    seed: Seed = 0,
    model_card: Annotated[bool, typer.Option("--model-card", help="Add the result to the model card.")] = False,
    as_json: AsJson = False,
    force: Force = False,
    device: Device = "",
    allow_local_parts: AllowLocalParts = False,
) -> None:
    """Look for near copies of its training music in what a model generates."""
    from codecdiff.data import CodeStore
    from codecdiff.pipeline import MODEL_FILE, load
    from codecdiff_eval.audit import AuditConfig, audit_memorization
    from codecdiff_eval.audit_report import KICKER
    from codecdiff_eval.report import require_own_report

    output = output or Path("runs", f"audit-{Path(model).resolve().name}")
    settings = AuditConfig(clips, seconds, window, threshold, seed=seed)
    if model_card and not Path(model, MODEL_FILE).is_file():
        raise InvalidValue("--model-card needs a model folder, to whose README.md the result is added.")
    require_own_report(output / "index.html", KICKER, force)
    trained_on, other = CodeStore(store), CodeStore(fresh) if fresh else None
    pipeline = load(model, allow_local_parts=allow_local_parts).to(select_device(device))
    result = audit_memorization(pipeline, trained_on, settings, fresh=other, announce=log)
    write_audited(result, pipeline, trained_on, output, model if model_card else "", as_json)


def write_audited(
    result: AuditResult, pipeline: Pipeline, store: CodeStore, output: Path, model: str, as_json: bool
) -> None:
    """Write the report, add its sentence to the card of a model if there is one, and print it."""
    from codecdiff_eval.audit_report import add_to_model_card, audit_json, audit_table, write_audit
    from codecdiff_eval.numbers import to_json
    from codecdiff_eval.report import console_table

    command = shlex.join(["codecdiff", *sys.argv[1:]])
    report = write_audit(result, pipeline, store, output, command)
    if model:
        add_to_model_card(model, result.sentence)
    if as_json:
        typer.echo(json.dumps(to_json(audit_json(result, store, command)), ensure_ascii=False))
    else:
        out.print(console_table(audit_table(result)))
        out.print(result.sentence, soft_wrap=True)
    (err if as_json else out).print(f"Written: {report}", soft_wrap=True)


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
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same items and intervals.")] = 0,
    loudness: Annotated[float, typer.Option(metavar="LUFS", min=-40, max=-5, help="Loudness of all clips.")] = -23.0,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Listening test",
    analyze: Annotated[bool, typer.Option("--analyze", help="Analyze files of votes instead.")] = False,
    force: Force = False,
) -> None:
    """Write a blind listening test of what models generated, or analyze its votes.

    The page is one file that works offline. Each rater opens it, votes, and sends back the file that it exports.
    """
    if analyze:
        from codecdiff_eval.listening.votes import analyze_votes

        return analyze_votes(folders, output, force=force)
    from codecdiff_eval.listening.builder import write_listening_test

    if output is None:
        raise InvalidValue("Name the page to write: -o PAGE, as in -o test.html.")
    file = output if output.suffix == ".html" else output / "index.html"
    write_listening_test(folders, reference, file, n, seed, force=force, mode=mode, loudness=loudness, title=title)
