"""What an evaluation measured: values with intervals, how each was measured, and their context.

This module is data alone. `codecdiff_eval.metrics` makes these objects, `codecdiff_eval.report` shows them:

    MetricResult        one metric of one set of clips, with its interval and `MetricConfig`
    EvalRow             a MetricResult with its context: split half, codec reconstruction, oracle first stage
    EvalReport          the rows of `codecdiff evaluate` under one title
    TargetResult        a value with bounds it should keep, as in the demo's table
    VariantResults      one metric of all variants of `codecdiff compare`, with differences to the first
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, Self, TypeVar

from pydantic import FiniteFloat, TypeAdapter
from pydantic.dataclasses import dataclass

from codecdiff import Embedder, __version__
from codecdiff.errors import InvalidValue
from codecdiff.files import check_schema, read_json
from codecdiff.fingerprint import module_fingerprint
from codecdiff_eval.numbers import to_json

__all__ = [
    "Estimate",
    "EvalReport",
    "MetricConfig",
    "MetricResult",
    "NotMeasured",
    "TargetResult",
    "VariantResults",
    "corrected_for_chance",
    "to_json",
]

Direction = Literal["lower", "higher", ""]  # which way is better; empty where neither is
T = TypeVar("T")

FORMAT = 3  # of report.json
RESAMPLES = 200  # of an interval
UNCHANGED = "unchanged"
WEIGHT_SOURCES = ("model", "revision", "weights")  # options that say where weights are loaded from
SPLIT_HALF, CODEC_RECONSTRUCTION, ORACLE = "split half", "codec reconstruction", "oracle first stage"
CONTEXT = (
    SPLIT_HALF,  # as many clips of one half of the reference against the other: two sets of the same music
    CODEC_RECONSTRUCTION,  # real music that the codec encoded and decoded: the best to expect of its codes
    ORACLE,  # the later stages on the true first stage: what is lost by them alone
)
MAY_DIFFER = ("seeds", "sampling", "version", "num_windows")  # fields of a MetricConfig, between comparable results
SIZES = ("num_clips", "reference", "num_reference_clips", "prompts", "options")  # may differ in a context, too


class IncomparableError(InvalidValue):
    """Two results that do not mean the same were compared; the message names what differs."""


class Estimate(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether the interval includes zero: no difference is shown."""
        return self.low <= 0 <= self.high

    def clamp(self, lowest: float, highest: float) -> Estimate:
        """Return the estimate with the ends of its interval clamped, as a fraction's to 0...1."""
        return Estimate(self.value, max(self.low, lowest), min(self.high, highest))


@dataclass(frozen=True)
class Interval:
    """Where a value may lie: the central `level` of resamples of what `over` names.

    It is centered on the value (`metrics.bootstrap`), so a distance near 0 may have a negative end.
    """

    low: FiniteFloat
    high: FiniteFloat
    level: float = 0.95
    over: str = "evaluated tracks"
    resamples: int = RESAMPLES


