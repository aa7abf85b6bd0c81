"""What `codecdiff evaluate` writes: the report of an `EvalReport`, and the header of a model card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from codecdiff.data.metadata import Track
from codecdiff.errors import InvalidValue
from codecdiff.files import atomic_write_text, parse_yaml, read_text
from codecdiff.pipeline import write_model_card
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, SOURCES, EvalSets, oracle
from codecdiff_eval.numbers import ARROWS, NOTHING, format_interval, format_number, format_value, interval_width
from codecdiff_eval.plots import plot_intervals
from codecdiff_eval.report import (
    Cell,
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
from codecdiff_eval.results import CONTEXT, SPLIT_HALF, EvalReport, EvalRow, MetricResult, NotMeasured, TargetResult

HOW_TO_READ = (
    "Compare each value with the others in its row. Split half: as many clips of one half of the reference, compared "
    "with the other half, which shows how far two sets of the same music are apart with so few clips. Codec "
    "reconstruction: clips of the reference, encoded and decoded, the best value to expect with this codec. Oracle "
    "first stage: the same clips with their real first stage and generated later stages. Real music: the same metric "
    "of the reference. Chance: the value for randomly permuted requests. Corrected for chance: 0 is chance, and 1 is "
    "the codec reconstruction. Intervals are 95 % bootstrap intervals over tracks."
)
FORMULAS = "Formulas and sources of all metrics are in docs/scores.md of codecdiff."
PLAYER_TEXT = (
    "Evaluated clips, beside clips of the reference that have the same caption, if there are any, and what the codec "
    "and the later stages made of these."
)
CODEC = (
    "Clips of the reference, encoded and decoded by the codec and compared with the original clips. Means over clips "
    "with 95 % intervals."
)
TABLE_ONE = (
    "The columns of DiscoDiff's Table 1 that were measured. Inference is the median time to generate a clip on this "
    "machine. The published values are of other clips and embedders, so do not compare these with them."
)
TABLE_ONE_METRICS = ("FAD", "CLAP score")
LABELS = {  # of what was measured and how, where the name of a field does not say it
    "inference seconds": "seconds to generate a clip, median",
    "prompts": "hash of the prompts",
    "sample rate": "sample rate, Hz",
    "num_clips": "clips",
    "num_windows": "windows",
    "num_reference_clips": "reference clips",
    "reference": "hash of the reference clips",
    "embedding.clip_seconds": "clip, seconds",
    "embedding.hop_seconds": "hop, seconds",
    "embedding.options": "options, as its documentation explains",
    "embedding.sample_rate": "sample rate, Hz",
    "embedding.weights": "hash of the weights",
    "embedding.window_seconds": "window, seconds",
    "embedding.windows": "treatment of length",
}
PLAYERS = 4  # clips of each set to listen to
KICKER = "codecdiff · evaluate"
PLOTTED_SETS = (CODEC_RECONSTRUCTION, oracle(), GENERATED)  # the rows of Table 1
Sets = EvalSets[Sequence[Track]]


def write_evaluation(report: EvalReport, folder: Path | str, sets: Sets | None = None) -> Path:
    """Write `index.html`, `report.md`, `report.json` and, for a model, `model-index.yaml`. Return the first.

    sets: the tracks of the evaluation, to listen to those that lie in the folder.
    """
    index = write_report(report_of(report, _players(sets or EvalSets(), Path(folder))), folder, report.to_json())
    if report.model:
        header = yaml.safe_dump(model_index(report), sort_keys=False, allow_unicode=True)
        atomic_write_text(Path(folder) / "model-index.yaml", header)
    return index


def report_of(report: EvalReport, players: Sequence[Players] = ()) -> Report:
    """Return the report as sections: metrics with their context, plots, players, warnings, and how it was measured."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for label, row in zip(labels_of(report.rows), report.rows, strict=True):
        for name, other in row.context.items():
            if isinstance(other, NotMeasured):
                reasons.setdefault((name, other.reason), []).append(label)
    missing = [
        f"{name.capitalize()} is not measured for {'; '.join(labels)}: {reason}"
        for (name, reason), labels in reasons.items()
    ]
    if not_measured := report.facts.get("not measured"):
        missing.insert(0, str(not_measured))
    facts = {"model": report.model, "music of the reference": report.dataset, **report.facts}
    facts = {name: value for name, value in facts.items() if value != "" and name != "not measured"}
    meanings = definitions((row.result.name, row.result.meaning) for row in report.rows)
    meanings, limits = NoteList([*meanings.lines, FORMULAS]), _notes(warnings_of(report.rows), warning=True)
    sections = [
        Section("Metrics", HOW_TO_READ, [metrics_table(report.rows), *limits, meanings, *_interval_plots(report.rows)]),
        Section("As in the paper's Table 1", TABLE_ONE, [table_one(report)] if report.model else []),
        Section("Codec", CODEC, [codec_table(report.codec)] if report.codec else []),
        Section("Listen", PLAYER_TEXT, players),
        Section("Not measured", blocks=_notes(missing)),
        Section("How it was measured", blocks=[_labeled_facts("the run", facts), *_config_tables(report.rows)]),
    ]
    return Report(
        report.title,
        [section for section in sections if section.blocks],
        kicker=KICKER,
        highlights=[
            (str(report.facts.get("evaluated tracks", "–")), "evaluated tracks"),
            (str(report.facts.get("reference tracks", "–")), "tracks of the reference"),
            (str(len(report.rows)), "metrics"),
        ],
    )


