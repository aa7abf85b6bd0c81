"""Edits do not show where they begin and end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "seams.py"


@pytest.mark.slow
def test_the_spectrum_changes_little_more_at_the_edges_of_inpainting_than_in_music() -> None:
    pytest.importorskip("codecdiff_starter")
    command = [sys.executable, str(BENCHMARK), "--clips", "8"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    inpainted, spliced = (float(value) for value in re.findall(r"([\d.]+) of the unedited", printed))
    assert inpainted - 1 < 0.5 * (spliced - 1)
