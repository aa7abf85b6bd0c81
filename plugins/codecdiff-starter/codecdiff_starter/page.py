"""The page of a demo: what the model makes, beside what it was made to imitate, and what was measured.

One HTML file that loads nothing from elsewhere: pictures are inside it, sounds lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import soundfile
import torch

from codecdiff.files import replace_text
from codecdiff_starter.pictures import Row, intervals, loss_curves, number, spectrogram

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
    replace_text(path, PAGE.format(style=STYLE, script=SCRIPT, body=body))
    return path


def section(title: str, words: str, content: str) -> str:
    """Give one part of the page; `words` and `content` are HTML."""
    lead = f'<p class="lead">{words}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{content}</section>"


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
    players = "".join(player(folder, sample) for sample in ordered)
    badge = '<span class="badge">combination never heard in training</span>' if samples[0]["unseen"] else ""
    heading = f"“{escape(prompt)}”" if prompt else "Without a model"
    return f'<article><h3>{heading}{badge}</h3><div class="players">{players}</div></article>'


def player(folder: Path, sample: Mapping[str, Any]) -> str:
    """Give the spectrogram of one sample, which plays it when clicked, and its controls."""
    title, explanation = RENDERINGS[sample["kind"]]
    audio, sample_rate = soundfile.read(folder / sample["path"], dtype="float32", always_2d=True)
    picture = spectrogram(torch.from_numpy(audio.mean(1)), sample_rate)
    alternative = f"Mel spectrogram: {title}, {explanation}"
    return (
        f'<figure class="{sample["kind"].replace("_", "-")}"><figcaption><b>{title}</b> {explanation}</figcaption>'
        f'<div class="picture"><img src="{picture}" alt="{alternative}"><i></i></div>'
        f'<audio controls preload="metadata" src="{escape(quote(sample["path"]))}"></audio></figure>'
    )


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Give the table of figures with their targets and marks."""
    rows = "".join(
        f'<tr><td>{escape(row["name"])}</td><td class="n">{number(row["value"])}</td>'
        f'<td class="n quiet">{interval(row)}</td><td class="n">{target(row)}</td><td>{mark(row["passed"])}</td></tr>'
        for row in figures
    )
    return scrolling(("figure", "measured", "95% interval", "target", ""), rows)


def scrolling(heads: Sequence[str], rows: str) -> str:
    """Give a table that scrolls on small screens: titles, the first on the left, over rows of HTML."""
    first, *others = (escape(head) for head in heads)
    titles = f"<th>{first}</th>" + "".join(f'<th class="n">{head}</th>' for head in others)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'


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


def chart(title: str, explanation: str, picture: str) -> str:
    """Give a picture (SVG) with its title."""
    caption = f"<figcaption><b>{escape(title)}</b> {escape(explanation)}</figcaption>"
    return f'<figure class="chart">{caption}{picture}</figure>'


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


def rows_of(values: Mapping[str, str]) -> str:
    """Give rows of two cells."""
    return "".join(f'<tr><td>{escape(k)}</td><td class="n">{escape(v)}</td></tr>' for k, v in values.items())


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
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>codecdiff demo</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""
STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1c1d22; --quiet: #6c6e78; --line: #e5e3de;
  --accent: #8c2f8a; --accent-soft: #f5e9f5; --second: #c2621d; --yes: #1b7a4b; --no: #b3352c; }
@media (prefers-color-scheme: dark) { :root { --paper: #131419; --card: #1b1d24; --ink: #ececf0; --quiet: #9b9da8;
  --line: #2e3039; --accent: #d98ad6; --accent-soft: #33203a; --second: #f0a05e; --yes: #5fc796; --no: #f08078; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 56px 28px 96px; }
h1 { font-size: clamp(2rem, 5vw, 3.1rem); line-height: 1.1; letter-spacing: -.025em; margin: 0 0 18px;
  font-weight: 680; }
h2 { font-size: 1.5rem; letter-spacing: -.015em; margin: 0 0 6px; font-weight: 650; }
h3 { font-size: 1.08rem; margin: 0 0 14px; font-weight: 600; display: flex; gap: 6px 14px; flex-wrap: wrap;
  align-items: center; }
section { margin-top: 64px; }
.eyebrow { color: var(--accent); font-weight: 650; letter-spacing: .02em; margin: 0 0 10px; }
.lead { max-width: 74ch; margin: 0 0 22px; color: var(--quiet); }
header .lead { font-size: 1.1rem; }
.quiet { color: var(--quiet); }
.chips { display: flex; flex-wrap: wrap; gap: 14px 44px; margin-top: 28px; }
.chips b { display: block; font-size: 1.55rem; letter-spacing: -.02em; font-weight: 650; }
.chips span { color: var(--quiet); font-size: .9rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 20px 22px 22px;
  margin-top: 18px; }
.badge { font-size: .75rem; font-weight: 600; color: var(--accent); background: var(--accent-soft);
  padding: 2px 10px; border-radius: 99px; }
.players { display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr)); gap: 18px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .82rem; line-height: 1.35; color: var(--quiet); margin-bottom: 8px; }
figcaption b { display: block; font-size: .92rem; color: var(--ink); font-weight: 620; }
.generated figcaption b { color: var(--accent); }
.picture { position: relative; cursor: pointer; border-radius: 8px; overflow: hidden; background: #08090f; }
.picture img { display: block; width: 100%; height: 118px; }
.picture i { position: absolute; inset: 0 auto 0 0; width: 2px; background: #fff; opacity: 0;
  left: calc(var(--at, 0) * 100%); }
.playing .picture i { opacity: .9; }
audio { width: 100%; height: 34px; margin-top: 8px; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 22px;
  align-items: start; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 18px 20px 12px; }
svg { display: block; width: 100%; height: auto; font-size: 13px; }
svg text { fill: var(--ink); } svg .tick, svg text.zero { fill: var(--quiet); }
svg .number { font-variant-numeric: tabular-nums; }
svg text.train { fill: var(--second); } svg text.held { fill: var(--accent); font-weight: 600; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
polyline.train { stroke: var(--second); stroke-width: 1.5; opacity: .75; }
polyline.held { stroke: var(--accent); stroke-width: 2.5; }
polyline.zero { stroke: var(--quiet); stroke-dasharray: 2 6; }
.grid { stroke: var(--line); } .bound { stroke: var(--quiet); stroke-dasharray: 3 4; }
.range { stroke: var(--accent); stroke-width: 4; stroke-linecap: round; opacity: .35; } .mark { fill: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
td, th { padding: 9px 12px 9px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: baseline; }
th { font-size: .8rem; color: var(--quiet); font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: 12px; }
.mark-yes, .mark-no { font-weight: 620; white-space: nowrap; padding-left: 10px; }
.mark-yes { color: var(--yes); } .mark-no { color: var(--no); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
  overflow-x: auto; font-size: .88rem; }
a { color: var(--accent); }
"""
SCRIPT = """
for (const figure of document.querySelectorAll('.players figure')) {
  const audio = figure.querySelector('audio'), picture = figure.querySelector('.picture');
  const move = () => {
    figure.style.setProperty('--at', audio.currentTime / (audio.duration || 1));
    if (!audio.paused) requestAnimationFrame(move);
  };
  audio.addEventListener('play', () => {
    document.querySelectorAll('audio').forEach(other => other !== audio && other.pause());
    figure.classList.add('playing');
    move();
  });
  audio.addEventListener('seeked', move);
  picture.addEventListener('click', event => {
    audio.currentTime = audio.duration * event.offsetX / picture.clientWidth || 0;
    audio.play();
  });
}
"""