def _notes(lines: Sequence[str], *, warning: bool = False) -> list[NoteList]:
    return [NoteList(list(dict.fromkeys(lines)), warning=warning)] if lines else []


def labels_of(rows: Sequence[EvalRow]) -> list[str]:
    """Return the names of metrics, each with its embedder or clips where another row only differs in these."""
    several = len({row.clips for row in rows}) > 1
    by_name = Counter((row.clips, row.result.name) for row in rows)
    return [
        row.result.name
        + f", {row.result.config.embedding.name}" * (by_name[row.clips, row.result.name] > 1)
        + f", {row.clips}" * several
        for row in rows
    ]


def warnings_of(rows: Sequence[EvalRow]) -> list[str]:
    """Return each cause for caution once, with the metrics it is about; numbers in it are those of the first."""
    causes: dict[str, tuple[str, list[str]]] = {}
    names = labels_of(rows)
    for name, row in zip(names, rows, strict=True):
        for line in (*row.result.warnings, *_overlap(row)):
            causes.setdefault(re.sub(r"\d[\d.,]*", "", line), (line, []))[1].append(name)
    return [f"{'All metrics' if each == names else '; '.join(each)}: {line}" for line, each in causes.values()]


def _overlap(row: EvalRow) -> list[str]:
    """Name the context that a value does not clearly differ from, because their intervals overlap."""
    own = row.result.interval
    others = {name: other.interval for name, other in row.context.items() if isinstance(other, MetricResult)}
    if not (alike := [name for name, each in others.items() if each.low <= own.high and own.low <= each.high]):
        return []
    which = "those of all values beside it" if len(alike) == len(others) else f"that of {', '.join(alike)}"
    return [f"The interval overlaps {which}: these clips are too few to rank them."]


def console_metrics(rows: Sequence[EvalRow]) -> Table:
    """Return the metrics as a table for a terminal of 80 columns, with the context that decides how to read them."""
    names = {SPLIT_HALF: "split half", CODEC_RECONSTRUCTION: "codec", oracle(): "oracle"}
    cells: list[list[str]] = []
    for label, row in zip(labels_of(rows), rows, strict=True):
        result, interval = row.result, row.result.estimate[1:]
        value, count = format_number(result.value, interval_width(*interval)), str(result.config.num_clips)
        others = [row.context[name] for name in names]
        values = [format_number(each.value) if isinstance(each, MetricResult) else "" for each in others]
        chance = "" if result.chance is None else format_number(result.chance.value)
        cells.append([label + ARROWS[result.direction], value, format_interval(*interval), count, *values, chance])
    columns = ("metric", "value", "95 % interval", "n", *names.values(), "chance")
    shown = [i for i in range(len(columns)) if i < 4 or any(row[i] for row in cells)]
    return Table([columns[i] for i in shown], [[row[i] for i in shown] for row in cells])


