"""The page of a demo: what the model makes, beside what it was made to imitate, and what was measured.

One HTML file that loads nothing from elsewhere: pictures are inside it, sounds lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from codecdiff.files import atomic_write_text
from codecdiff.pages import chart, page, player, rows_of, scrolling, section
from codecdiff.pictures import Row, intervals, loss_curves, number

RENDERINGS = {  # kind of a sample -> title and explanation
    "generated": ("Generated", "from these words alone"),
    "true_primary": ("Half generated", "coarse level real, fine levels generated"),
    "held_out": ("Through the codec", "the real piece, encoded and decoded"),
    "composed": ("Real", "composed, never trained on"),
    "noise": ("Noise", "random codes, decoded"),
}
DISTANCES = {
    "held_out": "real, held out",
    "true_primary": "half generated",
    "generated": "generated",
    "noise": "noise",
}


def write_page(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write `index.html` into a folder that holds the samples the report names, and give its path.

    The report is that of `codecdiff_starter.demo`: everything in it that came from a prompt is escaped.
    """
    body = "\n".join(
        [
            header(report),
            section("Listen", LISTEN, cards(folder, report["samples"])),
            section("What it learned", LEARNED.format(**report), table(report["figures"])),
            section("How near it comes, and whether it listens", NEAR, f'<div class="pair">{pictures(report)}</div>'),
            section("Learning", LOSSES, f'<div class="pair">{losses(report["logs"])}</div>'),
            section("Remembering", REMEMBERING, memory(report["memorising"])),
            section("How it was made", "", making(report)),
        ]
    )
    path = folder / "index.html"
    atomic_write_text(path, page("codecdiff demo", body))
    return path


def header(report: Mapping[str, Any]) -> str:
    """Give the title, one paragraph, and the sum of the table."""
    verdicts = [row["passed"] for row in report["figures"] if row["passed"] is not None]
    facts = {
        f"{sum(verdicts)} of {len(verdicts)}": "targets reached",
        number(report["probes"]["mean"]["value"]): "probe score: the text is obeyed",
        f"{number(report['frechet_distance']['generated_ratio']['value'])}×": "as far from music as other music is",
        f"{report['peak_memory']:.1f} GB": "peak memory",
    }
    chips = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in facts.items())
    return (
        f'<header><p class="eyebrow">codecdiff · demo</p><h1>{TITLE}</h1><p class="lead">{INTRODUCTION}</p>'
        f'<div class="chips">{chips}</div></header>'
    )


def cards(folder: Path, samples: Sequence[Mapping[str, Any]]) -> str:
    """Give a card for every prompt, with a player for each of its renderings in the order of `RENDERINGS`."""
    prompts = list(dict.fromkeys(sample["prompt"] for sample in samples))
    return "".join(card(folder, p, [sample for sample in samples if sample["prompt"] == p]) for p in prompts)


def card(folder: Path, prompt: str, samples: Sequence[Mapping[str, Any]]) -> str:
    """Give the card of one prompt; the empty one is what a model that knows nothing would play."""
    ordered = sorted(samples, key=lambda sample: list(RENDERINGS).index(sample["kind"]))
    players = "".join(
        player(folder, sample["path"], *RENDERINGS[sample["kind"]], css=sample["kind"].replace("_", "-"))
        for sample in ordered
    )
    badge = '<span class="badge">combination never heard in training</span>' if samples[0]["unseen"] else ""
    heading = f"“{escape(prompt)}”" if prompt else "Without a model"
    return f'<article><h3>{heading}{badge}</h3><div class="players">{players}</div></article>'


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Give the table of figures with their targets and marks."""
    rows = "".join(
        f'<tr><td>{escape(row["name"])}</td><td class="n">{number(row["value"])}</td>'
        f'<td class="n quiet">{interval(row)}</td><td class="n">{target(row)}</td><td>{mark(row["passed"])}</td></tr>'
        for row in figures
    )
    return scrolling(("figure", "measured", "95% interval", "target", ""), rows)


def interval(row: Mapping[str, Any]) -> str:
    """Write the interval of a figure that has one."""
    return "" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def target(row: Mapping[str, Any]) -> str:
    """Write the bounds that a figure must keep."""
    low, high = row["at_least"], row["at_most"]
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    return f"≥ {number(low)}" if low is not None else f"≤ {number(high)}" if high is not None else ""


def mark(passed: bool | None) -> str:
    """Give the mark of a verdict."""
    verdicts = {
        True: '<span class="mark-yes">✓ reached</span>',
        False: '<span class="mark-no">✗ missed</span>',
        None: "",
    }
    return verdicts[passed]


def pictures(report: Mapping[str, Any]) -> str:
    """Draw the distances of the sets and the scores of the probes."""
    distance, probes = report["frechet_distance"], report["probes"]
    far = [Row(label, **distance[name]) for name, label in DISTANCES.items() if name in distance]
    read = [Row(name, **part["score"]) for name, part in probes["parts"].items()]
    read += [
        Row("mean", **probes["mean"]),
        Row("unseen combinations", **probes["unseen_combinations"]),
        Row("shuffled", **probes["shuffled"]),
    ]
    return chart(
        "Fréchet distance", "to held-out music, logarithmic", intervals("Fréchet distances", far, log=True)
    ) + chart("Probe score", "0 is chance, 1 as legible as real music", intervals("Probe scores", read, bounds=(0, 1)))


def losses(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draw the losses of every stage."""
    return "".join(chart(stage, "loss by training step", loss_curves(stage, log)) for stage, log in logs.items())


