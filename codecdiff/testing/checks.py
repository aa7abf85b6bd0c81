"""Checks, the results of running them on a part, and how a test fails: by assertion, or as a pytest class."""

from __future__ import annotations

import inspect
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from codecdiff import registry
from codecdiff.errors import InvalidValue, line_in
from codecdiff.interfaces import Part

Case = TypeVar("Case")
State = Literal["passed", "expected failure", "failed", "not applicable"]


class CheckFailed(AssertionError):
    """A check does not hold. The message says what is wrong."""


class UnexpectedType(Exception):
    """A method returned a value of another type. The note of the check names the method."""


class NotApplicable(Exception):
    """A check says nothing about this part. The message says why."""


class ExpectedFailure(UserWarning):
    """A part fails a check, and declares it."""


@dataclass(frozen=True)
class Check(Generic[Case]):
    """One property that every part of a kind must have."""

    name: str  # parts declare expected failures by it, so it is stable
    text: str  # the property, in a sentence
    function: Callable[[Case], str | None]  # raises CheckFailed or NotApplicable; may return a note


@dataclass(frozen=True)
class Result:
    """The result of running one check."""

    check: Check[Any]
    state: State
    note: str  # what is wrong, why the failure is expected, or what else is worth knowing
    seconds: float  # that it took
    cause: Exception | None = None  # of a failure

    def __str__(self) -> str:
        return f"{self.check.name}: {self.note or self.state}"


class Checks(Generic[Case]):
    """The checks of one kind of part, in the order they run: simple ones first."""

    def __init__(self, kind: str):
        self.kind = kind
        self.by_name: dict[str, Check[Case]] = {}

    def __iter__(self) -> Iterator[Check[Case]]:
        return iter(self.by_name.values())

    def check(self, function: Callable[[Case], str | None]) -> Callable[[Case], str | None]:
        """Add a check: its text is the first paragraph of the docstring, its name the function's, without `check_`."""
        name = function.__name__.removeprefix("check_").replace("_", "-")
        text = (function.__doc__ or "").split("\n\n")[0]
        self.by_name[name] = Check(name, " ".join(text.split()), function)
        return function

    def run(self, part: Part, *cases: Case) -> Iterator[Result]:
        """Run every check on a part, in each of its cases; one that fails does not stop the others.

        The `label` of a case, unless empty, begins the note of a failure in it. Raises ValueError for expected failures
        of checks that do not exist, or without a reason.
        """
        expected = self.expected_failures(part)
        return (_result(check, cases, expected.get(check.name)) for check in self)

    def expected_failures(self, part: Part) -> Mapping[str, str]:
        """Return the expected failures that a part declares. Raises ValueError for invalid ones."""
        name, expected = type(part).__name__, part.expected_failures
        if not isinstance(expected, Mapping):
            raise InvalidValue(f"{name}.expected_failures must map names of checks to reasons; it is {expected!r}.")
        if unknown := [check for check in expected if check not in self.by_name]:
            raise InvalidValue(
                f"{name} declares expected failures of {', '.join(map(repr, unknown))}, which {self.kind} do not have. "
                f"Their checks: {', '.join(self.by_name)}."
            )
        if silent := [check for check, why in expected.items() if not isinstance(why, str) or not why.strip()]:
            raise InvalidValue(f"{name} must state a reason for its expected failures of: {', '.join(silent)}.")
        return expected

    def assert_all(self, part: Part, *cases: Case) -> list[Result]:
        """Run every check. Raises AssertionError that lists those that fail, and warns of expected failures."""
        results, name = list(self.run(part, *cases)), type(part).__name__
        failed = [result for result in results if result.state == "failed"]
        if failed:
            lines = "\n".join(f"  {result}" for result in failed)
            raise AssertionError(
                f"{name} fails {len(failed)} of the {len(results)} checks of {self.kind}:\n{lines}"
            ) from failed[0].cause
        for result in results:
            if result.state == "expected failure":
                warnings.warn(f"{name} is expected to fail {result}", ExpectedFailure, stacklevel=3)
        return results


