"""The walk of the documentation, from composing to a report: its six commands run as they stand there, but for size."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from codecdiff_eval.results import EvalReport, NotMeasured

from codecdiff.data.code_store import CodeStore
from codecdiff.data.manifest import Manifest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "evaluation.md"
PROGRAMS = {
    "python": [sys.executable],
    "codecdiff": [str(Path(sys.executable).with_name("codecdiff"))],
}
SMALLER = {  # what each command is told besides, by its first words; the last word on an option counts
    "python -m codecdiff_starter.composer": "--count 10 --seconds 4 --num-workers 1",
    "codecdiff data import": "",
    "codecdiff data rank": "",
    "codecdiff encode": "",
    "codecdiff train": "train.max_train_steps=2 train.warmup_steps=0 train.train_batch_size=2 train.crop_seconds=2 "
    "train.checkpointing_steps=2 sampling.num_inference_steps=2 denoiser.width=32 denoiser.groups=4 "
    "'prompts=[a tune]' seconds=2",
    "codecdiff evaluate": "--n 4 --seconds 2 --metric fad-per-track --metric density --no-adherence",
}


def walk() -> list[str]:
    """Give the commands of the walk."""
    block = PAGE.read_text(encoding="utf-8").split("## From nothing to a report")[1].split("```")[1]
    return block.strip().splitlines()


@pytest.mark.integration
def test_the_six_commands_lead_from_nothing_to_a_report(tmp_path: Path) -> None:
    lines = walk()
    assert [next(start for start in SMALLER if line.startswith(start)) for line in lines] == list(SMALLER)
    for line, more in zip(lines, SMALLER.values(), strict=True):
        program, *words = shlex.split(line)
        command = [*PROGRAMS[program], *words, *shlex.split(more)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    runs = tmp_path / "runs"
    assert len(Manifest.read(runs / "music.parquet").tracks()) == 10
    kept = [track.name for track in Manifest.read(runs / "rank-selected.parquet").tracks()]
    assert len(kept) == 8
    assert sorted(row["track"] for row in CodeStore(runs / "store").rows) == sorted(kept)
    report = EvalReport.read(runs / "report")
    assert [row.result.config.num_clips for row in report.rows] == [4, 4]
    context = [each for row in report.rows[:1] for _, each in row.context.items()]
    assert not any(isinstance(each, NotMeasured) for each in context)
    assert len(list((runs / "report" / "clips" / "generated").glob("*.flac"))) == 4
