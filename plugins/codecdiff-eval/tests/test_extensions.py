"""A metric, an embedder and a suite of a third party: one file and one line of metadata each."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from codecdiff_eval.metric import Metric, Statistic, load_metric, mean_over_clips
from codecdiff_eval.results import EvalReport
from codecdiff_eval.suites import Suite, load_suite
from typer.testing import CliRunner

from codecdiff import registry
from codecdiff.cli.main import app
from codecdiff.errors import BrokenPlugin, InvalidValue, UnknownPart

MODULE = '''
import torch
from codecdiff.embedders import Windowed
from codecdiff_eval.metric import Metric, Statistic, mean_over_clips
from codecdiff_eval.results import Estimate
from codecdiff_eval.suites import Suite


class Power(Windowed):
    sample_rate, window_seconds, hop_seconds, width = 8000, 0.5, 0.5, 2

    def __init__(self):
        super().__init__()

    def embed_windows(self, windows):
        return torch.stack([windows.square().mean(1), windows.abs().mean(1)], 1)


def gap(clips, reference, *, seed):
    """The difference of mean power."""
    return Statistic(lambda a, b: float(clips.drawn(a)[:, 0].mean() - reference.drawn(b)[:, 0].mean()))


def loudness(clips, reference, *, seed):
    """The mean amplitude of clips that have a caption."""
    return mean_over_clips(clips.means()[:, 1])


def beside(clips, reference=None, *, seed):
    """The mean amplitude, beside that of the reference."""
    value = None if reference is None else float(reference.means()[:, 1].mean())
    bound = None if value is None else Estimate(value, value, value)
    return mean_over_clips(clips.means()[:, 1], upper_bound=bound)


power_gap = Metric("power gap", gap, "", min_clips=2)
loud = Metric("loudness", loudness, "higher", compares="prompts", requested=lambda prompt: dict(prompt).get("text"))
own = {"compares": "prompts", "embedder": Power}  # two metrics with one embedder of their own
chords = Metric("of chords", beside, "higher", requested=lambda prompt: dict(prompt).get("chords"), **own)
text = Metric("of text", beside, "higher", requested=lambda prompt: dict(prompt).get("text"), **own)
quick = Suite("Of a third party.", {"power": ("power-gap", "loudness", "of-chords", "of-text")}, seconds=1.0)
'''
ENTRY_POINTS = """
[codecdiff.embedders]
power = toy_eval:Power
[codecdiff.metrics]
power-gap = toy_eval:power_gap
loudness = toy_eval:loud
of-chords = toy_eval:chords
of-text = toy_eval:text
[codecdiff.suites]
quick = toy_eval:quick
"""


BROKEN = """
[codecdiff.metrics]
lonely = toy_lonely:metric
bare = toy_eval:gap
[codecdiff.suites]
bare-suite = toy_eval:gap
number = toy_eval:__doc__
"""


@pytest.fixture
def _toy_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "site" / "toy_eval-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-eval\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site" / "toy_eval.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()
    sys.modules.pop("toy_eval", None)


@pytest.mark.usefixtures("_toy_eval")
def test_a_suite_a_metric_and_an_embedder_of_a_plugin_are_used_by_name(music: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(music), "--reference", str(music), "--suite", "quick", "-o", str(tmp_path / "report")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = EvalReport.read(tmp_path / "report").rows
    assert [row.result.name for row in rows] == ["power gap", "loudness", "of chords", "of text"]
    gap, loudness, of_chords, of_text = (row.result for row in rows)
    assert of_chords.upper_bound is None  # the reference says nothing of them
    assert of_text.upper_bound is not None
    assert of_text.upper_bound.value == pytest.approx(of_text.value)  # of the same music
    assert (gap.value, gap.direction) == (0, "")
    assert gap.interval.low < 0 < gap.interval.high
    assert loudness.value == pytest.approx(sum(loudness.per_clip.values()) / len(loudness.per_clip))
    assert "power gap" in (tmp_path / "report" / "report.md").read_text()
    wrong = CliRunner().invoke(app, [*words, "--metric", "none"])
    assert "No metric named 'none'. Installed: " in " ".join(wrong.output.split())
    assert "loudness" in wrong.output


@pytest.mark.usefixtures("_toy_eval")
def test_what_a_plugin_gets_wrong_is_said_and_stops_no_other(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "toy_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(BROKEN)
    registry.scan.cache_clear()
    words = ["evaluate", str(music), "--reference", str(music), "--suite", "quick", "-o", str(tmp_path / "report")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    left_out = EvalReport.read(tmp_path / "report").facts["not measured"]
    assert "lonely is left out: The metric 'lonely' of toy-broken 1.0 cannot be loaded" in left_out
    with pytest.raises(BrokenPlugin, match=r"which is not an object, such as `my_metric = Metric\(\.\.\.\)`"):
        load_metric("bare")
    with pytest.raises(BrokenPlugin, match=r"which is not an object, such as `my_suite = Suite\(\.\.\.\)`"):
        load_suite("bare-suite")
    with pytest.raises(BrokenPlugin, match=r"The suite 'number' is None: expected a codecdiff_eval\.suites\.Suite"):
        load_suite("number")
    with pytest.raises(UnknownPart, match="Did you mean 'quick'"):
        load_suite("quik")


def test_wrong_metrics_and_suites_are_refused_where_they_are_made() -> None:
    wrong: Any = "down"
    prepare: Any = print
    metrics: Any = {"logmel": "kad"}
    with pytest.raises(InvalidValue, match=r"gap: invalid direction='down'\. Expected one of 'lower', 'higher', ''"):
        Metric("gap", prepare, wrong)
    with pytest.raises(InvalidValue, match=r"invalid compares='down'"):
        Metric("gap", prepare, "lower", compares=wrong)
    with pytest.raises(InvalidValue, match=r"are 'kad'\. Expected a tuple, as in \('kad',\)"):
        Suite("Of one metric.", metrics)


def test_a_metric_that_fails_is_named() -> None:
    def without_seed(clips: object, reference: object) -> Statistic:
        return mean_over_clips(torch.zeros(4))

    def number(clips: object, reference: object, *, seed: int) -> Any:
        return 1.0

    clips: Any = None  # which nothing reads before `prepare`
    metric = Metric("gap", without_seed, "lower", compares="clips")
    with pytest.raises(TypeError) as caught:
        metric(clips)
    assert caught.value.__notes__ == ["This was raised by `prepare` of the metric 'gap'."]
    metric = Metric("gap", number, "lower", compares="clips")
    with pytest.raises(BrokenPlugin, match=r"`prepare` of the metric 'gap' returned 1\.0: expected a Statistic"):
        metric(clips)
