"""Accidents of commands: they are killed at file operations, their disk fills up, and what they wrote is damaged.

All of them, and for long, are `make soak`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("codecdiff_datasets")
pytest.importorskip("codecdiff_eval")
if not hasattr(os, "fork") or sys.platform != "linux" or not shutil.which("cc"):
    pytest.skip("needs Linux and a C compiler", allow_module_level=True)

SOAK = Path(__file__).parent / "soak"


def cause(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "SOAK_FOLDER")}
    command = [sys.executable, str(SOAK / "accidents.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.integration
def test_the_harness_notices_what_it_looks_for() -> None:
    result = cause("kill", "full", "--case", "careless")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BAD kill careless 1: ['a.txt', 'also']" in result.stdout  # half of one, and none of the other
    assert "BAD full careless 0: ['No space left on device at open" in result.stdout  # a traceback
    assert "kill: 1 of " in result.stdout


@pytest.mark.integration
@pytest.mark.parametrize("case", ["import", "encode"])
def test_a_command_that_is_killed_or_has_no_room_is_run_again(case: str) -> None:
    result = cause("kill", "full", "--every", "53", "--case", case)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("kill", "--case", "train-two"),
        ("kill", "--every", "7"),
        ("full", "--every", "11"),
        ("chain", "--trials", "3"),
        ("damage", "--trials", "2000"),
    ],
    ids=" ".join,
)
def test_accidents_end_well(words: tuple[str, ...]) -> None:
    result = cause(*words)
    assert result.returncode == 0, result.stdout + result.stderr
