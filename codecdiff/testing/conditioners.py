"""The laws of conditioners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch

from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Condition, Conditioner, Prompt, prompt_fields
from codecdiff.testing.assertions import (
    randomness_untouched,
    rebuilt,
    require,
    require_frozen,
    require_frozen_tensor,
    require_other_device,
    require_same,
    training_of,
)
from codecdiff.testing.checks import Checks, Result

# two values of each field of a prompt that a conditioner may read
FIELDS: dict[str, tuple[Any, Any]] = {
    "text": ("a slow piece for piano", "loud drums"),
    "tempo": (90.0, 120.0),
    "bpm": (90.0, 120.0),
    "key": ("G major", "A minor"),
    "mode": ("major", "minor"),
    "seconds": (10.0, 30.0),
    "start": (0.0, 20.0),
    "instruments": (["piano"], ["drums", "flute"]),
}
PROMPTS: tuple[Prompt, ...] = ("a slow piece for piano", "drums", {"text": "a fast tune in G major, with a flute"})


@dataclass
class Trial:
    """A conditioner, and at least two prompts of which the first two differ in a field that it reads."""

    conditioner: Conditioner
    prompts: Sequence[Prompt] = PROMPTS


LAWS: Checks[Trial] = Checks("conditioners")


def check_conditioner(conditioner: Conditioner, prompts: Sequence[Prompt] = PROMPTS) -> list[Result]:
    """Check every law of a conditioner, on at least two `prompts`, the first two different in a field it reads.

    Raises AssertionError that lists the laws it breaks.
    """
    return LAWS.demand(conditioner, Trial(conditioner, prompts))


def require_same_rows(a: Condition, b: Condition, text: str, tolerance: float = 1e-4) -> None:
    """Raise CheckFailed unless two conditions have the same real tokens, whatever their padding."""
    require(list(a) == list(b), f"{text} The entries are {list(a)} and {list(b)}.")
    for name in a:
        shorter = min(a[name].mask.shape[1], b[name].mask.shape[1])
        rest = [entry.mask[:, shorter:].any() for entry in (a[name], b[name])]
        require(not any(rest), f"{text} '{name}' has more real tokens in one.")
        require_same(a[name].mask[:, :shorter], b[name].mask[:, :shorter], f"{text} The mask of '{name}':")
        require_same(a[name].tokens[a[name].mask], b[name].tokens[b[name].mask], f"{text} '{name}':", tolerance)


@LAWS.law
def facts(trial: Trial) -> None:
    """`fields` names all that is read, and `widths` are those of the entries that `encode` gives."""
    fields, widths = trial.conditioner.fields, trial.conditioner.widths
    named = isinstance(fields, tuple) and all(isinstance(field, str) for field in fields)
    require(named, f"fields is a tuple of names of a prompt's fields; it is {fields!r}.")
    condition = trial.conditioner.encode(trial.prompts)
    require(condition.widths == widths, f"widths are {widths}, entries {condition.widths}.")
    others = {name: value for name, (value, _) in FIELDS.items() if name not in fields}
    more = trial.conditioner.encode([{**others, **prompt_fields(prompt)} for prompt in trial.prompts])
    require_same_rows(more, condition, f"Its fields are {', '.join(fields)}, and it reads one of {', '.join(others)}.")


@LAWS.law
def entries(trial: Trial) -> None:
    """Every entry is (b, n, e) finite floating point tokens with a boolean mask (b, n), a row for each prompt."""
    for name, (tokens, mask) in trial.conditioner.encode(trial.prompts).items():
        require(mask.dtype == torch.bool, f"The mask of '{name}' is {mask.dtype}, not bool.")
        shapes = f"'{name}' is {tuple(tokens.shape)} with a mask {tuple(mask.shape)}"
        fits = tokens.ndim == 3 and mask.shape == tokens.shape[:2] and len(mask) == len(trial.prompts)
        require(fits, f"{shapes}, not (b, n, e) and (b, n) of {len(trial.prompts)} prompts.")
        finite = tokens.is_floating_point() and tokens.isfinite().all()
        require(finite, f"The tokens of '{name}' are not finite floats.")


@LAWS.law
def no_gradient(trial: Trial) -> None:
    """Features carry no gradient, and a denoiser can learn from them: whatever learns is its."""
    for name, entry in trial.conditioner.encode(trial.prompts).items():
        require_frozen_tensor(entry.tokens, f"'{name}'")


@LAWS.law
def empty_prompt(trial: Trial) -> None:
    """An empty prompt, a string, without fields, or with fields that are None or empty, is unconditional: none of its
    tokens is real.
    """
    blanks = ["", {}, *(dict.fromkeys(trial.conditioner.fields, nothing) for nothing in (None, ""))]
    condition = trial.conditioner.encode([*blanks, trial.prompts[0]])
    for name, entry in condition.items():
        for row, blank in enumerate(blanks):
            require(not entry.mask[row].any(), f"The prompt {blank!r} is empty, and has real tokens in '{name}'.")


@LAWS.law
def reads_prompts(trial: Trial) -> None:
    """A prompt has real tokens, two different ones have different features, and a string is one whose text it is."""
    condition, (first, second) = trial.conditioner.encode(trial.prompts), trial.prompts[:2]
    require(any(entry.mask[0].any() for entry in condition.values()), f"{first!r} is read as empty.")
    both = (condition.rows([0]), condition.rows([1]))
    told = [torch.cat([e.tokens[e.mask].flatten() for e in c.values()]) for c in both]
    require(not torch.equal(*told), f"{first!r} and {second!r} give the same features.")
    words = FIELDS["text"][0]
    string, mapping = (trial.conditioner.encode([prompt]) for prompt in (words, {"text": words}))
    require_same_rows(
        string, mapping, f"The prompt {words!r} is not read as { ({'text': words})!r}: see prompt_fields."
    )


@LAWS.law
def deterministic(trial: Trial) -> None:
    """The same prompts give exactly the same features at every call."""
    first, second = (trial.conditioner.encode(trial.prompts) for _ in range(2))
    text = f"encode is not deterministic.{training_of(trial.conditioner)}"
    require_same_rows(first, second, text, 0.0)


@LAWS.law
def neighbours(trial: Trial) -> None:
    """A prompt's features do not depend on the prompts beside it, nor on the padding that they bring."""
    together = trial.conditioner.encode(trial.prompts)
    for row, prompt in enumerate(trial.prompts):
        alone = trial.conditioner.encode([prompt])
        require_same_rows(alone, together.rows([row]), f"{prompt!r} depends on its neighbours.")
    among_empty = trial.conditioner.encode(["", {}, trial.prompts[0]]).rows([2])
    require_same_rows(among_empty, together.rows([0]), "A prompt depends on empty neighbours.")


