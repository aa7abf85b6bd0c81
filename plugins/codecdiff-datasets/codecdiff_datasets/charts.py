"""Bar charts as SVG, without a library. They take their colours from the page: the classes `bar`, `track`, `value`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

LABEL, LENGTH, VALUE = 190, 300, 90  # pixels: widths of a label, of the longest bar, of the words at its end
LINE = 22  # pixels: height of a bar with the room around it
LETTERS = 28  # of a label


class Bar(NamedTuple):
    """One bar: what it stands for, how long it is, and the words at its end."""

    label: str
    value: float
    text: str


def chart(title: str, bars: Sequence[Bar], full: float = 0) -> str:
    """Draw bars one under the other, as SVG. A bar of the value `full` is as long as can be; 0 means the longest."""
    longest = full or max((bar.value for bar in bars), default=0) or 1
    lines = [_line(i, bar, LENGTH * min(1, max(0, bar.value / longest))) for i, bar in enumerate(bars)]
    return (
        f'<svg viewBox="0 0 {LABEL + LENGTH + VALUE} {LINE * len(bars)}" role="img" aria-label="{escape(title)}">'
        f"{''.join(lines)}</svg>"
    )


def _line(i: int, bar: Bar, length: float) -> str:
    top, middle = LINE * i + 4, LINE * i + 15
    label = bar.label if len(bar.label) <= LETTERS else f"{bar.label[: LETTERS - 1]}…"
    return (
        f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end"><title>{escape(bar.label)}</title>{escape(label)}</text>'
        f'<rect class="track" x="{LABEL}" y="{top}" width="{LENGTH}" height="{LINE - 8}" rx="2"/>'
        f'<rect class="bar" x="{LABEL}" y="{top}" width="{length:.2f}" height="{LINE - 8}" rx="2"/>'
        f'<text class="value" x="{LABEL + LENGTH + 8}" y="{middle}">{escape(bar.text)}</text>'
    )
