"""The formats in which collections of music are published, each read into recordings by a module of its own.

A reader gives recordings whose `file` is where the audio lies in the folder that the data set is distributed as;
whether it is there is found out by `codecdiff_datasets.audio_check`. Faulty rows are reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from codecdiff_datasets.importers import fma, folder, hf_datasets, jamendo, musiccaps

from codecdiff.data.manifest import Recording
from codecdiff.data.metadata import Fault, Report, header_of


class DataSet(NamedTuple):
    """A data set published as tables: its name, which columns its tables have, and how they are read."""

    name: str
    is_table: Callable[[Sequence[str]], bool]
    read: Callable[[Sequence[Path], Report], list[Recording]]


DATA_SETS = {
    "jamendo": DataSet("MTG-Jamendo", jamendo.is_table, jamendo.read),
    "fma": DataSet("FMA", fma.is_table, fma.read),
    "musiccaps": DataSet("MusicCaps", musiccaps.is_table, musiccaps.read),
}
KINDS = (*DATA_SETS, "folder", "hf")


def read_source(
    kind: str,
    paths: Sequence[str],
    report: Report,
    *,
    audio: Path | None = None,
    columns: hf_datasets.Columns = hf_datasets.FOUND,
) -> list[Recording]:
    """Read a collection of one of the KINDS: tables of a data set, one folder, or one data set of the hub.

    `columns` are for the hub, whose audio is written into the folder `audio`. Raises FileNotFoundError for what is not
    there, and ValueError for what is of another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no kind of collection '{kind}'. There are: {', '.join(KINDS)}.")
    if kind in DATA_SETS:
        return read_tables(kind, [Path(path) for path in paths], report)
    if len(paths) != 1:
        raise ValueError(f"'{kind}' takes one {'folder' if kind == 'folder' else 'data set'}, not {len(paths)}.")
    if kind == "folder":
        return folder.read(Path(paths[0]), report)
    return hf_datasets.read(paths[0], audio, columns, report)


def read_tables(kind: str, files: Sequence[Path], report: Report) -> list[Recording]:
    """Read the tables of one published data set; a file that is no table of it is reported and the others are read.

    Raises FileNotFoundError for a file that is not there, and ValueError if none of them is a table of this data set.
    """
    good: list[Path] = []
    faults: list[Fault] = []
    for file in files:
        columns = header_of(file)
        if DATA_SETS[kind].is_table(columns):
            good.append(file)
        else:
            faults.append(_other(kind, file, columns))
    if not good:
        raise ValueError("\n".join(map(str, faults)))
    for fault in faults:
        report(fault)
    return DATA_SETS[kind].read(good, report)


def _other(kind: str, file: Path, columns: Sequence[str]) -> Fault:
    like = next((other for other, data_set in DATA_SETS.items() if data_set.is_table(columns)), None)
    name = DATA_SETS[kind].name
    what = f"This is no table of {name}: its columns are {', '.join(columns[:6])[:120] or 'none'}..."
    if like:
        return Fault(
            file.name, f"{what} It looks like {DATA_SETS[like].name}.", f"Use: codecdiff data import {like} {file}."
        )
    return Fault(file.name, what, f"Name the files that {name} publishes.")
