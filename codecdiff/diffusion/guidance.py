"""Classifier-free guidance: of all conditions by one weight, or of each by its own.

With one weight w (Ho & Salimans, 2022): none + w (all - none), each word standing for the denoiser's answer to it.

With several, conditions of one weight are told together, one group after the other, and every group leads away from
what was told before it (Brooks et al., "InstructPix2Pix", 2023, Eq. 3, for any number of groups):

    none + w1 (c1 - none) + w2 (c1 c2 - c1) + w3 (c1 c2 c3 - c1 c2) + ...

With equal weights all but the first and the last cancel, which is the formula of one weight. Composing the answers to
each condition alone (Liu et al., 2022) has no such limit, and asks a network for what it has seldom seen in training.
A group of weight 1 is told from the beginning, so it costs no answer of its own. In place of "none" there may be a
negative prompt: it stands where a condition is not told yet.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from codecdiff.config.schema import Guidance
from codecdiff.interfaces import Condition, Conditioner

Groups = list[tuple[float, list[str]]]  # weights, with the entries that have them, in the order they are told


def groups(guidance: Guidance | Mapping[str, float], entries: Collection[str]) -> Groups:
    """Divide the entries of a condition by weight: those of weight 1 first, the others as the guidance names them.

    What a mapping does not name has weight 1: it is told, and not led further.
    """
    weights = dict(guidance) if isinstance(guidance, Mapping) else dict.fromkeys(entries, guidance)
    rest = {name: 1.0 for name in entries if name not in weights}
    found: dict[float, list[str]] = {}
    for name, weight in sorted({**rest, **weights}.items(), key=lambda pair: pair[1] != 1):
        if name in entries:
            found.setdefault(weight, []).append(name)
    return list(found.items())


def num_answers(of: Groups) -> int:
    """Count the answers that guidance takes of a denoiser: one, and one for every group that is led."""
    return 1 + sum(weight != 1 for weight, _ in of)


def asked(condition: Condition, away: Condition, of: Groups) -> Condition:
    """Stack what the denoiser is asked, (num_answers * b, n, e): all conditions, then fewer and fewer of them.

    What is not told is that of `away`.
    """
    told: set[str] = set()
    rungs = [told] if not of or of[0][0] != 1 else []
    for _, names in of:
        told = told | set(names)
        rungs.append(told)
    mixed = [condition if len(told) == len(condition) else _mixed(condition, away, told) for told in rungs[::-1]]
    return mixed[0] if len(mixed) == 1 else Condition.cat(mixed)


def _mixed(condition: Condition, away: Condition, told: Collection[str]) -> Condition:
    return Condition({name: (condition if name in told else away)[name] for name in condition})


def guided(answers: Sequence[Tensor], of: Groups) -> Tensor:
    """Combine the answers to what was `asked`, one tensor for each, by the formula above."""
    rungs = list(answers)[::-1]
    result = rungs[0]
    weights = [weight for weight, _ in of if weight != 1]
    for weight, less, more in zip(weights, rungs, rungs[1:], strict=False):
        result = result + weight * (more - less)
    return result


def resolved(guidance: Guidance, conditioner: Conditioner | None) -> Guidance:
    """Give guidance by entries in place of the fields of a prompt that it names.

    A field stands for every entry that follows from it, but for those that are named themselves: T5 makes `text` and
    `vector` of the text, so `{text: 3}` guides both, and `{text: 3, vector: 1}` one. Raises ValueError for a name that
    is neither a field nor an entry, and for weights that are no finite numbers.
    """
    sources = conditioner.sources if conditioner else {}
    if not isinstance(guidance, Mapping):
        _check({"guidance": guidance})
        return guidance
    _check(guidance)
    known = list(dict.fromkeys([*(field for fields in sources.values() for field in fields), *sources]))
    if unknown := [name for name in guidance if name not in known]:
        there = f"It has: {', '.join(known)}." if known else "It was trained without conditions."
        raise ValueError(f"guidance {unknown[0]}={guidance[unknown[0]]:g}: the model has no such condition. {there}")
    weights: dict[str, float] = {}
    for key, weight in guidance.items():
        for entry, fields in sources.items():
            if entry == key or (key in fields and entry not in guidance):
                weights.setdefault(entry, weight)
    return weights


def _check(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"{name}={weight}: ask for a number, as in 3.")


def num_passes(guidance: Guidance, conditioner: Conditioner | None) -> int:
    """Count the answers of the denoiser that one step of sampling takes: rows of the batch for each take."""
    entries = conditioner.widths if conditioner else {}
    return num_answers(groups(resolved(guidance, conditioner), entries))


def parse(words: Sequence[str]) -> Guidance | None:
    """Read what a command line says: one number, or any number of NAME=NUMBER; None for nothing.

    Raises ValueError for anything else.
    """
    pairs = [word.rpartition("=") for word in words]
    try:
        numbers = [float(number) for _, _, number in pairs]
    except ValueError:
        numbers = []
    names = [name for name, _, _ in pairs]
    if not words:
        return None
    if len(numbers) == 1 and not pairs[0][1]:
        return numbers[0]
    if not numbers or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"guidance {' '.join(words)}: give one number for all conditions, --guidance 3, or one for each: "
            "--guidance text=3 --guidance tempo=1.5."
        )
    return dict(zip(names, numbers, strict=True))
