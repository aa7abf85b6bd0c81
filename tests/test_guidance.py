"""Guidance by one weight and by many, against the formula written out over what a denoiser is told."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from codecdiff import Condition, ConditionTokens, Denoiser, config
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.conditioners.numeric import FieldType, NumericConditioner
from codecdiff.diffusion.guidance import (
    combine_predictions,
    group_by_weight,
    num_passes,
    num_predictions,
    parse_guidance_scale,
    resolve_guidance,
    stack_conditions,
)
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.diffusion.sampling import SamplingInput, sample_stage
from codecdiff.diffusion.schedulers import sampling_scheduler
from codecdiff.rng import generator, row_noise

NAMES: tuple[str, ...] = ("text", "vector", "tempo")


def told(*names: str, value: float = 1.0) -> Condition:
    """A condition of two rows with these entries, and the others absent."""
    tokens = value * torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    return Condition({name: ConditionTokens(tokens, torch.full((2, 1), name in names)) for name in NAMES})


class Table(Denoiser):
    """Answers by a table: a number for every set of entries a row is told, plus the token it is told of each."""

    channels, context_channels = 1, 0
    condition_widths = dict.fromkeys(NAMES, 2)

    def __init__(self) -> None:
        super().__init__()
        sets = [frozenset(some) for count in range(4) for some in combinations(NAMES, count)]
        draws = torch.randn(len(sets), generator=torch.Generator().manual_seed(1)).tolist()
        self.answers = dict(zip(sets, draws, strict=True))
        self.rows: list[int] = []

    def answer(self, condition: Condition, row: int) -> float:
        there = [name for name in NAMES if condition[name].mask[row].any()]
        return self.answers[frozenset(there)] + sum(float(condition[name].tokens[row].sum()) for name in there)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        self.rows.append(len(noisy))
        given = torch.tensor([self.answer(condition, row) for row in range(len(noisy))])
        return given[:, None, None].expand_as(noisy) + 0 * noisy


def answer_of(network: Table, guidance: Any, condition: Condition, away: Condition) -> Tensor:
    """The guided answer (2,), through the functions that sampling goes through."""
    of = group_by_weight(guidance, condition)
    question = stack_conditions(condition, away, of)
    rows = torch.zeros(2 * num_predictions(of), 1, 1)
    return combine_predictions(network(rows, torch.zeros(len(rows)), None, question).chunk(num_predictions(of)), of)[
        :, 0, 0
    ]


def written_out(network: Table, order: list[tuple[float, list[str]]], condition: Condition, away: Condition) -> Tensor:
    """The formula, one row and one group after the other."""

    def known(names: list[str]) -> Condition:
        return Condition({name: (condition if name in names else away)[name] for name in NAMES})

    rows = []
    for row in range(2):
        value, names = network.answer(known([]), row), []
        for weight, more in order:
            before = network.answer(known(names), row)
            names = [*names, *more]
            value += weight * (network.answer(known(names), row) - before)
        rows.append(value)
    return torch.tensor(rows)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    ("guidance", "order", "passes"),
    [
        (3.0, [(3.0, [*NAMES])], 2),
        (1.0, [(1.0, [*NAMES])], 1),
        ({"text": 3.0, "vector": 3.0, "tempo": 3.0}, [(3.0, [*NAMES])], 2),
        ({"text": 3.0, "tempo": 1.5, "vector": 3.0}, [(3.0, ["text", "vector"]), (1.5, ["tempo"])], 3),
        ({"tempo": 1.5, "text": 3.0, "vector": 3.0}, [(1.5, ["tempo"]), (3.0, ["text", "vector"])], 3),
        ({"text": 3.0, "vector": 3.0}, [(1.0, ["tempo"]), (3.0, ["text", "vector"])], 2),
        ({"text": 2.0, "vector": 3.0, "tempo": 0.0}, [(2.0, ["text"]), (3.0, ["vector"]), (0.0, ["tempo"])], 4),
        ({"tempo": 1.0, "text": -1.0, "vector": 1.0}, [(1.0, ["tempo", "vector"]), (-1.0, ["text"])], 2),
    ],
)
def test_guidance_is_its_formula(guidance: Any, order: Any, passes: int, negative: bool) -> None:
    network, condition = Table(), told(*NAMES)
    away = told("text", value=-2.0) if negative else condition.null()
    torch.testing.assert_close(
        answer_of(network, guidance, condition, away), written_out(network, order, condition, away)
    )
    assert network.rows == [2 * passes]


def test_equal_weights_are_the_one_weight_to_the_bit() -> None:
    network, condition = Table(), told("text", "tempo")
    one = answer_of(network, 2.7, condition, condition.null())
    same = answer_of(network, dict.fromkeys(NAMES, 2.7), condition, condition.null())
    plain = [network.answer(condition, row) for row in (0, 1)], [network.answers[frozenset()]] * 2
    full, none = torch.tensor(plain)
    assert torch.equal(one, none + 2.7 * (full - none))
    assert torch.equal(same, one)


def test_an_entry_that_is_absent_leads_nowhere() -> None:
    network, condition = Table(), told("text")
    wild = answer_of(network, {"text": 3.0, "tempo": 50.0, "vector": -9.0}, condition, condition.null())
    torch.testing.assert_close(wild, answer_of(network, 3.0, condition, condition.null()))


def test_sampling_goes_by_it() -> None:
    network, condition = Table(), told(*NAMES)
    scheduler = training_scheduler(
        num_train_timesteps=100, prediction_type="sample"
    )  # one step of DDIM gives the answer itself
    generators = [generator("test", 0, row) for row in range(2)]
    made = sample_stage(
        network,
        sampling_scheduler(scheduler, "ddim"),
        SamplingInput(row_noise((1, 4), generators), generators, None, condition),
        num_inference_steps=1,
        guidance_scale={"tempo": 1.5, "text": 3.0},
    )
    order = [(1.0, ["vector"]), (1.5, ["tempo"]), (3.0, ["text"])]
    expected = written_out(network, order, condition, condition.null())
    torch.testing.assert_close(made, expected[:, None, None].expand(2, 1, 4))
    assert network.rows == [6]


def conditioner() -> JoinedConditioner:
    words = config.build("conditioners", {"name": "words", "width": 8})
    return JoinedConditioner([words, NumericConditioner({"tempo": FieldType(low=40, high=220)})])


class Twofold(NumericConditioner):
    """Gives two entries of one field, as T5 does."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        return {"text": ("text",), "vector": ("text",), "tempo": ("tempo",)}


