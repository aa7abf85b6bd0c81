"""What a manifest or a store is made of, as a mapping that JSON can hold. docs/statistics.md explains its keys."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from codecdiff import config, huggingface, registry
from codecdiff.data.code_store import CodeStore
from codecdiff.data.manifests import Manifest, Recording
from codecdiff.data.subsets import crossing, split_name
from codecdiff.data.usage import codebooks, entry_moments, latents, projection_moments, usage
from codecdiff.interfaces import Codec

FORMAT = 1
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
MINUTE, HOUR = 60, 3600  # seconds
DURATIONS = (0, 5, 10, 20, 30, 45, *(MINUTE * m for m in (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30)), HOUR)
WORDS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
UNUSABLE = (ValueError, LookupError, OSError, ImportError)  # why a codec cannot be had

Progress = Callable[[int], None]


def of_manifest(manifest: Manifest, name: str, *, top: int = 20) -> dict[str, Any]:
    """Give the statistics of a manifest called `name`; of tags and artists, the `top` most frequent."""
    return {
        "format": FORMAT,
        "kind": "manifest",
        "name": name,
        "facts": dict(manifest.facts),
        **collection(manifest.recordings, top),
    }


def of_store(
    store: CodeStore, *, top: int = 20, allow_download: bool = False, progress: Progress = lambda count: None
) -> dict[str, Any]:
    """Give the statistics of a store: of its tracks, codebooks and latents.

    What needs a codec that cannot be had is None, and `latents_left_out` says why. `progress` is called with the number
    of tracks whose codes are counted, then with that and the number of those whose projections are measured. Raises
    ValueError for codes that the codec does not have.
    """
    used = usage(store, progress)
    codec, reason = _codec_of(store, allow_download)
    facts = codec or _outline_of(store)
    projected = projection_moments(store, lambda count: progress(len(store) + count)) if store.has_continuous else None
    return {
        "format": FORMAT,
        "kind": "store",
        "name": store.folder.resolve().name,
        **collection(_recordings(store), top),
        "segments": len(store),
        "segment_seconds": spread([row["seconds"] for row in store.rows], DURATIONS),
        "skipped": len(store.header["skipped"]),
        "codec": store.header["codec"],
        "frame_rate": store.header["frame_rate"],
        "frames": used.frames,
        "codebooks": codebooks(used, facts and facts.codebook_size, facts and facts.levels),
        "latents": latents(entry_moments(used.counts, codec)) if codec and used.frames else None,
        "latents_left_out": reason,
        "projections": latents(projected) if projected else None,
    }


def _codec_of(store: CodeStore, allow_download: bool) -> tuple[Codec | None, str]:
    """Give the codec that made a store, or None and why it cannot be had."""
    spec = store.header["codec"]
    try:
        with huggingface.downloads(allow_download):
            codec = config.build("codecs", spec)
        if not codec.is_fitted:
            codec.load_fitted_state(store.fitted_state())
        store.check_codec(codec, spec)
    except UNUSABLE as error:
        mendable = not allow_download and isinstance(error, OSError | LookupError | config.ConfigError)
        advice = " If it is a hub id that you trust, fetch it: --allow-download."
        fetchable = mendable and not isinstance(error, registry.UnknownPart)
        return None, f"The codec {json.dumps(spec)} cannot be had here: {error}{advice if fetchable else ''}"
    return codec, ""


def _outline_of(store: CodeStore) -> Codec | None:
    """Give the codec of a store for its facts alone, None if even they cannot be had."""
    try:
        with huggingface.downloads(False):
            return config.build_skeleton("codecs", store.header["codec"])
    except UNUSABLE:
        return None


def _recordings(store: CodeStore) -> list[Recording]:
    """Give what a store says of its tracks, as rows of a manifest; seconds are those of all rows of a track."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(store.rows):
        rows[row["track"]].append(i)
    return [_recording(store, indices) for indices in rows.values()]


def _recording(store: CodeStore, indices: Sequence[int]) -> Recording:
    row, metadata = store.rows[indices[0]], store.metadata(indices[0])
    return Recording(
        row["track"],
        present=True,
        seconds=sum(store.rows[i]["seconds"] for i in indices),
        tags=_tags(metadata.get("tags")),
        captions=row["captions"],
        licence=row["license"],
        artist=str(metadata.get("artist") or ""),
        split=split_name(str(metadata.get("split") or "")),
    )


