"""Filters by license, split and tag, and splits that no artist crosses."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from codecdiff.data.manifest import SPLITS, ManifestRow
from codecdiff.errors import InvalidValue
from codecdiff_datasets.licenses import is_allowed


@dataclass(frozen=True)
class Filter:
    """Selects rows that each criterion accepts by one of its values; an empty criterion accepts all.

    `licenses` are patterns as in `is_allowed`. A tag is `rock`, of any category, or `genre=rock`, in either case.
    Raises InvalidValue for an unknown split.
    """

    licenses: Sequence[str] = ()
    splits: Sequence[str] = ()
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise InvalidValue(f"Unknown split '{split}': expected one of {', '.join(SPLITS)}.")

    def __call__(self, rows: Iterable[ManifestRow]) -> list[ManifestRow]:
        """Return the rows that are accepted."""
        return [row for row in rows if self.accepts(row)]

    def accepts(self, row: ManifestRow) -> bool:
        """Return whether a row is accepted."""
        in_split = not self.splits or row.split in self.splits
        return is_allowed(row.license, self.licenses) and in_split and (not self.tags or self._has_tag(row))

    def _has_tag(self, row: ManifestRow) -> bool:
        pairs = {(category.casefold(), name.casefold()) for category, names in row.tags.items() for name in names}
        names = {name for _, name in pairs}
        wanted = [tag.casefold().rpartition("=") for tag in self.tags]
        return any((category, name) in pairs if equals else name in names for category, equals, name in wanted)


def fraction(text: str) -> float:
    """Read `5%` or `0.05` as a number from 0 to 1. Raises InvalidValue for anything else."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidValue(f"Invalid fraction '{text}': write 5% or 0.05.")
    return value


def artist_of(row: ManifestRow) -> str:
    """Return the artist of a track as splits distinguish them; a track without one is an artist of its own."""
    name = " ".join(row.artist.casefold().split())
    return f"artist {name}" if name else f"track {row.track}"


def split_by_artist(
    rows: Sequence[ManifestRow], *, validation: float, test: float, seed: int = 0, replace_published: bool = False
) -> list[ManifestRow]:
    """Return the rows with splits, all of an artist in one. The fractions are of artists, on average.

    The split of an artist is a pure function of the seed and the artist, whichever others there are.
    Published splits are kept, and an artist's other tracks follow them: into the split with most of them if the
    publisher crossed. With `replace_published` they are replaced. Raises InvalidValue for fractions that sum to more
    than 1.
    """
    if validation + test > 1:
        raise InvalidValue(f"Validation and test together are {validation + test:.0%} of the artists. Use less.")
    published: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.split and not replace_published:
            published[artist_of(row)].append(row.split)

    def new_split(row: ManifestRow) -> str:
        artist = artist_of(row)
        if row.split and not replace_published:
            return row.split
        if splits := published.get(artist):
            return max(SPLITS, key=splits.count)
        position = int.from_bytes(hashlib.sha256(f"{seed} {artist}".encode()).digest()[:8], "big") / 2**64
        return "test" if position < test else "validation" if position < test + validation else "train"

    return [replace(row, split=new_split(row)) for row in rows]


def artists_in_several_splits(rows: Iterable[ManifestRow]) -> dict[str, list[str]]:
    """Map the artists, by name, whose tracks are in more than one split to those splits."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    names: dict[str, str] = {}
    for row in rows:
        if row.artist and row.split:
            splits[artist_of(row)].add(row.split)
            names.setdefault(artist_of(row), row.artist)
    return {names[artist]: sorted(several) for artist, several in splits.items() if len(several) > 1}