def test_a_field_stands_for_the_entries_that_follow_from_it() -> None:
    twofold = Twofold({"tempo": FieldType(low=0, high=1)})
    assert resolve_guidance({"text": 3}, twofold) == {"text": 3, "vector": 3}
    assert resolve_guidance({"text": 3, "vector": 1}, twofold) == {"text": 3, "vector": 1}
    assert str(resolve_guidance({"tempo": 2, "text": 3}, twofold)) == "{'tempo': 2, 'text': 3, 'vector': 3}"  # in order
    assert resolve_guidance(3.0, twofold) == 3.0


def test_passes_are_counted() -> None:
    whole = conditioner()
    counts = [num_passes(guidance, whole) for guidance in (1.0, 3.0, {"text": 3.0}, {"text": 3.0, "tempo": 2.0})]
    assert counts == [1, 2, 2, 3]
    assert num_passes({"text": 2.0, "tempo": 2.0}, whole) == 2
    assert num_passes(3.0, None) == 1


@pytest.mark.parametrize(
    ("guidance", "sentence"),
    [
        ({"key": 3.0}, r"Unknown condition 'key' in guidance_scale\. Available: text, tempo"),
        ({"text": float("nan")}, "Invalid weight text=nan: expected a finite number"),
        (float("inf"), "Invalid weight guidance_scale=inf: expected"),
    ],
)
def test_guidance_that_cannot_be_is_refused(guidance: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve_guidance(guidance, conditioner())


def test_a_model_without_conditions_has_none_to_name() -> None:
    with pytest.raises(ValueError, match="trained without conditions"):
        resolve_guidance({"text": 3.0}, None)


def test_words_of_the_command_line() -> None:
    assert parse_guidance_scale([]) is None
    assert parse_guidance_scale(["3"]) == 3.0
    assert parse_guidance_scale(["text=3", "tempo=1.5"]) == {"text": 3.0, "tempo": 1.5}


@pytest.mark.parametrize("words", [["much"], ["3", "4"], ["3", "text=3"], ["text="], ["=3"], ["text=3", "text=4"]])
def test_other_words_are_told_how_to_ask(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--guidance-scale text=3 --guidance-scale tempo=1\.5"):
        parse_guidance_scale(words)
