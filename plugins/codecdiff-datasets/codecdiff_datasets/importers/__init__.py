"""The formats in which music data sets are published, each read into rows of a manifest by a module of its own.

A row's `file` is where the audio lies in the folder that the data set is distributed as; whether it exists is found out
by `codecdiff_datasets.audio_check`. Rows with issues are reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from codecdiff.data.audio import SUFFIXES
from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Issue, Report, column_names
from codecdiff.errors import InvalidValue
from codecdiff_datasets.importers import fma, folder, game_music, hf_datasets, jamendo, musiccaps
from codecdiff_datasets.importers.hf_datasets import Columns

DATA_SETS = {  # published as tables: title and the module that reads them
    "jamendo": ("MTG-Jamendo", jamendo),
    "fma": ("FMA", fma),
    "musiccaps": ("MusicCaps", musiccaps),
}
NAMES = ("metadata.jsonl", "metadata.csv", "copyright")  # of files that are read beside audio
FORMATS = (*DATA_SETS, "folder", "hf", "game-music")


def audio_folder(format_name: str, paths: Sequence[str], audio: Path | None) -> Path | None:
    """Return the folder of a data set's audio: `audio`, or the place where its format has it; None if it is unknown."""
    if format_name == "folder":
        return Path(paths[0]) if paths else None
    return game_music.extraction_folder(paths, audio) if format_name == "game-music" else audio


def input_folders(
    format_name: str, paths: Sequence[str], audio: Path | None, output: Path
) -> tuple[Sequence[Path], Callable[[Path], bool]]:
    """Return the folders that an import reads, and which of their files it does: not what it writes."""
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    if format_name in DATA_SETS and audio:
        folders.append(audio)

    def is_read(file: Path) -> bool:
        if format_name == "hf":
            return file.parent != output.parent or not file.name.startswith(output.stem)
        return file.suffix.lower() in (*SUFFIXES, ".deb", ".txt") or file.name in NAMES

    return folders, is_read


def read_data_set(
    format_name: str,
    paths: Sequence[str],
    report: Report,
    *,
    audio: Path | None = None,
    columns: Columns = hf_datasets.USUAL_COLUMNS,
    progress: Callable[[str], None] = lambda text: None,
) -> list[ManifestRow]:
    """Read one of the FORMATS: tables of a data set, one folder, one data set of the Hugging Face hub, or packages.

    `columns` are for the hub, whose audio is written into the folder `audio`, as that of packages is. `progress` is
    called with what is being done. Raises MissingFile for files that do not exist, and InvalidValue for those of
    another format.
    """
    if format_name not in FORMATS:
        raise InvalidValue(f"Unknown format '{format_name}': expected one of {', '.join(FORMATS)}.")
    if "" in paths:
        raise InvalidValue(f"A SOURCE of '{format_name}' is empty: name a file or a folder, as . for this one.")
    if format_name in DATA_SETS and paths:
        return _read_tables(format_name, [Path(path) for path in paths], report)
    if format_name == "game-music":
        return game_music.read(paths, game_music.extraction_folder(paths, audio), report, progress)
    if len(paths) != 1:
        expected = {"folder": "folder", "hf": "data set"}.get(format_name, "table or more")
        raise InvalidValue(f"'{format_name}' takes one {expected} as its SOURCE, not {len(paths)}.")
    if format_name == "folder":
        return folder.read(Path(paths[0]), report)
    return hf_datasets.read(paths[0], audio, columns, report)


def _read_tables(format_name: str, files: Sequence[Path], report: Report) -> list[ManifestRow]:
    """Read the tables of one published data set; a file that is not one of them is reported and left out.

    Raises MissingFile for a file that does not exist, and InvalidValue if none is a table of this data set.
    """
    title, module = DATA_SETS[format_name]
    columns = {file: column_names(file) for file in files}
    tables = [file for file in files if module.is_table(columns[file])]
    issues = [_other_table(title, file, columns[file]) for file in files if file not in tables]
    if not tables:
        raise InvalidValue("\n".join(map(str, issues)))
    for issue in issues:
        report(issue)
    return module.read(tables, report)


def _other_table(expected: str, file: Path, columns: Sequence[str]) -> Issue:
    listed = ", ".join(columns[:6])[:120] or "none"
    what = f"This is not a table of {expected}: its columns are {listed}..."
    for format_name, (title, module) in DATA_SETS.items():
        if module.is_table(columns):
            return Issue(
                file.name, f"{what} It looks like {title}.", f"Use: codecdiff data import {format_name} {file}."
            )
    return Issue(file.name, what, f"Name the files that {expected} publishes.")
