"""Pages of results: one HTML file each that loads nothing from elsewhere. Pictures are inside it, sounds beside it.

Everything that is not HTML already is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import soundfile
import torch

from codecdiff.pictures import spectrogram


def page(title: str, body: str) -> str:
    """Give a page with its style and script; `body` is HTML."""
    return PAGE.format(title=escape(title), style=STYLE, script=SCRIPT, body=body)


def section(title: str, words: str, content: str) -> str:
    """Give one part of the page; `words` and `content` are HTML."""
    lead = f'<p class="lead">{words}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{content}</section>"


def player(folder: Path, path: str, title: str, explanation: str = "", *, css: str = "") -> str:
    """Give the spectrogram of a file in the page's folder, which plays it when clicked, and its controls."""
    audio, sample_rate = soundfile.read(folder / path, dtype="float32", always_2d=True)
    picture = spectrogram(torch.from_numpy(audio.mean(1)), sample_rate)
    alternative = escape(f"Mel spectrogram: {title}, {explanation}")
    return (
        f'<figure class="{escape(css)}"><figcaption><b>{escape(title)}</b> {escape(explanation)}</figcaption>'
        f'<div class="picture"><img src="{picture}" alt="{alternative}"><i></i></div>'
        f'<audio controls preload="metadata" src="{escape(quote(path))}"></audio></figure>'
    )


def scrolling(heads: Sequence[str], rows: str) -> str:
    """Give a table that scrolls on small screens: titles, the first on the left, over rows of HTML."""
    first, *others = (escape(head) for head in heads)
    titles = f"<th>{first}</th>" + "".join(f'<th class="n">{head}</th>' for head in others)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'


def chart(title: str, explanation: str, picture: str) -> str:
    """Give a picture (SVG) with its title."""
    caption = f"<figcaption><b>{escape(title)}</b> {escape(explanation)}</figcaption>"
    return f'<figure class="chart">{caption}{picture}</figure>'


def rows_of(values: Mapping[str, str]) -> str:
    """Give rows of two cells."""
    return "".join(f'<tr><td>{escape(k)}</td><td class="n">{escape(v)}</td></tr>' for k, v in values.items())


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
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
polyline.series-0 { stroke: #b04fae; } svg text.series-0 { fill: #b04fae; font-weight: 600; }
b.series-0 { color: #b04fae; }
polyline.series-1 { stroke: #d07a2d; } svg text.series-1 { fill: #d07a2d; font-weight: 600; }
b.series-1 { color: #d07a2d; }
polyline.series-2 { stroke: #2f8f6b; } svg text.series-2 { fill: #2f8f6b; font-weight: 600; }
b.series-2 { color: #2f8f6b; }
polyline.series-3 { stroke: #3f78c7; } svg text.series-3 { fill: #3f78c7; font-weight: 600; }
b.series-3 { color: #3f78c7; }
polyline.series-4 { stroke: #c04a41; } svg text.series-4 { fill: #c04a41; font-weight: 600; }
b.series-4 { color: #c04a41; }
polyline.series-5 { stroke: #878b2c; } svg text.series-5 { fill: #878b2c; font-weight: 600; }
b.series-5 { color: #878b2c; }
polyline.series-6 { stroke: #6b7686; } svg text.series-6 { fill: #6b7686; font-weight: 600; }
b.series-6 { color: #6b7686; }
polyline.series-7 { stroke: #a9842a; } svg text.series-7 { fill: #a9842a; font-weight: 600; }
b.series-7 { color: #a9842a; }
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
td small { display: block; color: var(--quiet); font-size: .8rem; } td.first { white-space: nowrap; }
.plain li { margin-bottom: 6px; } .plain { max-width: 74ch; }
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