@LAWS.law
def cache(trial: Trial) -> None:
    """Asked again, in another order, for one twice, after what it gave was written over, or from files by its `key`, it
    gives the same.
    """
    count = len(trial.prompts)
    first = trial.conditioner.encode(trial.prompts)
    kept = first.map(lambda _, entry: (entry.tokens.clone(), entry.mask.clone()))
    overwrite(first, first.map(lambda _, entry: (torch.full_like(entry.tokens, 7.0), torch.ones_like(entry.mask))))
    try:
        for order in (list(range(count)), [*reversed(range(count)), 0]):
            again = trial.conditioner.encode([trial.prompts[i] for i in order])
            require_same_rows(again, kept.rows(order), "Asked again, it gives other features.")
    finally:
        overwrite(first, kept)
    if fingerprint_of(trial.conditioner) is None:
        return
    alone = [trial.conditioner.encode([prompt]) for prompt in trial.prompts]
    with TemporaryDirectory() as folder:
        cached = CachedConditioner(trial.conditioner, folder).to(device_of(trial.conditioner))
        cached.prepare(trial.prompts)
        for prompt, row in zip(trial.prompts, alone, strict=True):
            text = f"Kept on disk by its key, {prompt!r} has other features: two prompts share {cached.key(prompt)!r}?"
            require_same_rows(cached.encode([prompt]), row, text)


def fingerprint_of(conditioner: Conditioner) -> str | None:
    """Give the fingerprint of a conditioner; None for one that refuses to be kept on disk by a ValueError."""
    try:
        return conditioner.fingerprint()
    except ValueError:
        return None


@LAWS.law
def cache_key(trial: Trial) -> None:
    """What features are kept under by `cached` tells apart what it must: prompts of different features have different
    keys, and built again it has the same fingerprint, whether it was asked before or not.
    """
    conditioner, (first, second) = trial.conditioner, trial.prompts[:2]
    conditioner.encode(trial.prompts)
    key, again = conditioner.key(first), rebuilt("conditioners", conditioner)
    require(key != conditioner.key(second), f"{first!r} and {second!r} have one key, {key!r}: see `fields` and `key`.")
    text = "Built again and not asked yet, it has another fingerprint: nothing that a cache has kept would be found."
    require(fingerprint_of(conditioner) == fingerprint_of(again), text)


@torch.no_grad()
def overwrite(condition: Condition, other: Condition) -> None:
    """Write the tensors of another condition into those of one."""
    for name, entry in condition.items():
        entry.tokens.copy_(other[name].tokens)
        entry.mask.copy_(other[name].mask)


@LAWS.law
def no_global_randomness(trial: Trial) -> None:
    """The global generators of torch, numpy and random stand where they stood."""
    with randomness_untouched(trial.conditioner):
        trial.conditioner.encode(trial.prompts)


@LAWS.law
def moves(trial: Trial) -> str:
    """Every tensor in a deep copy of it moves to another device, and it works on the GPU if there is one."""

    def run(conditioner: Conditioner, dtype: torch.dtype, device: str) -> None:
        there, here = conditioner.encode(trial.prompts).to("cpu"), trial.conditioner.encode(trial.prompts).to("cpu")
        require_same_rows(there, here, f"Moved to {device}, the features are others.", 1e-2)

    return require_other_device(trial.conditioner, run)


@LAWS.law
def save_and_load(trial: Trial) -> None:
    """Built again from its options as JSON, it gives the same features, computed one by one, last prompt first, or kept
    from before.
    """
    features, again = trial.conditioner.encode(trial.prompts), rebuilt("conditioners", trial.conditioner)
    require(again.widths == trial.conditioner.widths, f"Built again, it has the widths {again.widths}.")
    for prompt in reversed(trial.prompts):
        text = f"Built again, it reads {prompt!r} otherwise."
        require_same_rows(again.encode([prompt]), trial.conditioner.encode([prompt]), text)
    require_same_rows(again.encode(trial.prompts), features, "Built again, it gives others for all at once.")


@LAWS.law
def frozen(trial: Trial) -> None:
    """No parameter learns, and a conditioner told to train stays in evaluation mode."""
    require_frozen(trial.conditioner)
