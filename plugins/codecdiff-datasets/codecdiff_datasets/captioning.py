"""Captions of many tracks, one JSON line each: written as they come, and gone on with where a run stopped."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from codecdiff_datasets.append_log import Journal, read_rows
from codecdiff_datasets.captioner import Captioner

from codecdiff.config import spec_of

LONGEST = 2000  # characters of a caption; a longer one is a fault
TOLD = 500  # characters of a fault that are kept

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Tally:
    """What a run did: how many tracks it captioned, and what was wrong with the others, by name."""

    captioned: int
    faults: Mapping[str, str]


def one_line(text: str, most: int | None = None) -> str:
    """Give text as one line without anything that commands a terminal, its first `most` characters if it is longer.

    Control and formatting characters, lone surrogates and every kind of white space become single spaces.
    """
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in unicodedata.normalize("NFC", text))
    line = " ".join(plain.split())
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def recorded(captioner: Captioner) -> dict[str, Any]:
    """Describe a captioner by what its captions follow from: as `config.spec_of`, less what is incidental."""
    spec = spec_of("captioners", captioner)
    return json.loads(json.dumps({key: value for key, value in spec.items() if key not in captioner.incidental}))


def read_captions(files: Iterable[Path | str]) -> dict[str, list[str]]:
    """Read files of captions: track -> its captions, in order of the files. Faults are left out.

    Raises FileNotFoundError for a file that is not there, and ValueError for a line that is no caption.
    """
    found: dict[str, list[str]] = {}
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"There is no file of captions '{file}'. Make one: codecdiff data caption.")
        for number, line in enumerate(read_rows(file), 1):
            _check_line(line, file, number)
            if "caption" in line:
                found.setdefault(line["track"], []).append(line["caption"])
    return found


def _check_line(line: Mapping[str, Any], file: Path, number: int) -> None:
    if not isinstance(line.get("track"), str) or not {"caption", "fault"} & line.keys():
        raise ValueError(f"'{file}' line {number} is no caption: it names no track, or holds nothing of it.")
    if not isinstance(line.get("caption", ""), str):
        raise ValueError(f"'{file}' line {number}: the caption of {line['track']!r} is no text. Mend it.")


def with_captions(rows: Iterable[Mapping[str, Any]], captions: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Give rows of a manifest these captions instead of their own; a track that has none here has none."""
    return [{**row, "captions": list(captions.get(row["track"], ()))} for row in rows]


def pending(
    rows: Iterable[Mapping[str, Any]], journal: Journal, captioner: Captioner, *, retry_faults: bool = False
) -> list[Mapping[str, Any]]:
    """Give the rows that the journal settles not yet; faults are settled unless they are to be tried again.

    Raises ValueError for a journal that another captioner wrote, naming what differs, or that holds no captions.
    """
    made, settled = recorded(captioner), set()
    for number, line in enumerate(journal.rows(), 1):
        _check_line(line, journal.file, number)
        _check_same(line.get("captioner"), made, journal.file)
        if "caption" in line or not retry_faults:
            settled.add(line["track"])
    return [row for row in rows if row["track"] not in settled]


def _check_same(found: Any, made: Mapping[str, Any], file: Path) -> None:
    if found == made:
        return
    found = found if isinstance(found, dict) else {}
    key = next(key for key in {**made, **found} if found.get(key) != made.get(key) or (key in found) != (key in made))
    raise ValueError(
        f"'{file}' holds captions of another captioner: its {key} is {found.get(key)!r}, not {made.get(key)!r}. "
        "Name another file, or say the same options to go on with this one."
    )


def write_captions(
    rows: Sequence[Mapping[str, Any]],
    captioner: Captioner,
    journal: Journal,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> Tally:
    """Caption tracks, as many at once as the captioner allows, and add a line for each to the journal.

    A line holds `track`, `captioner` (what the caption follows from) and either `caption` or `fault`. Lines come in the
    order in which tracks are done. `progress` is called with how many are. An error that stops the run, or Ctrl-C, lets
    what is under way end, stops the captioner's waiting, and loses no line.
    """
    made = recorded(captioner)

    def work(row: Mapping[str, Any]) -> tuple[str, str]:
        line = _line(captioner, row)
        journal.add({"track": row["track"], **line, "captioner": made})
        return row["track"], line.get("fault", "")

    faults: dict[str, str] = {}
    for done, (track, fault) in enumerate(_in_threads(work, rows, captioner.concurrency, captioner.stop), 1):
        if fault:
            faults[track] = fault
        progress(done)
    return Tally(len(rows) - len(faults), faults)


def _line(captioner: Captioner, row: Mapping[str, Any]) -> dict[str, str]:
    try:
        caption = one_line(captioner.caption(row))
    except (LookupError, ValueError) as error:
        return {"fault": one_line(str(error), TOLD) or type(error).__name__}
    if not caption:
        return {"fault": "The caption is empty."}
    if len(caption) > LONGEST:
        return {"fault": f"The caption has {len(caption)} characters, more than {LONGEST}: {one_line(caption, 80)}"}
    return {"caption": caption}


def _in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], concurrency: int, give_up: Callable[[], None]
) -> Iterator[Result]:
    """Yield what `work` gives of each item, as it is done; after an error `give_up` is called, and none is begun."""
    source = iter(items)
    with ThreadPoolExecutor(concurrency) as pool:
        under_way = {pool.submit(work, item) for item in islice(source, concurrency)}
        try:
            while under_way:
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
                    under_way |= {pool.submit(work, item) for item in islice(source, 1)}
        except BaseException:  # Ctrl-C too: nothing more is asked and paid for
            give_up()
            raise
