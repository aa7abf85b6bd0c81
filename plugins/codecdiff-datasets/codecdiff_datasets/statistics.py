"""What a manifest or a store is made of, as a mapping that JSON can hold. docs/statistics.md explains its keys."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from codecdiff import Codec, config, errors, huggingface
from codecdiff.data import CodeStore
from codecdiff.data.manifest import Manifest, ManifestRow, split_name
from codecdiff.pipeline.untrusted import confine, explained
from codecdiff_datasets.codebook_usage import codebook_statistics, continuous_moments, count_codes, embedded_moments
from codecdiff_datasets.importers.folder import tags_of
from codecdiff_datasets.licenses import HOUR, grouped, valid_seconds
from codecdiff_datasets.splits import artists_in_several_splits

FORMAT = 2
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
MINUTE = 60  # seconds
DURATIONS = (0, 5, 10, 20, 30, 45, *(MINUTE * m for m in (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30)), HOUR)
WORDS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
UNAVAILABLE = (ValueError, LookupError, OSError, ImportError)  # why a codec cannot be built

Progress = Callable[[int], None]


def manifest_statistics(manifest: Manifest, name: str, *, top: int = 20) -> dict[str, Any]:
    """Return the statistics of a manifest called `name`; of tags and artists, the `top` most frequent."""
    return {
        "format": FORMAT,
        "kind": "manifest",
        "name": name,
        "facts": {key: value for key, value in manifest.facts.items() if key != "request"},
        **track_statistics(manifest.rows, top),
    }


def store_statistics(
    store: CodeStore,
    *,
    top: int = 20,
    allow_download: bool = False,
    allow_local_parts: bool = False,
    progress: Progress = lambda count: None,
) -> dict[str, Any]:
    """Return the statistics of a store: of its tracks, codebooks and latents.

    What needs a codec that is not available is None, and `latents_left_out` says why. `progress` is called with the
    number of tracks whose codes are counted, then with that and the number of those whose pre-quantization latents are
    measured. Raises InvalidValue for codes that the codec does not have.
    """
    counts = count_codes(store, progress)
    codec, reason = _codec_of(store, allow_download, allow_local_parts)
    facts = codec or _codec_facts(store, allow_local_parts)
    moments = continuous_moments(store, lambda n: progress(len(store) + n)) if store.has_continuous else None
    return {
        "format": FORMAT,
        "kind": "store",
        "name": store.folder.resolve().name,
        **track_statistics(_rows(store), top),
        "segments": len(store),
        "segment_seconds": spread([row["seconds"] for row in store.rows], DURATIONS),
        "skipped": len(store.header["skipped"]),
        "codec": store.header["codec"],
        "frame_rate": store.header["frame_rate"],
        "frames": counts.frames,
        "codebooks": codebook_statistics(counts, facts and facts.codebook_size, facts and facts.levels),
        "latents": embedded_moments(counts.counts, codec).statistics() if codec and counts.frames else None,
        "latents_left_out": reason,
        "continuous": moments.statistics() if moments else None,
    }


def _codec_of(store: CodeStore, allow_download: bool, allow_local_parts: bool) -> tuple[Codec | None, str]:
    """Return the codec that made a store, or None and why it is not available."""
    spec = store.header["codec"]
    try:
        with huggingface.downloads(allow_download), explained(store.folder):
            codec = config.build("codecs", spec if allow_local_parts else confine("codecs", spec, store.folder))
        if not codec.is_fitted:
            codec.load_fitted_state(store.fitted_state())
        store.check_codec(codec, spec)
    except UNAVAILABLE as error:
        fetchable = isinstance(error, OSError | LookupError | config.ConfigError)
        fetchable = fetchable and not allow_download and not isinstance(error, errors.UnknownPart)
        hint = " If it is a hub id that you trust, fetch it: --allow-download." if fetchable else ""
        return None, f"The codec {json.dumps(spec)} is not available here: {error}{hint}"
    return codec, ""


def _codec_facts(store: CodeStore, allow_local_parts: bool) -> Codec | None:
    """Return the codec of a store for its facts alone, None if not even they are available."""
    try:
        spec = store.header["codec"]
        with huggingface.downloads(False), explained(store.folder):
            spec = spec if allow_local_parts else confine("codecs", spec, store.folder)
            return config.build("codecs", spec, skeleton=True)
    except UNAVAILABLE:
        return None


def _rows(store: CodeStore) -> list[ManifestRow]:
    """Return what a store says of its tracks, as rows of a manifest; seconds are those of all segments of a track."""
    indices: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(store.rows):
        indices[row["track"]].append(i)
    return [_row(store, segments) for segments in indices.values()]


def _row(store: CodeStore, segments: Sequence[int]) -> ManifestRow:
    row, metadata = store.rows[segments[0]], store.metadata(segments[0])
    return ManifestRow(
        row["track"],
        present=True,
        seconds=sum(store.rows[i]["seconds"] for i in segments),
        tags=tags_of(metadata.get("tags")),
        captions=row["captions"],
        license=row["license"],
        artist=str(metadata.get("artist") or ""),
        split=split_name(str(metadata.get("split") or "")),
    )


def track_statistics(rows: Sequence[ManifestRow], top: int = 20) -> dict[str, Any]:
    """Return the statistics that manifests and stores share."""
    durations = [seconds for row in rows if (seconds := valid_seconds(row)) is not None]
    present = [row for row in rows if row.present]
    return {
        "tracks": len(rows),
        "present": len(present),
        "missing": len(rows) - len(present),
        "hours": sum(durations) / HOUR,
        "hours_present": sum(valid_seconds(row) or 0 for row in present) / HOUR,
        "without_seconds": len(rows) - len(durations),
        "seconds": spread(durations, DURATIONS),
        "splits": _grouped((row.split, row) for row in rows),
        "licenses": _grouped((row.license, row) for row in rows),
        "tags": _tag_statistics(rows, top),
        "without_tags": sum(not any(row.tags.values()) for row in rows),
        "captions": _caption_statistics(rows),
        "artists": _artist_statistics(rows, top),
    }


def spread(values: Sequence[float], edges: Sequence[float]) -> dict[str, Any] | None:
    """Return count, mean, quantiles and a histogram of values, None if there are none.

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
        "quantiles": {f"{below:.0%}": value for below, value in zip(QUANTILES, quantiles, strict=True)},
        "histogram": [{"from": low, "to": high, "count": count} for low, high, count in bins],
    }


