"""How a comparison is shown: a page that loads nothing, and Markdown. Both say what `report.json` holds, no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from codecdiff.pages import chart, page, player, rows_of, scrolling, section
from codecdiff.pictures import Curve, Row, amount, curves, intervals, number

MOST_PLACES = 6  # digits after the point; what is less is written as 3e-08
PICTURED = ("Fréchet distance: cascade", "Fréchet distance: first stage true", "text is obeyed: mean probe score")
ARROWS = {"lower": "↓", "higher": "↑", "": ""}


def verdict(difference: Mapping[str, Any], better: str) -> str:
    """Say what a difference to the first variant shows."""
    low, high = difference["low"], difference["high"]
    if difference["value"] == low == high == 0:
        return "the same"
    if low is None or low == high:
        return "no interval: it is of one seed"
    if difference["holds_zero"]:
        return "no difference shown: the interval holds zero"
    if not better:
        return "differs"
    return "better" if (difference["value"] < 0) == (better == "lower") else "worse"


def digits(value: float | None, width: float = 0.0) -> str:
    """Write a figure with about three digits, and with as many more as two digits of its interval's width take."""
    if value is None:
        return number(value)
    places = next(places for places, least in enumerate((100, 10, 1, 0)) if abs(value) >= least)
    if width:
        places = min(max(places, 1 - math.floor(math.log10(width))), MOST_PLACES)
    told = f"{value:.2g}" if width and 0 < abs(value) < 10**-MOST_PLACES else f"{value:.{places}f}"
    return (told if float(told) else told.removeprefix("-")).replace("-", "−")


def value_of(estimate: Mapping[str, Any]) -> str:
    """Write the value of an estimate."""
    return digits(estimate["value"], _width(estimate))


def spread(estimate: Mapping[str, Any]) -> str:
    """Write the interval of an estimate that has one, in brackets."""
    width = _width(estimate)
    return f" ({digits(estimate['low'], width)} to {digits(estimate['high'], width)})" if width else ""


def _width(estimate: Mapping[str, Any]) -> float:
    return 0.0 if estimate["low"] is None else estimate["high"] - estimate["low"]


def apart(difference: Mapping[str, Any]) -> str:
    """Write a difference with its sign and its interval, and no difference that there is as 0."""
    value = difference["value"]
    told = digits(value, _width(difference) or abs(value))
    return f"{'+' if value > 0 and float(told) else ''}{told}{spread(difference)}"


def findings(report: Mapping[str, Any]) -> list[str]:
    """Say in sentences how each variant compares with the first, by the measures of what is generated."""
    first, *others = report["variants"]
    told: list[str] = []
    for figure in report["figures"]:
        if figure["name"] not in (*PICTURED, "cascade gap"):
            continue
        for name in others:
            if difference := figure["differences"].get(name):
                shown = f"{apart(difference)}: {verdict(difference, figure['better'])}"
                told.append(f"{figure['name']}, {name} less {first}: {shown}.")
    return told


def markdown(report: Mapping[str, Any]) -> str:
    """Give the report as Markdown."""
    names = list(report["variants"])
    facts = [f"- {name}: {_fact(value)}" for name, value in report["facts"].items() if value != ""]
    lines = [f"# {' / '.join(names)} at one budget", "", *facts, "", "## What is shown", ""]
    lines += [*(f"- {line}" for line in (*report["warnings"], *findings(report))), "", "## Figures", ""]
    lines += _table(["figure", *names], [_cells(figure, names) for figure in report["figures"]])
    lines += ["", "## Differences to the first variant", ""]
    compared = [figure for figure in report["figures"] if _differs(figure)]
    lines += _table(["figure", *names[1:]], [_apart(figure, names[1:]) for figure in compared])
    lines += ["", "## What it takes", "", *_table(list(COSTS), _costs(report)), "", "## What the figures mean", ""]
    meanings: dict[str, list[str]] = {}
    for figure in report["figures"]:
        meanings.setdefault(figure["meaning"], []).append(figure["name"])
    lines += [f"- {', '.join(some)}: {meaning}." for meaning, some in meanings.items()]
    return "\n".join(lines) + "\n"


