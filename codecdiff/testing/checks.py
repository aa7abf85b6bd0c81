"""Checks, what comes of trying them on a part, and how a test is told."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from codecdiff.interfaces import Part

Trial = TypeVar("Trial")
State = Literal["kept", "exception", "broken", "does not apply"]
KEPT: State = "kept"
EXCEPTION: State = "exception"
BROKEN: State = "broken"
BESIDE: State = "does not apply"


class CheckFailed(AssertionError):
    """A law does not hold. The message says what was found."""


class NotApplicable(Exception):
    """A law says nothing about this part. The message says why."""


class ExpectedFailure(UserWarning):
    """A part does not keep a law, and says so."""


@dataclass(frozen=True)
class Check(Generic[Trial]):
    """One thing that is asked of every part of a kind."""

    name: str  # exceptions are declared by it, so it stays
    text: str  # what is asked, in a sentence
    check: Callable[[Trial], str | None]  # raises CheckFailed or NotApplicable; what it gives is worth telling


@dataclass(frozen=True)
class Result:
    """What came of trying one law."""

    law: Check[Any]
    state: State
    note: str  # what was found, why the exception is declared, or what is worth telling
    seconds: float  # that it took
    cause: Exception | None = None  # of a broken law

    def __str__(self) -> str:
        return f"{self.law.name}: {self.note or self.state}"


class Checks(Generic[Trial]):
    """The laws of one kind of part, in the order they are tried: simple ones first."""

    def __init__(self, kind: str):
        self.kind = kind
        self.laws: dict[str, Check[Trial]] = {}

    def __iter__(self) -> Iterator[Check[Trial]]:
        return iter(self.laws.values())

    def law(self, check: Callable[[Trial], str | None]) -> Callable[[Trial], str | None]:
        """Add a law: its name is the function's, in kebab-case, what it asks the first paragraph of the docstring."""
        name = check.__name__.replace("_", "-")
        asked = (check.__doc__ or "").split("\n\n")[0]
        self.laws[name] = Check(name, " ".join(asked.split()), check)
        return check

    def examine(self, part: Part, *trials: Trial) -> Iterator[Result]:
        """Try every law on a part, in each of its trials, and go on after one that is broken.

        A trial whose `label` is not empty is named in what was found. Raises ValueError for exceptions that the part
        declares from laws there are not, or without a reason.
        """
        exceptions = self.declared(part)
        return (_result(law, trials, exceptions.get(law.name)) for law in self)

    def declared(self, part: Part) -> Mapping[str, str]:
        """Give the exceptions that a part declares. Raises ValueError for those that cannot be."""
        name, exceptions = type(part).__name__, part.expected_failures
        if not isinstance(exceptions, Mapping):
            raise ValueError(
                f"{name}.expected_failures is a mapping of a law's name to the reason; it is {exceptions!r}."
            )
        if unknown := [law for law in exceptions if law not in self.laws]:
            raise ValueError(
                f"{name} declares exceptions from {', '.join(map(repr, unknown))}, which {self.kind} have not. "
                f"Their laws: {', '.join(self.laws)}."
            )
        if silent := [law for law, reason in exceptions.items() if not isinstance(reason, str) or not reason.strip()]:
            raise ValueError(f"{name} gives no reason for its exceptions from: {', '.join(silent)}.")
        return exceptions

    def demand(self, part: Part, *trials: Trial) -> list[Result]:
        """Try every law. Raises AssertionError that lists those that are broken, and warns of declared exceptions."""
        results = list(self.examine(part, *trials))
        broken = [result for result in results if result.state == BROKEN]
        if broken:
            name = type(part).__name__
            lines = "\n".join(f"  {result}" for result in broken)
            raise AssertionError(
                f"{name} breaks {len(broken)} of the {len(results)} laws of {self.kind}:\n{lines}"
            ) from broken[0].cause
        for result in results:
            if result.state == EXCEPTION:
                told = f"{type(part).__name__} declares an exception from {result}"
                warnings.warn(told, ExpectedFailure, stacklevel=3)
        return results


def _result(law: Check[Any], trials: Sequence[Any], reason: str | None) -> Result:
    """Try one law in every trial, up to the first that breaks it; `reason` is that of a declared exception."""
    began = time.perf_counter()
    state, note, cause = BESIDE, "", None
    for trial in trials:
        once, found, cause = _tried(law, trial)
        label = getattr(trial, "label", "")
        note = f"{label}: {found}" if label and found else found or note
        state = once if once != BESIDE else state
        if state == BROKEN:
            break
    seconds = time.perf_counter() - began
    if reason is None:
        return Result(law, state, note, seconds, cause)
    if state == KEPT:
        return Result(law, BROKEN, "declared an exception, but kept: take it out of `expected_failures`.", seconds)
    return Result(law, EXCEPTION, reason, seconds)


def _tried(law: Check[Any], trial: Any) -> tuple[State, str, Exception | None]:
    try:
        return KEPT, law.check(trial) or "", None
    except NotApplicable as beside:
        return BESIDE, str(beside), None
    except CheckFailed as broken:
        return BROKEN, str(broken), broken
    except Exception as error:  # a stranger's code may fail in any way
        message = re.sub(r"\s+", " ", str(error)).strip()
        return BROKEN, f"raised {type(error).__name__}{f': {message}' if message else ''}", error