def metrics_table(rows: Sequence[EvalRow]) -> Table:
    """Return a row for every metric: its value and interval, and its context.

    Columns in which no row has anything are left out, and the names of the clips where all rows are about the same.
    """
    names = ("evaluated", "embedder", "metric", "value", "n", *CONTEXT, "real music", "chance", "corrected for chance")
    cells, several = [_cells(row) for row in rows], len({row.clips for row in rows}) > 1
    shown = [
        i for i in range(len(names)) if (several if i == 0 else i < 5 or any(each[i] != NOTHING for each in cells))
    ]
    return Table([names[i] for i in shown], [[each[i] for i in shown] for each in cells], text_columns=2 + several)


def _cells(row: EvalRow) -> list[Cell | str]:
    result = row.result
    return [
        row.clips,
        result.config.embedding.name,
        f"{result.name}{ARROWS[result.direction]}",
        estimate_cell(result.estimate),
        str(result.config.num_clips),
        *(NOTHING if isinstance(other, NotMeasured) else _context(other, result) for _, other in row.context.items()),
        NOTHING if result.upper_bound is None else format_number(result.upper_bound.value),
        NOTHING if result.chance is None else estimate_cell(result.chance),
        NOTHING if row.corrected is None else estimate_cell(row.corrected),
    ]


def _context(other: MetricResult, result: MetricResult) -> Cell:
    """Return a value, and its number of clips if that is another than that of the result beside it."""
    details = [f"n {other.config.num_clips}"] if other.config.num_clips != result.config.num_clips else []
    return Cell(format_number(other.value, interval_width(*other.estimate[1:])), details)


def table_one(report: EvalReport) -> Table:
    """Return the paper's Table 1: the codec alone, the oracle first stage, and the whole cascade."""
    seconds, clip = report.facts.get("inference seconds", {}), next(iter(report.rows)).result.config.embedding
    measured, rows = [row for row in report.rows if row.result.name in TABLE_ONE_METRICS], []
    for name in PLOTTED_SETS:
        results = [row.result if name == GENERATED else row.context[name] for row in measured]
        values = [format_number(each.value) if isinstance(each, MetricResult) else NOTHING for each in results]
        time = format_number(seconds.get(name))
        rows.append((name, *values, time, f"{clip.clip_seconds or 0:g}", str(report.facts.get("sample rate", NOTHING))))
    shown = [row.result for row in measured]
    columns = [f"{each.name}{ARROWS[each.direction]}, {each.config.embedding.name}" for each in shown]
    return Table(("clips", *columns, "Inference (s)", "Duration (s)", "SR (Hz)"), rows)


def codec_table(results: Sequence[TargetResult]) -> Table:
    """Return how the codec's reconstruction differs from what was encoded, a row for each metric."""
    rows = [(row.name, format_number(row.value), format_interval(row.low, row.high)) for row in results]
    return Table(("metric", "value", "95 % interval"), rows)


def _interval_plots(rows: Sequence[EvalRow]) -> list[Plot]:
    """Plot every metric of the evaluated clips beside its context."""
    plots = []
    for row in rows:
        others = {name: other.estimate for name, other in row.context.items() if isinstance(other, MetricResult)}
        bounds = {"real music": row.result.upper_bound, "permuted requests": row.result.chance}
        estimates = {row.clips: row.result.estimate, **others, **{n: each for n, each in bounds.items() if each}}
        if len(estimates) > 1:
            embedder = row.result.config.embedding.name
            plots.append(Plot(row.result.name, plot_intervals(f"{row.result.name}, {embedder}", estimates), embedder))
    return plots