def _fact(value: Any) -> str:
    return amount(value) if isinstance(value, float) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _cells(figure: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    def cell(name: str) -> str:
        if (estimate := figure["values"].get(name)) is None:
            return ""
        return value_of(estimate) + spread(estimate)

    return [f"{figure['name']} {ARROWS[figure['better']]}".strip(), *map(cell, names)]


def _differs(figure: Mapping[str, Any]) -> bool:
    """Tell whether the variants differ in a figure at all; in what their common codec makes they do not."""
    return any(verdict(difference, "") != "the same" for difference in figure["differences"].values())


def _apart(figure: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    def cell(name: str) -> str:
        if (difference := figure["differences"].get(name)) is None:
            return ""
        told = verdict(difference, figure["better"])
        return told if told == "the same" else f"{apart(difference)}: {told}"

    return [figure["name"], *map(cell, names)]


COSTS = (
    "variant",
    "stage",
    "parameters",
    "steps",
    "training FLOPs",
    "evaluations of a clip",
    "sampling FLOPs of a clip",
)


def _costs(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, variant in report["variants"].items():
        for stage in variant["stages"]:
            answers = stage["answers in each"]
            calls = f"{stage['evaluations of a clip']}{f' × {answers}' if answers > 1 else ''}"
            sizes = [f"{stage['parameters']:,}", f"{stage['steps']:,}", amount(stage["training FLOPs"])]
            rows.append([name, stage["name"], *sizes, calls, amount(stage["sampling FLOPs of a clip"])])
        if len(variant["stages"]) > 1:
            whole = amount(variant["training FLOPs"]), amount(variant["sampling FLOPs of a clip"])
            rows.append([name, "together", "", "", whole[0], "", whole[1]])
    return rows


def html(report: Mapping[str, Any], folder: Path) -> str:
    """Give the report as a page in the folder that holds its sounds. What comes from a user is escaped."""
    body = [
        header(report),
        section("What is shown", SHOWN, _list([*report["warnings"], *findings(report)])),
        section("Figures", FIGURES, f"{figures(report)}<div class='pair'>{pictures(report)}</div>"),
        section("Loss per FLOP", LOSSES, f'<div class="pair">{losses(report)}</div>'),
        section("Listen", LISTEN, "".join(card(folder, each, list(report["variants"])) for each in report["players"])),
        section("What it takes", TAKES, costs(report)),
        section("How it was made", "", making(report)),
    ]
    return page(f"{' / '.join(report['variants'])}", "\n".join(body))


def header(report: Mapping[str, Any]) -> str:
    """Give the title and what was compared."""
    facts = report["facts"]
    chips = {
        f"{len(report['variants'])} × {len(facts['seeds'])}": "variants × seeds",
        f"{amount(facts['budget'])}FLOPs": "of training each",
        f"{facts['clips']} × {facts['seconds']:g} s": "clips of each model",
    }
    told = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in chips.items())
    title = escape(" / ".join(report["variants"]))
    return f'<header><p class="eyebrow">codecdiff · compare</p><h1>{title}</h1><div class="chips">{told}</div></header>'


def _list(lines: Sequence[str]) -> str:
    return '<ul class="plain">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def figures(report: Mapping[str, Any]) -> str:
    """Give the table of figures: a column for each variant, values over differences to the first."""
    names = list(report["variants"])
    rows = "".join(_figure_row(figure, names) for figure in report["figures"])
    return scrolling(("figure", *names), rows)


def _figure_row(figure: Mapping[str, Any], names: Sequence[str]) -> str:
    def cell(name: str) -> str:
        if (estimate := figure["values"].get(name)) is None:
            return '<td class="n">–</td>'
        small = [spread(estimate).strip(" ()")]
        if (difference := figure["differences"].get(name)) and _differs(figure):
            small += [apart(difference), verdict(difference, figure["better"]).partition(":")[0]]
        return f'<td class="n">{value_of(estimate)}<small>{"<br>".join(map(escape, small))}</small></td>'

    name = f"{escape(figure['name'])} {ARROWS[figure['better']]}<small>{escape(figure['meaning'])}</small>"
    return f"<tr><td>{name}</td>{''.join(map(cell, names))}</tr>"


def pictures(report: Mapping[str, Any]) -> str:
    """Draw the figures of what is generated with their intervals."""
    drawn = []
    for figure in report["figures"]:
        if figure["name"] in PICTURED:
            rows = [Row(name, *_ends(estimate)) for name, estimate in figure["values"].items()]
            picture = intervals(figure["name"], rows, log=figure["better"] == "lower")
            drawn.append(chart(figure["name"], "bars are 95% intervals", picture))
    return "".join(drawn)


def _ends(estimate: Mapping[str, Any]) -> tuple[float, float, float]:
    value = estimate["value"]
    return value, *(value if estimate[end] is None else estimate[end] for end in ("low", "high"))


def losses(report: Mapping[str, Any]) -> str:
    """Draw the losses of whole models in one picture, and those of the stages of each variant."""
    whole = [
        Curve(name, f"series-{i % 8}", _mean(v, "model")) for i, (name, v) in enumerate(report["variants"].items())
    ]
    legend = ", ".join(whole[i].label for i in range(len(whole)))
    drawn = [chart("Whole models", f"by training FLOPs: {legend}", curves("Losses of models", whole))]
    for name, variant in report["variants"].items():
        if len(variant["stages"]) > 1:
            stages = [stage["name"] for stage in variant["stages"]]
            lines = [Curve(stage, f"series-{i % 8}", _mean(variant, stage)) for i, stage in enumerate(stages)]
            drawn.append(chart(name, "its stages, each by the FLOPs spent on it", curves(f"Losses of {name}", lines)))
    return "".join(drawn)


def _mean(variant: Mapping[str, Any], key: str) -> list[tuple[float, float]]:
    """Give the mean over seeds of a curve."""
    points = zip(*(seed[key] for seed in variant["losses"].values()), strict=False)
    return [(some[0][0], sum(ratio for _, ratio in some) / len(some)) for some in points]


def card(folder: Path, told: Mapping[str, Any], variants: Sequence[str]) -> str:
    """Give the players of one prompt, side by side."""
    players = "".join(
        player(
            folder, sound["path"], sound["title"], sound["explanation"], css="generated" * (sound["title"] in variants)
        )
        for sound in told["sounds"]
    )
    return f'<article><h3>“{escape(told["prompt"])}”</h3><div class="players">{players}</div></article>'


def costs(report: Mapping[str, Any]) -> str:
    """Give the table of parameters, steps and FLOPs, and the seconds of training as a note."""
    rows = "".join(
        f"<tr><td>{escape(row[0])}</td>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in _costs(report)
    )
    spent = {
        name: sum(v["training seconds"].values()) / len(v["training seconds"]) for name, v in report["variants"].items()
    }
    note = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in spent.items())
    return scrolling(COSTS, rows) + f'<p class="quiet">{escape(SECONDS.format(note=note))}</p>'


def making(report: Mapping[str, Any]) -> str:
    """Give the command, the facts, and what each variant changes."""
    facts = {name: _fact(value) for name, value in report["facts"].items() if name != "command" and value != ""}
    changes = {name: " ".join(variant["changes"]) or "nothing" for name, variant in report["variants"].items()}
    return (
        f"<pre>{escape(report['facts']['command'])}</pre>"
        f'<div class="pair"><table>{rows_of(facts)}</table><table>{rows_of(changes)}</table></div>'
        '<p class="quiet">All numbers: <a href="report.json">report.json</a>, <a href="report.md">report.md</a></p>'
    )


SHOWN = (
    "Differences to the first variant, with 95% intervals. All variants are asked for the same clips with the same "
    "seeds, and intervals are paired: they resample recordings and seeds for all variants at once."
)
FIGURES = (
    "Mean over seeds, its 95% interval, and the difference to the first variant with its own. Intervals of single "
    "values may overlap where that of the difference does not hold zero."
)
LOSSES = (
    "Loss on held-out crops over that of the best constant answer, zero, by FLOPs of training; mean over seeds. "
    "Patterns, codecs and processes ask different questions, and a later stage is told the earlier ones: lines of "
    "different ones are no race."
)
LISTEN = "The first seed of every variant. Click a picture to play from there."
TAKES = (
    "FLOPs of convolutions and matrix products of the denoisers; of a clip, with all evaluations and the "
    "answers that guidance takes in each. Codec and conditioner are not counted."
)
SECONDS = "Wall seconds of training, which depend on what else the machine did: {note}."