@dataclass(frozen=True)
class EmbeddingConfig:
    """How audio became the vectors that a metric compares.

    embedder: the part as `{name, options...}`.
    weights: hash of its weights, empty if it has none.
    clip_seconds: length of the clips that tracks are cut into; None where tracks are embedded whole.
    window_seconds, hop_seconds: of one vector, and from one vector to the next; None for the whole clip.
    resampling: how audio came to `sample_rate`.
    mono: how channels became one.
    loudness: how loudness was normalized, if it was.
    windows: in words, what else the embedder does with length: how it pads, repeats or cuts.
    """

    embedder: Mapping[str, Any]
    weights: str
    sample_rate: int  # Hz
    clip_seconds: float | None
    window_seconds: float | None
    hop_seconds: float | None
    resampling: str = "soxr HQ"
    mono: str = "mean of channels"
    loudness: str = UNCHANGED
    windows: str = ""

    @property
    def name(self) -> str:
        """Name of the embedder."""
        return str(self.embedder.get("name", ""))

    @classmethod
    def of(
        cls, embedder: Embedder, spec: Mapping[str, Any], *, clip_seconds: float | None, loudness: str = UNCHANGED
    ) -> Self:
        """Describe an embedder built from `spec` that reads audio as `codecdiff.data.audio.read_audio` does.

        If it has weights, their hash identifies the model, and options that say where they came from are left out
        (`weight_sources`). Of any other absolute path in `spec` only the last name is kept.
        """
        weights = module_fingerprint(embedder) if embedder.state_dict() else ""
        return cls(
            embedder=_portable(spec, leave_out=WEIGHT_SOURCES if weights else ()),
            weights=weights,
            sample_rate=embedder.sample_rate,
            clip_seconds=clip_seconds,
            window_seconds=embedder.window_seconds,
            hop_seconds=embedder.hop_seconds,
            loudness=loudness,
            windows=embedder.policy,
        )

    def require_same(self, other: EmbeddingConfig) -> None:
        """Raise ValueError, naming the fields that differ, unless both embed alike."""
        if differences := _differences(asdict(self), asdict(other)):
            raise InvalidValue(f"The two sets were embedded differently ({'; '.join(differences)}). Embed one again.")


@dataclass(frozen=True)
class MetricConfig:
    """Everything a result follows from except the music it evaluates.

    num_clips, num_windows: how many were evaluated.
    reference: `set_hash` of the reference clips, empty for a metric that needs none.
    prompts: `prompts_hash` of what the evaluated clips were generated from, empty if none.
    options: of the formula: neighbors, bandwidth, scale.
    seeds: of generation and of the interval, by name. They may differ between results that are compared.
    sampling: steps and guidance of each stage of the model that generated the clips. They belong to the music, not to
        how it is evaluated, and may differ too.
    version: of codecdiff. It may differ too.
    """

    embedding: EmbeddingConfig
    num_clips: int
    num_windows: int
    reference: str = ""
    num_reference_clips: int = 0
    prompts: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__

    def differences(self, other: MetricConfig, *, ignore: Iterable[str] = MAY_DIFFER) -> list[str]:
        """Name the fields in which two configurations differ, each with both values, except those in `ignore`."""
        return _differences(asdict(self), asdict(other), ignore)

    def flat(self) -> dict[str, Any]:
        """Return the fields that are not empty as one level of plain values, names joined by dots."""
        values = json.loads(json.dumps(flatten(asdict(self))))
        return {name: value for name, value in values.items() if value not in ("", None)}


