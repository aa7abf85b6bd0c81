"""Mistakes of users: what the command line shows as one sentence. Any other exception is a bug and shows its traceback.

Each class keeps a builtin base, so that `except ValueError` and the like catch it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BrokenPlugin",
    "ConfigError",
    "FileExists",
    "InvalidValue",
    "MissingFile",
    "UnknownName",
    "UnknownPart",
    "UnusableFile",
    "UserError",
    "did_you_mean",
]


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
    """An installed part that cannot be imported, or that must not be used."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of an error message: the nearest of `names`, in upper or lower case, if one is near."""
    by_lower = {each.lower(): each for each in names}
    near = get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""
