"""Every fault of a manifest or of a store of codes, each with its place and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from codecdiff_datasets.audio_check import FETCH, Depth, Probe, too_short, try_all
from codecdiff_datasets.splits import crossing

from codecdiff.data.manifest import SPLITS, Manifest, Recording
from codecdiff.data.metadata import Fault, Report, unsafe
from codecdiff.data.store import CodeStore

LONG_SECONDS = 3600.0  # of a recording that is more often a whole album or a mistake than a piece


def check(
    path: Path,
    report: Report,
    *,
    depth: Depth = "ends",
    notes: Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> int:
    """Check a manifest or a store, and give how many recordings it holds. Its audio is tried as in `probes`.

    Raises FileNotFoundError and ValueError for what is neither.
    """
    if path.is_dir():
        return _check_store(path, report)
    manifest = Manifest.read(path)
    file = path.name
    _check_names(file, [r.track for r in manifest.recordings], report)
    for recording in manifest.recordings:
        for field, what, mend in _wrong(recording):
            report(Fault(file, what, mend, track=recording.track, field=field))
    for artist, splits in crossing(manifest.recordings).items():
        what = f"Recordings of '{artist}' are in {' and '.join(splits)}."
        report(Fault(file, what, "Split again: codecdiff data split --force.", field="split"))
    _check_audio(manifest, report, depth, notes, progress)
    return len(manifest)


def _check_names(file: str, tracks: Sequence[str], report: Report) -> None:
    for track, count in Counter(tracks).items():
        if count > 1:
            report(Fault(file, f"{count} rows have this name.", "Leave all but one out.", track=track, field="track"))
        elif not track:
            report(Fault(file, "A row has no name.", "Name it, or leave it out.", field="track"))


def _wrong(r: Recording) -> list[tuple[str, str, str]]:
    """Give field, fault and mend of all that is wrong in one row by itself."""
    found = []
    if reason := unsafe(r.file):
        found.append(("file", reason, "Write it relative to the audio folder."))
    if r.seconds is not None and r.seconds <= 0:
        found.append(("seconds", f"It lasts {r.seconds:g} s.", FETCH))
    if r.seconds is not None and r.seconds > LONG_SECONDS:
        what = f"It lasts {r.seconds / 3600:.1f} hours."
        found.append(("seconds", what, "Cut it into pieces, or encode it in segments."))
    if r.split not in ("", *SPLITS):
        found.append(("split", f"'{r.split}' is no split.", f"There are: {', '.join(SPLITS)}."))
    if any(not text.strip() for text in r.captions):
        found.append(("captions", "A caption is empty.", "Leave it out."))
    if r.present and not r.file:
        found.append(("file", "It is said to be there, but has no name.", "Import it again."))
    return found


def _check_audio(
    manifest: Manifest, report: Report, depth: Depth, notes: Path | None, progress: Callable[[int], None]
) -> None:
    """Try the files that the manifest names. One made without audio, as of MusicCaps, lacks nothing."""
    if not any(r.present for r in manifest.recordings):
        return
    named = [r for r in manifest.recordings if r.file and not unsafe(r.file)]
    for file, count in Counter(r.file for r in named).items():
        if count > 1:
            report(Fault(file, f"{count} tracks name this file.", "Keep one of them.", field="file"))
    answers = try_all([manifest.file_of(r) for r in named], depth, notes=notes, progress=progress)
    for recording, answer in zip(named, answers, strict=True):
        if what := answer.wrong or too_short(answer.seconds, recording.seconds) or _differs(answer, recording):
            field = "file" if answer.wrong else "seconds"
            report(Fault(recording.file, what, FETCH, track=recording.track, field=field))
        elif not recording.present:
            what = "The file has come, or was mended, since the manifest was made."
            report(Fault(recording.file, what, "Import again.", track=recording.track, field="present"))


def _differs(answer: Probe, recording: Recording) -> str:
    """Say that a file is not as long as it was when the manifest was made."""
    if not recording.present or recording.seconds is None or abs(answer.seconds - recording.seconds) < 1:
        return ""
    return f"It lasts {answer.seconds:.1f} s, and {recording.seconds:.1f} s by the manifest."


def _check_store(folder: Path, report: Report) -> int:
    try:
        store = CodeStore(folder)
    except FileNotFoundError as error:
        if not (folder / "header.json").is_file():
            raise
        report(Fault(str(folder), f"A file is missing: {error.filename}.", "Encode again."))
        return 0
    except (ValueError, OSError, KeyError) as error:
        report(Fault(str(folder), f"It cannot be read: {error}.", "Encode again."))
        return 0
    tracks = [str(row["track"]) for row in store.rows]
    rows = zip(tracks, store.rows, strict=True)
    names = [f"{track}, segment {row['segment']}" if row["segment"] else track for track, row in rows]
    _check_names("manifest.parquet", names, report)
    for i, row in enumerate(store.rows):
        if what := _wrong_codes(store, i, row):
            report(Fault(f"shards/{row['shard']:05d}.npy", what, "Encode again.", track=tracks[i], field="frames"))
    return len(store)


def _wrong_codes(store: CodeStore, i: int, row: Mapping[str, Any]) -> str:
    """Say what is wrong with the codes of one row, empty if nothing is."""
    if not 0 <= row["shard"] < store.header["shards"]:
        return f"There is no shard {row['shard']}."
    codes = store.codes(i)
    if codes.dtype != np.uint16 or codes.shape[1:] != (store.header["num_codebooks"],):
        return f"It holds {codes.dtype} of {codes.shape[1:]}, not codes of {store.header['num_codebooks']} codebooks."
    if len(codes) < row["frames"]:
        return f"It ends after {len(codes)} of {row['frames']} frames."
    if abs(row["frames"] - row["seconds"] * store.header["frame_rate"]) > 2:
        return f"{row['frames']} frames are not {row['seconds']:.2f} s."
    return ""