@dataclass(frozen=True)
class MetricResult:
    """A measured value with its interval, how it was measured, and what to be careful about.

    chance: the same metric with captions, or requested attributes, permuted at random, if it depends on them.
    upper_bound: the same metric of real music, where it was measured.
    per_clip: the value of every clip by name, where the metric is a mean over clips.
    warnings: sentences that belong beside the value wherever it is shown.
    meaning: what the value says, for the reader of a report.

    `<`, `-` and `/` raise IncomparableError unless both were measured alike.
    """

    name: str
    value: FiniteFloat
    interval: Interval
    config: MetricConfig
    direction: Direction
    warnings: tuple[str, ...] = ()
    chance: Estimate | None = None
    upper_bound: Estimate | None = None
    per_clip: Mapping[str, float] = field(default_factory=dict)
    meaning: str = ""

    @property
    def estimate(self) -> Estimate:
        """The value and its interval alone."""
        return Estimate(self.value, self.interval.low, self.interval.high)

    def require_comparable(self, other: MetricResult) -> None:
        """Raise IncomparableError, naming every field that differs, unless two results can be compared."""
        if not isinstance(other, MetricResult):
            raise TypeError(f"A result is compared with a result, not with the bare number {other!r}.")
        named = [f"name: {self.name!r} and {other.name!r}"] if self.name != other.name else []
        if differences := [*named, *self.config.differences(other.config)]:
            raise IncomparableError(
                f"These results were measured differently: {'; '.join(differences)}. Measure one of them again."
            )

    def __lt__(self, other: MetricResult) -> bool:
        self.require_comparable(other)
        return self.value < other.value

    def __gt__(self, other: MetricResult) -> bool:
        self.require_comparable(other)
        return self.value > other.value

    def is_better_than(self, other: MetricResult) -> bool:
        """Return whether this is the better result; the interval of `-` says whether by more than chance."""
        return self < other if self.direction == "lower" else self > other

    def __sub__(self, other: MetricResult) -> Estimate:
        """Return the difference as if the two were independent: its interval is too wide if they share a reference.

        The distances of the ends are added in quadrature.
        """
        self.require_comparable(other)
        a, b = self.interval, other.interval
        value = self.value - other.value
        down = math.hypot(self.value - a.low, b.high - other.value)
        up = math.hypot(a.high - self.value, other.value - b.low)
        return Estimate(value, value - down, value + up)

    def __truediv__(self, other: MetricResult) -> Estimate:
        """Return the ratio as if the two were independent; its interval is NaN unless both intervals are above 0."""
        self.require_comparable(other)
        a, b = self.interval, other.interval
        if min(a.low, b.low) <= 0:
            return Estimate(self.value / other.value if other.value else math.nan, math.nan, math.nan)
        value = self.value / other.value
        down = math.hypot(math.log(self.value / a.low), math.log(b.high / other.value))
        up = math.hypot(math.log(a.high / self.value), math.log(other.value / b.low))
        return Estimate(value, value * math.exp(-down), value * math.exp(up))

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} [{self.interval.low:.4g}, {self.interval.high:.4g}]"


def corrected_for_chance(result: MetricResult, upper_bound: float | None) -> Estimate | None:
    """Return (value - chance) / (upper bound - chance): 0 for chance and 1 for the bound.

    The interval is that of the value, with the others as they are. None without chance or upper bound, and where this
    is within the interval of chance: the estimator cannot tell.
    """
    if result.chance is None or upper_bound is None or upper_bound <= result.chance.high:
        return None
    chance = result.chance.value
    return Estimate(*((each - chance) / (upper_bound - chance) for each in result.estimate))


@dataclass(frozen=True)
class NotMeasured:
    """A result that is missing, and why, in a sentence."""

    reason: str


@dataclass(frozen=True)
class EvalRow:
    """A metric of one set of clips, called `clips`, and its context by the names of `CONTEXT`.

    context: the same metric of each, or why it was not measured.

    Raises ValueError for a bare number, and for a context of another metric or another embedder.
    """

    clips: str
    result: MetricResult
    context: Mapping[str, MetricResult | NotMeasured]

    def __post_init__(self) -> None:
        for name, other in self.context.items():
            if isinstance(other, NotMeasured):
                continue
            differences = self.result.config.differences(other.config, ignore=(*MAY_DIFFER, *SIZES))
            if other.name != self.result.name:
                differences.insert(0, f"name: {self.result.name!r} and {other.name!r}")
            if differences:
                raise ValueError(f"The {name} of '{self.clips}' is another metric: {'; '.join(differences)}.")

    @property
    def corrected(self) -> Estimate | None:
        """The rate `corrected_for_chance`, with the codec reconstruction as upper bound."""
        upper = self.context[CODEC_RECONSTRUCTION]
        return corrected_for_chance(self.result, None if isinstance(upper, NotMeasured) else upper.value)


