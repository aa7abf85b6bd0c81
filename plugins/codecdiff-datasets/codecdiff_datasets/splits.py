"""Parts of a collection: what a licence, a split or a tag allows, and splits that no artist crosses."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from codecdiff_datasets.licenses import allowed

from codecdiff.data.manifest import SPLITS, Recording


def kept(
    recordings: Iterable[Recording],
    *,
    licences: Sequence[str] = (),
    splits: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> list[Recording]:
    """Keep recordings that each of these filters lets through by one of its values; an empty filter lets all through.

    `licences` are patterns as in `allowed`. A tag is `rock`, of any category, or `genre=rock`, in either case. Raises
    ValueError for a split there is none of.
    """
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"There is no split '{split}'. There are: {', '.join(SPLITS)}.")
    return [
        r
        for r in recordings
        if allowed(r.licence, licences) and (not splits or r.split in splits) and (not tags or _has_tag(r, tags))
    ]


def _has_tag(recording: Recording, tags: Sequence[str]) -> bool:
    has = {(category.casefold(), name.casefold()) for category, names in recording.tags.items() for name in names}
    names = {name for _, name in has}
    asked = [tag.casefold().rpartition("=") for tag in tags]
    return any((category, name) in has if equals else name in names for category, equals, name in asked)


def fraction(text: str) -> float:
    """Read `5%` or `0.05` as a number from 0 to 1. Raises ValueError for anything else."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"'{text}' is no share. Write 5% or 0.05.")
    return value


def artist_of(recording: Recording) -> str:
    """Give who a recording is by, as splits tell artists apart; one by nobody known is an artist of its own."""
    name = " ".join(recording.artist.casefold().split())
    return f"artist {name}" if name else f"track {recording.track}"


def place(artist: str, *, validation: float, test: float, seed: int) -> str:
    """Give the split of an artist: a pure function of the seed and the artist, whoever else there is."""
    digest = hashlib.sha256(f"{seed} {artist}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < test else "validation" if share < test + validation else "train"


def split_by_artist(
    recordings: Sequence[Recording], *, validation: float, test: float, seed: int = 0, force: bool = False
) -> list[Recording]:
    """Give every recording a split, so that all of an artist's are in one. The shares are of artists, on average.

    Published splits are kept, and an artist's other recordings follow them; into the one that holds most of them if the
    publisher crossed. With `force` they are made anew. Raises ValueError for shares that are more than the whole.
    """
    if validation + test > 1:
        raise ValueError(f"Validation and test together are {validation + test:.0%} of the artists. Ask for less.")
    published: defaultdict[str, list[str]] = defaultdict(list)
    for recording in recordings:
        if recording.split and not force:
            published[artist_of(recording)].append(recording.split)

    def chosen(recording: Recording) -> str:
        artist = artist_of(recording)
        if recording.split and not force:
            return recording.split
        if splits := published.get(artist):
            return max(SPLITS, key=splits.count)
        return place(artist, validation=validation, test=test, seed=seed)

    return [replace(recording, split=chosen(recording)) for recording in recordings]


def crossing(recordings: Iterable[Recording]) -> dict[str, list[str]]:
    """Give the artists, by name, whose recordings are in more than one split, with those splits."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    names: dict[str, str] = {}
    for recording in recordings:
        if recording.artist and recording.split:
            splits[artist_of(recording)].add(recording.split)
            names.setdefault(artist_of(recording), recording.artist)
    return {names[artist]: sorted(found) for artist, found in splits.items() if len(found) > 1}
