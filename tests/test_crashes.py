"""Accidents of a training run: it is killed at each file operation, its disk fills up, and its files are damaged.

The same at random and for long is `make soak`.
"""

from __future__ import annotations

import errno
import os
import random
from typing import Any

import pytest

pytestmark = pytest.mark.slow

if not hasattr(os, "fork"):
    pytest.skip("needs os.fork", allow_module_level=True)

from crash import Case, damage_one, fail_at, kill_at, kill_in_a_chain  # noqa: E402


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def expected(case: Case) -> dict[str, Any]:
    result = case.reference()
    assert len(case.names) > 200
    assert case.reference() == result
    assert "model/run.lock" in result
    assert not [name for name in {*result} - {"model/run.lock"} if ".partial" in name or ".lock" in name]
    return result


def test_a_run_that_is_killed_at_any_operation_ends_as_if_it_had_not_been(case: Case, expected: dict[str, Any]) -> None:
    problems = {at: kill_at(case, expected, at) for at in range(1, len(case.names) + 1)}
    assert not {at: lines for at, lines in problems.items() if lines}


def test_a_run_that_is_killed_again_and_again_ends_too(case: Case, expected: dict[str, Any]) -> None:
    assert not kill_in_a_chain(case, expected, random.Random(0))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_a_sentence_and_the_run_can_go_on(
    case: Case, expected: dict[str, Any], error: int
) -> None:
    problems = {at: fail_at(case, expected, at, error) for at in range(1, len(case.names) + 1, 3)}
    assert not {at: lines for at, lines in problems.items() if lines}


def test_damage_of_any_file_is_noticed_and_the_file_named(case: Case, expected: dict[str, Any]) -> None:
    draw, before = random.Random(0), case.result()
    problems = [problem for _ in range(400) for problem in damage_one(case.out, draw)]
    assert not problems
    assert case.result() == before == expected


def test_the_harness_notices_what_it_looks_for(case: Case, expected: dict[str, Any]) -> None:
    file = case.out / "model" / "primary" / "training" / "step-000004" / "state.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (case.out / "model" / ".0-1-2.partial").touch()
    names = [name for name in {*expected, *case.result()} if expected.get(name) != case.result().get(name)]
    assert sorted(names) == ["model/.0-1-2.partial", "model/primary/training/step-000004/state.safetensors"]
    file.write_bytes(whole)
    (case.out / "model" / ".0-1-2.partial").unlink()