@dataclass(frozen=True)
class TargetResult:
    """A value, its interval if it has one, and the bounds it should keep, if any: a line of the demo's table."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the value keeps its bounds (NaN keeps none); None without bounds."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the verdict."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class EvalReport:
    """Rows under one title: what `codecdiff evaluate` measured.

    model: name of the evaluated model, empty where files are evaluated.
    dataset: name of the reference music; `dataset_id` its id on the Hugging Face hub, or another short name.
    facts: about the run, as JSON can hold them: suite, prompts, fingerprint of the model.
    codec: how its codec's reconstruction differs from the music that was encoded.
    """

    title: str
    rows: Sequence[EvalRow]
    dataset: str
    dataset_id: str
    model: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    codec: Sequence[TargetResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {"format": FORMAT, **to_json(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Restore what `to_json` returned. Raises ValueError for another format."""
        if values.get("format") != FORMAT:
            raise InvalidValue(f"This is not a report of format {FORMAT}: evaluate again.")
        return check_schema(dict(values), "The report", cls)

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read the `report.json` of a folder."""
        return cls.from_json(read_json(Path(folder) / "report.json", dict[str, Any]))


@dataclass(frozen=True)
class VariantResults:
    """One metric of all variants that have it: a row of `codecdiff compare`.

    meaning: in words, for the reader of the report.
    values: by variant, the mean over seeds with its interval.
    seeds: by variant, the value of each seed.
    differences: by variant, its value minus that of the first variant, resampled in pairs.
    """

    name: str
    direction: Direction
    meaning: str
    values: Mapping[str, Estimate]
    seeds: Mapping[str, Sequence[float]]
    differences: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        differences = {n: {**d._asdict(), "includes_zero": d.includes_zero} for n, d in self.differences.items()}
        return {**to_json(self), "differences": differences}


def from_json(cls: type[T], values: Mapping[str, Any]) -> T:
    """Restore a dataclass of this module from `to_json`; fields that a later version added are ignored."""
    return TypeAdapter(cls).validate_python(values)


def set_hash(hashes: Iterable[str]) -> str:
    """Return one hash of a set of clips from the hash of each, in any order: a sum, so that sets can be merged.

    Hashes are hexadecimal. `set_hash([*a, *b]) == set_hash([set_hash(a), set_hash(b)])`.
    """
    return f"{sum(int(each, 16) for each in hashes) % 2**128:032x}"


def hash_of(content: bytes) -> str:
    """Return a hash of bytes, 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def prompts_hash(prompts: Iterable[Any]) -> str:
    """Return a hash of prompts in any order; a prompt that occurs twice counts twice. Empty for none.

    The SHA-256, 16 digits, of the JSON list of the prompts' own JSON texts, sorted.
    """
    texts = sorted(json.dumps(prompt, sort_keys=True, ensure_ascii=False) for prompt in prompts)
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:16] if texts else ""


def flatten(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested mappings as one, its keys joined by dots."""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows |= flatten(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return rows


def weight_sources(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a part that say where its weights are loaded from, without folders of this machine.

    No configuration holds them: the same weights from another place are the same embedder.
    """
    options = flatten(_portable(spec))
    return {name: v for name, v in options.items() if name.split(".")[-1] in WEIGHT_SOURCES and v is not None}


def _portable(spec: Any, leave_out: Collection[str] = ()) -> Any:
    """Return a specification as JSON reads it back, without folders of this machine and some options."""
    if isinstance(spec, Mapping):
        return {str(key): _portable(value, leave_out) for key, value in spec.items() if key not in leave_out}
    if isinstance(spec, list | tuple):
        return [_portable(value, leave_out) for value in spec]
    if isinstance(spec, PurePath) or (isinstance(spec, str) and PurePath(spec).is_absolute()):
        return PurePath(spec).name if PurePath(spec).is_absolute() else str(spec)
    return spec


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], ignore: Iterable[str] = ()) -> list[str]:
    """Name the fields in which two nested mappings differ, each with both values."""
    mine, theirs, ignored = flatten(a), flatten(b), set(ignore)
    names = [name for name in dict.fromkeys([*mine, *theirs]) if name.split(".")[0] not in ignored]
    shown = [repr(values[n]) if n in values else "nothing" for n in names for values in (mine, theirs)]
    pairs = zip(names, shown[::2], shown[1::2], strict=True)
    return [f"{n}: {one} and {other}" for n, one, other in pairs if mine.get(n) != theirs.get(n)]
