"""A comparison from its settings to its report: train, embed, measure, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from codecdiff import config
from codecdiff.data import CodeStore
from codecdiff.errors import InvalidValue
from codecdiff.files import lock_folder
from codecdiff.interfaces import Embedder
from codecdiff.pipeline import NonFiniteLatents
from codecdiff.training import TrainingDiverged, new_pipeline
from codecdiff_eval.compare.budget import Variant
from codecdiff_eval.compare.clips import ClipWriter, EvalSplit, Sets, draw_split
from codecdiff_eval.compare.config import CompareConfig
from codecdiff_eval.compare.measure import CompareInputs, measure
from codecdiff_eval.compare.report import CompareReport, model_losses
from codecdiff_eval.compare.runs import (
    Log,
    Run,
    changed_settings,
    divergences,
    loss_key,
    make_runs,
    other_variants,
    require_music,
    take_turns,
    train_run,
)
from codecdiff_eval.embeddings import read_vectors, write_vectors
from codecdiff_eval.generation import Engine
from codecdiff_eval.results import hash_of

EMBEDDINGS = "embeddings"
AFTER_EMBEDDING = {"resamples", "probes"}  # settings of the evaluation that embeddings do not depend on
OF_CODECS = {"reference", "probe_training_clips"}  # settings that only embeddings of codecs depend on


@dataclass(frozen=True)
class Experiment:
    """A comparison, the folder and device it uses, where its progress is logged, and where clips are generated."""

    comparison: CompareConfig
    variants: Sequence[Variant]
    output: Path
    device: torch.device
    log: Log
    engine: Engine | None = None

    def run(self, command: str = "") -> Path:
        """Train and embed what is missing, write the report, and return the path of its page.

        Interrupted and called again, it resumes from the last checkpoint of every stage. Raises ValueError if the
        folder has runs of other settings.
        """
        require_music(self.variants, self.comparison.evaluation.probes)
        runs = self.runs
        if others := other_variants(self.output, self.variants):
            self.log(f"'{self.output}' also has {', '.join(others)}: they stay, and the report leaves them out")
        for run in take_turns(runs, lambda run: bool(run.divergence) or self._is_measurable(run)):
            train_run(run, runs, self.comparison, self.device, self.log)
            if not run.divergence:
                self._embed_run(run)
            if divergence := run.divergence:
                self.log(f"{run.name} diverged {divergence.place}, and is left out: {divergence.message}")
        whole = self._whole_runs()
        for run in {run.codec_folder: run for run in whole}.values():
            with lock_folder(run.codec_folder, timeout=-1):
                if not self._codec_file(run).is_file():
                    self.log(f"{run.codec_folder.name}: embedding")
                    sets = self._writer(run, run.codec_folder).codec_sets(self._split(run))
                    write_vectors(self._codec_file(run), EMBEDDINGS, sets, {})
        self.log("measuring")
        evaluation, split = self.comparison.evaluation, self._split(whole[0])
        results = measure(self._inputs(whole, split), resamples=evaluation.resamples, seed=evaluation.seed)
        embedder = f"{self._embedder_spec['name']} at {self.embedder.sample_rate:,} Hz"
        report = CompareReport(
            self.comparison, self.variants, runs, results, split, self.output, command=command, embedder=embedder
        )
        return report.write()

    def _is_measurable(self, run: Run) -> bool:
        return run.is_complete and self._model_file(run).is_file()

    def _embed_run(self, run: Run) -> None:
        self.log(f"{run.name}: generating and embedding")
        try:
            sets = self._writer(run, run.folder).model_sets(self._split(run), self.comparison.prompts)
        except NonFiniteLatents as error:
            return run.record_divergence(str(error))
        write_vectors(self._model_file(run), EMBEDDINGS, sets, {})

    def _whole_runs(self) -> list[Run]:
        """Return the runs of the variants that diverged with no seed. Raises TrainingDiverged if there are none."""
        diverged = divergences(self.runs)
        whole = [run for run in self.runs if run.variant.name not in diverged]
        if not whole:
            lines = " ".join(divergence.message for seeds in diverged.values() for divergence in seeds.values())
            raise TrainingDiverged(f"Every variant diverged, so there is nothing to compare. {lines}")
        return whole

    @cached_property
    def runs(self) -> list[Run]:
        """All runs, seed by seed."""
        return make_runs(self.comparison, self.variants, self.output)

    @cached_property
    def _embedder_spec(self) -> dict[str, Any]:
        if spec := self.comparison.evaluation.embedder:
            return spec
        pipelines = [new_pipeline(variant.experiment, skeleton=True) for variant in self.variants]
        return {"name": "logmel", "sample_rate": max(pipeline.sample_rate for pipeline in pipelines)}

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder of the settings, or log-mel features at the highest sample rate of all codecs."""
        return config.build("embedders", self._embedder_spec).to(self.device)

    def _model_file(self, run: Run) -> Path:
        """Return the file of embeddings of what a run generated with these settings."""
        settings = [run.identity, changed_settings(self.comparison.evaluation, AFTER_EMBEDDING | OF_CODECS)]
        return run.folder / _file_name(settings, self.comparison.prompts, self.embedder.sample_rate)

    def _codec_file(self, run: Run) -> Path:
        """Return the file of embeddings of what the codec of a run makes of clips."""
        experiment, evaluation = (
            changed_settings(run.experiment),
            changed_settings(self.comparison.evaluation, AFTER_EMBEDDING),
        )
        settings = [experiment["codec"], experiment.get("data"), evaluation, self.comparison.seeds[0]]
        return run.codec_folder / _file_name(settings, self.embedder.sample_rate)

    def _writer(self, run: Run, folder: Path) -> ClipWriter:
        workers, evaluation = partial(self.engine, run.load) if self.engine else None, self.comparison.evaluation
        if run.variant.trained and run.variant.trained.controls is not None:
            evaluation = evaluation.model_copy(update={"controls": run.variant.trained.controls})
        return ClipWriter(run.load(self.device), self.embedder, evaluation, folder / "clips", workers)

    def _split(self, run: Run) -> EvalSplit:
        """Return the clips of all variants. Raises ValueError if this run has others than another."""
        evaluation, seed = self.comparison.evaluation, self.comparison.seeds[0]

        def draw(run: Run) -> EvalSplit:
            return draw_split(CodeStore(run.store), run.experiment.data, evaluation, seed)

        split = draw(run)
        for other in {other.store: other for other in self.runs}.values():
            if (other.store / "header.json").is_file() and not draw(other).is_alike(split):
                raise InvalidValue(
                    f"{run.name} has other validation tracks than {other.name}. Variants are compared on the same "
                    "music: set one data.audio and data.validation_fraction for all of them."
                )
        return split

    def _inputs(self, runs: Sequence[Run], split: EvalSplit) -> CompareInputs:
        """Load all embeddings, and the last validation losses."""
        embeddings: dict[str, list[Sets]] = {}
        losses: dict[str, list[float]] = {}
        for run in runs:
            sets, trained = read_vectors(self._model_file(run), EMBEDDINGS)[0], run.variant.trained
            embeddings.setdefault(run.variant.name, []).extend([sets] * (len(self.comparison.seeds) if trained else 1))
            if not trained:
                losses.setdefault(run.variant.name, []).append(model_losses(run)[-1][1])
        codecs = {run.variant.name: read_vectors(self._codec_file(run), EMBEDDINGS)[0] for run in runs}
        keys = {variant.name: loss_key(variant) for variant in self.variants if not variant.trained}
        return CompareInputs(split, embeddings, codecs, losses, self.comparison.evaluation.probes, keys)


def _file_name(*values: Any) -> str:
    """Return the name of a file of embeddings that follow from these values."""
    digest = hash_of(json.dumps(values, sort_keys=True, default=str).encode())[:16]
    return f"{EMBEDDINGS}-{digest}.safetensors"
