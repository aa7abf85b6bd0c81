"""Mistakes of users: what the command line shows as one sentence. Any other exception is a bug and shows its traceback.

Each class keeps a builtin base, so that `except ValueError` and the like catch it too.
"""

from __future__ import annotations

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
