"""Numbers and classes as features, and several conditioners as one."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from codecdiff import Conditioner, config
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.conditioners.numeric import FieldType, NumericConditioner, fourier_features
from codecdiff.config import ConfigError
from codecdiff.config.schema import Config
from codecdiff.testing import check_conditioner

FIELDS: dict[str, Any] = {"tempo": {"low": 40, "high": 220}, "key": {"classes": ["C major", "A minor", "4"]}}
PROMPTS = [{"tempo": 90, "text": "slow"}, {"tempo": 120, "key": "A minor", "text": "a fast drum"}, {"key": "C major"}]


class Experiment(Config):
    conditioner: config.ConditionerSpec


def numbers(**options: Any) -> NumericConditioner:
    return NumericConditioner(FIELDS, **options)


def joined() -> JoinedConditioner:
    words = config.build("conditioners", {"name": "words", "width": 8})
    return JoinedConditioner([words, numbers(width=16)])


@pytest.mark.parametrize("make", [numbers, joined])
def test_they_obey_the_laws(make: Any) -> None:
    check_conditioner(make(), PROMPTS)


def test_each_field_is_an_entry_and_absent_on_its_own() -> None:
    condition = numbers(width=16).encode([*PROMPTS, ""])
    assert condition.widths == {"tempo": 16, "key": 3}
    assert condition["tempo"].mask[:, 0].tolist() == [True, True, False, False]
    assert condition["key"].mask[:, 0].tolist() == [False, True, True, False]
    assert torch.equal(condition["key"].tokens[1, 0], math.sqrt(3) * torch.tensor([0.0, 1.0, 0.0]))
    assert not condition["key"].tokens[0].any()


def test_numbers_are_sines_and_cosines_of_their_place_in_the_range() -> None:
    tokens = numbers(width=16).encode([{"tempo": 40}, {"tempo": 130}, {"tempo": 220}])["tempo"].tokens[:, 0]
    rates = [math.pi * 128 ** (i / 7) for i in range(8)]
    expected = [[f(x * r) for f in (math.sin, math.cos) for r in rates] for x in (0, 0.5, 1)]
    torch.testing.assert_close(tokens, math.sqrt(2) * torch.tensor(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.square().mean(1), torch.ones(3))


def test_no_two_places_of_a_range_are_alike() -> None:
    features = fourier_features(torch.linspace(0, 1, 1001), 64)
    distances = torch.cdist(features, features) + 100 * torch.eye(1001)
    assert distances.min() > 0.1


@pytest.mark.parametrize("value", [120, 120.0, "120", " 120.0 "])
def test_numbers_may_be_text(value: Any) -> None:
    read = numbers()
    assert torch.equal(read.encode([{"tempo": value}])["tempo"].tokens, read.encode([{"tempo": 120}])["tempo"].tokens)


@pytest.mark.parametrize("value", ["fast", True, [90], math.nan, "inf"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"tempo=.*the field 'tempo' of a prompt is a number, as in tempo=120"):
        numbers().encode([{"tempo": value}])


def test_what_is_no_class_is_refused_and_a_number_may_be_one() -> None:
    with pytest.raises(ValueError, match="'key' of a prompt is one of C major, A minor, 4"):
        numbers().prepare([{"key": "c major"}])
    assert all(numbers().encode([{"key": four}])["key"].tokens[0, 0, 2] > 1 for four in (4, 4.0, "4"))


def test_a_number_outside_is_the_nearer_end_and_told_once() -> None:
    read = numbers()
    with pytest.warns(UserWarning, match="tempo=400 is outside of 40 to 220"):
        condition = read.encode([{"tempo": 400}])
    assert torch.equal(condition["tempo"].tokens, read.encode([{"tempo": 220}])["tempo"].tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read.encode([{"tempo": 1}])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tempo": {"low": 4}}, r"fields\.tempo = .*write the low and the high of a number"),
        ({"tempo": {"low": 4, "high": 4}}, r"fields\.tempo = .*low must be below high, but 4 is not below 4"),
        ({"tempo": {"low": "slow", "high": 4}}, r"fields\.tempo\.low = 'slow': expected a number"),
        ({"key": {"classes": ["C", "C"]}}, r"none of them twice"),
        ({"key": {"classes": ["C"], "high": 2}}, r"or else its classes"),
        ({"key": {"clases": ["C"]}}, r"fields\.key\.clases"),
        ({}, "name at least one"),
    ],
)
def test_wrong_options_are_told_in_a_sentence(fields: Any, sentence: str) -> None:
    for build in (
        lambda: NumericConditioner(fields),
        lambda: config.build("conditioners", {"name": "numeric", "fields": fields}),
    ):
        with pytest.raises(ConfigError, match=sentence):
            build()


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="width=7"):
        numbers(width=7)


def test_joined_is_what_its_parts_give() -> None:
    whole = joined()
    assert whole.fields == ("text", "tempo", "key")
    assert whole.widths == {"text": 8, "tempo": 16, "key": 3}
    assert whole.sources == {"text": ("text",), "tempo": ("tempo",), "key": ("key",)}
    condition = whole.encode(PROMPTS)
    for part in whole.parts:
        for name, entry in part.encode(PROMPTS).items():
            assert torch.equal(condition[name].tokens, entry.tokens)
            assert torch.equal(condition[name].mask, entry.mask)


def test_an_entry_may_not_be_given_twice() -> None:
    with pytest.raises(
        ValueError, match="'tempo' is a name in the conditions of each of NumericConditioner, NumericConditioner"
    ):
        JoinedConditioner([numbers(), NumericConditioner({"tempo": FieldType(low=0, high=1)})])
    with pytest.raises(ValueError, match="nothing to join"):
        JoinedConditioner([])


SPEC = {"name": "joined", "conditioners": [{"name": "words", "width": 8}, {"name": "numeric", "fields": FIELDS}]}


def test_joined_is_described_so_that_it_can_be_built_again() -> None:
    saved = config.to_config("conditioners", config.build("conditioners", SPEC))
    assert saved["conditioners"][0] == {"name": "words", "width": 8, "max_tokens": 48}
    assert saved["conditioners"][1]["fields"]["tempo"] == {"low": 40.0, "high": 220.0}
    again = config.build("conditioners", saved)
    assert config.to_config("conditioners", again) == saved
    assert again.fingerprint() == config.build("conditioners", SPEC).fingerprint()
    assert config.build("conditioners", SPEC, skeleton=True).widths == again.widths


def assigned(*assignments: str) -> dict[str, Any]:
    return config.override({"conditioner": SPEC}, Experiment, assignments)["conditioner"]


def test_the_command_line_reaches_into_a_list_of_parts() -> None:
    parts = assigned("conditioner.conditioners.words.width=16", "conditioner.conditioners.1.fields.tempo.high=300")
    assert parts["conditioners"][0] == {"name": "words", "width": 16}
    assert parts["conditioners"][1]["fields"] == {**FIELDS, "tempo": {"low": 40, "high": 300.0}}
    assert SPEC["conditioners"][0]["width"] == 8  # nothing is changed in place
    assert assigned("conditioner.conditioners.0.name=numeric")["conditioners"][0] == {"name": "numeric"}
    given = assigned("conditioner.conditioners=[{name: words}, {name: numeric, fields: {bpm: {low: 1, high: 2}}}]")
    assert isinstance(config.build("conditioners", given), JoinedConditioner)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        (
            "conditioner.conditioners.2.width=3",
            r"'2' does not name one part.* number: 0 \(words\), 1 \(numeric\)",
        ),
        ("conditioner.conditioners.words.with=3", "has no option 'with'.*Did you mean 'width'"),
        ("conditioner.conditioners=words", "conditioners = 'words': expected a list"),
        ("conditioner.conditioners=[{name: word}]", "Did you mean 'words'"),
        (
            "conditioner.conditioners.words.width.more=3",
            "single value: write conditioner.conditioners.words.width=",
        ),
        ("conditioner.conditioners.numeric.fields.tempo.hi=3", "Unknown setting"),
    ],
)
def test_what_cannot_be_reached_is_told(assignment: str, sentence: str) -> None:
    with pytest.raises((ConfigError, LookupError), match=sentence):
        assigned(assignment)


def test_faults_inside_a_list_name_the_place() -> None:
    wrong = {"name": "joined", "conditioners": [{"name": "words", "width": "wide"}]}
    with pytest.raises(ConfigError, match=r"conditioner\.conditioners\.0: conditioner\.width = 'wide'"):
        config.build("conditioners", wrong)


def test_the_default_key_is_what_is_read_of_a_prompt() -> None:
    read: Conditioner = numbers()
    assert read.key({"text": "piano", "tempo": 90}) == read.key({"tempo": 90, "key": None})
    assert read.key({"tempo": 90}) != read.key({"tempo": 91})
    assert read.key("piano") == read.key("")
