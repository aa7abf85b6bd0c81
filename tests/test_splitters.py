"""Every generation pattern against the laws, and the language of stages with its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from codecdiff import Splitter
from codecdiff.errors import InvalidValue
from codecdiff.splitters import (
    CoarseFirst,
    Delayed,
    Flattened,
    Grouped,
    Parallel,
    parse_stages,
    select_stages,
    stage_names,
)
from codecdiff.testing import check_splitter

STEREO = (0, 1, 2, 0, 1, 2)  # levels of a codec whose two channels have three codebooks each


@pytest.mark.parametrize(
    "stages",
    ["0|1-8", "0|1-2|3-8", "0|1|2|3|4|5|6|7|8", "0-8", "8|0-7", "0,4-5|1-3,6,7|8", " 0 | 1 - 8 ", "3,1|0,2|8,7,6,5,4"],
)
def test_groups_keep_the_laws(stages: str) -> None:
    check_splitter(Grouped(stages, num_codebooks=9))


@pytest.mark.parametrize("k", [1, 2, 9])
def test_the_other_patterns_keep_the_laws(k: int) -> None:
    for splitter in (CoarseFirst(num_codebooks=k), Parallel(num_codebooks=k), Flattened(num_codebooks=k)):
        check_splitter(splitter)
    for delay in (1, 3):
        check_splitter(Delayed(delay=delay, num_codebooks=k))


@pytest.mark.parametrize("stages", ["0|1-2", "0-2", "2|0,1", "0|1|2"])
def test_rows_of_one_level_stay_together(stages: str) -> None:
    splitter = Grouped(stages, num_codebooks=6, levels=STEREO)
    check_splitter(splitter)
    for rows in splitter.groups:
        assert {row + 3 if row < 3 else row - 3 for row in rows} == set(rows)
    check_splitter(CoarseFirst(num_codebooks=6, levels=STEREO))
    assert CoarseFirst(num_codebooks=6, levels=STEREO).groups == [[0, 3], [1, 2, 4, 5]]


def test_patterns_place_numbers_where_they_say() -> None:
    latents = torch.arange(1.0, 7).view(1, 3, 1, 2)  # codebook 0: 1 2, codebook 1: 3 4, codebook 2: 5 6
    assert Delayed(num_codebooks=3).split(latents)[0].tolist() == [[[1, 2, 0, 0], [0, 3, 4, 0], [0, 0, 5, 6]]]
    assert Flattened(num_codebooks=3).split(latents)[0].tolist() == [[[1, 3, 5, 2, 4, 6]]]
    assert Parallel(num_codebooks=3).split(latents)[0].tolist() == [[[1, 2], [3, 4], [5, 6]]]
    first, second = CoarseFirst(num_codebooks=3).split(latents)
    assert (first.tolist(), second.tolist()) == ([[[1, 2]]], [[[3, 4], [5, 6]]])


def test_a_stage_sees_the_stages_before_it_in_order() -> None:
    splitter, latents = Grouped("0|1-2|3", num_codebooks=4), torch.randn(2, 4, 3, 5)
    stages = splitter.split(latents)
    assert splitter.context(stages, 0) is None
    context = splitter.context(stages, 2)
    assert context is not None
    assert torch.equal(context, latents[:, :3].flatten(1, 2))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("0|2-8", r"misses level 1\. The codec has levels 0 to 8; .* as in '0\|1-8'"),
        ("0|0-8", "repeats level 0"),
        ("0|1-3|3,2|4-8", "repeats levels 2-3"),
        ("0|1-9", "names unknown level 9"),
        ("0-1|3", r"misses levels 2, 4-8\."),
        ('"0|1-8"', "Invalid stages .*Leave out the quotation marks"),
        ("0|1-99999999999", "names unknown level"),
        *((text, r"Invalid stages .*expected levels and ranges, as in '0\|1-8'") for text in ("", "a|b", "0|")),
        *((text, "Invalid stages") for text in ("0|8-1", "0|1--8", "-1|0-8", "0.5|1-8", "0;1-8", "0||1-8")),
    ],
)
def test_stages_that_do_not_fit_are_explained(stages: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_stages(stages, range(9))


def test_stages_of_few_levels_have_an_example_too() -> None:
    assert parse_stages("0", [0]) == [[0]]
    with pytest.raises(ValueError, match=r"misses level 1.*as in '0\|1'"):
        parse_stages("0", [0, 1])


def test_a_delay_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="use 'parallel'"):
        Delayed(delay=0, num_codebooks=3)


def test_stages_have_names() -> None:
    assert [stage_names(n) for n in (1, 2, 3)] == [["stage1"], ["primary", "secondary"], ["stage1", "stage2", "stage3"]]


class Forgetful(Splitter):
    """Breaks one law, as told."""

    def __init__(self, fault: str):
        self.fault, self.num_codebooks = fault, 2

    def split(self, latents: Tensor) -> list[Tensor]:
        stages = [latents[:, 0], latents[:, 1]]
        if self.fault == "mixes":
            stages = [stages[0] + stages[1], stages[0] - stages[1]]
        return [*stages, latents[:, 0]] if self.fault == "repeats" else stages

    def merge(self, stages: Any) -> Tensor:
        first, second = stages[0], stages[1]
        if self.fault == "mixes":
            first, second = (first + second) / 2, (first - second) / 2
        return torch.stack([second, first] if self.fault == "swaps" else [first, second], dim=1)

    def context(self, stages: Any, i: int) -> Tensor | None:
        return stages[1 - i] if self.fault == "peeks" else None


@pytest.mark.parametrize(
    ("fault", "law"), [("swaps", "merge"), ("repeats", "once"), ("mixes", "once|merge"), ("peeks", "context|before")]
)
def test_a_broken_pattern_is_caught(fault: str, law: str) -> None:
    check_splitter(Forgetful("none"))
    with pytest.raises(AssertionError, match=law):
        check_splitter(Forgetful(fault))


def test_settings_of_a_stage_that_the_pattern_lacks_are_refused_if_they_were_typed() -> None:
    names = ["stage1", "stage2", "stage3"]
    assert select_stages(names, "all", ["secondary"], ["stages.stage1.train.loss=l1"]) == ([0, 1, 2], ["secondary"])
    assert select_stages(names, "stage2", ["secondary"], ["stages.secondary.sampling.guidance_scale=2"])[0] == [1]
    with pytest.raises(InvalidValue, match=r"No stage 'secondary'\. This pattern has: stage1, stage2, stage3\."):
        select_stages(names, "all", ["secondary"], ["stages.secondary.train.max_train_steps=3"])
