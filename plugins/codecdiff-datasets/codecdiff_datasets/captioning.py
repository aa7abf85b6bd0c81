"""Caption many tracks, one JSON line each: lines are written as they come, and a run resumes where the last stopped."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from codecdiff.config import to_config
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff_datasets.append_log import AppendLog, read_rows
from codecdiff_datasets.captioner import Captioner

MAX_CAPTION = 2000  # characters; a longer one is a failure
MAX_FAILURE = 500  # characters of a failure that are kept

Item = TypeVar("Item")
Result = TypeVar("Result")


class CaptionRun(NamedTuple):
    """What a run did: how many tracks it captioned, and what was wrong with the others, by name."""

    captioned: int
    failures: Mapping[str, str]


def one_line(text: str, max_length: int | None = None) -> str:
    """Return text as one line that cannot control a terminal, cut to `max_length` characters if that is set.

    Control and formatting characters, lone surrogates and every kind of white space become single spaces.
    """
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in unicodedata.normalize("NFC", text))
    line = " ".join(plain.split())
    return line if max_length is None or len(line) <= max_length else line[: max_length - 1] + "…"


def caption_config(captioner: Captioner) -> dict[str, Any]:
    """Return what captions depend on: the captioner's configuration without its incidental options."""
    spec = to_config("captioners", captioner)
    return json.loads(json.dumps({key: value for key, value in spec.items() if key not in captioner.incidental}))


def read_captions(files: Iterable[Path | str]) -> dict[str, list[str]]:
    """Read files of captions: track -> its captions, in order of the files. Failures are left out.

    Raises FileNotFoundError for a file that does not exist, and ValueError for a line that is not a caption.
    """
    captions: dict[str, list[str]] = {}
    for file in map(Path, files):
        if not file.is_file():
            raise MissingFile(f"File of captions '{file}' does not exist. Make one: codecdiff data caption.")
        for number, line in enumerate(read_rows(file), 1):
            _check_line(line, file, number)
            if "caption" in line:
                captions.setdefault(line["track"], []).append(line["caption"])
    return captions


def _check_line(line: Mapping[str, Any], file: Path, number: int) -> None:
    if not isinstance(line.get("track"), str) or not {"caption", "failure"} & line.keys():
        raise InvalidValue(f"'{file}' line {number} is not a caption: it lacks track or caption. Delete it.")
    if not isinstance(line.get("caption", ""), str):
        raise InvalidValue(f"'{file}' line {number}: the caption of {line['track']!r} is not a text. Fix it.")


def with_captions(rows: Iterable[Mapping[str, Any]], captions: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return rows of a manifest with these captions instead of their own; a track without any here has none."""
    return [{**row, "captions": list(captions.get(row["track"], ()))} for row in rows]


def pending(
    rows: Iterable[Mapping[str, Any]], log: AppendLog, captioner: Captioner, *, retry_failures: bool = False
) -> list[Mapping[str, Any]]:
    """Return the rows without a line in the log, and those with a failure if they are to be retried.

    Raises ValueError for a log that another captioner wrote, naming what differs, or that does not hold captions.
    """
    config, done = caption_config(captioner), set()
    for number, line in enumerate(log.rows(), 1):
        _check_line(line, log.file, number)
        _check_same(line.get("captioner"), config, log.file)
        if "caption" in line or not retry_failures:
            done.add(line["track"])
    return [row for row in rows if row["track"] not in done]


def _check_same(logged: Any, config: Mapping[str, Any], file: Path) -> None:
    if logged == config:
        return
    logged = logged if isinstance(logged, dict) else {}
    missing = object()
    key = next(key for key in {**config, **logged} if logged.get(key, missing) != config.get(key, missing))
    raise InvalidValue(
        f"'{file}' holds captions of another captioner: its {key} is {logged.get(key)!r}, not {config.get(key)!r}. "
        "Name another file, or set the same options to resume this one."
    )


def write_captions(
    rows: Sequence[Mapping[str, Any]],
    captioner: Captioner,
    log: AppendLog,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> CaptionRun:
    """Caption tracks, as many at once as the captioner allows, and append a line for each to the log.

    A line holds `track`, `captioner` (see `caption_config`) and either `caption` or `failure`. Lines come in the order
    in which tracks are done. `progress` is called with how many are. After an error that stops the run, or Ctrl-C,
    running calls end, the captioner's waiting stops, and no line is lost.
    """
    config = caption_config(captioner)

    def work(row: Mapping[str, Any]) -> tuple[str, str]:
        line = _line(captioner, row)
        log.add({"track": row["track"], **line, "captioner": config})
        return row["track"], line.get("failure", "")

    failures: dict[str, str] = {}
    for done, (track, failure) in enumerate(_in_threads(work, rows, captioner.concurrency, captioner.stop), 1):
        if failure:
            failures[track] = failure
        progress(done)
    return CaptionRun(len(rows) - len(failures), failures)


def _line(captioner: Captioner, row: Mapping[str, Any]) -> dict[str, str]:
    try:
        caption = one_line(captioner.caption(row))
    except (LookupError, ValueError) as error:
        return {"failure": one_line(str(error), MAX_FAILURE) or type(error).__name__}
    if not caption:
        return {"failure": "The caption is empty."}
    if len(caption) > MAX_CAPTION:
        text = one_line(caption, 80)
        return {"failure": f"The caption has {len(caption)} characters, more than {MAX_CAPTION}: {text}"}
    return {"caption": caption}


def _in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], concurrency: int, stop: Callable[[], None]
) -> Iterator[Result]:
    """Yield `work(item)` for each item, as it is done; after an error `stop` is called, and no other item is begun."""
    source = iter(items)
    with ThreadPoolExecutor(concurrency) as pool:
        running = {pool.submit(work, item) for item in islice(source, concurrency)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {pool.submit(work, item) for item in islice(source, 1)}
        except BaseException:  # Ctrl-C too: no other request is sent and paid for
            stop()
            raise