def _players(sets: Sets, folder: Path) -> list[Players]:
    """Return players of some clips: what was generated, and sources with what was made of them, side by side."""

    def player(track: Track, title: str) -> Player | None:
        if not track.file.is_relative_to(folder):
            return None
        return Player(track.file.relative_to(folder).as_posix(), title, generated=title == GENERATED)

    tracks = {name: each for name, each in sets.items() if not isinstance(each, NotMeasured)}
    sources = tracks.get(SOURCES, ())
    texts = [_caption(track) for track in sources]
    firsts = [i for i, text in enumerate(texts) if not text or text not in texts[:i]]  # one clip of each caption
    generated = sorted(tracks.get(GENERATED, ()), key=lambda track: _caption(track) not in texts)[:PLAYERS]
    captions = [_caption(track) for track in generated]
    rows = [(_caption(each), [(each, GENERATED)]) for each in generated]
    for i in sorted(firsts, key=lambda i: texts[i] not in captions)[:PLAYERS]:
        others = [(tracks[name][i], name) for name in (CODEC_RECONSTRUCTION, oracle()) if name in tracks]
        row = [(sources[i], "reference"), *others]
        if texts[i] and texts[i] in captions:
            rows[captions.index(texts[i])][1].extend(row)
        else:
            rows.append((texts[i], row))
    shown = [(f"“{caption}”" if caption else "Without text", [player(*each) for each in row]) for caption, row in rows]
    return [Players(title, [each for each in row if each]) for title, row in shown if any(row)]


def _caption(track: Track) -> str:
    return track.captions[0] if track.captions else ""


def _label(name: str) -> str:
    return LABELS.get(name) or name.removeprefix("embedding.").replace(".", " ").replace("_", " ")


def _labeled_facts(title: str, facts: Mapping[str, Any]) -> Table:
    return facts_table(title, {_label(name): value for name, value in facts.items()})


def _config_tables(rows: Sequence[EvalRow]) -> list[Table]:
    """Return what all results follow from, and where they differ: a row for each embedder, and one for each metric."""
    configs = [_config(row.result) for row in rows]
    common = {
        name: value for name, value in (configs or [{}])[0].items() if all(each.get(name) == value for each in configs)
    }
    embedders: dict[str, dict[str, Any]] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for label, row, config in zip(labels_of(rows), rows, configs, strict=True):
        own = {name: value for name, value in config.items() if name not in common}
        embedding = {name: value for name, value in own.items() if name.startswith("embedding.")}
        name = row.result.config.embedding.name
        embedders[name if embedders.get(name, embedding) == embedding else f"{name}, {label}"] = embedding
        metrics[label] = {name: value for name, value in own.items() if name not in embedding}
    return [
        _labeled_facts("all results", common),
        *_differences_table("embedder", embedders),
        *_differences_table("metric", metrics),
    ]


def _config(result: MetricResult) -> dict[str, Any]:
    """Return all that a result follows from, with the options of its embedder together, and its own."""
    interval, values = result.interval, result.config.flat()
    for place, name in {"embedding.embedder.": "embedding.options", "options.": "options"}.items():
        options = {key.removeprefix(place): values.pop(key) for key in [*values] if key.startswith(place)}
        values[name] = format_value({key: value for key, value in options.items() if key != "name"}) or NOTHING
    words = f"{interval.level:.0%}, {interval.resamples} resamples of the {interval.over}"
    return {"embedding.embedder": result.config.embedding.name, **values, "interval": words}


def _differences_table(title: str, facts: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return a table with a row of facts for each name, unless there are none."""
    fields = list(dict.fromkeys(field for each in facts.values() for field in each if field != "embedding.embedder"))
    rows = [(name, *(format_value(each.get(field, NOTHING)) for field in fields)) for name, each in facts.items()]
    return [Table((title, *map(_label, fields)), rows, text_columns=len(fields) + 1)] if fields else []


def model_index(report: EvalReport) -> dict[str, Any]:
    """Return the `model-index` of a model card's header, for Hugging Face: plain values, ready for YAML."""
    metrics = [
        {
            "type": row.result.name.lower().replace(" ", "-"),
            "name": f"{row.result.name} ({row.result.config.embedding.name}), {row.clips}",
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
    text = read_text(file)
    match = re.match(r"---\n(.*?)^---\n", text, re.DOTALL | re.MULTILINE)
    header = parse_yaml(match[1], f"The header of '{file}'") if match else None
    if not match or not isinstance(header, dict):
        raise InvalidValue(f"'{file}' does not begin with a YAML header between lines of ---: add one for the scores.")
    updated = yaml.safe_dump({**header, **index}, sort_keys=False, allow_unicode=True)
    atomic_write_text(file, f"---\n{updated}---\n{text[match.end() :]}")
