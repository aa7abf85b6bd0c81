"""Evaluation: sets of music, judges and scores put together into a report in which no number stands alone.

Judges hear the reference first. A model then makes what is judged, and what its scores are read against: clips of the
reference through its codec, and clips of the reference of which it made all but the first stage. Everything made or
heard is kept on disk, so a run that is killed goes on where it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from codecdiff import config, controls, huggingface
from codecdiff.config.schema import Guidance
from codecdiff.data.audio import Track
from codecdiff.data.prompts import Asked, prompt_of
from codecdiff.embedded import Embedded, Statistics, recording_of, require_alike, start_of
from codecdiff.embedders import CodecEmbedder
from codecdiff.interfaces import Embedder
from codecdiff.listeners import Cutting, Listener
from codecdiff.measures import split_half
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.protocols import Hearing, digest_of, locations, prompts_hash
from codecdiff.renditions import Rendition, completed, cut_sources, generated, reconstructed, render
from codecdiff.reports import Context, NotMeasured, Report, Result
from codecdiff.scores import Score
from codecdiff.suites import ACCEPT_STATISTICS, COMPARISONS, TEXT, with_captions

Heard = TypeVar("Heard")
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

NO_REFERENCE = NotMeasured("It compares clips with what was asked of them, not with a reference.")
NO_MODEL = NotMeasured("No model was named, so there is no codec and no stage.")
ONLY_STATISTICS = NotMeasured("Of the reference only statistics are known.")
TAUGHT = NotMeasured("It is made of clips of the reference, and these taught the probes that hear instruments.")


@dataclass(frozen=True)
class Judge:
    """An embedder, its configuration, and the scores that are taken of what it hears."""

    embedder: Embedder
    spec: Mapping[str, Any]
    scores: Sequence[str]


@dataclass(frozen=True)
class Sets(Generic[Heard]):
    """The clips that are judged, and those that their scores are read against, or why there are none.

    ceiling: clips of the reference, encoded and decoded by the model's codec.
    truth: clips of the reference of which the model made all but the first stage.
    """

    judged: Heard
    ceiling: Heard | NotMeasured = NO_MODEL
    truth: Heard | NotMeasured = NO_MODEL


@dataclass(frozen=True)
class Reference:
    """The music that others are compared with: recordings, or statistics of what one judge heard of some."""

    name: str
    tracks: Sequence[Track] = ()
    statistics: Statistics | None = None


@dataclass(frozen=True)
class Maker:
    """A model that is judged, and how it is sampled; the seed of each clip follows from `seed` and its prompt.

    steps, guidance: None for the model's own.
    """

    name: str
    pipeline: Pipeline
    seed: int = 0
    steps: int | None = None
    guidance: Guidance | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """Give the options of sampling."""
        return {"seed": self.seed, "num_inference_steps": self.steps, "guidance_scale": self.guidance}

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Give the steps and the guidance that each stage is sampled with, the model's own where none are asked for."""
        return {
            stage.name: {
                "steps": self.steps or stage.num_inference_steps,
                "guidance": stage.guidance_scale if self.guidance is None else self.guidance,
            }
            for stage in self.pipeline.stages
        }


@dataclass(frozen=True)
class Place:
    """Where an evaluation keeps its clips and what was heard, how it cuts recordings, and how it shows progress.

    bar: gives a context for a name and a total, in which it yields the function that takes the count so far.
    """

    clips: Path
    cache: Path
    cutting: Cutting
    bar: Bar

    def listener(self, judge: Judge) -> Listener:
        """Let a judge hear."""
        cutting = self.cutting
        hearing = Hearing.of(judge.embedder, judge.spec, clip_seconds=cutting.seconds, loudness=str(cutting))
        return Listener(judge.embedder, hearing, self.cutting, self.cache)

    def hear(self, listener: Listener, what: str, tracks: Sequence[Track], faults: list[str]) -> Embedded:
        """Let a listener hear recordings; what cannot be heard is added to the faults."""
        with self.bar(f"{listener.hearing.embedder['name']} hears {what}", len(tracks)) as advance:
            heard, skipped = listener.hear(tracks, advance)
        faults += [fault for fault in skipped if fault not in faults]
        return heard

    def render(self, maker: Maker, what: str, renditions: Sequence[Rendition]) -> list[Track]:
        """Let a model make clips."""
        with self.bar(what, len(renditions)) as advance:
            return render(maker.pipeline, renditions, self.clips / what.replace(" ", "-"), advance)


