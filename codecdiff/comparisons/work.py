"""The work of a comparison, from its settings to its report: train, hear, measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from codecdiff import config
from codecdiff.comparisons import reports
from codecdiff.comparisons.clips import Chosen, Ear, Heard, choose, digest_of, hear_codec, hear_model
from codecdiff.comparisons.figures import Material, Sets, measure
from codecdiff.comparisons.runs import (
    Report,
    Run,
    Variant,
    in_turn,
    others_in,
    question_of,
    require_music,
    runs_of,
    train,
)
from codecdiff.comparisons.settings import Comparison
from codecdiff.data.code_store import CodeStore
from codecdiff.files import lock_folder
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.training.experiment import new_pipeline

AFTER = frozenset({"resamples", "probes"})  # settings of the evaluation that come after hearing
OF_CODECS = frozenset({"reference", "lessons"})  # and those that codecs are heard by, and models are not


def compare(work: Work, command: str = "") -> Path:
    """Train what is not trained, hear what was not heard, and write the report; give the path of its page.

    Killed and called again, it goes on from the last check of every stage. Raises ValueError if the folder holds runs
    of other settings.
    """
    require_music(work.variants)
    comparison, runs = work.comparison, runs_of(work.comparison, work.variants, work.output)
    if others := others_in(work.output, work.variants):
        work.report(f"'{work.output}' holds {', '.join(others)} too: they stay, and the page is written without them")
    for run in in_turn(runs, lambda run: run.is_whole and work.heard_of(run).is_there):
        train(run, comparison, runs, work.device, work.report)
        work.hear(run)
    for run in {run.home: run for run in runs}.values():
        work.hear_codec(run)
    work.report("measuring")
    chosen = work.chosen_clips(runs[0])
    material = work.material_of(runs, chosen)
    figures = measure(material, resamples=comparison.evaluation.resamples, seed=comparison.evaluation.seed)
    rate = work.ear.embedder.sample_rate
    told = reports.report_of(comparison, work.variants, runs, figures, chosen, work.output, command, rate)
    return reports.write(work.output, told)


@dataclass(frozen=True)
class Work:
    """A comparison, where it is written, where it computes, and who is told what is done."""

    comparison: Comparison
    variants: Sequence[Variant]
    output: Path
    device: torch.device
    report: Report

    @cached_property
    def ear(self) -> Ear:
        """What hears: the embedder that was asked for, or log-mel bands at the highest rate of all codecs."""
        spec = self.comparison.evaluation.embedder
        if spec is not None:
            return Ear(config.build("embedders", spec).to(self.device), self.device)
        rates = [new_pipeline(variant.blueprint, skeleton=True)[0].sample_rate for variant in self.variants]
        spec = {"name": "logmel", "sample_rate": max(rates)}
        return Ear(config.build("embedders", spec).to(self.device), self.device)

    def heard_of(self, run: Run) -> Heard:
        """Give the file of what was heard of a run, by these settings at this sample rate."""
        asked = _plain(self.comparison.evaluation, AFTER | OF_CODECS)
        told = digest_of(_plain(run.blueprint), asked, self.comparison.prompts, self.ear.embedder.sample_rate)
        return Heard(run.folder / "heard.safetensors", told)

    def heard_of_codec(self, run: Run) -> Heard:
        """Give the file of what was heard of the codec of a run."""
        blueprint, asked = _plain(run.blueprint), _plain(self.comparison.evaluation, AFTER)
        rate, seed = self.ear.embedder.sample_rate, self.comparison.seeds[0]
        told = digest_of(blueprint["codec"], blueprint.get("data"), asked, seed, rate)
        return Heard(run.home / "heard.safetensors", told)

    def hear(self, run: Run) -> None:
        """Hear a trained run."""
        self.report(f"hearing {run.name}")
        asked, prompts = self.comparison.evaluation, self.comparison.prompts
        place, heard = run.folder / "clips", self.heard_of(run)
        hear_model(self._model(run), self.chosen_clips(run), asked, self.ear, place, heard, prompts)

    def hear_codec(self, run: Run) -> None:
        """Hear the codec of a trained run, if nobody did."""
        chosen, heard = self.chosen_clips(run), self.heard_of_codec(run)
        with lock_folder(run.home, timeout=-1):
            if not heard.is_there:
                self.report(f"hearing {run.home.name}")
                asked, place = self.comparison.evaluation, run.home / "clips"
                hear_codec(self._model(run), chosen, asked, self.ear, place, heard)

    def _model(self, run: Run) -> Pipeline:
        return Pipeline.load(run.model, allow_download=True).to(self.device)  # the user named its parts

    def chosen_clips(self, run: Run) -> Chosen:
        """Give the clips that everything is judged by. Raises ValueError if this run has others than another."""
        data, seed, asked = run.blueprint.data, self.comparison.seeds[0], self.comparison.evaluation
        chosen = choose(CodeStore(run.store), data.audio, data.validation_fraction, asked, seed)
        told = digest_of(asked.model_dump(include={"clips", "reference", "lessons", "seconds", "seed"}), seed)
        file = self.output / f"clips-{told[:8]}.json"
        with lock_folder(self.output / "codecs", timeout=-1):
            if file.is_file() and _judged(Chosen.read(file)) != _judged(chosen):
                raise ValueError(
                    f"{run.name} has other held-out recordings than those in '{file}'. Variants are judged by the same "
                    "music: give all of them one data.audio and data.validation_fraction, or another output folder."
                )
            chosen.write(file)
        return chosen

    def material_of(self, runs: Sequence[Run], chosen: Chosen) -> Material:
        """Collect what was heard, and the last held-out losses."""
        heard: dict[str, list[Sets]] = {}
        losses: dict[str, list[float]] = {}
        for run in runs:
            heard.setdefault(run.variant.name, []).append(self.heard_of(run).load())
            losses.setdefault(run.variant.name, []).append(reports.curve(run)[-1][1])
        codecs = {run.variant.name: self.heard_of_codec(run).load() for run in runs}
        questions = {variant.name: question_of(variant) for variant in self.variants}
        return Material(chosen, heard, codecs, losses, self.comparison.evaluation.probes, questions)


def _plain(settings: BaseModel, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Give settings but those at their defaults, so that one added later changes nothing, and where music lies."""
    told = settings.model_dump(mode="json", exclude_defaults=True, exclude=set(left_out))
    told.get("data", {}).pop("audio", None)
    told.get("data", {}).pop("store", None)
    return told


def _judged(chosen: Chosen) -> list[tuple[str, float]]:
    return [(clip.recording, round(clip.start, 3)) for clip in (*chosen.reference, *chosen.asked)]
