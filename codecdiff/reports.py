"""Reports: scores beside what they have to be read against, as Markdown, JSON and the header of a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from codecdiff.files import replace_text
from codecdiff.metrics import Estimate
from codecdiff.protocols import FREE, flat
from codecdiff.scores import Score

FORMAT = 1
ARROWS = {"lower": "↓", "higher": "↑"}
SIZES = ("clips", "reference", "reference_clips", "prompts", "options")  # in which a context may differ


@dataclass(frozen=True)
class NotMeasured:
    """A score that is not there, and why, in a sentence."""

    reason: str


@dataclass(frozen=True)
class Context:
    """What a score of a model is read against. Each is the same score, or says why it was not measured.

    split_half: of one half of the reference against the other: the least that can be told apart.
    codec_ceiling: of real music that the codec encoded and decoded: the best its codes can do.
    stage_two_given_truth: of the later stages given the true first one: what is lost by them alone.
    """

    split_half: Score | NotMeasured
    codec_ceiling: Score | NotMeasured
    stage_two_given_truth: Score | NotMeasured

    def items(self) -> Iterator[tuple[str, Score | NotMeasured]]:
        """Yield the name and value of each."""
        for name in CONTEXT:
            yield name, getattr(self, name)


CONTEXT = ("split_half", "codec_ceiling", "stage_two_given_truth")


@dataclass(frozen=True)
class Result:
    """A score of one set of clips, called `subject`, with its context.

    Raises TypeError for a bare number, ValueError for a context of another score or heard by another judge.
    """

    subject: str
    score: Score
    context: Context

    def __post_init__(self) -> None:
        if not isinstance(self.score, Score):
            raise TypeError(f"'{self.subject}' has {self.score!r} for a score: a report takes scores, no bare numbers.")
        if not isinstance(self.context, Context):
            raise TypeError(f"{self.score.name} of '{self.subject}' has no context: give a Context, with reasons.")
        for name, other in self.context.items():
            if isinstance(other, NotMeasured):
                continue
            if not isinstance(other, Score):
                raise TypeError(f"The {_words(name)} of '{self.subject}' is {other!r}: give a Score or NotMeasured.")
            differences = self.score.protocol.differences(other.protocol, ignoring=(*FREE, *SIZES))
            if other.name != self.score.name:
                differences.insert(0, f"name: {self.score.name!r} and {other.name!r}")
            if differences:
                raise ValueError(f"The {_words(name)} of '{self.subject}' is another score: {'; '.join(differences)}.")


@dataclass(frozen=True)
class Report:
    """Results under one title.

    model: name of the model that is judged, empty where folders are.
    dataset: name of the reference music; `dataset_id` its id on the Hugging Face hub, or another short name.
    facts: of the run, as JSON can hold them: suite, command, the model's folder.
    """

    title: str
    results: Sequence[Result]
    dataset: str
    dataset_id: str
    model: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for result in self.results:
            if not isinstance(result, Result):
                raise TypeError(f"A report takes results, each a score with its context, but got {result!r}.")

    def write(self, folder: Path | str) -> None:
        """Write `report.md`, `report.json` and, for a model, `model-index.yaml`, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "report.md", self.markdown())
        replace_text(folder / "report.json", json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")
        if self.model:
            header = yaml.safe_dump(self.model_index(), sort_keys=False, allow_unicode=True)
            replace_text(folder / "model-index.yaml", header)

    def to_json(self) -> dict[str, Any]:
        """Give the report as JSON can hold it."""
        results = [
            {
                "subject": r.subject,
                "score": r.score.to_json(),
                "context": {name: s.to_json() if isinstance(s, Score) else asdict(s) for name, s in r.context.items()},
            }
            for r in self.results
        ]
        named = {name: getattr(self, name) for name in ("title", "model", "dataset", "dataset_id")}
        return {"format": FORMAT, **named, "facts": dict(self.facts), "results": results}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take back what `to_json` gave. Raises ValueError for another format."""
        if values.get("format") != FORMAT:
            raise ValueError(f"This is no report of format {FORMAT}: measure again.")

        def scored(given: Mapping[str, Any]) -> Score | NotMeasured:
            return NotMeasured(given["reason"]) if "reason" in given else Score.from_json(given)

        def result(given: Mapping[str, Any]) -> Result:
            context = Context(**{name: scored(each) for name, each in given["context"].items()})
            return Result(given["subject"], Score.from_json(given["score"]), context)

        named = {name: values[name] for name in ("title", "model", "dataset", "dataset_id", "facts")}
        return cls(results=[result(each) for each in values["results"]], **named)

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read what `write` wrote."""
        return cls.from_json(json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")))

    def markdown(self) -> str:
        """Give the report as Markdown: the table, warnings, what was not measured and why, and every protocol."""
        sections = [self._head(), self._table(), self._warnings(), self._missing(), self._protocols()]
        return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"

    def model_index(self) -> dict[str, Any]:
        """Give the `model-index` of a model card's header, for Hugging Face: plain values, ready for YAML."""
        metrics = [
            {
                "type": result.score.name.lower().replace(" ", "-"),
                "name": f"{result.score.name} ({result.score.protocol.hearing.embedder.get('name')}), {result.subject}",
                "value": result.score.value,
                "args": {"interval": [result.score.interval.low, result.score.interval.high], **_facts(result.score)},
            }
            for result in self.results
        ]
        entry = {
            "task": {"type": "text-to-audio", "name": "Text to music"},
            "dataset": {"type": self.dataset_id, "name": self.dataset},
            "metrics": metrics,
        }
        return {"model-index": [{"name": self.model, "results": [entry]}]}

    def _head(self) -> list[str]:
        named = {"model": self.model, "reference": self.dataset, **self.facts}
        return [f"# {self.title}", "", *(f"- {name}: {_text(value)}" for name, value in named.items() if value != "")]

    def _table(self) -> list[str]:
        columns = ("clips", "score", "value", "95 % interval", "n", "chance", "ceiling", *map(_words, CONTEXT))
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for result in self.results:
            score = result.score
            context = [_cell(other) for _, other in result.context.items()]
            cells = (
                result.subject,
                f"{score.name} {ARROWS[score.better]}",
                f"{score.value:.4g}",
                f"{score.interval.low:.4g} to {score.interval.high:.4g}",
                str(score.protocol.clips),
                _figure(score.chance),
                _figure(score.ceiling),
                *context,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return lines

    def _warnings(self) -> list[str]:
        told: dict[str, None] = {}
        for result in self.results:
            for subject, score in ((result.subject, result.score), *_scored(result.context)):
                told |= {f"- {score.name}, {subject}: {warning}": None for warning in score.warnings}
        return ["## Beware", "", *told] if told else []

    def _missing(self) -> list[str]:
        told = {
            f"- {result.score.name}, {result.subject}, {_words(name)}: {other.reason}": None
            for result in self.results
            for name, other in result.context.items()
            if isinstance(other, NotMeasured)
        }
        return ["## Not measured", "", *told] if told else []

    def _protocols(self) -> list[str]:
        """Give what all scores follow from in one table, and what only some do in one for each."""
        told = [{**_facts(result.score), **_interval(result.score)} for result in self.results]
        common = {
            name: value for name, value in (told[0] if told else {}).items() if all(_has(t, name, value) for t in told)
        }
        lines = ["## How it was measured", "", *_rows("all scores", common)]
        for result, facts in zip(self.results, told, strict=True):
            own = {name: value for name, value in facts.items() if name not in common}
            lines += ["", *_rows(f"{result.score.name}, {result.subject}", own)] if own else []
        return lines


def _has(facts: Mapping[str, Any], name: str, value: Any) -> bool:
    return name in facts and facts[name] == value


def _rows(title: str, facts: Mapping[str, Any]) -> list[str]:
    return [f"| {_text(title)} | |", "|---|---|", *(f"| {name} | {_text(value)} |" for name, value in facts.items())]


def _scored(context: Context) -> list[tuple[str, Score]]:
    return [(_words(name), other) for name, other in context.items() if isinstance(other, Score)]


def _facts(score: Score) -> dict[str, Any]:
    """Give the protocol in the plain values that YAML knows, without what is empty."""
    facts = json.loads(json.dumps(flat(asdict(score.protocol))))
    return {name: value for name, value in facts.items() if value not in ("", None)}


def _interval(score: Score) -> dict[str, Any]:
    interval = score.interval
    return {"interval": f"{interval.level:.0%}, {interval.resamples} resamples of the {interval.over}"}


def _text(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _cell(score: Score | NotMeasured) -> str:
    return f"{score.value:.4g} (n {score.protocol.clips})" if isinstance(score, Score) else "not measured"


def _figure(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.4g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
