"""Licences: one short name for each, whatever titles and addresses data sets give them; and who is to be credited."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache

from codecdiff.data.manifest import Recording

UNKNOWN = "unknown"  # how a licence that nobody named is listed, and asked for
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
def licence_name(title: str = "", url: str = "") -> str:
    """Give the short name of a licence, as in "CC BY-NC-SA 3.0 US", from its address or else from its title.

    A title that is not understood is its own name; of neither, the name is empty.
    """
    title = " ".join(title.split())
    return _of_url(url) or _of_url(title) or _of_title(title) or title


def _of_url(url: str) -> str:
    found = URL.search(url)
    if not found:
        return ""
    family, code, version, country = (group or "" for group in found.groups())
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
    if found := SHORT.fullmatch(title):
        terms, short, country = (group or "" for group in found.groups())
        return _creative(re.split("[ -]", terms.lower()), f"{short}.0" if short.isdigit() else short, country)
    if re.match(r"cc[ -]?0|cc[ -]?zero", lower):
        return _joined("CC0", number or "1.0")
    if lower.startswith("public domain mark"):
        return _joined("Public Domain Mark", number or "1.0")
    if not re.match(r"(creative commons )?attribution\b", lower):
        return ""
    terms = [term for term, words in WORDS.items() if re.search(words, lower)]
    country = next((code for name, code in COUNTRIES.items() if name in lower), "")
    return _creative(terms, number, country)


def _creative(terms: Iterable[str], version: str, country: str) -> str:
    kept = [term.upper() for term in TERMS if term in terms]
    return _joined("CC", "-".join(kept), version, country.upper())


def _joined(*words: str) -> str:
    return " ".join(filter(None, words))


def licence_url(name: str) -> str:
    """Give the address of a Creative Commons licence by its short name, empty for others and where no version is known.

    Law: `licence_name(url=licence_url(name)) == name` where there is an address.
    """
    if found := re.fullmatch(r"(CC0|Public Domain Mark) (\d\.\d)", name):
        return f"https://creativecommons.org/publicdomain/{'zero' if found[1] == 'CC0' else 'mark'}/{found[2]}/"
    if found := re.fullmatch(r"CC (BY(?:-[A-Z]{2})*) (\d\.\d)(?: ([A-Z]+))?", name):
        country = f"{found[3].lower()}/" if found[3] else ""
        return f"https://creativecommons.org/licenses/{found[1].lower()}/{found[2]}/{country}"
    return ""


def allowed(licence: str, patterns: Sequence[str]) -> bool:
    """Tell whether a licence's whole short name matches one of the patterns, in either case; any if there are none.

    `*` stands for any letters: "CC BY*" is the whole family, CC BY-NC-ND with it, and "CC BY *" attribution alone, of
    any version or none.
    """
    name = (licence or UNKNOWN).casefold()
    spellings = (name, f"{name} ")  # the second for a pattern that asks for a version
    return not patterns or any(fnmatchcase(text, pattern.casefold()) for text in spellings for pattern in patterns)


def by_licence(recordings: Iterable[Recording]) -> dict[str, tuple[int, float]]:
    """Count recordings and their hours under each licence, most recordings first."""
    tracks: Counter[str] = Counter()
    hours: defaultdict[str, float] = defaultdict(float)
    for recording in recordings:
        name = recording.licence or UNKNOWN
        tracks[name] += 1
        hours[name] += (recording.seconds or 0) / 3600
    return {name: (count, hours[name]) for name, count in tracks.most_common()}


def attribution(recordings: Sequence[Recording]) -> str:
    """Give the credits of recordings as Markdown: title, artist, licence and source of each, licence by licence."""
    credits: defaultdict[str, list[str]] = defaultdict(list)
    for recording in recordings:
        credits[recording.licence or UNKNOWN].append(_credit(recording))
    lines = ["# Attribution", "", f"{len(recordings)} recordings.", ""]
    for licence in by_licence(recordings):
        url = licence_url(licence)
        lines += [f"## {_plain(licence)} ({len(credits[licence])})", ""]
        lines += [f"<{url}>", ""] if url else []
        lines += [*credits[licence], ""]
    return "\n".join(lines)


def _credit(recording: Recording) -> str:
    title = _plain(recording.title or recording.track)
    artist = f", by {_plain(recording.artist)}" if recording.artist else ""
    source = recording.source
    address = re.fullmatch(r"https?://[^\s<>]+", source)
    return f"- {title}{artist}. {f'<{source}>' if address else _plain(source)}".rstrip()


def _plain(text: str) -> str:
    """Make one line of a text in which Markdown finds nothing to format."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))