@dataclass(frozen=True)
class Evaluated:
    """A report, and in sentences what could not be heard and what could not be measured."""

    report: Report
    faults: Sequence[str]
    left_out: Sequence[str]


def find_judges(
    wanted: Mapping[str, Sequence[str]],
    options: Mapping[str, Sequence[str]],
    *,
    pipeline: Pipeline | None,
    required: bool,
    allow_download: bool,
) -> tuple[list[Judge], list[str]]:
    """Build embedders by name, each with its scores and the `option=value` words of its options.

    `codec` is the codec of the model unless an option names another. One that cannot be had is an error if they are
    `required`, and a sentence otherwise; then nothing is fetched but with `allow_download`.
    """
    if unused := set(options) - set(wanted):
        raise LookupError(f"Options are given for '{min(unused)}', which is not among: {', '.join(wanted)}.")
    judges, told = [], []
    for name, scores in wanted.items():
        try:
            with huggingface.downloads(required or allow_download):
                embedder = _embedder(name, options.get(name, ()), pipeline)
            judges.append(Judge(embedder, config.to_config("embedders", embedder), scores))
        except (LookupError, OSError, ImportError, ValueError) as error:
            if required:
                raise
            fetch = " Nothing is fetched for a suite without --allow-download." if not allow_download else ""
            told.append(f"{name} is left out: {error}{'' if isinstance(error, ValueError) else fetch}")
    if not judges:
        raise LookupError("\n".join(["There is no judge.", *told]))
    return judges, told


def _embedder(name: str, options: Sequence[str], pipeline: Pipeline | None) -> Embedder:
    if name == "codec" and not options:
        if pipeline is None:
            raise ValueError("It hears by the codec of a model, and none was named: --model MODEL.")
        return CodecEmbedder(pipeline.codec)
    return config.build("embedders", config.chosen("embedders", name, options))


def evaluate(
    judges: Sequence[Judge],
    reference: Reference,
    judged: Sequence[Asked] | Sequence[Track],
    place: Place,
    *,
    name: str,
    maker: Maker | None = None,
    adherence: bool | None = None,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    absent: Sequence[str] = (),
) -> Evaluated:
    """Judge recordings, or what the maker makes of prompts, against a reference.

    `name` is what the judged clips are called. `adherence` measures how well they keep to the tempo, key and
    instruments asked for; None does where such facts are. `facts` of the run, and sentences on judges that are
    `absent`, go into the report. Raises ValueError where nothing can be measured, and FileExistsError if other clips
    lie where the maker's are to be.
    """
    faults: list[str] = []
    able, unable = _able(judges, reference, place)
    left_out = [*absent, *unable]
    against: list[Embedded | Statistics] = []
    for judge, listener in able:
        only_text = against and set(judge.scores) == {TEXT}  # then the reference need not be heard
        against.append(against[0] if only_text else _heard_reference(place, listener, reference, faults))
    sets = _made(place, maker, judged, reference, against[0], able[0][1], faults)
    found: list[Result] = []
    for (judge, listener), known in zip(able, against, strict=True):
        heard = _each(sets, lambda what, tracks, by=listener: place.hear(by, what, tracks, faults))
        results, missing = _scores(name, judge, heard, known, seed)
        found, left_out = found + results, left_out + missing
        if judge is able[0][0] and _wanted(adherence, sets.judged):
            results, missing = _adherence(name, place, sets, heard, reference, known, seed)
            found, left_out = found + results, left_out + missing
    if not found:
        raise ValueError("\n".join(["Nothing could be measured.", *left_out]))
    if maker is not None:
        is_made = any(isinstance(each, Asked) for each in judged)
        found = [_of_maker(maker, result, is_made) for result in found]
    told = {**_facts(sets, reference, against[0], maker), **_weights([judge for judge, _ in able]), **(facts or {})}
    report = Report(
        f"{name} against {reference.name}",
        found,
        reference.name,
        re.sub(r"[^a-z0-9]+", "-", reference.name.lower()).strip("-"),
        model=maker.name if maker else "",
        facts=told | ({"not measured": " ".join(left_out)} if left_out else {}),
    )
    return Evaluated(report, faults, left_out)


