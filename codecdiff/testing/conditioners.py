"""The checks of conditioners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.errors import InvalidValue
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Condition, Conditioner, Prompt, prompt_fields
from codecdiff.testing import assertions
from codecdiff.testing.assertions import Call, assert_other_device, assert_same_rows, assert_that, build_again
from codecdiff.testing.checks import Checks, NotApplicable, PartChecks, Result
from codecdiff.testing.clips import example_audio
from codecdiff.testing.runner import CheckRequest, CheckRun

# Two values of each field of a prompt that a conditioner may read
FIELDS: dict[str, tuple[Any, Any]] = {
    "text": ("a slow tune for piano", "loud drums"),
    "tempo": (90.0, 120.0),
    "bpm": (90.0, 120.0),
    "key": ("G major", "A minor"),
    "mode": ("major", "minor"),
    "seconds": (10.0, 30.0),
    "start": (0.0, 20.0),
    "instruments": (["piano"], ["drums", "flute"]),
}
PROMPTS: tuple[Prompt, ...] = ("a slow tune for piano", "drums", {"text": "a fast tune in G major, with a flute"})


@dataclass
class ConditionerCase:
    """A conditioner, and at least two prompts; the first two differ in a field that it reads."""

    part: Conditioner
    prompts: Sequence[Prompt] = PROMPTS

    def encode(self) -> Condition:
        """Encode the prompts."""
        return self.part.encode(self.prompts)

    def calls(self) -> Iterator[Call]:
        """Yield `encode` with the prompts."""
        yield Call("encode", self.part.encode, (self.prompts,))


CHECKS: Checks[ConditionerCase] = Checks("conditioners")


def check_conditioner(conditioner: Conditioner, prompts: Sequence[Prompt] = PROMPTS) -> list[Result]:
    """Run every check of a conditioner, on at least two `prompts`, the first two different in a field it reads.

    Raises AssertionError that lists the checks it fails.
    """
    return CHECKS.assert_all(conditioner, ConditionerCase(conditioner, prompts))


def run_checks(request: CheckRequest) -> CheckRun:
    """Build a conditioner, and run its checks on the requested prompts, or on examples of the fields it reads."""
    conditioner = request.build()
    prompts = request.prompts or example_prompts(conditioner.fields, request.folder, list(conditioner.control_rates))
    notes = [f"checked with the prompts {', '.join(map(repr, prompts[:2]))}"]
    return CheckRun(conditioner, notes, CHECKS.run(conditioner, ConditionerCase(conditioner, prompts)))


def example_prompts(fields: Sequence[str], folder: Path, controls: Sequence[str] = ()) -> list[Prompt]:
    """Return three prompts of the fields in FIELDS, `audio` and controls: two with other values in each, and one more.

    Raises ValueError for a conditioner that reads none of them.
    """
    values = {field: FIELDS[field] for field in fields if field in FIELDS}
    if {"audio", "controls"} & set(fields):
        first, second = map(str, example_audio(folder))
        pair = dict.fromkeys(controls, first), dict.fromkeys(controls, second)
        examples = {"audio": (first, second), "controls": pair}
        values |= {field: pair for field, pair in examples.items() if field in fields}
    if not values:
        raise InvalidValue(
            f"Missing example prompts for the fields it reads ({', '.join(fields)}). Write some to a file, one per "
            "line, for --prompts FILE.jsonl."
        )
    complete = [{field: pair[i] for field, pair in values.items()} for i in (0, 1)]
    first_field = next(iter(values))
    return [*complete, {first_field: complete[0][first_field]}]


@CHECKS.check
def check_facts(case: ConditionerCase) -> None:
    """`fields` names every field that is read, and `widths` are those of the tokens that `encode` returns."""
    fields, widths = case.part.fields, case.part.widths
    named = isinstance(fields, tuple) and all(isinstance(field, str) for field in fields)
    assert_that(named, f"fields must be a tuple of names of a prompt's fields; it is {fields!r}.")
    condition = case.encode()
    assert_that(condition.widths == widths, f"widths are {widths}, those of the tokens {condition.widths}.")
    others = {name: value for name, (value, _) in FIELDS.items() if name not in fields}
    more = case.part.encode([{**others, **prompt_fields(prompt)} for prompt in case.prompts])
    assert_same_rows(more, condition, f"Its fields are {', '.join(fields)}, and it reads one of {', '.join(others)}.")


@CHECKS.check
def check_condition_tokens(case: ConditionerCase) -> None:
    """Tokens are (b, n, e), finite and floating point, with a boolean mask (b, n), a row for each prompt."""
    for name, (tokens, mask) in case.encode().items():
        assert_that(mask.dtype == torch.bool, f"The mask of '{name}' is {mask.dtype}, not bool.")
        shapes = f"'{name}' is {tuple(tokens.shape)} with a mask {tuple(mask.shape)}"
        fits = tokens.ndim == 3 and mask.shape == tokens.shape[:2] and len(mask) == len(case.prompts)
        assert_that(fits, f"{shapes}, not (b, n, e) and (b, n) of {len(case.prompts)} prompts.")
        finite = tokens.is_floating_point() and tokens.isfinite().all()
        assert_that(finite, f"The tokens of '{name}' are not finite floats.")


CHECKS.check(assertions.check_no_gradient)


@CHECKS.check
def check_empty_prompt(case: ConditionerCase) -> None:
    """An empty prompt, a string, without fields, or with fields that are None or empty, is unconditional: it has no
    real token.
    """
    blanks = ["", {}, *(dict.fromkeys(case.part.fields, nothing) for nothing in (None, ""))]
    condition = case.part.encode([*blanks, case.prompts[0]])
    for name, (_, mask) in condition.items():
        for row, blank in enumerate(blanks):
            assert_that(not mask[row].any(), f"The prompt {blank!r} is empty, and has real tokens in '{name}'.")


@CHECKS.check
def check_reads_prompts(case: ConditionerCase) -> None:
    """A prompt has real tokens, two different ones have different features, and a string equals `{"text": string}`."""
    condition, (first, second) = case.encode(), case.prompts[:2]
    assert_that(any(mask[0].any() for _, mask in condition.values()), f"{first!r} is read as empty.")
    rows = [condition.rows([0]), condition.rows([1])]
    features = [torch.cat([tokens[mask].flatten() for tokens, mask in row.values()]) for row in rows]
    assert_that(not torch.equal(*features), f"{first!r} and {second!r} have the same features.")
    words = FIELDS["text"][0]
    string, mapping = (case.part.encode([prompt]) for prompt in (words, {"text": words}))
    text = f"The prompt {words!r} is not read as { ({'text': words})!r}: see prompt_fields."
    assert_same_rows(string, mapping, text)


@CHECKS.check
def check_control_rates(case: ConditionerCase) -> str:
    """The names in `control_rates` have that many tokens for every second of their file, or of a part of it."""
    rates = case.part.control_rates
    if not rates:
        raise NotApplicable("it has no controls")
    assert_that(rates.keys() <= case.part.widths.keys(), f"It has no names {sorted(rates.keys() - case.part.widths)}.")
    with TemporaryDirectory() as folder:
        file, _ = example_audio(Path(folder))
        for seconds in (3.0, 1.5):
            controls = {name: {"file": str(file), "seconds": seconds} for name in rates}
            condition = case.part.encode([{"controls": controls}])
            for name, rate in rates.items():
                count = int(condition[name].mask.sum())
                text = f"{seconds} s of '{name}' are {count} tokens, and not {seconds * rate:.1f}."
                assert_that(rate > 0 and abs(count - seconds * rate) <= 1, text)
    return ", ".join(f"{name}: {rate:.4g}/s" for name, rate in rates.items())


CHECKS.check(assertions.check_deterministic)


@CHECKS.check
def check_neighbors(case: ConditionerCase) -> None:
    """A prompt's features do not depend on the prompts beside it, nor on their padding."""
    together = case.encode()
    for row, prompt in enumerate(case.prompts):
        alone = case.part.encode([prompt])
        assert_same_rows(alone, together.rows([row]), f"{prompt!r} depends on its neighbors.")
    among_empty = case.part.encode(["", {}, case.prompts[0]]).rows([2])
    assert_same_rows(among_empty, together.rows([0]), "A prompt depends on empty neighbors.")


