"""Faults: what is wrong in one row or file of a collection, where, and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from codecdiff.files import atomic_write_text


@dataclass(frozen=True)
class Fault:
    """One fault. `what` and `mend` are sentences; where a line, a track or a field says nothing, they are empty."""

    file: str
    what: str
    mend: str
    line: int | None = None
    track: str = ""
    field: str = ""

    def __str__(self) -> str:
        """Say it in one line, without the control characters that a file may hold: they would reach the terminal."""
        line = f"line {self.line}" if self.line else ""
        place = ", ".join(filter(None, (line, self.track if self.track != self.file else "", self.field)))
        text = f"{self.file}{', ' if place else ''}{place}: {self.what} {self.mend}"
        return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


Report = Callable[[Fault], None]  # is told every fault as it is found


class BadRow(ValueError):
    """A row that cannot be used, for the one fault it has."""

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


def unsafe(path: str) -> str:
    """Say why a path that somebody published may not be followed, empty if it may: it has to stay in its folder."""
    if "\0" in path or "\\" in path:
        return f"The path {path!r} has a backslash or a zero byte."
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
        return f"The path '{path}' is absolute."
    if ".." in PurePosixPath(path).parts:
        return f"The path '{path}' leads out of its folder."
    return ""


def write_faults(file: Path, faults: Sequence[Fault]) -> None:
    """Write faults as JSON lines, or remove the file of an earlier run if there are none."""
    if not faults:
        file.unlink(missing_ok=True)
        return
    atomic_write_text(file, "".join(json.dumps(asdict(fault), ensure_ascii=False) + "\n" for fault in faults))
