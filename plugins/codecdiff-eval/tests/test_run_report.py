"""The page at the end of a run holds its samples with their prompts, and the losses of every stage."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from codecdiff_eval.run_report import write_run_report
from small import RATE, tone

from codecdiff.data.audio import write_audio


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two stages, the second of which logged nothing yet, with three samples of two prompts."""
    import torch

    folder = tmp_path / "mine"
    for i, hertz in enumerate((220, 330, 440)):
        write_audio(folder / "samples" / f"{i:02d}.wav", torch.from_numpy(tone(0.5, hertz))[None], RATE)
    rows = [{"file_name": f"{i:02d}.wav", "text": text} for i, text in enumerate(("a <b>waltz", "a march", "a march"))]
    (folder / "samples" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for stage, lines in {"primary": 3, "secondary": 0}.items():
        (folder / "model" / stage).mkdir(parents=True)
        losses = [
            {"step": s, "loss": 1 / s, "validation_loss": 2 / s, "zero_predictor_loss": 2.0}
            for s in range(1, lines + 1)
        ]
        (folder / "model" / stage / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
    return folder


def test_samples_are_beside_their_prompts_and_losses_of_each_stage_are_plotted(run: Path) -> None:
    page = write_run_report(run).read_text(encoding="utf-8")
    headings = re.findall(r"<h3>\s*(.*?)\s*</h3>", page)
    assert headings == ["“a &lt;b&gt;waltz”", "“a march”"]
    assert re.findall(r'<audio[^>]* src="([^"]*)"', page) == [f"samples/0{i}.wav" for i in range(3)]
    assert page.count("data:image/png;base64,") == 3  # spectrograms
    assert "Losses of the primary stage" in page
    assert "loss by step, 3 steps; validation loss 0.667" in page
    assert "No losses were logged." in page
    assert "mine" in (run / "report.md").read_text(encoding="utf-8")


def test_a_stage_that_has_learned_nothing_is_noted(run: Path) -> None:
    assert "predicts better" not in write_run_report(run).read_text(encoding="utf-8")
    row = {"step": 9, "loss": 2.0, "validation_loss": 2.1, "zero_predictor_loss": 2.0}
    (run / "model/secondary/log.jsonl").write_text(json.dumps({**row, "normalized_validation_loss": 1.05}) + "\n")
    page = write_run_report(run).read_text(encoding="utf-8")
    assert "secondary does not predict better than zero" in page
    assert "primary does not" not in page


def test_a_run_without_samples_has_a_page_too(tmp_path: Path) -> None:
    assert "Losses" in write_run_report(tmp_path).read_text(encoding="utf-8")


def test_it_is_called_at_the_end_of_runs() -> None:
    (hook,) = (entry for entry in entry_points(group="codecdiff.run_end") if entry.name == "report")
    assert hook.load() is write_run_report


def test_the_page_says_how_much_music_there_was_under_which_license(run: Path) -> None:
    data = {"tracks": 3, "hours": 1.5, "license_hours": {"CC0-1.0": 1.25, "unknown": 0.25}}
    parts = {"codec": {"name": "dac"}, "splitter": {"name": "coarse-first"}, "conditioner": None, "stages": []}
    spec = {"format": 2, **parts, "snap_context": True, "target": "codes", "data": data}
    (run / "model" / "codecdiff.json").write_text(json.dumps(spec))
    write_run_report(run)
    lines = (run / "report.md").read_text(encoding="utf-8").splitlines()
    for line in (
        "| tracks | 3 |",
        "| duration | 1 h 30 min |",
        "| under CC0-1.0 | 1 h 15 min |",
        "| under unknown | 15 min 0 s |",
        "| codec | dac |",
        "| pattern | coarse-first |",
    ):
        assert line in lines
