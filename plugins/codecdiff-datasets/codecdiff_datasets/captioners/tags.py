"""The second step: the tags of a track as one concise string, "Genre: classical; instruments: harp"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from codecdiff.errors import InvalidValue
from codecdiff_datasets.captioner import Captioner
from codecdiff_datasets.captioning import one_line

__all__ = ["Tags", "summarize_tags"]

FIRST = ("genre", "instrument", "mood/theme")  # categories that come first, in this order; others follow by name
NAMES = {"instrument": ("instruments", "instruments"), "mood/theme": ("mood or theme", "mood or theme")}  # one, several


class Tags(Captioner):
    """The tags of a track in one line, as "Genre: classical; instruments: harp, strings; mood or theme: calm".

    Categories come in the order genre, instrument, mood/theme, then the others by name. A category is called by its
    name, with an s if it has several tags ("genres: folk, rock"); instruments are always plural, and mood/theme is
    "mood or theme". Tags keep their spelling and order; a repeated one, in whatever case, is left out.

    Args:
        most: How many tags of a category are named, the first ones.

    Raises:
        InvalidValue: `most` is not positive.

    """

    def __init__(self, *, most: int = 8) -> None:
        if most < 1:
            raise InvalidValue(f"A summary names at least one tag of a category, but most is {most}.")
        self.most = most

    def caption(self, track: Mapping[str, Any]) -> str:
        """Summarize the tags of a track. Raises LookupError if it has none."""
        if summary := summarize_tags(track.get("tags") or {}, self.most):
            return summary
        raise LookupError("It has no tags to summarize.")


def summarize_tags(tags: Mapping[str, Iterable[str]], most: int = 8) -> str:
    """Category -> tags as one line; "" if there are none."""
    by_category: dict[str, list[str]] = {}
    for category, names in tags.items():
        by_category.setdefault(one_line(category).lower() or "other", []).extend(names or ())
    unique = {category: _distinct(names)[:most] for category, names in by_category.items()}
    named = [category for category in sorted(unique) if unique[category]]
    named.sort(key=lambda category: FIRST.index(category) if category in FIRST else len(FIRST))
    line = "; ".join(f"{_name(each, len(unique[each]))}: {', '.join(unique[each])}" for each in named)
    return line[:1].upper() + line[1:]


def _name(category: str, count: int) -> str:
    one, several = NAMES.get(category, (category, category if category.endswith("s") else f"{category}s"))
    return one if count == 1 else several


def _distinct(names: Iterable[str]) -> list[str]:
    """Return tags as they are written, each once, without the characters that would end or divide them."""
    tags: dict[str, str] = {}
    for name in names:
        tag = " ".join(one_line(str(name)).replace(";", " ").replace(",", " ").split())
        if tag:
            tags.setdefault(tag.casefold(), tag)
    return list(tags.values())
