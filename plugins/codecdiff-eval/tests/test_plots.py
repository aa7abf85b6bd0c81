"""Plots show what they are of: pixels, positions and labels, read back from what is drawn."""

from __future__ import annotations

import base64
import math
import re
from io import BytesIO

import numpy as np
import pytest
from codecdiff_eval.plots import (
    plot_curves,
    plot_intervals,
    plot_losses,
    spectrogram,
)
from PIL import Image

RATE = 44_100


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def brightness(uri: str) -> np.ndarray:
    """Return the (h, w) brightness of a PNG in a data URI."""
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB"), float).sum(-1)


def lines(svg: str, color: str) -> list[list[tuple[float, float]]]:
    """Return the points of all lines of a color."""
    paths = re.findall(rf'<path d="([^"]*)" style="fill: none; (?:stroke-dash[^;]*; )*stroke: var\(--{color},', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)] for path in paths]


def texts(svg: str) -> dict[str, tuple[float, float]]:
    """Return the texts with their positions."""
    found = re.findall(r'<text [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    return {text: (float(x), float(y)) for x, y, text in found}


def test_a_higher_tone_is_brightest_higher_up_and_silence_is_black() -> None:
    low, high = brightness(spectrogram(tone(220), RATE)), brightness(spectrogram(tone(3520), RATE))
    assert high.mean(1).argmax() < low.mean(1).argmax()
    assert low.max() > 600
    assert brightness(spectrogram(np.zeros(RATE), RATE)).max() < 10


def test_audio_shorter_than_a_window_has_a_spectrogram() -> None:
    assert brightness(spectrogram(tone(440, 0.001), RATE)).shape[0] == 80


def test_a_better_loss_is_drawn_lower_and_what_was_not_logged_is_not_drawn() -> None:
    svg = plot_losses("primary", [{"step": s, "validation_loss": 1 / s, "zero_predictor_loss": 1.0} for s in (1, 2, 4)])
    validation, *_ = lines(svg, "series-0")
    assert [y for _, y in validation] == sorted(y for _, y in validation)
    assert not lines(svg, "series-1")
    assert "training" not in texts(svg)
    assert plot_losses("primary", []) == plot_losses("primary", [{"step": 1, "loss": math.nan}]) == ""


def test_the_losses_of_a_short_run_have_marks_whole_steps_and_a_line_for_the_zero_predictor() -> None:
    rows = [{"step": s, "validation_loss": 1 / s, "zero_predictor_loss": 1.0} for s in (2, 4)]
    for log, ticks in ((rows, {"0", "1", "2", "3", "4"}), (rows[:1], {"0", "1", "2"})):
        svg = plot_losses("primary", log)
        steps = [text for text in texts(svg) if text.isdigit()]
        assert ticks <= set(steps)
        assert len(re.findall(r">(\d)</text>", svg)) <= len(ticks) + 2  # of the other axis: no step is repeated
        zero, *_ = lines(svg, "quiet")
        assert zero[0][0] < zero[-1][0]
        assert svg.count("<use ") >= len(log)
    many = [{"step": s, "validation_loss": 1 / s} for s in range(1, 30)]
    assert svg.count("<use ") > plot_losses("primary", many).count("<use ")


def test_what_started_from_a_model_is_plotted_beside_the_loss_before() -> None:
    shown = texts(plot_losses("primary", [{"step": 2, "validation_loss": 1.0, "zero_predictor_loss": 2.0}], base=1.1))
    assert "before" in shown
    assert "predicting zero" not in shown
    assert plot_losses("primary", [], base=1.0) == ""


def test_ticks_are_round() -> None:
    steps = texts(plot_curves("t", {"a": [(0, 0.9), (2000, 0.5)]}))
    assert {"0", "500", "1,000", "1,500", "2,000"} <= set(steps)
    assert {"0", "0.25", "0.5", "0.75"} <= set(texts(plot_intervals("t", {"a": (0.5, 0.4, 0.9)})))
    assert {"13", "14", "15", "16"} <= set(texts(plot_intervals("t", {"a": (14, 13, 16)}, log=True)))


@pytest.mark.parametrize("log", [False, True])
def test_greater_values_are_drawn_further_right_inside_their_intervals(log: bool) -> None:
    rows = {"a": (0.2, 0.1, 0.3), "b": (20, 10, 30), "none": (math.nan, 0, 1)}
    svg = plot_intervals("t", rows, log=log)
    marks = [float(x) for x in re.findall(r'<use href="#\w+" x="([\d.]+)"', svg)]
    intervals = [line for line in lines(svg, "accent") if len(line) == 2]
    assert len(marks) == len(intervals) == 2
    assert marks[0] < marks[1]
    assert all(start <= mark <= end for mark, ((start, _), (end, _)) in zip(marks, intervals, strict=True))
    assert texts(svg)["a"][1] < texts(svg)["b"][1] < texts(svg)["none"][1]
    assert "–" in texts(svg)


def test_bounds_are_inside_the_scale_and_nothing_finite_is_no_plot() -> None:
    ((bound, _), *_), *_ = lines(plot_intervals("t", {"a": (1, 1, 1)}, bounds=[2]), "quiet")
    assert 0 < bound < 7.4 * 72
    assert plot_intervals("t", {"a": (math.nan, math.nan, math.nan)}) == plot_intervals("t", {}) == ""


def test_curves_are_labeled_in_the_order_of_their_ends_and_share_a_scale() -> None:
    curves = {"<a> $x": [(0, 1.0), (2e12, 0.5)], "_b": [(0, 1.0), (2e12, 0.49)]}
    svg = plot_curves("t", {**curves, "none": [(0, math.nan)]}, x_label="FLOPs")
    (first, *_), (second, *_) = lines(svg, "series-0"), lines(svg, "series-1")  # then the lines of the legend
    assert first[0] == second[0]
    assert not lines(svg, "series-2")
    assert {"2 T", "FLOPs"} <= set(texts(svg))
    assert texts(svg)["_b"][1] - texts(svg)["&lt;a&gt; $x"][1] >= 15
    assert plot_curves("t", {"none": []}) == ""


def test_many_labels_stay_inside_the_plot() -> None:
    svg = plot_curves("t", {f"curve {i}": [(0, 1.0), (1, 1.0)] for i in range(8)})
    heights = sorted(texts(svg)[f"curve {i}"][1] for i in range(8))
    assert heights[0] > 0
    assert min(np.diff(heights)) >= 14.9


def test_plots_are_deterministic_name_no_address_and_follow_the_page() -> None:
    def plots() -> list[str]:
        rows = {"音楽": (0.2, 0.1, 0.3)}
        losses = plot_losses("a", [{"step": 1, "loss": 2.0}])
        return [plot_intervals('"><b>', rows), losses]

    assert plots() == plots()
    for svg in plots():
        assert not re.search(r"https?:|url\(|<style|<metadata|<b>|<!--", svg)
        assert not set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg))
    assert 'aria-label="&quot;&gt;&lt;b&gt;"' in plots()[0]