def _result(check: Check[Any], cases: Sequence[Any], expected: str | None) -> Result:
    """Run one check in every case, up to the first failure; `expected` is the reason of an expected failure."""
    start = time.perf_counter()
    state: State = "not applicable"
    note, cause = "", None
    for case in cases:
        once, message, cause = _run_once(check, case)
        label = getattr(case, "label", "")
        note = f"{label}: {message}" if label and message else message or note
        state = once if once != "not applicable" else state
        if state == "failed":
            break
    seconds = time.perf_counter() - start
    if expected is None:
        return Result(check, state, note, seconds, cause)
    if state == "passed":
        note = "declared as an expected failure, but it passes: remove it from `expected_failures`."
        return Result(check, "failed", note, seconds)
    return Result(check, "expected failure", expected, seconds)


def _run_once(check: Check[Any], case: Any) -> tuple[State, str, Exception | None]:
    try:
        return "passed", check.function(case) or "", None
    except NotApplicable as reason:
        return "not applicable", str(reason), None
    except CheckFailed as failure:
        return "failed", str(failure), failure
    except Exception as error:  # third-party code may fail in any way
        if wrong := _wrong_result(case):
            return "failed", wrong, error
        message = re.sub(r"\s+", " ", str(error)).strip()
        place = line_in(type(case.part).__module__, error) if hasattr(case, "part") else ""
        note = f"raised {type(error).__name__}{f': {message}' if message else ''}{f' ({place})' if place else ''}"
        return "failed", note, error


def _wrong_result(case: Any) -> str:
    """Return which method returns something of another type than its interface says, such as None; else nothing."""
    with suppress(Exception):  # the part may be what cannot be built, or raise
        interface = registry.interface(registry.kind_of(type(case.part)) or "")
        for name, method, arguments in case.calls():
            declared, result = getattr(interface, name), method(*arguments)
            hint = get_type_hints(declared)["return"]
            try:
                TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(result)
            except ValidationError:
                expected = re.sub(r"[\w.]+\.", "", inspect.formatannotation(hint))
                got = "None" if result is None else f"a {type(result).__name__}"
                what = " ".join(declared.__doc__.partition("\n\n")[0].split())
                return f"{name} returned {got}, not a {expected}. See {interface.__name__}.{name}: {what}"
    return ""


class PartChecks:
    """Base of the pytest classes, which have a test for every check of a kind. Subclass one, and define its part:

    class TestMyCodec(CodecChecks):
        def part(self):
            return MyCodec()

    The part is built once for all tests of the class.
    """

    checks: ClassVar[Checks[Any]]
    case_class: ClassVar[type[Any]]  # a dataclass: the part, then options, which are attributes of the pytest class

    def __init_subclass__(cls, checks: Checks[Any] | None = None, case: type[Any] | None = None) -> None:
        if checks and case:
            cls.checks, cls.case_class = checks, case
            for check in checks:
                setattr(cls, f"test_{check.name.replace('-', '_')}", _test(check))

    def part(self) -> Any:
        """Return the part, fitted if it needs to be."""
        raise NotImplementedError(f"{type(self).__name__} must define `part`.")

    def case(self) -> Any:
        """Return what the checks run on: the part, with the options that are attributes of the class."""
        options = [field.name for field in fields(self.case_class) if hasattr(self, field.name)]
        return self.case_class(self.part(), **{name: getattr(self, name) for name in options if name != "part"})


def _test(check: Check[Any]) -> Callable[[PartChecks], None]:
    def test(self: PartChecks) -> None:
        import pytest

        cls = type(self)
        if "_case" not in vars(cls):
            cls._case = self.case()  # pyright: ignore[reportAttributeAccessIssue]  # for all tests of the class
        case = vars(cls)["_case"]
        result = _result(check, [case], self.checks.expected_failures(case.part).get(check.name))
        if result.state == "not applicable":
            pytest.skip(result.note)
        if result.state == "expected failure":
            pytest.xfail(result.note)
        if result.state == "failed":
            raise CheckFailed(str(result)) from result.cause

    test.__doc__ = check.text
    return test
