"""The checks of conditioners, on a T5 of random weights."""

from pathlib import Path

import pytest
from codecdiff_t5 import T5

from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.testing import ExpectedFailure, check_conditioner
from codecdiff.testing.tiny import write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny("t5", tmp_path_factory.mktemp("t5")))


def test_t5_passes_the_checks_with_a_cache_and_without(folder: str, tmp_path: Path):
    for conditioner in (T5(folder), CachedConditioner(T5(folder), folder=str(tmp_path))):
        states = {result.check.name: result.state for result in check_conditioner(conditioner)}
        assert states.pop("control-rates") == "not applicable"
        assert set(states.values()) == {"passed"}


def test_attended_padding_is_declared(folder: str):
    with pytest.warns(ExpectedFailure, match="neighbors: with attend_padding"):
        results = check_conditioner(T5(folder, attend_padding=True))
    assert [result.check.name for result in results if result.state == "expected failure"] == ["neighbors"]
