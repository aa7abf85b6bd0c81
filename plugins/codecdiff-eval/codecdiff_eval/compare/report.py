"""The report of a comparison: a page, Markdown, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from codecdiff import __version__
from codecdiff_eval.compare.budget import Variant, cost_table, sampling_warnings
from codecdiff_eval.compare.clips import REAL, EvalSplit, player_file
from codecdiff_eval.compare.config import CompareConfig
from codecdiff_eval.compare.measure import FULL_CASCADE, GAP, PROBES, probe_name
from codecdiff_eval.compare.runs import Divergence, Run, divergences, trained_on
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, oracle
from codecdiff_eval.metric import FEW
from codecdiff_eval.numbers import ARROWS, NOTHING, describe_difference, format_count, format_difference
from codecdiff_eval.plots import plot_curves, plot_intervals
from codecdiff_eval.report import (
    Cell,
    Code,
    NoteList,
    Player,
    Players,
    Plot,
    Report,
    Section,
    Table,
    definitions,
    estimate_cell,
    facts_table,
    write_report,
)
from codecdiff_eval.results import VariantResults

FORMAT = 2
KICKER = "codecdiff · compare"
PLOTTED = (FULL_CASCADE, f"Fréchet distance: {oracle()}", PROBES)
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class CompareReport:
    """The results of a comparison, and what they are shown with. `output` is the folder of all files.

    Variants that diverged with any seed have no results: the mean over the other seeds would be of the lucky ones.
    """

    comparison: CompareConfig
    variants: Sequence[Variant]
    runs: Sequence[Run]
    results: Sequence[VariantResults]
    split: EvalSplit
    output: Path
    command: str = ""
    embedder: str = ""

    @cached_property
    def diverged(self) -> dict[str, dict[int, Divergence]]:
        """Where the numbers of a run stopped being finite, by variant and seed."""
        return divergences(self.runs)

    @cached_property
    def untrained(self) -> dict[str, dict[str, float]]:
        """The stages that predict no better than the mean, by variant, with their loss with the worst seed."""
        result: dict[str, dict[str, float]] = {}
        for run in (run for run in self.runs if run.variant.name in self.measured):
            for stage, curve in stage_losses(run).items():
                if curve and curve[-1][1] >= 1:
                    losses = result.setdefault(run.variant.name, {})
                    losses[stage] = max(curve[-1][1], losses.get(stage, 0.0))
        return result

    @property
    def measured(self) -> list[str]:
        """The names of the variants that have results; the others are compared with the first."""
        return [variant.name for variant in self.variants if variant.name not in self.diverged]

    def write(self) -> Path:
        """Write `index.html`, `report.md` and `report.json`, and return the path of the page."""
        data = self.to_json()
        return write_report(self.report(data), self.output, data)

    def to_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {
            "format": FORMAT,
            "facts": self.facts(),
            "variants": {variant.name: self._variant(variant) for variant in self.variants},
            "metrics": [result.to_json() for result in self.results],
            "warnings": self.warnings(),
            "players": self.players(),
            "split": asdict(self.split),
        }

    def facts(self) -> dict[str, Any]:
        """Return what was compared, and how."""
        comparison, evaluation = self.comparison, self.comparison.evaluation
        evaluated, reference = self._num_tracks()
        budget = self._budget
        return {
            "codecdiff": __version__,
            "command": self.command,
            "seeds": comparison.seeds,
            **({"budget": budget, "budget split": comparison.budget_split} if budget else {}),
            "clips": evaluation.clips,
            "reference clips": evaluation.reference,
            "seconds": evaluation.seconds,
            "evaluated tracks": evaluated,
            "reference tracks": reference,
            "embedder": self.embedder,
            "resamples": evaluation.resamples,
            "evaluation seed": evaluation.seed,
        }

    @property
    def _budget(self) -> float:
        """FLOPs of training each variant; 0 if none is trained."""
        trained_here = [variant.training_flops for variant in self.variants if not variant.trained]
        return float(self.comparison.budget or trained_here[0]) if trained_here else 0.0

    def _num_tracks(self) -> list[int]:
        return [len({clip.track for clip in clips}) for clips in (self.split.evaluated, self.split.reference)]

    def _variant(self, variant: Variant) -> dict[str, Any]:
        runs = [run for run in self.runs if run.variant is variant]
        here = [] if variant.trained else runs  # those that were trained by the comparison
        costs = zip(variant.costs, variant.steps, strict=True)
        return {
            "overrides": self.comparison.variants[variant.name],
            "stages": [{**asdict(c), "steps": steps, "training_flops": c.step_flops * steps} for c, steps in costs],
            "training_flops": variant.training_flops,
            "clip_flops": variant.clip_flops,
            "fingerprint": variant.trained.fingerprint if variant.trained else None,
            "losses": {str(run.seed): {"model": model_losses(run), **stage_losses(run)} for run in here},
            "diverged": {
                str(seed): divergence.model_dump(include={"stage", "step", "message"})
                for seed, divergence in self.diverged.get(variant.name, {}).items()
            },
            "training_seconds": {str(run.seed): sum(log[-1]["seconds"] for log in run.logs.values()) for run in here},
        }

    def warnings(self) -> list[str]:
        """Say why verdicts are withheld, what to be careful about, and which requested probes are left out."""
        lines, num_tracks = self._divergence_lines(), min(self._num_tracks())
        if num_tracks < FEW:
            lines.append(
                f"With fewer than {FEW} tracks, here {num_tracks}, intervals are unreliable and tend to be too narrow, "
                "so no variant is called better: increase data.validation_fraction, evaluation.clips and "
                "evaluation.reference."
            )
        if trained := [variant.name for variant in self.variants if variant.trained]:
            lines.append(
                f"Not trained by this comparison: {', '.join(trained)}. Intervals do not cover what another training "
                "of these would give."
            )
        if names := [run.variant.name for run in self.runs if trained_on(run, self.comparison)]:
            lines.append(
                f"{', '.join(names)} may have been trained on tracks that are used here for validation: the music is "
                "that of the training, with another validation split. Use music that no model was trained on, or the "
                "data.validation_fraction and the (first) seed of the training."
            )
        if self._has_one_seed:
            lines.append(
                "One seed: differences between runs are not estimated, so no variant is called better. Intervals only "
                "cover the choice of tracks. To find out whether a difference is larger than that between two runs of "
                "the same variant, set two or more seeds, as in seeds=[0,1,2]."
            )
        if stages := [f"{name}: {', '.join(map(_with_loss, each.items()))}" for name, each in self.untrained.items()]:
            lines.append(
                "A stage with a normalized validation loss of 1 or more does not predict better than the mean: it "
                "learned nothing, and what is generated says nothing about its variant. This is true of "
                f"{'; '.join(stages)}. Increase the budget."
            )
        lines += sampling_warnings([variant for variant in self.variants if variant.name not in self.diverged])
        measured = {result.name for result in self.results}
        for column in self.comparison.evaluation.probes:
            if probe_name(column) not in measured:
                values = {clip.prompt.get(column) for clip in self.split.probe_training} - {None}
                chance = "does not beat chance on real music through a codec"
                why = chance if len(values) > 1 else "needs two values of it"
                lines.append(f"The probe of '{column}' is left out: it {why}. See evaluation.probe_training_clips.")
        return lines

    @property
    def _has_one_seed(self) -> bool:
        """Whether a variant was trained, with one seed alone, so that differences between trainings are unknown."""
        return len(self.comparison.seeds) == 1 and not (self.variants and all(each.trained for each in self.variants))

    def _divergence_lines(self) -> list[str]:
        lines = [
            f"{name}, seed {seed}, diverged {divergence.place}, so {name} has no metrics. "
            f"{divergence.message} To try the same again, delete {name}/seed-{seed}/diverged.json."
            for name, seeds in self.diverged.items()
            for seed, divergence in seeds.items()
        ]
        if self.variants and self.variants[0].name in self.diverged:
            lines.append(f"The others are compared with {self.measured[0]}, the first that did not diverge.")
        return lines

    def players(self) -> list[Players]:
        """Return the files to listen to, prompt by prompt, of the first seed of every variant."""
        first = {name: next(run for run in self.runs if run.variant.name == name) for name in self.measured}
        codecs: dict[Path, list[str]] = {}
        for name in self.measured:
            codecs.setdefault(first[name].codec_folder, []).append(name)
        prompts = []
        for i, clip in enumerate(self.split.evaluated[: self.comparison.evaluation.players]):
            row = [self._player(next(iter(codecs)), REAL, i, "Real", "validation track")]
            for folder, names in codecs.items():
                users = f"of {', '.join(names)}" if len(codecs) > 1 else "the same for all variants"
                row.append(self._player(folder, CODEC_RECONSTRUCTION, i, "Codec reconstruction", users))
            for name, run in first.items():
                for stages in range(len(run.variant.costs)):
                    caption = oracle(stages) if stages else "from the caption alone"
                    row.append(self._player(run.folder, oracle(stages) if stages else GENERATED, i, name, caption))
            prompts.append(Players(f"“{clip.prompt['text']}”", row))
        for i, prompt in enumerate(self.comparison.prompts):
            row = [self._player(run.folder, "prompt", i, name, "") for name, run in first.items()]
            prompts.append(Players(f"“{prompt}”", row))
        return prompts

    def _player(self, folder: Path, name: str, i: int, title: str, caption: str) -> Player:
        file = player_file(folder / "clips", name, i).relative_to(self.output)
        return Player(file.as_posix(), title, caption, generated=title in self.comparison.variants)

    def report(self, data: Mapping[str, Any]) -> Report:
        """Return the report, of what `to_json` returned, as sections."""
        facts, names = data["facts"], list(data["variants"])
        size, clips = f"{len(names)} × {len(facts['seeds'])}", f"{facts['clips']} × {facts['seconds']:g} s"
        about = {**facts, **({"budget": f"{format_count(facts['budget'])}FLOPs"} if "budget" in facts else {})}
        command, warnings = about.pop("command"), [NoteList(data["warnings"], warning=True)] if data["warnings"] else []
        changes = {name: " ".join(each["overrides"]) or "nothing" for name, each in data["variants"].items()}
        seconds = {name: each["training_seconds"].values() for name, each in data["variants"].items()}
        took = ", ".join(f"{name} {sum(each) / len(each):,.0f} s" for name, each in seconds.items() if each)
        meanings = definitions((result.name, result.meaning) for result in self.results)
        wall_time = [NoteList([f"Wall time of training: {took}."])] if took else []
        budget = [(about["budget"], "training budget per model")] if "budget" in about else []
        trained = {name: each for name, each in data["variants"].items() if each["losses"]}
        losses = [Section("Loss per FLOP", LOSSES, loss_plots(trained))] if trained else []
        return Report(
            " / ".join(names),
            [
                Section("Differences from the first variant", SHOWN, [*warnings, NoteList(self.findings())]),
                Section(
                    "Metrics",
                    f"{METRICS} Distances compare embeddings by {self.embedder}.",
                    [self._metrics_table(), meanings, *self._interval_plots()],
                ),
                *losses,
                Section("Listen", PLAYERS, self.players()),
                Section("Costs", COSTS, [cost_table(self.variants), *wall_time]),
                Section(
                    "How it was made", "", [Code(command), facts_table("", about), facts_table("changes", changes)]
                ),
            ],
            kicker=KICKER,
            highlights=[(size, "variants × seeds"), *budget, (clips, "clips per model")],
        )

    def verdict(self, result: VariantResults, name: str) -> str:
        """Say what the difference of a variant from the first shows; nothing where that cannot be concluded."""
        difference, untrained = result.differences[name], self.untrained.keys() & {name, self.measured[0]}
        is_inconclusive = untrained or self._has_one_seed or min(self._num_tracks()) < FEW
        is_open = is_inconclusive and any(difference)  # equal clips are equal however few there are
        return "no verdict" if is_open else describe_difference(*difference, result.direction)

    def findings(self) -> list[str]:
        """Say in sentences how each variant compares with the first, by metrics of what is generated."""
        return [
            f"{result.name}, {name} minus {self.measured[0]}: {format_difference(*difference)}, "
            f"{self.verdict(result, name)}."
            for result in self.results
            if result.name in (*PLOTTED, GAP)
            for name, difference in result.differences.items()
        ]

    def _metrics_table(self) -> Table:
        names = [variant.name for variant in self.variants]
        rows: list[tuple[Cell | str, ...]] = [
            (f"{r.name}{ARROWS[r.direction]}", *(self._variant_cell(r, name) for name in names)) for r in self.results
        ]
        if self.diverged:
            places = {name: next(iter(seeds.values())).place for name, seeds in self.diverged.items()}
            cells = (Cell("diverged", [places[name]], "bad") if name in places else "complete" for name in names)
            rows.insert(0, ("training", *cells))
        return Table(("metric", *names), rows)

    def _variant_cell(self, result: VariantResults, name: str) -> Cell:
        """Return the value of a variant, its interval, and its difference from the first if any variant differs."""
        if (estimate := result.values.get(name)) is None:
            return Cell(NOTHING)
        details, status = [], ""
        if (difference := result.differences.get(name)) and any(any(each) for each in result.differences.values()):
            verdict = self.verdict(result, name).partition(":")[0]
            status = "good" if verdict == "better" else "bad" if verdict == "worse" else ""
            details = [format_difference(*difference), verdict]
        return estimate_cell(estimate, details, status)

    def _interval_plots(self) -> list[Plot]:
        shown = [result for result in self.results if result.name in PLOTTED]
        return [Plot(r.name, plot_intervals(r.name, r.values, log=r.direction == "lower")) for r in shown]


def _with_loss(stage: tuple[str, float]) -> str:
    return f"{stage[0]} ({stage[1]:.3f})"


def stage_losses(run: Run) -> dict[str, Curve]:
    """Return the normalized validation losses of every stage at the FLOPs spent on the stage."""
    logs = run.logs
    return {
        cost.name: [
            (float(cost.step_flops * row["step"]), row["normalized_validation_loss"]) for row in logs.get(cost.name, [])
        ]
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


def loss_plots(variants: Mapping[str, Any]) -> list[Plot]:
    """Plot the losses of whole models together, and those of the stages of each variant."""
    curves = {name: _mean_curves(list(variant["losses"].values())) for name, variant in variants.items()}
    models = {name: each["model"] for name, each in curves.items()}
    plots = [Plot("Whole models", plot_curves("Losses of models", models, x_label="training FLOPs"))]
    for name, variant in variants.items():
        if len(variant["stages"]) > 1:
            stages = {stage["name"]: curves[name][stage["name"]] for stage in variant["stages"]}
            svg = plot_curves(f"Losses of {name}", stages, x_label="training FLOPs of the stage")
            plots.append(Plot(name, svg, "its stages"))
    return plots


def _mean_curves(seeds: Sequence[Mapping[str, Curve]]) -> dict[str, Curve]:
    """Return the mean over seeds of each curve."""
    points = {name: zip(*(seed[name] for seed in seeds), strict=False) for name in seeds[0]}
    return {
        name: [(each[0][0], sum(loss for _, loss in each) / len(each)) for each in rows]
        for name, rows in points.items()
    }


SHOWN = (
    "Values of a variant minus those of the first, with 95 % intervals. All variants generate the same clips with the "
    "same seeds. Intervals are paired: each resample draws tracks and seeds for all variants at once."
)
METRICS = (
    "Mean over seeds with its 95 % interval, and the difference from the first variant with its own. The interval of a "
    "difference can exclude zero although those of the two values overlap."
)
LOSSES = (
    "Normalized validation loss (zero predictor = 1) by FLOPs of training, mean over seeds. Do not compare curves of "
    "different patterns, codecs or diffusion processes: their tasks differ, for example because a later stage sees the "
    "earlier ones."
)
PLAYERS = "The first seed of every variant. Click a spectrogram to play from there."
COSTS = (
    "FLOPs of the denoisers' convolutions and matrix products, for a clip those of all network calls with all passes "
    "of guidance: 100 × 2 are 100 steps with two passes each. The codec and the conditioner are not counted. Wall time "
    "depends on what else the machine was doing."
)
