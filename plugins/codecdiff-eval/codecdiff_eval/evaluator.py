"""The evaluation of music, or of what a model generates, against other music: a report in which no number stands alone.

The reference is embedded first. A model then generates what is evaluated, and what that is read against: clips of the
reference through its codec, and clips of the reference with only the first stage kept. Everything generated or embedded
is kept on disk, so a run that is killed resumes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
    Context,
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
Attempt = MetricResult | NotMeasured

NO_REFERENCE = NotMeasured("It does not compare clips with a reference.")
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


@dataclass(frozen=True)
class MetricGroup:
    """Metrics, by name, of the vectors of one embedder, which also embedded the reference if they need it."""

    embedder: ClipEmbedder
    metrics: Mapping[str, Metric]
    reference: Reference | None = None


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

    def evaluate(
        self, inputs: Sequence[EvalPrompt] | Sequence[Track], name: str, facts: Mapping[str, Any] | None = None
    ) -> tuple[EvalReport, EvalSets[Sequence[Track]]]:
        """Evaluate tracks, or what the generator makes of prompts; `name` is what clips are called without a model.

        Returns the report, with `facts` about the run, and the tracks of the sets it is about. Raises ValueError where
        nothing can be measured, and FileExistsError if other clips are where the generated ones belong.
        """
        name = self.generator.name if self.generator else name
        groups = self._groups()
        sets = self._make_sets(inputs, groups[0])
        groups[0] = replace(groups[0], metrics={**groups[0].metrics, **self._adherence_metrics(sets)})
        sampled = [oracle(), *([GENERATED] if any(isinstance(each, EvalPrompt) for each in inputs) else [])]
        rows = [row for group in groups for row in self._measure(name, group, sets, sampled)]
        if not rows:
            raise InvalidValue("\n".join(["Nothing could be measured.", *self.left_out]))
        report = EvalReport(
            f"{name} against {self.reference.name}",
            rows,
            self.reference.name,
            re.sub(r"[^a-z0-9]+", "-", self.reference.name.lower()).strip("-"),
            model=self.generator.name if self.generator else "",
            facts={**self._facts(sets, groups), **(facts or {})},
            codec=self._codec_quality(sets),
        )
        return report, sets

    def _groups(self) -> list[MetricGroup]:
        """Return the metrics by embedder, with what each embedder sees of the reference.

        Metrics that cannot use the statistics of the reference are left out: statistics belong to one embedder and one
        way of cutting. Raises ValueError if none is left.
        """
        groups: list[MetricGroup] = []
        for name, embedder in self.embedders.items():
            clip_embedder = ClipEmbedder.of(embedder, self.config.cutter, self.cache)
            metrics = {each: load_metric(each) for each in self.config.metrics[name]}
            measured = {each for group in groups for each, metric in group.metrics.items() if metric.embedder}
            metrics = {each: metric for each, metric in metrics.items() if each not in measured}
            try:
                if self.reference.statistics is not None and _need_reference(metrics):
                    clip_embedder.config.require_same(self.reference.statistics.config)
            except InvalidValue as error:
                metrics = {each: metric for each, metric in metrics.items() if metric.compares != "reference"}
                except_for = f", except for {', '.join(metrics)}" if metrics else ""
                self.left_out.append(f"{name} is left out{except_for}: {error}")
            if metrics:
                groups.append(
                    MetricGroup(clip_embedder, metrics, self._embed_reference(clip_embedder, metrics, groups))
                )
        if not groups:
            raise InvalidValue(
                "\n".join([f"No embedder agrees with the statistics of {self.reference.name}.", *self.left_out])
            )
        return groups

    def _embed_reference(
        self, embedder: ClipEmbedder, metrics: Mapping[str, Metric], before: Sequence[MetricGroup]
    ) -> Reference | None:
        """Return what an embedder sees of the reference; its statistics are kept in a file of the cache."""
        if self.reference.statistics is not None:
            return self.reference.statistics
        if before and not _need_reference(metrics):
            return before[0].reference
        clips = self._embed(embedder, "the reference", self.reference.tracks)
        stats = ReferenceStats.of(clips)
        stats.save(self.cache / f"reference-{embedder.name}-{config_hash(stats.config, stats.identity)}.safetensors")
        return clips

    def _make_sets(
        self, inputs: Sequence[EvalPrompt] | Sequence[Track], group: MetricGroup
    ) -> EvalSets[Sequence[Track]]:
        """Generate what is evaluated, if there is a model, and what it is read against from clips of the reference."""
        tracks = [track for track in inputs if isinstance(track, Track)]
        generator, seconds = self.generator, self.config.cutter.seconds
        if generator is None:
            return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: NO_MODEL, oracle(): NO_MODEL})
        if prompts := [prompt for prompt in inputs if isinstance(prompt, EvalPrompt)]:
            tracks = self._generate(GENERATED, generator.generated(prompts, seconds))
        if not isinstance(group.reference, ClipEmbeddings):
            return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: ONLY_STATISTICS, oracle(): ONLY_STATISTICS})
        count = len(tracks) if prompts else len(self._embed(group.embedder, "evaluated clips", tracks))
        sources = cut_sources(
            {track.name: track for track in self.reference.tracks},
            group.reference.sample(count, generator.seed),
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
        with self.progress(f"{embedder.name} embeds {name}", len(tracks)) as advance:
            clips, skipped = embedder.embed(tracks, advance)
        self.skipped += [line for line in skipped if line not in self.skipped]
        return clips

    def _adherence_metrics(self, sets: EvalSets[Sequence[Track]]) -> dict[str, Metric]:
        """Return the installed metrics of prompts' attributes, if they are to be measured."""
        if self.config.adherence is False:
            return {}
        metrics = {}
        for name in registry.entries("metrics"):
            try:
                metric = load_metric(name)
            except UserError as error:  # a broken plugin, which nobody asked for
                self.left_out.append(f"{name} is left out: {error}")
                continue
            if metric.compares == "prompts":
                metrics[name] = metric
        requests = [_num_requests(metric, sets.get_set(GENERATED)) for metric in metrics.values()]
        is_worth = self.config.adherence is None and max(requests, default=0) >= ENOUGH
        return metrics if self.config.adherence or is_worth else {}

    def _measure(
        self, clips_name: str, group: MetricGroup, sets: EvalSets[Sequence[Track]], sampled: Collection[str]
    ) -> Iterator[EvalRow]:
        """Measure the metrics of a group; where that is impossible for what is evaluated, say why.

        sampled: the sets that the model sampled, whose results hold how.
        """

        def embed(embedder: ClipEmbedder, name: str, tracks: Sequence[Track]) -> ClipEmbeddings:
            clips, generator = self._embed(embedder, name, tracks), self.generator
            if generator is None or name not in sampled:
                return clips
            return replace(clips, seeds={**clips.seeds, "generation": generator.seed}, sampling=generator.stages)

        for part in self._by_embedder(group):
            embedded = EvalSets({n: s for n, s in sets.items() if n != SOURCES}).map(partial(embed, part.embedder))
            for name, metric in part.metrics.items():
                result = self._attempt(metric, part, embedded, GENERATED)
                if isinstance(result, NotMeasured):
                    self._leave_out([name], metric, group.embedder, result.reason)
                else:
                    others = [self._attempt(metric, part, embedded, each) for each in (CODEC_RECONSTRUCTION, oracle())]
                    yield EvalRow(clips_name, result, Context(self._split_half(metric, part.reference), *others))

    def _by_embedder(self, group: MetricGroup) -> Iterator[MetricGroup]:
        """Divide a group into metrics of its embedder, and those that have one of their own.

        The latter embed at the loudness of the files, and of the reference only what says something.
        """
        metrics: dict[Any, dict[str, Metric]] = {}
        for name, metric in group.metrics.items():
            metrics.setdefault(metric.embedder, {})[name] = metric
        for new_embedder, each in metrics.items():
            first = next(iter(each.values()))
            if new_embedder is None:
                yield replace(group, metrics=each)
                continue
            try:
                embedder = ClipEmbedder.of(new_embedder(), ClipCutter(self.config.cutter.seconds), self.cache)
                reference = None
                if self.reference.tracks and (
                    first.compares == "clips" or _num_requests(first, self.reference.tracks) > 1
                ):
                    reference = self._embed(embedder, "the reference", self.reference.tracks)
            except UserError as error:
                self._leave_out(each, first, group.embedder, str(error))
            else:
                yield MetricGroup(embedder, each, reference)

    def _attempt(self, metric: Metric, group: MetricGroup, embedded: EvalSets[ClipEmbeddings], name: str) -> Attempt:
        """Measure one metric of one set, or say why that is impossible."""
        clips = embedded[name]
        if metric.excludes_reference and name != GENERATED:
            return NotMeasured(metric.excludes_reference)
        if isinstance(clips, NotMeasured):
            return clips
        try:
            captions = embed_captions(group.embedder.embedder, clips) if metric.compares == "captions" else None
            return metric(clips, group.reference if captions is None else captions, seed=self.config.seed)
        except UserError as error:
            return NotMeasured(str(error))

    def _split_half(self, metric: Metric, reference: Reference | None) -> Attempt:
        if metric.compares != "reference":
            return NO_REFERENCE
        if not isinstance(reference, ClipEmbeddings):
            return ONLY_STATISTICS
        try:
            return metric.split_half(reference, seed=self.config.seed)
        except UserError as error:
            return NotMeasured(str(error))

    def _leave_out(self, names: Iterable[str], metric: Metric, embedder: ClipEmbedder, reason: str) -> None:
        by = f" by {embedder.name}" if metric.compares in ("reference", "captions") else ""
        self.left_out += [f"{name}{by} is left out: {reason}" for name in names]

    def _codec_quality(self, sets: EvalSets[Sequence[Track]]) -> list[TargetResult]:
        """Compare what the codec made of clips of the reference with these, if that is to be measured."""
        if not self.config.codec_quality or SOURCES not in sets or self.generator is None:
            return []
        rate = self.generator.pipeline.sample_rate
        sides = ([read_audio(t.file, rate, 1)[0] for t in sets.get_set(n)] for n in (SOURCES, CODEC_RECONSTRUCTION))
        pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(*sides, strict=True)]
        return codec_quality(pairs, rate, seed=self.config.seed)

    def _facts(self, sets: EvalSets[Sequence[Track]], groups: Sequence[MetricGroup]) -> dict[str, Any]:
        """Return what the report is about beside the configurations of its results."""
        tracks = sets.get_set(GENERATED)
        prompts = [prompt_of(track) for track in tracks]
        facts: dict[str, Any] = {"evaluated tracks": len(tracks)}
        if (reference := groups[0].reference) is not None:
            facts["reference clips"] = len(reference)
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
        for group in groups:  # where weights came from, which no configuration of a result holds
            spec = config.to_config("embedders", group.embedder.embedder)
            if sources := weight_sources(spec):
                facts[f"weights of {spec['name']}"] = ", ".join(f"{key}={value}" for key, value in sources.items())
        if self.left_out:
            facts["not measured"] = " ".join(self.left_out)
        return facts


def _need_reference(metrics: Mapping[str, Metric]) -> bool:
    return any(metric.compares == "reference" for metric in metrics.values())


def _num_requests(metric: Metric, tracks: Sequence[Track]) -> int:
    return sum(metric.requested(prompt_of(track)) is not None for track in tracks)
