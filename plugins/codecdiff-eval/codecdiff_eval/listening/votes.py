"""The votes of a listening test: win rates and scores with intervals, overall, by rater and by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, model_validator
from scipy.stats import t as student_t
from torch import Tensor

from codecdiff.cli.console import err, out
from codecdiff.errors import InvalidValue
from codecdiff.files import missing_file, read_json
from codecdiff_eval.listening.builder import Mode
from codecdiff_eval.listening.systems import ANCHOR, REFERENCE
from codecdiff_eval.metrics.bootstrap import rate_interval
from codecdiff_eval.plots import plot_intervals
from codecdiff_eval.report import (
    NoteList,
    Plot,
    Report,
    Section,
    Table,
    console_table,
    estimate_cell,
    facts_table,
    require_own_report,
    write_report,
)
from codecdiff_eval.results import Estimate

Name = Annotated[str, Field(max_length=1000)]
KICKER = "codecdiff · listen"
HIDDEN_REFERENCE = (90, 0.15)  # BS.1534-3 leaves out who scores it lower in a larger fraction of items
WIN_RATES = (
    "How often the first system of a pair is preferred. No preference counts as half. Intervals are 95 % intervals "
    "over raters and items. If all votes agree, they are exact binomial intervals for the number of items."
)
DIFFERENCES = "Mean differences of the scores that the same raters gave to two systems on the same items."
SCORES = "Mean scores, 0 to 100, with 95 % intervals over raters and items."


def crossed_interval(values: Tensor) -> Estimate:
    """(raters, items) values, NaN where one is missing -> their mean with its 95 % interval, for others of both.

    It is Student's t. The variance of the mean is that between raters plus that between items, each by the jackknife,
    less that of single votes, which is part of both. The degrees of freedom are those of Satterthwaite (1946).
    """
    voted, values = ~values.isnan(), values.double().nan_to_num()
    count = int(voted.sum())
    mean = float(values.sum() / count)
    between = [_jackknife(values.sum(axis), voted.sum(axis)) for axis in (1, 0)]
    spread = [(variance, freedom) for variance, freedom in between if freedom]
    if not spread:
        return Estimate(mean, -math.inf, math.inf)
    variance, freedom = max(variance for variance, _ in spread), min(freedom for _, freedom in spread)
    remaining = count - sum(freedom for _, freedom in between) - 1
    if len(spread) == 2 and remaining > 0 and variance > 0:
        means = [values.sum(axis, keepdim=True) / voted.sum(axis, keepdim=True).clamp(min=1) for axis in (1, 0)]
        single = float(((values - means[0] - means[1] + mean)[voted] ** 2).sum()) / remaining / count
        variance = max(variance, sum(each for each, _ in spread) - single)
        parts = [*spread, (single, remaining)]
        freedom = max(freedom, variance**2 / sum(each**2 / degrees for each, degrees in parts))
    half = float(student_t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half)


def _jackknife(sums: Tensor, counts: Tensor) -> tuple[float, int]:
    """Sums and numbers of votes by unit -> the variance of the mean over units, and its degrees of freedom."""
    sums, counts = sums[counts > 0], counts[counts > 0]
    if (n := len(sums)) < 2:
        return 0.0, 0
    without = (sums.sum() - sums) / (counts.sum() - counts)  # the mean without each unit
    return float((n - 1) * without.var(correction=0)), n - 1


class Vote(BaseModel):
    """The vote of a rater on an item: one of two systems is preferred, or none; or each has a score."""

    item: Name
    systems: tuple[Name, Name] | None = None
    preferred: Name | None = None
    scores: dict[Name, Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]] = Field(default_factory=dict)


class VotesFile(BaseModel):
    """What a rater exports from the page. `test` is the hash of the page's contents."""

    format: Literal[1]
    test: Name
    title: Name
    mode: Mode
    rater: Annotated[str, Field(min_length=1, max_length=100)]
    systems: Annotated[list[Name], Field(min_length=2, max_length=100)]
    votes: list[Vote]

    @model_validator(mode="after")
    def _every_vote_counts(self) -> VotesFile:
        if len(set(self.systems)) < len(self.systems):
            raise InvalidValue(f"systems = {self.systems}: expected different names")
        seen: dict[object, int] = {}
        for i, vote in enumerate(self.votes):
            if issue := self._issue(vote):
                raise InvalidValue(f"votes.{i}.{issue}")
            first = seen.setdefault((vote.item, frozenset(vote.systems or ())), i)
            if first < i:
                raise InvalidValue(
                    f"votes.{i} is on the same clips of {vote.item!r} as votes.{first}: expected one vote"
                )
        return self

    def _issue(self, vote: Vote) -> str:
        """Say which value of a vote the mode or the systems of the test do not allow, and what they do."""
        if self.mode == "mushra":
            if vote.systems or vote.preferred is not None:
                return "systems and preferred are of mode ab: expected only scores in mode mushra"
            unknown = vote.scores.keys() - set(self.systems)
            return f"scores = {vote.scores}: expected scores of {self.systems}" if unknown or not vote.scores else ""
        if vote.scores:
            return "scores are of mode mushra: expected systems and preferred in mode ab"
        if len(set(vote.systems or ()) & set(self.systems)) < 2:
            return f"systems = {vote.systems}: expected two different of {self.systems}"
        if "preferred" not in vote.model_fields_set or vote.preferred not in (None, *(vote.systems or ())):
            return f"preferred = {vote.preferred!r}: expected one of the pair {vote.systems}, or null for neither"
        return ""


