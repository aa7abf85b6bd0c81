"""The evaluation of music, or of what a model generates, against other music: a report in which no number stands alone.

The reference is embedded first. A model then generates what is evaluated, and what that is read against: clips of the
reference through its codec, and clips of the reference with only the first stage kept. Everything generated or embedded
is kept on disk, so a run that is killed resumes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from codecdiff import config, huggingface, registry
from codecdiff.data.metadata import Track
from codecdiff.interfaces import Embedder
from codecdiff.pipeline import Pipeline
from codecdiff_eval.embedders.codec import CodecEmbedder
from codecdiff_eval.embeddings import (
    ClipCutter,
    ClipEmbedder,
    ClipEmbeddings,
    ReferenceStats,
    config_hash,
    start_of,
    track_of,
)
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, EvalSets, oracle
from codecdiff_eval.generation import GeneratedClip, Generator, cut_sources
from codecdiff_eval.metric import Metric, Reference, load_metric
from codecdiff_eval.metrics.clap_score import embed_captions
from codecdiff_eval.prompts import EvalPrompt, prompt_of
from codecdiff_eval.results import (
    Context,
    EvalReport,
    EvalRow,
    MetricResult,
    NotMeasured,
    prompts_hash,
    weight_sources,
)

ENOUGH = 8  # prompts that request an attribute, for it to be measured unless specified
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
Attempt = MetricResult | NotMeasured

NO_REFERENCE = NotMeasured("It compares clips with their prompts, not with a reference.")
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
    """

    metrics: Mapping[str, Sequence[str]]
    cutter: ClipCutter
    adherence: bool | None = None
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """A report, and in sentences which files were skipped and what could not be measured."""

    report: EvalReport
    skipped: Sequence[str]
    left_out: Sequence[str]


def build_embedders(
    names: Sequence[str],
    options: Mapping[str, Sequence[str]],
    *,
    pipeline: Pipeline | None,
    required: bool,
    allow_download: bool,
) -> tuple[dict[str, Embedder], list[str]]:
    """Build embedders by name, with the `option=value` words of their options, and say which are left out.

    `codec` is the codec of the model unless an option names another. One that is not available is an error if they are
    `required`, and a sentence otherwise; then nothing is downloaded without `allow_download`.
    """
    if unused := set(options) - set(names):
        raise LookupError(f"There are options of '{min(unused)}', which is not among: {', '.join(names)}.")
    embedders, left_out = {}, []
    for name in names:
        try:
            with huggingface.downloads(required or allow_download):
                embedders[name] = _build_embedder(name, options.get(name, ()), pipeline)
        except (LookupError, OSError, ImportError, ValueError) as error:
            if required:
                raise
            fetch = " A suite downloads nothing without --allow-download." if not allow_download else ""
            left_out.append(f"{name} is left out: {error}{'' if isinstance(error, ValueError) else fetch}")
    if not embedders:
        raise LookupError("\n".join(["No embedder is available.", *left_out]))
    return embedders, left_out


def _build_embedder(name: str, options: Sequence[str], pipeline: Pipeline | None) -> Embedder:
    if name == "codec" and not options:
        if pipeline is None:
            raise ValueError("It is the codec of a model, and none was named: --model MODEL.")
        return CodecEmbedder(pipeline.codec)
    return config.build("embedders", config.parse_options("embedders", name, options))