def _tags(told: Any) -> dict[str, list[str]]:
    """Read the tags of metadata that anybody may have written: by category, or a list or a text without one."""
    by_category = told if isinstance(told, Mapping) else {"tag": told}
    listed = {str(key): value if isinstance(value, list) else [value] for key, value in by_category.items()}
    tags = {category: [str(name) for name in names if name] for category, names in listed.items()}
    return {category: names for category, names in tags.items() if names}


def collection(recordings: Sequence[Recording], top: int = 20) -> dict[str, Any]:
    """Give the statistics that manifests and stores share."""
    seconds = [known for r in recordings if (known := _seconds(r)) is not None]
    present = [r for r in recordings if r.present]
    return {
        "recordings": len(recordings),
        "present": len(present),
        "missing": len(recordings) - len(present),
        "hours": sum(seconds) / HOUR,
        "hours_present": sum(_seconds(r) or 0 for r in present) / HOUR,
        "without_seconds": len(recordings) - len(seconds),
        "seconds": spread(seconds, DURATIONS),
        "splits": grouped((r.split, r) for r in recordings),
        "licences": grouped((r.licence, r) for r in recordings),
        "tags": _tag_figures(recordings, top),
        "without_tags": sum(not any(r.tags.values()) for r in recordings),
        "captions": _caption_figures(recordings),
        "artists": _artist_figures(recordings, top),
    }


def _seconds(recording: Recording) -> float | None:
    """Give a duration that can be summed: None where it is not known, or is no duration."""
    known = recording.seconds
    return known if known is not None and math.isfinite(known) and known >= 0 else None


def spread(values: Sequence[float], edges: Sequence[float]) -> dict[str, Any] | None:
    """Give count, mean, quantiles and a histogram of values, None if there are none.

    The bins are [edge, next edge), the last without an end.
    """
    if not values:
        return None
    counts = np.histogram(values, [*edges, np.inf])[0].tolist()
    bins = zip(edges, [*edges[1:], None], counts, strict=True)
    quantiles = np.quantile(values, QUANTILES).tolist()
    return {
        "count": len(values),
        "mean": float(np.mean(values)),
        "quantiles": {f"{share:.0%}": value for share, value in zip(QUANTILES, quantiles, strict=True)},
        "histogram": [{"from": low, "to": high, "count": count} for low, high, count in bins],
    }


def grouped(named: Iterable[tuple[str, Recording]]) -> list[dict[str, Any]]:
    """Give the recordings and the known hours of every name, the most frequent first."""
    counts: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for name, recording in named:
        counts[name] += 1
        seconds[name] += _seconds(recording) or 0
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return [{"name": name, "recordings": counts[name], "hours": seconds[name] / HOUR} for name in names]


def _tag_figures(recordings: Sequence[Recording], top: int) -> list[dict[str, Any]]:
    categories: dict[str, list[tuple[str, Recording]]] = defaultdict(list)
    tagged: dict[str, int] = defaultdict(int)
    for recording in recordings:
        for category, names in recording.tags.items():
            categories[category] += [(name, recording) for name in dict.fromkeys(names)]
            tagged[category] += bool(names)
    groups = {category: grouped(pairs) for category, pairs in categories.items()}
    return [
        {"category": c, "recordings": tagged[c], "distinct": len(groups[c]), "most": groups[c][:top]}
        for c in sorted(groups)
    ]


def _caption_figures(recordings: Sequence[Recording]) -> dict[str, Any]:
    numbers = np.bincount([len(r.captions) for r in recordings], minlength=1)
    words = [len(caption.split()) for r in recordings for caption in r.captions]
    return {
        "captions": len(words),
        "per_recording": [{"captions": n, "recordings": int(count)} for n, count in enumerate(numbers) if count],
        "words": spread(words, WORDS),
    }


def _artist_figures(recordings: Sequence[Recording], top: int) -> dict[str, Any]:
    known = grouped((r.artist, r) for r in recordings if r.artist)
    return {
        "distinct": len(known),
        "without": sum(not r.artist for r in recordings),
        "in_several_splits": len(crossing(recordings)),
        "most": known[:top],
    }
