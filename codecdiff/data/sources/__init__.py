"""The formats in which collections of music are published, each read into recordings by a module of its own.

A reader gives recordings whose `file` is where the audio lies in the folder that the data set is distributed as;
whether it is there is found out by `codecdiff.data.probes`. Faulty rows are reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from codecdiff.data.faults import Fault, Report
from codecdiff.data.manifests import Recording
from codecdiff.data.sources import fma, folders, hub, jamendo, musiccaps
from codecdiff.data.tables import header_of

Reader = Callable[[Sequence[Path], Report], list[Recording]]  # the tables of one data set -> its recordings
TABLES: dict[str, Reader] = {"jamendo": jamendo.read, "fma": fma.read, "musiccaps": musiccaps.read}
NAMES = {"jamendo": "MTG-Jamendo", "fma": "FMA", "musiccaps": "MusicCaps"}
SIGNS = {"jamendo": jamendo.is_table, "fma": fma.is_table, "musiccaps": musiccaps.is_table}
KINDS = (*TABLES, "folder", "hf")


def read_source(
    kind: str, paths: Sequence[str], report: Report, *, audio: Path | None = None, columns: hub.Columns = hub.FOUND
) -> list[Recording]:
    """Read a collection of one of the KINDS: tables of a data set, one folder, or one data set of the hub.

    `columns` are for the hub, whose audio is written into the folder `audio`. Raises FileNotFoundError for what is not
    there, and ValueError for what is of another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no kind of collection '{kind}'. There are: {', '.join(KINDS)}.")
    if kind in TABLES:
        return read_tables(kind, [Path(path) for path in paths], report)
    if len(paths) != 1:
        raise ValueError(f"'{kind}' takes one {'folder' if kind == 'folder' else 'data set'}, not {len(paths)}.")
    if kind == "folder":
        return folders.read(Path(paths[0]), report)
    return hub.read(paths[0], audio, columns, report)


def read_tables(kind: str, files: Sequence[Path], report: Report) -> list[Recording]:
    """Read the tables of one published data set; a file that is no table of it is reported and the others are read.

    Raises FileNotFoundError for a file that is not there, and ValueError if none of them is a table of this data set.
    """
    good: list[Path] = []
    faults: list[Fault] = []
    for file in files:
        columns = header_of(file)
        if SIGNS[kind](columns):
            good.append(file)
        else:
            faults.append(_other(kind, file, columns))
    if not good:
        raise ValueError("\n".join(map(str, faults)))
    for fault in faults:
        report(fault)
    return TABLES[kind](good, report)


def _other(kind: str, file: Path, columns: Sequence[str]) -> Fault:
    like = next((other for other, sign in SIGNS.items() if sign(columns)), None)
    what = f"This is no table of {NAMES[kind]}: its columns are {', '.join(columns[:6])[:120] or 'none'}..."
    if like:
        return Fault(file.name, f"{what} It looks like {NAMES[like]}.", f"Use: codecdiff data import {like} {file}.")
    return Fault(file.name, what, f"Name the files that {NAMES[kind]} publishes.")
