"""The work of a comparison, from its settings to its report: train, hear, measure, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from codecdiff import config
from codecdiff.comparisons import reports
from codecdiff.comparisons.clips import Chosen, Ear, Heard, choose, digest_of, hear_codec, hear_model
from codecdiff.comparisons.figures import Material, Sets, measure
from codecdiff.comparisons.runs import Report, Run, Variant, in_turn, runs_of, train, wait_alone
from codecdiff.comparisons.settings import Comparison
from codecdiff.data.store import CodeStore
from codecdiff.embedders import LogMel
from codecdiff.experiments import new_pipeline
from codecdiff.pipeline import Pipeline

AFTER = frozenset({"resamples", "probes"})  # settings of the evaluation that come after hearing
OF_CODECS = frozenset({"reference", "lessons"})  # and those that codecs are heard by, and models are not


def compare(
    comparison: Comparison,
    variants: Sequence[Variant],
    output: Path,
    *,
    device: torch.device,
    report: Report,
    command: str = "",
) -> Path:
    """Train what is not trained, hear what was not heard, and write the report; give the path of its page.

    Killed and called again, it goes on from the last check of every stage. Raises ValueError if the folder holds runs
    of other settings.
    """
    runs = runs_of(comparison, variants, output)
    for run in in_turn(runs, lambda run: run.is_whole and heard_of(run, comparison).is_there):
        train(run, comparison, runs, device, report)
        hear(run, comparison, variants, output, device, report)
    report("measuring")
    chosen = chosen_clips(runs[0], comparison, output)
    material = material_of(comparison, runs, chosen)
    figures = measure(material, resamples=comparison.evaluation.resamples, seed=comparison.evaluation.seed)
    return reports.write(output, reports.report_of(comparison, variants, runs, figures, chosen, output, command))


def heard_of(run: Run, comparison: Comparison) -> Heard:
    """Give the file of what was heard of a run, of these settings."""
    told = digest_of(_plain(run.blueprint), _plain(comparison.evaluation, AFTER | OF_CODECS), comparison.prompts)
    return Heard(run.folder / "heard.safetensors", told)


def heard_of_codec(run: Run, comparison: Comparison) -> Heard:
    """Give the file of what was heard of the codec of a run."""
    blueprint, asked = _plain(run.blueprint), _plain(comparison.evaluation, AFTER)
    return Heard(run.home / "heard.safetensors", digest_of(blueprint["codec"], asked, comparison.seeds[0]))


def _plain(settings: BaseModel, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Give settings but those at their defaults, so that one added later changes nothing, and where music lies."""
    told = settings.model_dump(mode="json", exclude_defaults=True, exclude=set(left_out))
    told.get("data", {}).pop("audio", None)
    told.get("data", {}).pop("store", None)
    return told


def ear_of(comparison: Comparison, variants: Sequence[Variant], device: torch.device) -> Ear:
    """Give what hears: the embedder that was asked for, or log-mel bands at the highest rate of all codecs."""
    spec = comparison.evaluation.embedder
    if spec is not None:
        return Ear(config.build("embedders", spec).to(device), device)
    rates = [new_pipeline(variant.blueprint, outlined=True)[0].sample_rate for variant in variants]
    return Ear(LogMel(sample_rate=max(rates)).to(device), device)


def hear(
    run: Run, comparison: Comparison, variants: Sequence[Variant], output: Path, device: torch.device, report: Report
) -> None:
    """Hear a trained run, and its codec if nobody did."""
    asked, ear = comparison.evaluation, ear_of(comparison, variants, device)
    chosen = chosen_clips(run, comparison, output)
    pipeline = Pipeline.load(run.model, allow_download=True).to(device)  # the user named its parts
    codec = heard_of_codec(run, comparison)
    with wait_alone(run.home):
        if not codec.is_there:
            report(f"hearing {run.home.name}")
            hear_codec(pipeline, chosen, asked, ear, run.home / "clips", codec)
    report(f"hearing {run.name}")
    hear_model(pipeline, chosen, asked, ear, run.folder / "clips", heard_of(run, comparison), comparison.prompts)


def chosen_clips(run: Run, comparison: Comparison, output: Path) -> Chosen:
    """Give the clips that everything is judged by, the same for all runs."""
    data, seed = run.blueprint.data, comparison.seeds[0]
    chosen = choose(CodeStore(run.store), data.audio, data.held_out, comparison.evaluation, seed)
    told = digest_of(
        comparison.evaluation.model_dump(include={"clips", "reference", "lessons", "seconds", "seed"}), seed
    )
    with wait_alone(output / "codecs"):
        file = output / f"clips-{told[:8]}.json"
        if file.is_file() and _judged(Chosen.read(file)) != _judged(chosen):
            raise ValueError(
                f"{run.name} has other held-out recordings than those in '{file}'. Variants are judged by the same "
                "music: give all of them one data.audio and data.held_out, or another output folder."
            )
        chosen.write(file)
    return chosen


def _judged(chosen: Chosen) -> list[tuple[str, float]]:
    return [(clip.recording, round(clip.start, 3)) for clip in (*chosen.reference, *chosen.asked)]


def material_of(comparison: Comparison, runs: Sequence[Run], chosen: Chosen) -> Material:
    """Collect what was heard, and the last held-out losses."""
    heard: dict[str, list[Sets]] = {}
    losses: dict[str, list[float]] = {}
    codecs: dict[str, Mapping[str, torch.Tensor]] = {}
    for run in runs:
        name = run.variant.name
        heard.setdefault(name, []).append(heard_of(run, comparison).load())
        losses.setdefault(name, []).append(reports.curve(run)[-1][1])
        codecs[name] = heard_of_codec(run, comparison).load()
    return Material(chosen, heard, codecs, losses, comparison.evaluation.probes)
