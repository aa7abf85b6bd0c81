"""What `codecdiff evaluate` writes: the report of an `EvalReport`, and the header of a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from codecdiff.errors import InvalidValue
from codecdiff.files import atomic_write_text
from codecdiff.pipeline import write_model_card
from codecdiff_eval.report import Notes, Report, Section, Table, facts_table, write_report
from codecdiff_eval.report.numbers import format_interval, format_number, interval_width
from codecdiff_eval.results import CONTEXT, Estimate, EvalReport, EvalRow, MetricResult, NotMeasured

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
HOW_TO_READ = (
    "Every value stands beside what it is read against. Split half: one half of the reference against the other, the "
    "least difference that can be detected. Codec reconstruction: the upper bound of what the codec can do. Oracle "
    "first stage: the later stages alone. Intervals are of 95 %, over tracks."
)


def write_evaluation(report: EvalReport, folder: Path | str) -> Path:
    """Write `index.html`, `report.md`, `report.json` and, for a model, `model-index.yaml`. Return the first."""
    index = write_report(report_of(report), folder, report.to_json())
    if report.model:
        header = yaml.safe_dump(model_index(report), sort_keys=False, allow_unicode=True)
        atomic_write_text(Path(folder) / "model-index.yaml", header)
    return index


def report_of(report: EvalReport) -> Report:
    """Return the report as sections: metrics with their context, warnings, what was not measured, and how."""
    results = [(row.clips, row.result) for row in report.rows]
    contexts = [(row, name, other) for row in report.rows for name, other in row.context.items()]
    shown = [*results, *((name, other) for _, name, other in contexts if isinstance(other, MetricResult))]
    warnings = [f"{result.name}, {clips}: {line}" for clips, result in shown for line in result.warnings]
    missing = [
        f"{row.result.name}, {row.clips}, {name}: {other.reason}"
        for row, name, other in contexts
        if isinstance(other, NotMeasured)
    ]
    notes = [("Be careful", Notes(list(dict.fromkeys(warnings)), warning=True)), ("Not measured", Notes(missing))]
    facts = {"model": report.model, "reference": report.dataset, **report.facts}
    about = facts_table("the run", {name: value for name, value in facts.items() if value != ""})
    return Report(
        report.title,
        [
            Section("Metrics", HOW_TO_READ, [metrics_table(report.rows)]),
            *(Section(title, blocks=[block]) for title, block in notes if block.lines),
            Section("How it was measured", blocks=[about, *_config_tables(report.rows)]),
        ],
        kicker="codecdiff · evaluate",
        files=["report.json"],
    )


def metrics_table(rows: Sequence[EvalRow]) -> Table:
    """Return a row for every metric: its value and interval, and what it is read against."""
    columns = ("clips", "embedder", "metric", "value", "95 % interval", "n", "chance", "upper bound", *CONTEXT)
    return Table(columns, [_cells(row) for row in rows], text_columns=3)


def _cells(row: EvalRow) -> list[str]:
    result = row.result
    return [
        row.clips,
        str(result.config.embedding.embedder.get("name", "")),
        f"{result.name}{ARROWS[result.direction]}",
        _value(result),
        format_interval(result.interval.low, result.interval.high),
        str(result.config.num_clips),
        *(_estimate(estimate) for estimate in (result.chance, result.upper_bound)),
        *(_context(other) for _, other in row.context.items()),
    ]


def _estimate(estimate: Estimate | None) -> str:
    return "" if estimate is None else format_number(estimate.value)


def _context(other: MetricResult | NotMeasured) -> str:
    if isinstance(other, NotMeasured):
        return "not measured"
    return f"{_value(other)} (n {other.config.num_clips})"


def _value(result: MetricResult) -> str:
    return format_number(result.value, interval_width(result.interval.low, result.interval.high))


def _config_tables(rows: Sequence[EvalRow]) -> list[Table]:
    """Return what all results follow from in one table, and what only some do in one for each."""
    configs = [{**row.result.config.flat(), "interval": _interval(row.result)} for row in rows]
    common = {
        name: value
        for name, value in (configs[0] if configs else {}).items()
        if all(name in each and each[name] == value for each in configs)
    }
    tables = [facts_table("all results", common)]
    for row, own in zip(rows, configs, strict=True):
        remainder: Mapping[str, Any] = {name: value for name, value in own.items() if name not in common}
        tables += [facts_table(f"{row.result.name}, {row.clips}", remainder)] if remainder else []
    return tables


def _interval(result: MetricResult) -> str:
    interval = result.interval
    return f"{interval.level:.0%}, {interval.resamples} resamples of the {interval.over}"


def model_index(report: EvalReport) -> dict[str, Any]:
    """Return the `model-index` of a model card's header, for Hugging Face: plain values, ready for YAML."""
    metrics = [
        {
            "type": row.result.name.lower().replace(" ", "-"),
            "name": f"{row.result.name} ({row.result.config.embedding.embedder.get('name')}), {row.clips}",
            "value": row.result.value,
            "args": {"interval": [row.result.interval.low, row.result.interval.high], **row.result.config.flat()},
        }
        for row in report.rows
    ]
    entry = {
        "task": {"type": "text-to-audio", "name": "Text to music"},
        "dataset": {"type": report.dataset_id, "name": report.dataset},
        "metrics": metrics,
    }
    return {"model-index": [{"name": report.model, "results": [entry]}]}


def add_model_index(folder: Path | str, index: Mapping[str, Any]) -> None:
    """Write a `model-index` into the header of a folder's model card, replacing an earlier one.

    Writes the model card first if it is missing. Raises InvalidValue if it does not begin with a YAML header.
    """
    file = Path(folder) / "README.md"
    if not file.exists():
        write_model_card(folder)
    text = file.read_text(encoding="utf-8")
    match = re.match(r"---\n(.*?)^---\n", text, re.DOTALL | re.MULTILINE)
    header = yaml.safe_load(match[1]) if match else None
    if not match or not isinstance(header, dict):
        raise InvalidValue(f"'{file}' does not begin with a YAML header between lines of ---: add one for the scores.")
    updated = yaml.safe_dump({**header, **index}, sort_keys=False, allow_unicode=True)
    atomic_write_text(file, f"---\n{updated}---\n{text[match.end() :]}")
