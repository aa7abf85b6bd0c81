"""A metric, an embedder and a suite of a third party: one file and one line of metadata each."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from codecdiff_eval.results import EvalReport
from typer.testing import CliRunner

from codecdiff import registry
from codecdiff.cli.main import app

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
    assert (gap.value, gap.direction) == (0, "")
    assert gap.interval.low < 0 < gap.interval.high
    assert loudness.value == pytest.approx(sum(loudness.per_clip.values()) / len(loudness.per_clip))
    assert "power gap" in (tmp_path / "report" / "report.md").read_text()
    wrong = CliRunner().invoke(app, [*words, "--metric", "none"])
    assert "No metric named 'none'. Installed: " in " ".join(wrong.output.split())
    assert "loudness" in wrong.output
