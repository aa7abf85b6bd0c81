"""Mistakes of users: what the command line shows as one sentence. Any other exception is a bug and shows its traceback.

Each class keeps a builtin base, so that `except ValueError` and the like catch it too.
"""

from __future__ import annotations

import re
import textwrap
import traceback
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "NAMES",
    "BrokenPlugin",
    "ConfigError",
    "FileExists",
    "InvalidValue",
    "MissingFile",
    "UnknownName",
    "UnknownPart",
    "UnusableFile",
    "UserError",
    "ValidationIssue",
    "did_you_mean",
    "line_in",
    "validation_issues",
]

EXPECTED = {  # by the beginning of the type of an issue of pydantic, with what it holds
    "bool": "true or false",
    "dict_": "a mapping, as in {{name: value}}",
    "finite_number": "a finite number",
    "float": "a number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "int": "a whole number",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "list_": "a list, as in [1, 2]",
    "literal_error": "{expected}",
    "model_": "a mapping, as in {{name: value}}",
    "string_type": "text",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} values",
    "tuple_": "a list, as in [1, 2]",
}
NAMES = {"extra_forbidden": "is not a known name", "missing": "is missing: add it"}  # what is wrong with a name
# Names of the members of a union, which pydantic puts among those of settings.
BRANCH = re.compile(r"(int|float|str|bool)$|(literal|list|dict|tuple|constrained|function|is-instance)[-\[]")


class UserError(Exception):
    """Base of all errors that a user can fix. The message says what is wrong, what is allowed and how to fix it."""


class InvalidValue(UserError, ValueError):
    """An argument, option or file that cannot be used."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that does not exist, or does not hold what it should."""


class FileExists(UserError, FileExistsError):
    """A file or folder that would be overwritten."""


class UnusableFile(UserError, OSError):
    """A file or folder that cannot be read or written."""


class UnknownName(UserError, LookupError):
    """A name that does not exist."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; the message says where, why and what is possible."""


class UnknownPart(UnknownName):
    """A name that no installed part has, or that several have."""


class BrokenPlugin(UserError, ImportError):
    """An installed part that cannot be imported, or that must not be used. `fix` is the end of the message."""

    def __init__(self, message: str, fix: str = ""):
        super().__init__(f"{message} {fix}".rstrip())
        self.fix = fix


class ValidationIssue(NamedTuple):
    """What is wrong with a value: its place, as in `train.max_train_steps`, the value, and the end of a sentence."""

    place: str
    value: Any
    problem: str
    type: str

    def __str__(self) -> str:
        shown = textwrap.shorten(repr(self.value), 80, placeholder="...")
        if self.place:
            return f"{self.place} {'' if self.type in NAMES else f'= {shown}: '}{self.problem}"
        return f"{self.problem}, not {shown}" if self.problem.startswith("expected ") else self.problem


def validation_issues(error: Any) -> list[ValidationIssue]:
    """Return what is wrong with each value of a ValidationError of pydantic; of a union, all that is possible."""
    issues: dict[str, ValidationIssue] = {}
    for issue in error.errors():
        place = ".".join(str(name) for name in issue["loc"] if not BRANCH.match(str(name)))
        expected = _expected(issue)
        problem = NAMES.get(issue["type"]) or issue["msg"].removeprefix("Value error, ")
        if expected:
            problem = f"expected {expected}"
        if expected and place in issues and issues[place].problem.startswith("expected "):
            problem = " or ".join(dict.fromkeys([*issues[place].problem.split(" or "), expected]))
        issues[place] = ValidationIssue(place, issue["input"], problem, issue["type"])
    return list(issues.values())


def _expected(issue: Mapping[str, Any]) -> str:
    template = next((text for start, text in EXPECTED.items() if issue["type"].startswith(start)), "")
    context = issue.get("ctx", {}).items()
    return template.format_map({key: f"{value:,g}" if isinstance(value, float) else value for key, value in context})


def line_in(package: str, error: BaseException) -> str:
    """Return the last line of a package that an error came through, as in "my_codec/codec.py:12", or an empty string.

    `package` is the name of any module in it.
    """
    line, top = "", package.partition(".")[0]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{'/'.join(Path(error.filename).parts[-2:])}:{error.lineno}"
    for frame, number in traceback.walk_tb(error.__traceback__):
        module, file = frame.f_globals.get("__name__", ""), Path(frame.f_code.co_filename)
        if module.partition(".")[0] == top:
            depth = module.count(".") + 1 + (file.name == "__init__.py")
            line = f"{'/'.join(file.parts[-depth:])}:{number}"
    return line


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of an error message: the nearest of `names`, in upper or lower case, if one is near."""
    by_lower = {each.lower(): each for each in names}
    near = get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""
