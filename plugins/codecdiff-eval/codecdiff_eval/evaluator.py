"""The evaluation of music, or of what a model generates, against other music: a report in which no number stands alone.

The reference is embedded first. A model then generates what is evaluated, and what that is compared with: clips of the
reference through its codec, and clips of the reference with only the first stage kept. Everything generated or embedded
is kept on disk, so a run that is killed resumes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from codecdiff import config, registry
from codecdiff.data.audio import read_audio
from codecdiff.data.metadata import Track
from codecdiff.errors import InvalidValue, UserError
from codecdiff.interfaces import Embedder
from codecdiff_eval.embeddings import ClipCutter, ClipEmbedder, ClipEmbeddings, ReferenceStats, config_hash
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, SOURCES, EvalSets, oracle
from codecdiff_eval.generation import GeneratedClip, Generator, cut_sources, median_seconds
from codecdiff_eval.metric import Metric, Reference, load_metric
from codecdiff_eval.metrics.clap_score import embed_captions
from codecdiff_eval.metrics.codec_quality import codec_quality
from codecdiff_eval.prompts import EvalPrompt, prompt_of
from codecdiff_eval.results import (
    CONTEXT,
    SPLIT_HALF,
    EvalReport,
    EvalRow,
    MetricResult,
    NotMeasured,
    TargetResult,
    prompts_hash,
    weight_sources,
)

ENOUGH = 8  # prompts that request an attribute, for it to be measured unless specified
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

THE_REFERENCE = "the reference"  # set of the music that is compared with
NO_REFERENCE = NotMeasured("These metrics use no reference.")
NO_MODEL = NotMeasured("No model was named to take the codec and the stages from.")
ONLY_STATISTICS = NotMeasured("Only statistics of the reference are available.")


@dataclass(frozen=True)
class ReferenceMusic:
    """The music that others are compared with: tracks, or statistics of some by one embedder."""

    name: str
    tracks: Sequence[Track] = ()
    statistics: ReferenceStats | None = None


@dataclass(frozen=True)
class EvalConfig:
    """What is measured and how.

    metrics: by embedder, the names of its metrics.
    cutter: how tracks are cut into clips.
    adherence: whether to measure all metrics of prompts' attributes; None where enough prompts request one.
    seed: of intervals and halves.
    codec_quality: whether to compare the codec reconstruction with what was encoded, clip by clip.
    """

    metrics: Mapping[str, Sequence[str]]
    cutter: ClipCutter
    adherence: bool | None = None
    seed: int = 0
    codec_quality: bool = False


@dataclass
class Evaluator:
    """Evaluates music against a reference.

    embedders: by name.
    output, cache: folders of the report, which holds generated clips, and of embeddings.
    generator: the model whose music is evaluated, if any.
    progress: returns a context for a name and a total, which yields a function of the count so far.
    left_out, skipped: sentences on what could not be measured, and on files that were skipped.
    """

    config: EvalConfig
    embedders: Mapping[str, Embedder]
    reference: ReferenceMusic
    output: Path
    cache: Path
    progress: Progress
    generator: Generator | None = None
    left_out: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _sampled: list[str] = field(default_factory=lambda: [oracle()], init=False)  # sets that the model sampled
    _embedded: dict[tuple[Embedder, str], ClipEmbeddings] = field(default_factory=dict, init=False)
    _references: dict[Embedder, Reference] = field(default_factory=dict, init=False)
    _own_embedders: dict[Any, ClipEmbedder] = field(default_factory=dict, init=False)  # of metrics that have one

    def evaluate(
        self, inputs: Sequence[EvalPrompt] | Sequence[Track], name: str, facts: Mapping[str, Any] | None = None
    ) -> tuple[EvalReport, EvalSets[Sequence[Track]]]:
        """Evaluate tracks, or what the generator makes of prompts; `name` is what clips are called without a model.

        Returns the report, with `facts` about the run, and the tracks of the sets it is about. Raises ValueError where
        nothing can be measured, and FileExistsError if other clips are where the generated ones belong.
        """
        name = self.generator.name if self.generator else name
        groups = self._groups()
        first, metrics = groups[0]
        sets = self._make_sets(inputs, first, self._reference_of(first))
        groups[0] = first, {**metrics, **self._adherence_metrics(sets)}
        rows = [row for embedder, metrics in groups for row in self._measure(name, embedder, metrics, sets)]
        if not rows:
            causes = dict.fromkeys(line.partition("left out: ")[2] or line for line in self.left_out)
            raise InvalidValue("\n".join(["Nothing could be measured.", *causes]))
        report = EvalReport(
            f"{name} against {self.reference.name}",
            rows,
            self.reference.name,
            re.sub(r"[^a-z0-9]+", "-", self.reference.name.lower()).strip("-"),
            model=self.generator.name if self.generator else "",
            facts={**self._facts(sets, [embedder for embedder, _ in groups]), **(facts or {})},
            codec=self._codec_quality(sets),
        )
        return report, sets

    def _groups(self) -> list[tuple[ClipEmbedder, dict[str, Metric]]]:
        """Return each embedder with its metrics; those that have an embedder of their own stand once, with the first.

        Metrics that cannot use the statistics of the reference are left out: statistics belong to one embedder and one
        way of cutting. Raises ValueError if none is left.
        """
        groups: list[tuple[ClipEmbedder, dict[str, Metric]]] = []
        for name, embedder in self.embedders.items():
            clip_embedder = ClipEmbedder.of(embedder, self.config.cutter, self.cache)
            metrics = {each: load_metric(each) for each in self.config.metrics[name]}
            measured = {each for _, others in groups for each, metric in others.items() if metric.embedder}
            metrics = {each: metric for each, metric in metrics.items() if each not in measured}
            if self.config.adherence is False and (others := _of_prompts(metrics)):
                metrics = {each: metric for each, metric in metrics.items() if each not in others}
                self.left_out.append(f"{', '.join(others)} is left out: --no-adherence.")
            try:
                needed = any(metric.compares == "reference" for metric in metrics.values())
                if self.reference.statistics is not None and needed:
                    clip_embedder.config.require_same(self.reference.statistics.config)
            except InvalidValue as error:
                metrics = {each: metric for each, metric in metrics.items() if metric.compares != "reference"}
                except_for = f", except for {', '.join(metrics)}" if metrics else ""
                self.left_out.append(f"{name} is left out{except_for}: {error}")
            if metrics:
                groups.append((clip_embedder, metrics))
        if not groups:
            raise InvalidValue("\n".join(["No metric can be measured.", *self.left_out]))
        return groups

    def _make_sets(
        self, inputs: Sequence[EvalPrompt] | Sequence[Track], embedder: ClipEmbedder, reference: Reference
    ) -> EvalSets[Sequence[Track]]:
        """Generate what is evaluated, if there is a model, and its context from clips of the reference."""
        tracks = [track for track in inputs if isinstance(track, Track)]
        generator, seconds = self.generator, self.config.cutter.seconds
        if generator is None:
            return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: NO_MODEL, oracle(): NO_MODEL})
        if prompts := [prompt for prompt in inputs if isinstance(prompt, EvalPrompt)]:
            tracks = self._generate(GENERATED, generator.generated(prompts, seconds))
            self._sampled.append(GENERATED)
        if not isinstance(reference, ClipEmbeddings):
            return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: ONLY_STATISTICS, oracle(): ONLY_STATISTICS})
        sources = cut_sources(
            {track.name: track for track in self.reference.tracks},
            reference.sample(len(tracks) if prompts else len(self._embed(embedder, GENERATED, tracks)), generator.seed),
            seconds,
            generator.pipeline.codec,
            self._folder(SOURCES),
        )
        reconstructed = self._generate(CODEC_RECONSTRUCTION, generator.codec_reconstruction(sources))
        sets: dict[str, Sequence[Track]] = {GENERATED: tracks, CODEC_RECONSTRUCTION: reconstructed, SOURCES: sources}
        try:
            later = generator.oracle_first_stage(sources)
        except InvalidValue as error:
            return EvalSets({**sets, oracle(): NotMeasured(str(error))})
        return EvalSets({**sets, oracle(): self._generate(oracle(), later)})

    def _folder(self, name: str) -> Path:
        return self.output / "clips" / name.replace(" ", "-")

    def _generate(self, name: str, clips: Sequence[GeneratedClip]) -> list[Track]:
        assert self.generator is not None
        with self.progress(name, len(clips)) as advance:
            return self.generator.write(clips, self._folder(name), advance)

    def _embed(self, embedder: ClipEmbedder, name: str, tracks: Sequence[Track]) -> ClipEmbeddings:
        """Embed a set of tracks, once; of a set that the model sampled, the result says how."""
        key = embedder.embedder, name
        if key not in self._embedded:
            with self.progress(f"Embeddings by {embedder.name}, {name}", len(tracks)) as advance:
                clips, skipped = embedder.embed(tracks, advance)
            self.skipped += [line for line in skipped if line not in self.skipped]
            if self.generator is not None and name in self._sampled:
                seeds, sampling = {**clips.seeds, "generation": self.generator.seed}, self.generator.stages
                clips = replace(clips, seeds=seeds, sampling=sampling)
            self._embedded[key] = clips
        return self._embedded[key]

    def _reference_of(self, embedder: ClipEmbedder) -> Reference:
        """Return what an embedder sees of the reference; its statistics are kept in a file of the cache."""
        if self.reference.statistics is not None:
            return self.reference.statistics
        if embedder.embedder not in self._references:
            clips = self._embed(embedder, THE_REFERENCE, self.reference.tracks)
            stats = ReferenceStats.of(clips)
            name = f"reference-{embedder.name}-{config_hash(stats.config, stats.identity)}.safetensors"
            stats.save(self.cache / name)
            self._references[embedder.embedder] = clips
        return self._references[embedder.embedder]

    def _adherence_metrics(self, sets: EvalSets[Sequence[Track]]) -> dict[str, Metric]:
        """Return the installed metrics of prompts' attributes, if they are to be measured."""
        if self.config.adherence is False:
            return {}
        metrics = {}
        for name in registry.entries("metrics"):
            try:
                metric = load_metric(name)
            except UserError as error:  # a broken plugin, which was not requested
                self.left_out.append(f"{name} is left out: {error}")
                continue
            if metric.compares == "prompts":
                metrics[name] = metric
        if self.config.adherence:
            return metrics
        requests = {name: _num_requests(metric, sets.get_set(GENERATED)) for name, metric in metrics.items()}
        is_worth = max(requests.values(), default=0) >= ENOUGH
        return {name: metric for name, metric in metrics.items() if requests[name]} if is_worth else {}

    def _measure(
        self, clips_name: str, embedder: ClipEmbedder, metrics: Mapping[str, Metric], sets: EvalSets[Sequence[Track]]
    ) -> Iterator[EvalRow]:
        """Measure metrics with their context; where that is impossible for what is evaluated, say why."""
        for name, metric in metrics.items():
            attempt = partial(self._attempt, metric, embedder, sets)
            result = attempt(GENERATED)
            if isinstance(result, NotMeasured):
                by = f" by {embedder.name}" if metric.compares in ("reference", "captions") else ""
                self.left_out.append(f"{name}{by} is left out: {result.reason}")
            else:
                yield EvalRow(clips_name, result, {each: attempt(each) for each in CONTEXT})

    def _attempt(
        self, metric: Metric, embedder: ClipEmbedder, sets: EvalSets[Sequence[Track]], name: str
    ) -> MetricResult | NotMeasured:
        """Measure one metric of one set, or of one half of the reference, or say why that is impossible."""
        if metric.excludes_reference and name in (CODEC_RECONSTRUCTION, oracle()):
            return NotMeasured(metric.excludes_reference)
        if name == SPLIT_HALF and metric.compares != "reference":
            return NO_REFERENCE
        try:
            embedder = self._embedder_of(metric, embedder)
            reference = self._compared_with(metric, embedder)
            if name == SPLIT_HALF and isinstance(reference, ClipEmbeddings):
                num_clips = len(self._embed(embedder, GENERATED, sets.get_set(GENERATED)))
                return metric.split_half(reference, num_clips=num_clips, seed=self.config.seed)
            if name == SPLIT_HALF or (reference is None and metric.compares == "reference"):
                return ONLY_STATISTICS
            if isinstance(tracks := sets[name], NotMeasured):
                return tracks
            clips = self._embed(embedder, name, tracks)
            captions = embed_captions(embedder.embedder, clips) if metric.compares == "captions" else None
            return metric(clips, reference if captions is None else captions, seed=self.config.seed)
        except UserError as error:
            return NotMeasured(str(error))

    def _embedder_of(self, metric: Metric, embedder: ClipEmbedder) -> ClipEmbedder:
        """Return the embedder of a metric: its own, at the loudness of the files, if it has one."""
        if metric.embedder is None:
            return embedder
        if metric.embedder not in self._own_embedders:
            cutter = ClipCutter(self.config.cutter.seconds)
            self._own_embedders[metric.embedder] = ClipEmbedder.of(metric.embedder(), cutter, self.cache)
        return self._own_embedders[metric.embedder]

    def _compared_with(self, metric: Metric, embedder: ClipEmbedder) -> Reference | None:
        """Return what a metric compares clips with, if not with captions; of the reference only what says something."""
        if metric.compares == "captions":
            return None
        if metric.embedder is None:
            return self._reference_of(embedder)
        is_described = metric.compares != "prompts" or _num_requests(metric, self.reference.tracks) > 1
        tracks = self.reference.tracks
        return self._embed(embedder, THE_REFERENCE, tracks) if tracks and is_described else None

    def _codec_quality(self, sets: EvalSets[Sequence[Track]]) -> list[TargetResult]:
        """Compare what the codec made of clips of the reference with these, if that is to be measured."""
        if not self.config.codec_quality or SOURCES not in sets or self.generator is None:
            return []
        rate = self.generator.pipeline.sample_rate
        sides = ([read_audio(t.file, rate, 1)[0] for t in sets.get_set(n)] for n in (SOURCES, CODEC_RECONSTRUCTION))
        pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(*sides, strict=True)]
        return codec_quality(pairs, rate, seed=self.config.seed)

    def _facts(self, sets: EvalSets[Sequence[Track]], embedders: Sequence[ClipEmbedder]) -> dict[str, Any]:
        """Return what the report is about beside the configurations of its results."""
        tracks = sets.get_set(GENERATED)
        prompts = [prompt_of(track) for track in tracks]
        facts: dict[str, Any] = {
            "evaluated tracks": len(tracks),
            "reference clips": len(self._reference_of(embedders[0])),
        }
        if self.reference.tracks:
            facts["reference tracks"] = len(self.reference.tracks)
        if any(prompt["text"] for prompt in prompts):
            facts["prompts"] = prompts_hash(prompts)
        if self.generator is not None:
            sampling = {name: getattr(self.generator, name) for name in ("seed", "steps", "guidance")}
            facts["model fingerprint"] = self.generator.pipeline.fingerprint or ""
            facts["sample rate"] = self.generator.pipeline.sample_rate
            facts["inference seconds"] = {
                name: seconds for name in sets if (seconds := median_seconds(self._folder(name))) is not None
            }
            facts |= {name: value for name, value in sampling.items() if value is not None}
        for embedder in embedders:  # where weights came from, which no configuration of a result holds
            spec = config.to_config("embedders", embedder.embedder)
            if sources := weight_sources(spec):
                facts[f"weights of {spec['name']}"] = ", ".join(f"{key}={value}" for key, value in sources.items())
        if self.left_out:
            facts["not measured"] = " ".join(self.left_out)
        return facts


def _of_prompts(metrics: Mapping[str, Metric]) -> list[str]:
    return [name for name, metric in metrics.items() if metric.compares == "prompts"]


def _num_requests(metric: Metric, tracks: Sequence[Track]) -> int:
    return sum(metric.requested(prompt_of(track)) is not None for track in tracks)