@dataclass
class Evaluator:
    """Evaluates music against a reference.

    embedders: by name.
    clips, cache: folders of generated clips and of embeddings.
    generator: the model whose music is evaluated, if any.
    progress: returns a context for a name and a total, which yields a function of the count so far.
    """

    config: EvalConfig
    embedders: Mapping[str, Embedder]
    reference: ReferenceMusic
    clips: Path
    cache: Path
    progress: Progress
    generator: Generator | None = None
    skipped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def evaluate(
        self, inputs: Sequence[EvalPrompt] | Sequence[Track], name: str, facts: Mapping[str, Any] | None = None
    ) -> Evaluation:
        """Evaluate tracks, or what the generator makes of prompts; `name` is what the evaluated clips are called.

        `facts` about the run go into the report. Raises ValueError where nothing can be measured, and FileExistsError
        if other clips are where the generated ones belong.
        """
        usable = self._usable_embedders()
        references = self._embed_references(usable)
        first = next(iter(usable))
        sets = self._make_sets(inputs, usable[first][0], references[first])
        rows: list[EvalRow] = []
        for embedder_name, (embedder, names) in usable.items():
            embedded = self._embed_sets(embedder, sets)
            if embedder_name == first:
                names = [*names, *(n for n in self._adherence_metrics(sets) if n not in names)]
            measure = partial(self._measure, name, sets, embedder, embedded, references[embedder_name])
            rows += [row for metric in names if (row := measure(metric)) is not None]
        if not rows:
            raise ValueError("\n".join(["Nothing could be measured.", *self.left_out]))
        is_generated = any(isinstance(each, EvalPrompt) for each in inputs)
        described = {
            **self._facts(sets, references[first]),
            **_weight_facts([self.embedders[each] for each in usable]),
            **(facts or {}),
            **({"not measured": " ".join(self.left_out)} if self.left_out else {}),
        }
        report = EvalReport(
            f"{name} against {self.reference.name}",
            [self._with_sampling(row, is_generated) for row in rows],
            self.reference.name,
            re.sub(r"[^a-z0-9]+", "-", self.reference.name.lower()).strip("-"),
            model=self.generator.name if self.generator else "",
            facts=described,
        )
        return Evaluation(report, self.skipped, self.left_out)

    def _usable_embedders(self) -> dict[str, tuple[ClipEmbedder, list[str]]]:
        """Return the embedders that can compare with the reference, or with captions, each with its metrics.

        Raises ValueError if none can: statistics belong to one embedder and one way of cutting.
        """
        usable = {}
        for name, embedder in self.embedders.items():
            spec = config.to_config("embedders", embedder)
            clip_embedder = ClipEmbedder.of(embedder, spec, self.config.cutter, self.cache)
            metrics = list(self.config.metrics[name])
            try:
                if self.reference.statistics is not None and _need_reference(metrics):
                    clip_embedder.config.require_same(self.reference.statistics.config)
            except ValueError as error:
                metrics = [metric for metric in metrics if not _need_reference([metric])]
                except_for = f", except for {', '.join(metrics)}" if metrics else ""
                self.left_out.append(f"{name} is left out{except_for}: {error}")
            if metrics:
                usable[name] = clip_embedder, metrics
        if not usable:
            raise ValueError(
                "\n".join([f"No embedder agrees with the statistics of {self.reference.name}.", *self.left_out])
            )
        return usable

    def _embed_references(self, usable: Mapping[str, tuple[ClipEmbedder, list[str]]]) -> dict[str, Reference]:
        """Return what each embedder sees of the reference; its statistics are kept in a file of the cache."""
        references: dict[str, Reference] = {}
        for name, (embedder, metrics) in usable.items():
            if self.reference.statistics is not None:
                references[name] = self.reference.statistics
            elif references and not _need_reference(metrics):
                references[name] = next(iter(references.values()))
            else:
                clips = self._embed(embedder, "the reference", self.reference.tracks)
                stats = ReferenceStats.of(clips)
                digest = config_hash(stats.config, stats.identity)
                stats.save(self.cache / f"reference-{embedder.name}-{digest}.safetensors")
                references[name] = clips
        return references

    def _make_sets(
        self, inputs: Sequence[EvalPrompt] | Sequence[Track], embedder: ClipEmbedder, reference: Reference
    ) -> EvalSets[Sequence[Track]]:
        """Generate what is evaluated, if there is a model, and what it is read against from clips of the reference."""
        tracks = [track for track in inputs if isinstance(track, Track)]
        generator, seconds = self.generator, self.config.cutter.seconds
        if generator is None:
            return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: NO_MODEL, oracle(): NO_MODEL})
        if prompts := [prompt for prompt in inputs if isinstance(prompt, EvalPrompt)]:
            tracks = self._generate(GENERATED, generator.generated(prompts, seconds))
        if isinstance(reference, ReferenceStats):
            return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: ONLY_STATISTICS, oracle(): ONLY_STATISTICS})
        count = len(tracks) if prompts else len(self._embed(embedder, "evaluated clips", tracks))
        names = {track.name: track for track in self.reference.tracks}
        clips = sample_clips(reference.names, count, generator.seed)
        sources = cut_sources(names, clips, seconds, generator.pipeline.codec, self.clips / "sources")
        reconstructed = self._generate(CODEC_RECONSTRUCTION, generator.codec_reconstruction(sources))
        try:
            later = generator.oracle_first_stage(sources)
        except ValueError as error:
            later = NotMeasured(str(error))
        completed = later if isinstance(later, NotMeasured) else self._generate(oracle(), later)
        return EvalSets({GENERATED: tracks, CODEC_RECONSTRUCTION: reconstructed, oracle(): completed})

    def _generate(self, name: str, clips: Sequence[GeneratedClip]) -> list[Track]:
        assert self.generator is not None
        with self.progress(name, len(clips)) as advance:
            return self.generator.write(clips, self.clips / name.replace(" ", "-"), advance)

    def _embed(self, embedder: ClipEmbedder, name: str, tracks: Sequence[Track]) -> ClipEmbeddings:
        with self.progress(f"{embedder.name} embeds {name}", len(tracks)) as advance:
            clips, skipped = embedder.embed(tracks, advance)
        self.skipped += [line for line in skipped if line not in self.skipped]
        return clips

    def _embed_sets(self, embedder: ClipEmbedder, sets: EvalSets[Sequence[Track]]) -> EvalSets[ClipEmbeddings]:
        return sets.map(partial(self._embed, embedder))

    def _adherence_metrics(self, sets: EvalSets[Sequence[Track]]) -> list[str]:
        """Return the installed metrics of prompts' attributes, if they are to be measured."""
        if self.config.adherence is False:
            return []
        metrics = {name: load_metric(name) for name in registry.entries("metrics")}
        metrics = {name: metric for name, metric in metrics.items() if metric.compares == "prompts"}
        requests = [_num_requests(metric, sets.get_set(GENERATED)) for metric in metrics.values()]
        return list(metrics) if self.config.adherence or max(requests, default=0) >= ENOUGH else []

    def _measure(
        self,
        clips_name: str,
        tracks: EvalSets[Sequence[Track]],
        embedder: ClipEmbedder,
        embedded: EvalSets[ClipEmbeddings],
        reference: Reference,
        name: str,
    ) -> EvalRow | None:
        """Measure one metric of all sets; where that is impossible for what is evaluated, say why."""
        metric, seed = load_metric(name), self.config.seed
        against: Any = reference
        try:
            if metric.embedder is not None:
                embedded, against = self._embed_by(metric, tracks)
        except (ValueError, ImportError) as error:
            return self._leave_out(metric, name, embedder, str(error))

        def measure(set_name: str) -> Attempt:
            if metric.excludes_reference and set_name != GENERATED:
                return NotMeasured(metric.excludes_reference)
            clips = embedded[set_name]
            return clips if isinstance(clips, NotMeasured) else _attempt(lambda: measured(clips))

        def measured(clips: ClipEmbeddings) -> MetricResult:
            captions = metric.compares == "captions"
            return metric(clips, embed_captions(embedder.embedder, clips) if captions else against, seed=seed)

        result = measure(GENERATED)
        if isinstance(result, NotMeasured):
            return self._leave_out(metric, name, embedder, result.reason)
        half: Attempt = NO_REFERENCE
        if metric.compares == "reference":
            half = ONLY_STATISTICS
            if isinstance(reference, ClipEmbeddings):
                half = _attempt(lambda: metric.split_half(reference, seed=seed))
        return EvalRow(clips_name, result, Context(half, measure(CODEC_RECONSTRUCTION), measure(oracle())))

    def _leave_out(self, metric: Metric, name: str, embedder: ClipEmbedder, reason: str) -> None:
        by = "" if metric.compares == "prompts" else f" by {embedder.name}"
        self.left_out.append(f"{name}{by} is left out: {reason}")

    def _embed_by(
        self, metric: Metric, tracks: EvalSets[Sequence[Track]]
    ) -> tuple[EvalSets[ClipEmbeddings], ClipEmbeddings | None]:
        """Embed all sets by a metric's own embedder, at their own loudness, and the reference if it says anything."""
        assert metric.embedder is not None
        estimator, cutter = metric.embedder(), ClipCutter(self.config.cutter.seconds)
        embedder = ClipEmbedder.of(estimator, _estimator_config(estimator), cutter, self.cache)
        has_requests = _num_requests(metric, self.reference.tracks) > 1
        reference = self._embed(embedder, "the reference", self.reference.tracks) if has_requests else None
        return self._embed_sets(embedder, tracks), reference

    def _with_sampling(self, row: EvalRow, is_generated: bool) -> EvalRow:
        """Add how the model was sampled to the results of what it generated: the clips if it did, and the oracle's.

        The codec reconstruction and the split half are of music that was not sampled.
        """
        generator = self.generator
        if generator is None:
            return row

        def sampled(result: Any) -> Any:
            if isinstance(result, NotMeasured):
                return result
            seeds = {**result.config.seeds, "generation": generator.seed}
            return replace(result, config=replace(result.config, seeds=seeds, sampling=generator.stages))

        context = replace(row.context, oracle_first_stage=sampled(row.context.oracle_first_stage))
        return replace(row, result=sampled(row.result) if is_generated else row.result, context=context)

    def _facts(self, sets: EvalSets[Sequence[Track]], reference: Reference) -> dict[str, Any]:
        """Return what the report is about beside the configurations of its results."""
        tracks = sets.get_set(GENERATED)
        prompts = [prompt_of(track) for track in tracks]
        facts: dict[str, Any] = {"evaluated tracks": len(tracks), "reference clips": len(reference)}
        if self.reference.tracks:
            facts["reference tracks"] = len(self.reference.tracks)
        if any(prompt["text"] for prompt in prompts):
            facts["prompts"] = prompts_hash(prompts)
        if self.generator is not None:
            sampling = {name: getattr(self.generator, name) for name in ("seed", "steps", "guidance")}
            facts["model fingerprint"] = self.generator.pipeline.fingerprint or ""
            facts |= {name: value for name, value in sampling.items() if value is not None}
        return facts


