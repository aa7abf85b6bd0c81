"""Every issue of a manifest or of a store of codes, each with its place and a hint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codecdiff.data import CodeStore
from codecdiff.data.manifest import SPLITS, Manifest, ManifestRow
from codecdiff.data.metadata import Issue, Report, unsafe_path
from codecdiff.files import DamagedFile
from codecdiff_datasets.audio_check import FETCH, AudioChecker, report_duplicates
from codecdiff_datasets.splits import artists_in_several_splits

LONG_SECONDS = 3600.0  # a longer track is more often a whole album or a mistake


def validate(path: Path, report: Report, checker: AudioChecker | None = None, audio: Path | None = None) -> int:
    """Validate a manifest with its audio, in `audio` if it was moved, or a store, and return how many rows it holds.

    Raises MissingFile and InvalidValue for what is neither.
    """
    if path.is_dir():
        return _validate_store(path, report)
    manifest = Manifest.read(path, audio=audio)
    _check_names(path.name, [row.track for row in manifest.rows], report)
    for row in manifest.rows:
        for field, what, hint in _row_issues(row):
            report(Issue(path.name, what, hint, track=row.track, field=field))
    for artist, splits in artists_in_several_splits(manifest.rows).items():
        what = f"Tracks of '{artist}' are in {' and '.join(splits)}."
        report(Issue(path.name, what, "Split again: codecdiff data split --replace.", field="split"))
    _check_audio(manifest, report, checker or AudioChecker())
    return len(manifest)


def _check_names(file: str, tracks: Sequence[str], report: Report) -> None:
    for track, count in Counter(tracks).items():
        if count > 1:
            report(Issue(file, f"{count} rows have this name.", "Leave all but one out.", track=track, field="track"))
        elif not track:
            report(Issue(file, "A row has no name.", "Name it, or leave it out.", field="track"))


def _row_issues(row: ManifestRow) -> list[tuple[str, str, str]]:
    """Return field, issue and hint of everything wrong in one row by itself."""
    issues = []
    if reason := unsafe_path(row.file):
        issues.append(("file", reason, "Write it relative to the audio folder."))
    if row.seconds is not None and row.seconds <= 0:
        issues.append(("seconds", f"It lasts {row.seconds:g} s.", FETCH))
    if row.seconds is not None and row.seconds > LONG_SECONDS:
        what = f"It lasts {row.seconds / 3600:.1f} hours."
        issues.append(("seconds", what, "Cut it into parts, or encode it in segments."))
    if row.split not in ("", *SPLITS):
        issues.append(("split", f"Unknown split '{row.split}'.", f"Expected one of {', '.join(SPLITS)}."))
    if any(not text.strip() for text in row.captions):
        issues.append(("captions", "A caption is empty.", "Leave it out."))
    if row.present and not row.file:
        issues.append(("file", "It is marked as present, but has no file.", "Import it again."))
    return issues


def _check_audio(manifest: Manifest, report: Report, checker: AudioChecker) -> None:
    """Try the files that the manifest names. That it names none is an issue: nothing can be encoded."""
    if not any(row.file for row in manifest.rows):
        hint = "Fetch it, and import again with --audio."
        report(Issue(str(manifest.audio), "No track has its audio.", hint, field="present"))
        return
    named = [row for row in manifest.rows if row.file and not unsafe_path(row.file)]
    for file, count in Counter(row.file for row in named).items():
        if count > 1:
            report(Issue(file, f"{count} tracks name this file.", "Keep one of them.", field="file"))
    results = checker.check_all([manifest.file_of(row) for row in named])
    for row, result in zip(named, results, strict=True):
        issue = result.issue(row)
        if issue is None:
            result.report_doubt(row, report)
        if issue:
            report(issue)
        elif row.present and row.seconds is not None and not abs(result.seconds - row.seconds) < 1:  # NaN too
            what = f"It lasts {result.seconds:.1f} s, and {row.seconds:.1f} s by the manifest."
            report(Issue(row.file, what, FETCH, track=row.track, field="seconds"))
        elif not row.present:
            what = "The file was added or repaired since the manifest was made."
            report(Issue(row.file, what, "Import again.", track=row.track, field="present"))
    report_duplicates(named, manifest.audio, report)


def _validate_store(folder: Path, report: Report) -> int:
    try:
        store = CodeStore(folder, strict=False)
    except (ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not (folder / "header.json").is_file():
            raise
        report(Issue(str(folder), f"It cannot be read: {error}.", "Encode again."))
        return 0
    tracks = [str(row["track"]) for row in store.rows]
    rows = zip(tracks, store.rows, strict=True)
    names = [f"{track}, segment {row['segment']}" if row["segment"] else track for track, row in rows]
    _check_names("manifest.parquet", names, report)
    wrong: set[str] = set()
    for i, row in enumerate(store.rows):
        if what := _codes_problem(store, i, row):
            wrong.add(f"{row['shard']:05d}")
            report(Issue(f"shards/{row['shard']:05d}.npy", what, "Encode again.", track=tracks[i], field="frames"))
    for file in store.damaged_files():
        if file.name.partition(".")[0] not in wrong:
            report(Issue(f"shards/{file.name}", "It is not what was written.", "Encode again."))
    return len(store)


def _codes_problem(store: CodeStore, i: int, row: Mapping[str, Any]) -> str:
    """Return what is wrong with the codes of one row, "" if nothing is."""
    try:
        store.codes(i)
        if store.has_continuous and not np.isfinite(store.continuous(i)).all():
            return "Its latents are NaN or infinite."
    except (DamagedFile, OSError) as error:
        return str(error)
    if abs(row["frames"] - row["seconds"] * store.header["frame_rate"]) > 2:
        return f"{row['frames']} frames are not {row['seconds']:.2f} s."
    return ""
