"""Licenses: one short name for each, whatever titles and addresses data sets use; and whom to credit."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

from codecdiff.data.manifest import ManifestRow

HOUR = 3600  # seconds
UNKNOWN = "unknown"  # lists, and in filters matches, tracks without a license
TERMS = ("by", "nc", "sa", "nd")  # of Creative Commons, in the order of their names
URL = re.compile(
    r"creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)(?:/(\d\.\d))?(?:/(?!deed|legal)([a-z]{2,8}))?", re.I
)
SHORT = re.compile(r"cc[ -]?(by(?:[ -](?:nc|sa|nd))*)(?:[ -](\d(?:\.\d)?))?(?:[ -]([a-z]{2}))?", re.I)
VERSION = re.compile(r"\b(\d\.\d)\b")
WORDS = {"by": r"attribution", "nc": r"non-?commercial", "sa": r"share ?-?alike", "nd": r"no ?-?deriv"}
COUNTRIES = {
    "united states": "US",
    "germany": "DE",
    "france": "FR",
    "netherlands": "NL",
    "spain": "ES",
    "italy": "IT",
    "canada": "CA",
    "mexico": "MX",
    "england": "UK",
    "scotland": "SCOTLAND",
    "australia": "AU",
    "austria": "AT",
    "belgium": "BE",
    "brazil": "BR",
    "denmark": "DK",
    "japan": "JP",
    "poland": "PL",
    "portugal": "PT",
    "sweden": "SE",
    "switzerland": "CH",
}


@cache
def license_name(title: str = "", url: str = "") -> str:
    """Return the short name of a license, as in "CC BY-NC-SA 3.0 US", from its address or else from its title.

    An unknown title is its own name; without either, the name is "".
    """
    title = " ".join(title.split())
    return _of_url(url) or _of_url(title) or _of_title(title) or title


def _of_url(url: str) -> str:
    match = URL.search(url)
    if not match:
        return ""
    family, code, version, country = (group or "" for group in match.groups())
    code = code.lower()
    if family.lower() == "publicdomain":
        return _joined({"zero": "CC0", "mark": "Public Domain Mark"}.get(code, ""), version)
    if code == "publicdomain":
        return "Public Domain"
    if set(code.split("-")) <= set(TERMS):
        return _creative(code.split("-"), version, country)
    return _joined("CC", {"sampling+": "Sampling+", "nc-sampling+": "NC-Sampling+"}.get(code, code), version)


def _of_title(title: str) -> str:
    lower = title.lower()
    version = VERSION.search(lower)
    number = version.group(1) if version else ""
    if match := SHORT.fullmatch(title):
        terms, short, country = (group or "" for group in match.groups())
        return _creative(re.split("[ -]", terms.lower()), f"{short}.0" if short.isdigit() else short, country)
    if re.match(r"cc[ -]?0|cc[ -]?zero", lower):
        return _joined("CC0", number or "1.0")
    if lower.replace("-", " ") == "public domain":
        return "Public Domain"
    if lower.startswith("public domain mark"):
        return _joined("Public Domain Mark", number or "1.0")
    if not re.match(r"(creative commons )?attribution\b", lower):
        return ""
    terms = [term for term, words in WORDS.items() if re.search(words, lower)]
    country = next((code for name, code in COUNTRIES.items() if name in lower), "")
    return _creative(terms, number, country)


def _creative(terms: Iterable[str], version: str, country: str) -> str:
    ordered = [term.upper() for term in TERMS if term in terms]
    return _joined("CC", "-".join(ordered), version, country.upper())


def _joined(*words: str) -> str:
    return " ".join(filter(None, words))


def license_url(name: str) -> str:
    """Return the address of a Creative Commons license by its short name, "" for others and without a version.

    `license_name(url=license_url(name)) == name` if there is an address.
    """
    if match := re.fullmatch(r"(CC0|Public Domain Mark) (\d\.\d)", name):
        return f"https://creativecommons.org/publicdomain/{'zero' if match[1] == 'CC0' else 'mark'}/{match[2]}/"
    if match := re.fullmatch(r"CC (BY(?:-[A-Z]{2})*) (\d\.\d)(?: ([A-Z]+))?", name):
        country = f"{match[3].lower()}/" if match[3] else ""
        return f"https://creativecommons.org/licenses/{match[1].lower()}/{match[2]}/{country}"
    return ""


def is_allowed(license: str, patterns: Sequence[str]) -> bool:
    """Return whether a license's whole short name matches one of the patterns, in either case; True without patterns.

    `*` matches any letters: "CC BY*" is the whole family, CC BY-NC-ND included, and "CC BY *" attribution alone, of
    any version or none.
    """
    name = (license or UNKNOWN).casefold()
    spellings = (name, f"{name} ")  # the second for a pattern with a version
    return not patterns or any(fnmatchcase(text, pattern.casefold()) for text in spellings for pattern in patterns)


class Group(NamedTuple):
    """How many tracks have a name, such as a license, and their hours as far as durations are known."""

    name: str
    tracks: int
    hours: float


def grouped(named: Iterable[tuple[str, ManifestRow]]) -> list[Group]:
    """Count the tracks and the hours of every name, most tracks first, equals in order of their first track."""
    tracks: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for name, row in named:
        tracks[name] += 1
        seconds[name] += valid_seconds(row) or 0
    return [Group(name, count, seconds[name] / HOUR) for name, count in tracks.most_common()]


def valid_seconds(row: ManifestRow) -> float | None:
    """Return a duration that can be summed: None if it is unknown or invalid."""
    seconds = row.seconds
    return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None


def by_license(rows: Iterable[ManifestRow]) -> list[Group]:
    """Count the tracks and the hours under each license, most tracks first."""
    return grouped((row.license or UNKNOWN, row) for row in rows)


def attribution(rows: Sequence[ManifestRow]) -> str:
    """Return the credits of tracks as Markdown: title, artist, license and source of each, license by license."""
    credits: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        credits[row.license or UNKNOWN].append(_credit(row))
    lines = ["# Attribution", "", f"{len(rows)} tracks.", ""]
    for license, *_ in by_license(rows):
        url = license_url(license)
        lines += [f"## {_plain(license)} ({len(credits[license])})", ""]
        lines += [f"<{url}>", ""] if url else []
        lines += [*credits[license], ""]
    return "\n".join(lines)


def _credit(row: ManifestRow) -> str:
    title = _plain(row.title or row.track)
    artist = f", by {_plain(row.artist)}" if row.artist else ""
    source = row.source
    address = re.fullmatch(r"https?://[^\s<>]+", source)
    return f"- {title}{artist}. {f'<{source}>' if address else _plain(source)}".rstrip()


def _plain(text: str) -> str:
    """Return a text as one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))
