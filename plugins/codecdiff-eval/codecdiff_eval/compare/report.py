"""The report of a comparison: a page, Markdown, and all of it as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from codecdiff import __version__
from codecdiff_eval.compare.budget import Variant, cost_table
from codecdiff_eval.compare.clips import REAL, EvalSplit, player_file
from codecdiff_eval.compare.config import CompareConfig
from codecdiff_eval.compare.measure import FULL_CASCADE, GAP, PROBES, probe_name
from codecdiff_eval.compare.runs import Run
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, oracle
from codecdiff_eval.metric import FEW
from codecdiff_eval.plots import plot_curves, plot_intervals
from codecdiff_eval.report import (
    Cell,
    Code,
    Notes,
    Player,
    Players,
    Plot,
    Report,
    Section,
    Table,
    facts_table,
    write_report,
)
from codecdiff_eval.report.numbers import (
    describe_difference,
    format_count,
    format_difference,
    format_interval,
    format_number,
    interval_width,
)
from codecdiff_eval.results import Estimate, VariantResults, to_json

FORMAT = 2
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
PLOTTED = (FULL_CASCADE, f"Fréchet distance: {oracle()}", PROBES)
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class CompareReport:
    """The results of a comparison, and what they are shown with. `output` is the folder of all files."""

    comparison: CompareConfig
    variants: Sequence[Variant]
    runs: Sequence[Run]
    results: Sequence[VariantResults]
    split: EvalSplit
    output: Path
    command: str = ""
    embedder: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the variants."""
        return [variant.name for variant in self.variants]

    def write(self) -> Path:
        """Write `index.html`, `report.md` and `report.json`, and return the path of the page."""
        return write_report(self.report(), self.output, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {
            "format": FORMAT,
            "facts": {"command": self.command, **self.facts},
            "variants": {variant.name: self._variant(variant) for variant in self.variants},
            "metrics": [result.to_json() for result in self.results],
            "warnings": self.warnings(),
            "players": [to_json(players) for players in self.players()],
        }

    def report(self) -> Report:
        """Return the report as sections."""
        facts, evaluation = self.facts, self.comparison.evaluation
        changes = {name: " ".join(self.comparison.variants[name]) or "nothing" for name in self.names}
        findings = Notes(self.findings())
        warnings = [Notes(lines, warning=True)] if (lines := self.warnings()) else []
        meanings = {result.meaning: result.name for result in reversed(self.results)}
        definitions = Notes([f"{meanings[meaning]}: {meaning}." for meaning in reversed(meanings)])
        facts = {**facts, "budget": f"{format_count(facts['budget'])}FLOPs"}
        return Report(
            " / ".join(self.names),
            [
                Section("What is shown", SHOWN, [*warnings, findings]),
                Section("Metrics", METRICS, [self._metrics_table(), definitions, *self._interval_plots()]),
                Section("Loss per FLOP", LOSSES, self._loss_plots()),
                Section("Listen", LISTEN, self.players()),
                Section("Costs", COSTS, [cost_table(self.variants), Notes([self._training_time()])]),
                Section(
                    "How it was made",
                    blocks=[Code(self.command), facts_table("", facts), facts_table("variant", changes)],
                ),
            ],
            kicker="codecdiff · compare",
            highlights=[
                (f"{len(self.variants)} × {len(self.comparison.seeds)}", "variants × seeds"),
                (facts["budget"], "of training each"),
                (f"{evaluation.clips} × {evaluation.seconds:g} s", "clips of each model"),
            ],
            files=["report.json", "report.md"],
        )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was compared, and how."""
        comparison, evaluation = self.comparison, self.comparison.evaluation
        evaluated, reference = self._num_tracks()
        return {
            "codecdiff": __version__,
            "seeds": comparison.seeds,
            "budget": float(comparison.budget or self.variants[0].training_flops),
            "budget split": comparison.budget_split,
            "clips": evaluation.clips,
            "reference clips": evaluation.reference,
            "seconds": evaluation.seconds,
            "evaluated tracks": evaluated,
            "reference tracks": reference,
            "embedder": self.embedder,
            "resamples": evaluation.resamples,
            "evaluation seed": evaluation.seed,
        }

    def _num_tracks(self) -> list[int]:
        return [len({clip.track for clip in clips}) for clips in (self.split.evaluated, self.split.reference)]

    def warnings(self) -> list[str]:
        """Say what to be careful about, and which probes were requested and could not be measured."""
        lines, num_tracks = [], min(self._num_tracks())
        if num_tracks < FEW:
            lines.append(
                f"With fewer than {FEW} tracks, here {num_tracks}, intervals are unreliable, and tend to be too narrow: "
                "increase data.held_out, evaluation.clips and evaluation.reference."
            )
        if len(self.comparison.seeds) == 1:
            lines.append("There is one seed, so no interval says what another would yield: add some to seeds.")
        measured = {result.name for result in self.results}
        for column in self.comparison.evaluation.probes:
            if probe_name(column) not in measured:
                values = {clip.prompt.get(column) for clip in self.split.probe_training} - {None}
                why = (
                    "is no better than chance on real music through a codec" if len(values) > 1 else "needs two values"
                )
                lines.append(f"The probe of '{column}' is left out: it {why}. See evaluation.probe_training_clips.")
        return lines

    def findings(self) -> list[str]:
        """Say in sentences how each variant compares with the first, by metrics of what is generated."""
        return [
            f"{result.name}, {name} minus {self.names[0]}: {format_difference(difference.value, *ends)}: "
            f"{describe_difference(difference.value, *ends, result.direction)}."
            for result in self.results
            if result.name in (*PLOTTED, GAP)
            for name, difference in result.differences.items()
            if (ends := _ends(difference))
        ]

    def _variant(self, variant: Variant) -> dict[str, Any]:
        runs = [run for run in self.runs if run.variant is variant]
        stages = [
            {**asdict(cost), "steps": steps, "training_flops": cost.step_flops * steps}
            for cost, steps in zip(variant.costs, variant.steps, strict=True)
        ]
        return {
            "overrides": self.comparison.variants[variant.name],
            "stages": stages,
            "training_flops": variant.training_flops,
            "clip_flops": variant.clip_flops,
            "losses": {str(run.seed): {"model": model_losses(run), **stage_losses(run)} for run in runs},
            "training_seconds": {str(run.seed): _training_seconds(run) for run in runs},
        }

    def players(self) -> list[Players]:
        """Return the files to listen to, prompt by prompt, of the first seed of every variant."""
        first = {run.variant.name: run for run in reversed(self.runs)}
        codecs: dict[Path, list[str]] = {}
        for name in self.names:
            codecs.setdefault(first[name].codec_folder, []).append(name)
        cards = []
        for i, clip in enumerate(self.split.evaluated[: self.comparison.evaluation.players]):
            row = [self._player(next(iter(codecs)), REAL, i, "Real", "validation track")]
            for folder, names in codecs.items():
                users = f"of {', '.join(names)}" if len(codecs) > 1 else "of all variants"
                row.append(self._player(folder, CODEC_RECONSTRUCTION, i, "Codec reconstruction", users))
            for variant in self.variants:
                for name in (GENERATED, *(oracle(count) for count in range(1, len(variant.costs)))):
                    caption = "from the caption alone" if name == GENERATED else name
                    row.append(self._player(first[variant.name].folder, name, i, variant.name, caption))
            cards.append(Players(f"“{clip.prompt['text']}”", row))
        for i, prompt in enumerate(self.comparison.prompts):
            row = [self._player(first[name].folder, "prompt", i, name, "") for name in self.names]
            cards.append(Players(f"“{prompt}”", row))
        return cards

    def _player(self, folder: Path, name: str, i: int, title: str, caption: str) -> Player:
        file = player_file(folder / "clips", name, i).relative_to(self.output)
        return Player(file.as_posix(), title, caption, generated=title in self.names)

    def _metrics_table(self) -> Table:
        rows = [(f"{result.name}{ARROWS[result.direction]}", *self._cells(result)) for result in self.results]
        return Table(("metric", *self.names), rows)

    def _cells(self, result: VariantResults) -> list[Cell]:
        """Return a cell for each variant: its value, interval, and difference to the first if any variant differs."""
        differ = any(difference != (0, 0, 0) for difference in result.differences.values())
        cells = []
        for name in self.names:
            if (estimate := result.values.get(name)) is None:
                cells.append(Cell("–"))
                continue
            low, high = _ends(estimate)
            text, details, status = format_number(estimate.value, interval_width(low, high)), [], ""
            if interval := format_interval(low, high):
                details.append(interval)
            if differ and (difference := result.differences.get(name)):
                ends = _ends(difference)
                verdict = describe_difference(difference.value, *ends, result.direction).partition(":")[0]
                status = "good" if verdict == "better" else "bad" if verdict == "worse" else ""
                details += [format_difference(difference.value, *ends), verdict]
            cells.append(Cell(text, details, status))
        return cells

    def _interval_plots(self) -> list[Plot]:
        plots = []
        for result in self.results:
            if result.name in PLOTTED:
                is_log = result.direction == "lower"
                plots.append(Plot(result.name, plot_intervals(result.name, result.values, log=is_log)))
        return plots

    def _loss_plots(self) -> list[Plot]:
        """Plot the losses of whole models together, and those of the stages of each variant."""
        runs = {name: [run for run in self.runs if run.variant.name == name] for name in self.names}
        whole = {name: _mean_curve([model_losses(run) for run in own]) for name, own in runs.items()}
        plots = [Plot("Whole models", plot_curves("Losses of models", whole, x_label="training FLOPs"))]
        for variant in self.variants:
            if len(variant.costs) > 1:
                curves = [stage_losses(run) for run in runs[variant.name]]
                stages = {cost.name: _mean_curve([each[cost.name] for each in curves]) for cost in variant.costs}
                svg = plot_curves(f"Losses of {variant.name}", stages, x_label="training FLOPs of the stage")
                plots.append(Plot(variant.name, svg, "its stages"))
        return plots

    def _training_time(self) -> str:
        means = []
        for name in self.names:
            seconds = [_training_seconds(run) for run in self.runs if run.variant.name == name]
            means.append(f"{name} {sum(seconds) / len(seconds):,.0f} s")
        return f"Wall time of training, which depends on what else the machine did: {', '.join(means)}."


def stage_losses(run: Run) -> dict[str, Curve]:
    """Return the normalized validation losses of every stage at the FLOPs spent on the stage."""
    logs = run.logs
    return {
        cost.name: [(float(cost.step_flops * row["step"]), row["held_out_ratio"]) for row in logs[cost.name]]
        for cost in run.variant.costs
    }


def model_losses(run: Run) -> Curve:
    """Return the normalized validation losses of a whole model at the FLOPs spent on it, checkpoint by checkpoint.

    Stages are weighted by the values they generate in a frame. At a fraction of the budget, every stage is at that
    fraction of its own.
    """
    costs, points, stages = run.variant.costs, [], stage_losses(run)
    weight = sum(cost.values_per_frame for cost in costs)
    for rows in zip(*(stages[cost.name] for cost in costs), strict=False):
        flops = sum(flops for flops, _ in rows)
        loss = sum(cost.values_per_frame * loss for cost, (_, loss) in zip(costs, rows, strict=True)) / weight
        points.append((flops, loss))
    return points


def _training_seconds(run: Run) -> float:
    return sum(log[-1]["seconds"] for log in run.logs.values())


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean over seeds of a curve."""
    points = zip(*curves, strict=False)
    return [(each[0][0], sum(loss for _, loss in each) / len(each)) for each in points]


def _ends(estimate: Estimate) -> tuple[float | None, float | None]:
    """Return the ends of an interval, None where it has none."""
    low, high = (end if math.isfinite(end) else None for end in estimate[1:])
    return low, high


SHOWN = (
    "Differences to the first variant, with 95 % intervals. All variants generate the same clips with the same seeds, "
    "and intervals are paired: they resample tracks and seeds for all variants at once."
)
METRICS = (
    "Mean over seeds, its 95 % interval, and the difference to the first variant with its own. Intervals of single "
    "values may overlap where that of the difference does not include zero."
)
LOSSES = (
    "Normalized validation loss (zero predictor = 1) by FLOPs of training, mean over seeds. Patterns, codecs and "
    "diffusion processes have different tasks, and a later stage sees the earlier ones: curves of different ones do "
    "not compete."
)
LISTEN = "The first seed of every variant. Click a picture to play from there."
COSTS = (
    "FLOPs of convolutions and matrix products of the denoisers; of a clip, of all network calls, each with so many "
    "passes of guidance. Codec and conditioner are not counted."
)
