"""The report of a comparison: its facts as JSON, and the same as a page and as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codecdiff import __version__
from codecdiff.comparisons import sheets
from codecdiff.comparisons.clips import Chosen
from codecdiff.comparisons.figures import Figure, given
from codecdiff.comparisons.runs import Run, Variant, logs_of
from codecdiff.comparisons.settings import Comparison
from codecdiff.files import atomic_write_text

FORMAT = 1
FEW = 20  # recordings, as in a report of `codecdiff evaluate`


def curve(run: Run) -> list[tuple[float, float]]:
    """Give the held-out loss of a whole model over that of answering zero, at the FLOPs spent on it, check by check.

    Stages count by the numbers they make in a frame. At a share of the budget every stage is at that share of its own.
    """
    costs, points = run.variant.costs, []
    weight = sum(cost.values for cost in costs)
    lines = stage_curves(run)
    for rows in zip(*(lines[cost.name] for cost in costs), strict=False):
        spent = sum(flops for flops, _ in rows)
        ratio = sum(cost.values * ratio for cost, (_, ratio) in zip(costs, rows, strict=True)) / weight
        points.append((spent, ratio))
    return points


def stage_curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Give the held-out loss of every stage over that of answering zero, at the FLOPs spent on the stage."""
    logs = logs_of(run)
    return {
        cost.name: [(float(cost.training * row["step"]), row["normalized_validation_loss"]) for row in logs[cost.name]]
        for cost in run.variant.costs
    }


def report_of(
    comparison: Comparison,
    variants: Sequence[Variant],
    runs: Sequence[Run],
    figures: Sequence[Figure],
    chosen: Chosen,
    output: Path,
    command: str,
    sample_rate: int,
) -> dict[str, Any]:
    """Give everything that was found, as JSON can hold it. `sample_rate` is that at which everything was heard."""
    asked = comparison.evaluation
    recordings = [len({clip.recording for clip in clips}) for clips in (chosen.asked, chosen.reference)]
    facts = {
        "codecdiff": __version__,
        "command": command,
        "seeds": comparison.seeds,
        "budget": comparison.budget or variants[0].training,
        "share": comparison.share,
        "clips": asked.clips,
        "clips of the reference": asked.reference,
        "seconds": asked.seconds,
        "recordings asked for": recordings[0],
        "recordings of the reference": recordings[1],
        "heard by": f"{asked.embedder['name'] if asked.embedder else '32 log-mel bands'} at {sample_rate:,} Hz",
        "resamples": asked.resamples,
        "evaluation seed": asked.seed,
    }
    told = {variant.name: _variant(variant, comparison, runs) for variant in variants}
    told = {"format": FORMAT, "facts": facts, "variants": told, "figures": [each.to_json() for each in figures]}
    told["warnings"] = warnings_of(comparison, min(recordings), figures, chosen)
    return _finite({**told, "players": players(comparison, variants, runs, chosen, output)})


def warnings_of(comparison: Comparison, recordings: int, figures: Sequence[Figure], chosen: Chosen) -> list[str]:
    """Say what makes the figures less than they look, and which were asked for and could not be taken."""
    told = []
    if recordings < FEW:
        told.append(
            f"Of fewer than {FEW} recordings, here {recordings}, intervals are unreliable, and tend to be too narrow: "
            "hold out more, data.validation_fraction, and take more clips, evaluation.clips and evaluation.reference."
        )
    if len(comparison.seeds) == 1:
        told.append("There is one seed, and no interval tells what another would give: add some, seeds.")
    measured = {figure.name for figure in figures}
    for column in comparison.evaluation.probes:
        if f"text is obeyed: {column}" not in measured:
            values = {clip.prompt.get(column) for clip in chosen.lessons} - {None}
            why = "hears it no better than chance through a codec" if len(values) > 1 else "needs two values of it"
            told.append(f"The probe of '{column}' is left out: it {why}. evaluation.lessons are what it learns from.")
    return told


def _variant(variant: Variant, comparison: Comparison, runs: Sequence[Run]) -> dict[str, Any]:
    own = [run for run in runs if run.variant.name == variant.name]
    stages = [
        {
            "name": cost.name,
            "parameters": cost.parameters,
            "numbers in a frame": cost.values,
            "steps": steps,
            "FLOPs of a step": cost.training,
            "training FLOPs": cost.training * steps,
            "evaluations of a clip": cost.evaluations,
            "answers in each": cost.answers,
            "sampling FLOPs of a clip": cost.sampling,
        }
        for cost, steps in zip(variant.costs, variant.steps, strict=True)
    ]
    return {
        "changes": comparison.variants[variant.name],
        "stages": stages,
        "training FLOPs": variant.training,
        "sampling FLOPs of a clip": variant.sampling,
        "losses": {str(run.seed): {"model": curve(run), **stage_curves(run)} for run in own},
        "training seconds": {str(run.seed): sum(log[-1]["seconds"] for log in logs_of(run).values()) for run in own},
    }


def players(
    comparison: Comparison, variants: Sequence[Variant], runs: Sequence[Run], chosen: Chosen, output: Path
) -> list[dict[str, Any]]:
    """Name the files to listen to, prompt by prompt: of the first seed of every variant."""
    first = {run.variant.name: run for run in reversed(runs)}
    codecs: dict[Path, list[str]] = {}
    for variant in variants:
        codecs.setdefault(first[variant.name].home, []).append(variant.name)
    cards: list[dict[str, Any]] = []
    for i, clip in enumerate(chosen.asked[: comparison.evaluation.players]):
        sounds = [(next(iter(codecs)) / "clips" / f"real-{i:02d}.flac", "Real", "held out")]
        for home, names in codecs.items():
            whose = f"of {', '.join(names)}" if len(codecs) > 1 else "of all variants"
            sounds.append((home / "clips" / f"ceiling-{i:02d}.flac", "Through the codec", whose))
        for variant in variants:
            for kept in range(len(variant.costs)):
                file = first[variant.name].folder / "clips" / f"given-{kept}-{i:02d}.flac"
                sounds.append((file, variant.name, given(f"given-{kept}") if kept else "from the words alone"))
        cards.append({"prompt": clip.prompt["text"], "sounds": _named(sounds, output)})
    for i, prompt in enumerate(comparison.prompts):
        sounds = [(first[v.name].folder / "clips" / f"prompt-{i:02d}.flac", v.name, "") for v in variants]
        cards.append({"prompt": prompt, "sounds": _named(sounds, output)})
    return cards


def _named(sounds: Sequence[tuple[Path, str, str]], output: Path) -> list[dict[str, str]]:
    return [{"path": file.relative_to(output).as_posix(), "title": t, "explanation": e} for file, t, e in sounds]


def _finite(value: Any) -> Any:
    """Put None in the place of every number in a nest that JSON cannot write."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(output: Path, report: Mapping[str, Any]) -> Path:
    """Write `report.json`, `report.md` and `index.html`, each whole or not at all, and give the path of the page."""
    atomic_write_text(output / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(output / "report.md", sheets.markdown(report))
    atomic_write_text(output / "index.html", sheets.html(report, output))
    return output / "index.html"
