"""The paper's model in full, with random weights: it runs where there is memory for little more than its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from codecdiff import Condition, ConditionTokens

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "large_models.py"


def measured(*arguments: str) -> tuple[float, float]:
    """Give the seconds and the gigabytes that the benchmark took in a process of its own."""
    command = [sys.executable, str(BENCHMARK), *arguments]
    seconds, gigabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(gigabytes)


@pytest.mark.integration
def test_a_forward_pass_takes_the_published_number_of_operations() -> None:
    released = pytest.importorskip("codecdiff_unet.released")
    unets = pytest.importorskip("codecdiff_unet")
    with torch.device("meta"):
        unet = unets.UNet(**released.Architecture(*released.SIZES["large"], *released.ROLES["primary"]).options)
        noisy, step = torch.randn(1, 8, 2496), torch.zeros(1)
        text = ConditionTokens(torch.randn(1, 60, 1024), torch.ones(1, 60, dtype=torch.bool))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(noisy, step, None, Condition({"text": text}))
    assert counter.get_total_flops() == pytest.approx(632e9, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["primary", "secondary"])
@pytest.mark.parametrize(("dtype", "weights"), [("float32", 4.9), ("bfloat16", 2.5)])  # gigabytes
def test_a_forward_pass_of_29_seconds_fits_in_7_gigabytes(role: str, dtype: str, weights: float) -> None:
    _, gigabytes = measured("forward", role, dtype)
    assert weights < gigabytes < weights + 2


@pytest.mark.slow
def test_the_large_model_generates() -> None:
    measured("generate", "--frames", "96")