@CHECKS.check
def check_cache(case: ConditionerCase) -> None:
    """Encoded again, in another order, one twice, after the first result was overwritten, or from files by their `key`,
    prompts have the same features.
    """
    count, first = len(case.prompts), case.encode()
    original = first.map(lambda _, entry: (entry.tokens.clone(), entry.mask.clone()))
    overwrite(first, first.map(lambda _, entry: (torch.full_like(entry.tokens, 7.0), torch.ones_like(entry.mask))))
    try:
        for order in (list(range(count)), [*reversed(range(count)), 0]):
            again = case.part.encode([case.prompts[i] for i in order])
            assert_same_rows(again, original.rows(order), "Encoded again, prompts have other features.")
    finally:
        overwrite(first, original)
    if fingerprint_of(case.part) is None:
        return
    alone = [case.part.encode([prompt]) for prompt in case.prompts]
    with TemporaryDirectory() as folder:
        cached = CachedConditioner(case.part, folder).to(device_of(case.part))
        cached.prepare(case.prompts)
        for prompt, row in zip(case.prompts, alone, strict=True):
            text = (
                f"Cached on disk by its key, {prompt!r} has other features: two prompts share {cached.key(prompt)!r}?"
            )
            assert_same_rows(cached.encode([prompt]), row, text)