def _able(
    judges: Sequence[Judge], reference: Reference, place: Place
) -> tuple[list[tuple[Judge, Listener]], list[str]]:
    """Give the judges that can compare with the reference, or with captions, with a sentence for each that cannot.

    Raises ValueError if none can: statistics hold what one judge heard, in one way.
    """
    able, left_out = [], []
    for judge in judges:
        listener, kept = place.listener(judge), judge
        try:
            if reference.statistics is not None and set(judge.scores) != {TEXT}:
                require_alike(listener.hearing, reference.statistics.hearing)
        except ValueError as error:
            kept = replace(judge, scores=[score for score in judge.scores if score == TEXT])
            left_out.append(f"{judge.spec['name']} is left out{f', but for {TEXT}' if kept.scores else ''}: {error}")
        if kept.scores:
            able.append((kept, listener))
    if not able:
        raise ValueError("\n".join([f"No judge hears as the statistics of {reference.name} were heard.", *left_out]))
    return able, left_out


def _heard_reference(
    place: Place, listener: Listener, reference: Reference, faults: list[str]
) -> Embedded | Statistics:
    """Give what a judge hears in the reference, and keep its statistics in a file named by it and what it heard."""
    if reference.statistics is not None:
        return reference.statistics
    heard = place.hear(listener, "the reference", reference.tracks, faults)
    statistics = Statistics.of(heard)
    told = digest_of(json.dumps([asdict(statistics.hearing), statistics.identity], sort_keys=True).encode())
    statistics.save(place.cache / f"reference-{listener.hearing.embedder['name']}-{told[:8]}.safetensors")
    return heard


def _made(
    place: Place,
    maker: Maker | None,
    judged: Sequence[Asked] | Sequence[Track],
    reference: Reference,
    known: Embedded | Statistics,
    listener: Listener,
    faults: list[str],
) -> Sets[Sequence[Track]]:
    """Let the model, if any, make what is judged, and out of as many clips of the reference what it is read against."""
    tracks = [track for track in judged if isinstance(track, Track)]
    if maker is None:
        return Sets(tracks)
    pipeline, seconds = maker.pipeline, place.cutting.seconds
    if asked := [prompt for prompt in judged if isinstance(prompt, Asked)]:
        tracks = place.render(maker, "generated", generated(pipeline, asked, seconds=seconds, **maker.sampling))
    if isinstance(known, Statistics):
        return Sets(tracks, ONLY_STATISTICS, ONLY_STATISTICS)
    names = {track.name: track for track in reference.tracks}
    count = len(tracks) if asked else len(place.hear(listener, "what is judged", tracks, faults))
    clips = drawn_clips(known.names, count, maker.seed)
    sources = cut_sources(names, clips, seconds, pipeline.codec, place.clips / "sources")
    ceiling = place.render(maker, "codec ceiling", reconstructed(pipeline, sources))
    try:
        truth = completed(pipeline, sources, **maker.sampling)
    except ValueError as error:
        return Sets(tracks, ceiling, NotMeasured(str(error)))
    return Sets(tracks, ceiling, place.render(maker, "first stage given", truth))


def _of_maker(maker: Maker, result: Result, is_made: bool) -> Result:
    """Let the scores of what a model made say how it was sampled: of the judged clips if it made them, and the truth's.

    The codec ceiling and the split half are of music that nobody sampled.
    """

    def told(found: Any) -> Any:
        if isinstance(found, NotMeasured):
            return found
        seeds = {**found.protocol.seeds, "generation": maker.seed}
        return replace(found, protocol=replace(found.protocol, seeds=seeds, sampling=maker.stages))

    context = replace(result.context, stage_two_given_truth=told(result.context.stage_two_given_truth))
    return replace(result, score=told(result.score) if is_made else result.score, context=context)


def drawn_clips(names: Sequence[str], count: int, seed: int) -> list[tuple[str, float]]:
    """Draw at most so many clips at random, by name: the recording of each and its start in seconds.

    Those of a smaller count are among those of a larger.
    """
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [names[int(i)] for i in order[:count]]
    return [(recording_of(name), start_of(name)) for name in chosen]


def _each(sets: Sets[Any], function: Callable[[str, Any], Heard]) -> Sets[Heard]:
    """Give what a function of a name and a set gives for every set there is."""

    def given(what: str, some: Any) -> Any:
        return some if isinstance(some, NotMeasured) else function(what, some)

    return Sets(
        function("what is judged", sets.judged),
        given("the codec ceiling", sets.ceiling),
        given("the first stage given", sets.truth),
    )