def _grouped(named: Iterable[tuple[str, ManifestRow]]) -> list[dict[str, Any]]:
    """Return the number of tracks and the hours of every name, the most frequent first, equals in order of name."""
    return [group._asdict() for group in grouped(sorted(named, key=itemgetter(0)))]


def _tag_statistics(rows: Sequence[ManifestRow], top: int) -> list[dict[str, Any]]:
    categories: dict[str, list[tuple[str, ManifestRow]]] = defaultdict(list)
    tagged: dict[str, int] = defaultdict(int)
    for row in rows:
        for category, names in row.tags.items():
            categories[category] += [(name, row) for name in dict.fromkeys(names)]
            tagged[category] += bool(names)
    groups = {category: _grouped(pairs) for category, pairs in categories.items()}
    return [
        {"category": c, "tracks": tagged[c], "distinct": len(groups[c]), "most": groups[c][:top]}
        for c in sorted(groups)
    ]


def _caption_statistics(rows: Sequence[ManifestRow]) -> dict[str, Any]:
    counts = np.bincount([len(row.captions) for row in rows], minlength=1)
    words = [len(caption.split()) for row in rows for caption in row.captions]
    return {
        "captions": len(words),
        "per_track": [{"captions": n, "tracks": int(count)} for n, count in enumerate(counts) if count],
        "words": spread(words, WORDS),
    }


def _artist_statistics(rows: Sequence[ManifestRow], top: int) -> dict[str, Any]:
    artists = _grouped((row.artist, row) for row in rows if row.artist)
    return {
        "distinct": len(artists),
        "without": sum(not row.artist for row in rows),
        "in_several_splits": len(artists_in_several_splits(rows)),
        "most": artists[:top],
    }