def fingerprint_of(conditioner: Conditioner) -> str | None:
    """Return the fingerprint of a conditioner; None for one that refuses to be cached on disk by a ValueError."""
    try:
        return conditioner.fingerprint()
    except ValueError:
        return None


@CHECKS.check
def check_cache_key(case: ConditionerCase) -> None:
    """Prompts of different features have different keys for `cached`, and built again the conditioner has the same
    fingerprint, whether it was used before or not.
    """
    conditioner, (first, second) = case.part, case.prompts[:2]
    case.encode()
    key, again = conditioner.key(first), build_again("conditioners", conditioner)
    text = f"{first!r} and {second!r} have one key, {key!r}: see `fields` and `key`."
    assert_that(key != conditioner.key(second), text)
    text = "Rebuilt and not used yet, it has another fingerprint: nothing in a cache would be found."
    assert_that(fingerprint_of(conditioner) == fingerprint_of(again), text)


@torch.no_grad()
def overwrite(condition: Condition, other: Condition) -> None:
    """Copy the tensors of another condition into those of one."""
    for name, entry in condition.items():
        entry.tokens.copy_(other[name].tokens)
        entry.mask.copy_(other[name].mask)


CHECKS.check(assertions.check_no_global_randomness)


@CHECKS.check
def check_moves(case: ConditionerCase) -> str:
    """Every tensor in a deep copy of it moves to another device, and it works on the GPU if there is one."""

    def run(conditioner: Conditioner, dtype: torch.dtype, device: str) -> None:
        moved, original = conditioner.encode(case.prompts).to("cpu"), case.encode().to("cpu")
        assert_same_rows(moved, original, f"Moved to {device}, the features are others.", 1e-2)

    return assert_other_device(case.part, run)


@CHECKS.check
def check_save_and_load(case: ConditionerCase) -> None:
    """Rebuilt from its options as JSON, it has the same features, for one prompt after another, last one first, and
    for all at once.
    """
    features, again = case.encode(), build_again("conditioners", case.part)
    assert_that(again.widths == case.part.widths, f"Rebuilt, it has the widths {again.widths}.")
    for prompt in reversed(case.prompts):
        text = f"Rebuilt, it reads {prompt!r} differently."
        assert_same_rows(again.encode([prompt]), case.part.encode([prompt]), text)
    assert_same_rows(again.encode(case.prompts), features, "Rebuilt, it has other features for all at once.")


CHECKS.check(assertions.check_frozen)


class ConditionerChecks(PartChecks, checks=CHECKS, case=ConditionerCase):
    """The checks of a conditioner as a pytest class: subclass it, and define `part`."""

    prompts: Sequence[Prompt] = PROMPTS  # at least two, the first two different in a field it reads