def _scores(
    name: str, judge: Judge, heard: Sets[Embedded], reference: Embedded | Statistics, seed: int
) -> tuple[list[Result], list[str]]:
    """Take a judge's scores, each in its context, with a sentence for every one that cannot be taken."""
    results, left_out = [], []
    for score in judge.scores:
        measure = partial(_measured, score, judge.embedder, reference, seed)
        found = _attempt(measure, heard.judged)
        if isinstance(found, NotMeasured):
            left_out.append(f"{score} by {judge.spec['name']} is left out: {found.reason}")
            continue
        split = NO_REFERENCE if score == TEXT else _split_half(score, reference, seed)
        results.append(Result(name, found, _context(measure, heard, split)))
    return results, left_out


def _measured(score: str, embedder: Embedder, reference: Embedded | Statistics, seed: int, judged: Embedded) -> Score:
    """Take one score of a set. Raises ValueError where that is impossible."""
    if score == TEXT:
        return with_captions(embedder, judged, seed)
    if isinstance(reference, Statistics) and score not in ACCEPT_STATISTICS:
        raise ValueError("It needs the reference clip by clip, and only statistics of it are known.")
    return COMPARISONS[score](judged, reference, seed=seed)


def _split_half(score: str, reference: Embedded | Statistics, seed: int) -> Score | NotMeasured:
    if isinstance(reference, Statistics):
        return ONLY_STATISTICS
    return _attempt(lambda known: split_half(partial(COMPARISONS[score], seed=seed), known, seed=seed), reference)


def _attempt(measure: Callable[[Any], Score], given: Any) -> Score | NotMeasured:
    if isinstance(given, NotMeasured):
        return given
    try:
        return measure(given)
    except (ValueError, ImportError) as error:
        return NotMeasured(str(error))


def _context(measure: Callable[[Any], Score], sets: Sets[Any], split_half: Score | NotMeasured) -> Context:
    return Context(split_half, _attempt(measure, sets.ceiling), _attempt(measure, sets.truth))


def _wanted(adherence: bool | None, judged: Sequence[Track]) -> bool:
    return controls.are_asked(judged) if adherence is None else adherence


def _adherence(
    name: str,
    place: Place,
    sets: Sets[Sequence[Track]],
    heard: Sets[Embedded],
    reference: Reference,
    known: Embedded | Statistics,
    seed: int,
) -> tuple[list[Result], list[str]]:
    """Measure how well clips keep to what was asked, with a sentence for every fact that cannot be told."""
    measures: dict[str, tuple[Callable[[Any], Score], Sets[Any]]] = {
        what: (measure, sets)
        for what, measure in controls.readings(place.cutting, place.cache, reference.tracks, seed).items()
    }
    results, left_out = [], []
    if isinstance(known, Embedded):
        measure = partial(_instruments, known, seed)
        measures["instruments"] = (measure, Sets(heard.judged, TAUGHT, TAUGHT))
    else:
        left_out.append("instruments is left out: The music of a reference teaches to hear them, not its statistics.")
    for what, (measure, given) in measures.items():
        found = _attempt(measure, given.judged)
        if isinstance(found, NotMeasured):
            left_out.append(f"{what} is left out: {found.reason}")
        else:
            results.append(Result(name, found, _context(measure, given, NO_REFERENCE)))
    return results, left_out


def _instruments(reference: Embedded, seed: int, judged: Embedded) -> Score:
    return controls.instruments(judged, reference.halves(seed), seed=seed)


def _weights(judges: Sequence[Judge]) -> dict[str, str]:
    """Say where the weights of judges came from, which no protocol tells."""
    found = {judge.spec["name"]: locations(judge.spec) for judge in judges}
    return {
        f"weights of {name}": ", ".join(f"{option}={value}" for option, value in options.items())
        for name, options in found.items()
        if options
    }


def _facts(
    sets: Sets[Sequence[Track]], reference: Reference, known: Embedded | Statistics, maker: Maker | None
) -> dict[str, Any]:
    """Say what the report is about beside the protocols of its scores."""
    prompts = [prompt_of(track) for track in sets.judged]
    told: dict[str, Any] = {"judged recordings": len(sets.judged), "reference clips": len(known)}
    if reference.tracks:
        told["reference recordings"] = len(reference.tracks)
    if any(prompt["text"] for prompt in prompts):
        told["prompts"] = prompts_hash(prompts)
    if maker is not None:
        sampling = {"seed": maker.seed, "steps": maker.steps, "guidance": maker.guidance}
        sampling = {name: value for name, value in sampling.items() if value is not None}
        told |= {"model fingerprint": maker.pipeline.fingerprint or "", **sampling}
    return told