def read_votes(files: Sequence[Path]) -> list[VotesFile]:
    """Read the votes of one test. Raises InvalidValue for files of different tests, and for two of one rater.

    Raises BadDocument for a vote that could not be counted.
    """
    if others := [file for file in files if file.suffix != ".json"]:
        raise InvalidValue(f"'{others[0]}' is not a .json file that a rater exported from the page of a test.")
    votes = [read_json(file, VotesFile) for file in files]
    for file, each in zip(files, votes, strict=True):
        if (each.test, each.mode, each.systems) != (votes[0].test, votes[0].mode, votes[0].systems):
            raise InvalidValue(
                f"'{file}' belongs to another listening test than '{files[0]}': analyze each test separately."
            )
        if sum(each.rater == other.rater for other in votes) > 1:
            raise InvalidValue(f"Two files have votes of '{each.rater}'. Keep the last that each rater exported.")
    if not any(each.votes for each in votes):
        raise InvalidValue("The files hold no votes: expected those that the page of a listening test exports.")
    return votes


@dataclass(frozen=True)
class VoteAnalysis:
    """The votes of all raters on one test."""

    files: Sequence[VotesFile]

    @property
    def is_rates(self) -> bool:
        """Whether win rates were measured, and not scores."""
        return self.files[0].mode == "ab"

    @cached_property
    def raters(self) -> list[str]:
        """The raters, in order of their files."""
        return [file.rater for file in self.files]

    @cached_property
    def items(self) -> list[str]:
        """The items that anyone voted on, by name."""
        return sorted({vote.item for file in self.files for vote in file.votes})

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """(raters, items) values by what they are of, NaN where a vote is missing.

        The win rates of the first over the second system of every pair, or the scores of every system.
        """
        systems = self.files[0].systems
        pairs = {frozenset(pair): pair for pair in combinations(systems, 2)}
        names = [" over ".join(pair) for pair in pairs.values()] if self.is_rates else systems
        values = {name: torch.full((len(self.raters), len(self.items)), math.nan) for name in names}
        for r, file in enumerate(self.files):
            for vote in file.votes:
                i = self.items.index(vote.item)
                if self.is_rates and (pair := pairs.get(frozenset(vote.systems or ()))):
                    values[" over ".join(pair)][r, i] = 0.5 if vote.preferred is None else vote.preferred == pair[0]
                for name in values.keys() & vote.scores.keys():
                    values[name][r, i] = vote.scores[name]
        return {name: each for name, each in values.items() if not each.isnan().all()}

    def estimate(self, values: Tensor) -> Estimate:
        """(raters, items) values -> their mean with its interval, which is exact where all votes of a pair agree."""
        result = crossed_interval(values)
        if self.is_rates and (math.isinf(result.low) or result.low == result.high):
            count = int((~values.isnan()).any(0 if values.shape[1] > 1 else 1).sum())
            return rate_interval(result.value * count, count)
        return result.clamp(0, 1 if self.is_rates else 100)

    @cached_property
    def differences(self) -> dict[str, Estimate]:
        """The mean difference of the scores of two systems by the same raters on the same items, for every pair."""
        systems = [] if self.is_rates else [name for name in self.values if name not in (REFERENCE, ANCHOR)]
        values = {f"{a} - {b}": self.values[a] - self.values[b] for a, b in combinations(systems, 2)}
        return {
            name: crossed_interval(each).clamp(-100, 100) for name, each in values.items() if not each.isnan().all()
        }

    def overall(self) -> dict[str, Estimate]:
        """Return the estimate of everything that was measured, over all raters and items."""
        return {name: self.estimate(values) for name, values in self.values.items()}

    def table(self, by: Literal["rater", "item"]) -> Table:
        """Return a table with a row for each rater, with its interval over items, or the other way round."""
        rows = []
        for i, row in enumerate(self.raters if by == "rater" else self.items):
            parts = [values[[i]] if by == "rater" else values[:, [i]] for values in self.values.values()]
            rows.append((row, *("" if part.isnan().all() else estimate_cell(self.estimate(part)) for part in parts)))
        return Table((by, *self.values), rows)

    def overall_table(self) -> Table:
        """Return what was measured with its interval, the number of votes, and what it shows."""
        rows = [
            (name, estimate_cell(estimate), str(int((~self.values[name].isnan()).sum())), self._shown(estimate))
            for name, estimate in self.overall().items()
        ]
        return Table(
            ("pair" if self.is_rates else "system", "win rate" if self.is_rates else "score", "votes", ""), rows
        )

    def differences_table(self) -> Table:
        """Return the differences of scores with their intervals, and what they show."""
        shown = {True: "no difference shown: the 95 % interval includes 0", False: ""}
        rows = [(name, estimate_cell(each), shown[each.includes_zero]) for name, each in self.differences.items()]
        return Table(("systems", "difference", ""), rows)

    def _shown(self, estimate: Estimate) -> str:
        if not self.is_rates:
            return ""
        if not estimate.low < estimate.high or estimate.low <= 0.5 <= estimate.high:
            return "no preference shown: the 95 % interval includes 0.5"
        return "the first is preferred" if estimate.value > 0.5 else "the second is preferred"

    def warnings(self) -> list[str]:
        """Say which raters BS.1534 would leave out, and what else to be careful about."""
        lines, (least, fraction) = [], HIDDEN_REFERENCE
        if not self.is_rates and REFERENCE in self.values:
            for rater, scores in zip(self.raters, self.values[REFERENCE], strict=True):
                scores = scores[~scores.isnan()]
                if len(scores) and float((scores < least).double().mean()) > fraction:
                    lines.append(
                        f"{rater} scores the hidden reference below {least} in more than {fraction:.0%} of items: "
                        "ITU-R BS.1534 leaves such raters out. Analyze the others without this file."
                    )
        if len(self.raters) == 1:
            lines.append("Only one rater voted: the intervals do not account for the preferences of others.")
        if len(self.items) == 1:
            lines.append("Only one item was rated: the intervals do not account for other items.")
        return lines

    def report(self) -> Report:
        """Return the analysis as a report."""
        first, overall, warnings = self.files[0], self.overall(), self.warnings()
        bounds = [0.5] if self.is_rates else []
        plot = Plot("Win rates" if self.is_rates else "Scores", plot_intervals(first.title, overall, bounds=bounds))
        shown = [self.overall_table(), plot, *([NoteList(warnings, warning=True)] if warnings else [])]
        facts = {"test": first.test, "mode": first.mode}
        paired = [Section("Differences", DIFFERENCES, [self.differences_table()])] if self.differences else []
        return Report(
            first.title,
            [
                Section("All votes", WIN_RATES if self.is_rates else SCORES, shown),
                *paired,
                Section("By rater", "Intervals over items.", [self.table("rater")]),
                Section("By item", "Intervals over raters.", [self.table("item")]),
                Section("How it was measured", "", [facts_table("the listening test", facts)]),
            ],
            kicker=KICKER,
            highlights=[(str(len(self.raters)), "raters"), (str(len(self.items)), "items")],
        )

    def to_json(self) -> dict[str, object]:
        """Return everything that was measured; intervals are [value, low, high]."""

        def estimates(values: dict[str, Tensor]) -> dict[str, list[float]]:
            return {name: list(self.estimate(each)) for name, each in values.items()}

        def by(names: Sequence[str], axis: int) -> dict[str, dict[str, list[float]]]:
            return {
                name: estimates({k: v.narrow(axis, i, 1) for k, v in self.values.items()})
                for i, name in enumerate(names)
            }

        facts = {"test": self.files[0].test, "mode": self.files[0].mode, "warnings": self.warnings()}
        facts |= {"differences": {name: list(each) for name, each in self.differences.items()}}
        return {**facts, "overall": estimates(self.values), "raters": by(self.raters, 0), "items": by(self.items, 1)}


def analyze_votes(files: Sequence[Path], output: Path | None, *, force: bool = False) -> None:
    """Print what votes say, and write it as a report if a folder is named."""
    if output:
        require_own_report(output / "index.html", KICKER, force)
    if missing := [file for file in files if not file.is_file()]:
        raise missing_file(missing[0], "File of votes")
    analysis = VoteAnalysis(read_votes(files))
    paired = [analysis.differences_table()] if analysis.differences else []
    for table in (analysis.overall_table(), *paired, analysis.table("rater"), analysis.table("item")):
        out.print(console_table(table))
    for line in analysis.warnings():
        err.print(line, style="yellow", soft_wrap=True)
    if output:
        write_report(analysis.report(), output, analysis.to_json())
        out.print(f"Written: index.html, report.md and report.json in {output}", soft_wrap=True)
