"""The notebooks run from the first cell to the last, at a small size, and are committed without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMALL_TRAINING = [
    *("train.max_train_steps=2", "train.warmup_steps=0", "train.train_batch_size=2", "train.crop_seconds=1"),
    *("train.checkpointing_steps=2", "seconds=1", "sampling.num_inference_steps=2", "denoiser.width=32", "prompts=[x]"),
]
SMALL: dict[str, dict[str, Any]] = {  # what replaces the parameters
    "first-sounds": {"SECONDS": 1.5, "STEPS": 2},
    "train-on-your-own-music": {"TRACKS": 6, "SETTINGS": SMALL_TRAINING},
    "write-a-codec-plugin": {},
    "compare-patterns": {
        **{"TRACKS": 24, "BUDGET": "2e10", "SEEDS": [0], "CLIPS": 8},
        "OVERRIDES": [
            *("experiment.denoiser.width=16", "experiment.sampling.num_inference_steps=2", "checkpoints=1"),
            *("evaluation.resamples=10", "evaluation.players=1", "evaluation.seconds=1"),
        ],
    },
}
SHOWN = {  # what some output of the notebook holds
    "first-sounds": ["<audio controls", "image/png", "Changed: 0.50 to 0.7", "prompt"],
    "train-on-your-own-music": ["<audio controls", "image/png", "parameters"],
    "write-a-codec-plugin": ["All checks passed.", "<audio", "pyproject.toml"],
    "compare-patterns": ["<audio", "image/png", "coarse-first", "6 rounds"],
}


def by_name(notebook: Path) -> str:
    return notebook.stem


def test_every_notebook_is_tried() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS} == set(SMALL) == set(SHOWN)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=by_name)
def test_a_notebook_is_committed_without_outputs(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    for cell in content.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert notebook.stat().st_size < 20_000


@pytest.mark.integration
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=by_name)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "runs").mkdir()
    content = nbformat.read(notebook, as_version=4)
    (i,) = [i for i, cell in enumerate(content.cells) if "parameters" in cell.metadata.get("tags", ())]
    small = "\n".join(f"{name} = {value!r}" for name, value in SMALL[notebook.stem].items())
    content.cells.insert(i + 1, nbformat.v4.new_code_cell(small))
    folder = {"metadata": {"path": tmp_path}}
    NotebookClient(content, timeout=600, startup_timeout=300, kernel_name="python3", resources=folder).execute()
    shown = str([output for cell in content.cells for output in cell.get("outputs", ())])
    assert [each for each in SHOWN[notebook.stem] if each not in shown] == []
    assert "Traceback" not in shown