def sample_clips(names: Sequence[str], count: int, seed: int) -> list[tuple[str, float]]:
    """Draw at most `count` clips at random, by name: the track of each and its start in seconds.

    A smaller count draws a subset of a larger one.
    """
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    selected = [names[int(i)] for i in order[:count]]
    return [(track_of(name), start_of(name)) for name in selected]


def _attempt(measure: Callable[[], MetricResult]) -> Attempt:
    try:
        return measure()
    except (ValueError, ImportError) as error:
        return NotMeasured(str(error))


def _need_reference(metrics: Sequence[str]) -> bool:
    return any(load_metric(name).compares == "reference" for name in metrics)


def _num_requests(metric: Metric, tracks: Sequence[Track]) -> int:
    return sum(metric.requested(prompt_of(track)) is not None for track in tracks)


def _estimator_config(estimator: Embedder) -> dict[str, Any]:
    return getattr(estimator, "description", None) or {"name": type(estimator).__name__}


def _weight_facts(embedders: Sequence[Embedder]) -> dict[str, str]:
    """Say where the weights of embedders came from, which no configuration of a result holds."""
    specs = [config.to_config("embedders", embedder) for embedder in embedders]
    sources = {spec["name"]: weight_sources(spec) for spec in specs}
    return {
        f"weights of {name}": ", ".join(f"{option}={value}" for option, value in options.items())
        for name, options in sources.items()
        if options
    }
