"""MusicCaps (Agostinelli et al., 2023): captions and aspects of ten-second clips of AudioSet, without their audio.

The captions are published under CC BY-SA 4.0. The videos' own licenses are not stated, so `license` is empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from codecdiff.data.manifest import ManifestRow
from codecdiff.data.metadata import Report, TableRow, convert_rows, read_table

COLUMNS = {"ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval"}
SPLITS = {"True": "test", "False": "train"}  # of is_audioset_eval


def is_table(columns: Sequence[str]) -> bool:
    """Return whether a table with these columns is MusicCaps."""
    return set(columns) >= COLUMNS


def read(files: Sequence[Path], report: Report) -> list[ManifestRow]:
    """Read MusicCaps. The track is the video's id, its audio `ID.wav`: the clip alone, as download scripts name it."""
    convert = partial(_manifest_row, set())
    return [row for file in files for row in convert_rows(read_table(file, report), convert, report)]


def _manifest_row(seen: set[str], row: TableRow) -> ManifestRow:
    track = row.required("ytid")
    if not re.fullmatch(r"[\w-]{11}", track, re.ASCII):
        raise row.error("ytid", f"'{track[:40]}' is not the id of a video.")
    if track in seen:
        raise row.error("ytid", f"'{track}' stands in an earlier row too.", "Leave one of them out.")
    start, end = row.number("start_s") or 0.0, row.number("end_s") or 0.0
    if not 0 <= start < end:
        raise row.error("end_s", f"The clip from {start:g} to {end:g} s has no length.")
    if row["is_audioset_eval"] not in SPLITS:
        raise row.error("is_audioset_eval", f"'{row['is_audioset_eval']}' is neither True nor False.")
    caption, aspects = row.required("caption"), [str(aspect) for aspect in row.items("aspect_list")]
    seen.add(track)
    mapped = {"ytid", "aspect_list", "caption", "is_audioset_eval", "start_s", "end_s"}
    return ManifestRow(
        track,
        file=f"{track}.wav",
        seconds=end - start,
        tags={"aspect": aspects} if aspects else {},
        captions=[caption],
        split=SPLITS[row["is_audioset_eval"]],
        source=f"https://www.youtube.com/watch?v={track}&t={start:g}s",
        metadata={"start_s": start, "end_s": end} | {k: row[k] for k in row.values if k not in mapped and row[k]},
    )