def memory(memorising: Mapping[str, Mapping[str, Any]]) -> str:
    """Give the table of nearest distances."""
    rows = "".join(
        f'<tr><td>{escape(name.replace("_", " "))}</td><td class="n">{number(near["nearest_training"])}</td>'
        f'<td class="n">{number(near["nearest_fresh"])}</td><td class="n">{number(near["ratio"]["value"])}</td>'
        f'<td class="n quiet">{interval(near["ratio"])}</td></tr>'
        for name, near in memorising.items()
    )
    return scrolling(("clips", "to training", "to fresh pieces", "ratio", "95% interval"), rows)


def making(report: Mapping[str, Any]) -> str:
    """Give the command, the settings and how long everything took."""
    trained = {
        f"training: {stage}": log[-1]["seconds"] for stage, log in report["logs"].items() if "seconds" in log[-1]
    }
    spent = trained | {f"evaluation: {name}": value for name, value in report["evaluation_seconds"].items()}
    settings = {name: report[name] for name in ("composer_version", "seed", "clips", "seconds", "steps", "guidance")}
    names = {"seed": "evaluation seed", "clips": "clips in every set", "seconds": "seconds of every clip"}
    left = rows_of(
        {names.get(k, k.replace("_", " ")): "the model's" if v is None else f"{v}" for k, v in settings.items()}
    )
    right = rows_of({name: f"{seconds:,.0f} s" for name, seconds in spent.items()})
    return (
        f'<pre>{escape(report["command"])}</pre><div class="pair"><table>{left}</table><table>{right}</table></div>'
        '<p class="quiet">All numbers: <a href="report.json">report.json</a></p>'
    )


TITLE = "Music from words, level by level"
INTRODUCTION = (
    "A neural codec writes sound as a few levels of codes, coarse to fine. A first diffusion model generates the "
    "coarse level from a caption, a second one adds the fine levels on top of it, and the codec turns both into sound. "
    "Everything on this page, the music to learn from included, was made by one command."
)
LISTEN = (
    "Each card is one caption the model never saw. Click a picture to play from there; it shows pitch from bottom to "
    "top and time from left to right. The codec is a small one, fitted in seconds: compare the generated clips with "
    "what the codec makes of the real piece."
)
LEARNED = (
    "Measured on {clips} clips of {seconds:g} seconds in every compared set, for captions never trained on; every "
    "other one asks for a combination of instruments that no training piece has."
)
NEAR = (
    "Left: how far each set of clips lies from held-out music in the same codec; less is better, and real music itself "
    "is not at zero because sets are finite. Right: a linear probe that has learned to recognise instruments in real "
    "music listens to the generated clips and names what the caption asked for. Bars are 95% intervals over clips."
)
LOSSES = "Held-out losses are taken on pieces that are not trained on, with the averaged weights and fixed noise."
REMEMBERING = (
    "Mean distance from a clip to the nearest training clip, and to the nearest of as many fresh ones, composed in "
    "the same way but never trained on. A model that plays from memory is nearer to the training clips: its ratio is "
    "clearly under that of held-out music."
)
