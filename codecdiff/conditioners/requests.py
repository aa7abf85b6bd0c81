"""Fields of prompts that are written as text, and the tempo and key that a prompt requests in fields or text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from codecdiff.errors import InvalidValue, did_you_mean
from codecdiff.files import parse_json
from codecdiff.interfaces import Conditioner, Prompt, prompt_fields

TONICS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
MAJOR, MINOR = ("maj", "major"), ("m", "min", "minor")
ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}
TEMPO = re.compile(r"(?<!\d)(?<!\d[.,])(\d{2,3}(?:\.\d+)?)\s*(?:bpm|beats per minute)", re.IGNORECASE)
KEY = re.compile(r"\b([A-G])(#|♯|b|♭|[ -]sharp|[ -]flat)?[ -](major|minor)\b")
ARTICLE = re.compile(r"""(?:^|[.!?:;\n])[\s"'(]*A (?:major|minor)\s+[a-z]""")  # as in "A minor key throughout"


def parse_fields(values: Mapping[str, str], conditioner: Conditioner | None) -> dict[str, Any]:
    """Parse the fields of a prompt, each value as JSON or else as text.

    Raises InvalidValue for a field that the conditioner does not read.
    """
    fields = {}
    for name, text in values.items():
        require_field(name, conditioner.fields if conditioner else ())
        try:
            fields[name] = parse_json(text, name)
        except InvalidValue:
            fields[name] = text
    return fields


def require_field(name: str, available: Sequence[str]) -> None:
    """Raise InvalidValue for a field of a prompt that is not available."""
    if name not in available:
        hint = f"Available: {', '.join(available) or 'none'}.{did_you_mean(name, available)}"
        raise InvalidValue(f"Unknown field '{name}' of this model's prompts. {hint}")


def requested_tempo(prompt: Prompt) -> float | None:
    """Return the beats per minute that a prompt requests, in its field `bpm` or `tempo` or its text, if it does."""
    fields = prompt_fields(prompt)
    match = TEMPO.search(str(fields.get("text", "")))
    for value in (fields.get("bpm"), fields.get("tempo"), match and match[1]):
        try:
            return parse_tempo(value or "")
        except InvalidValue:
            continue
    return None


def requested_key(prompt: Prompt) -> int | None:
    """Return the key 0...23 that a prompt requests, in its fields `key` and `mode` or its text, if it does."""
    fields = prompt_fields(prompt)
    match = KEY.search(ARTICLE.sub("", str(fields.get("text", ""))))
    if not fields.get("key") and not match:
        return None
    try:
        return parse_key(str(fields.get("key") or (match and match[0])), str(fields.get("mode") or ""))
    except InvalidValue:
        return None


def parse_tempo(text: str | float) -> float:
    """Parse 120, "120" or "120 BPM" as beats per minute. Raises ValueError for anything but a positive number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:bpm)?\s*", str(text), re.IGNORECASE)
    if not match or not float(match[1]) > 0:
        raise InvalidValue(f"Invalid tempo '{text}': expected beats per minute, e.g. 120.")
    return float(match[1])


def parse_key(text: str, mode: str = "") -> int:
    """Parse "C# minor", "Bbm", "f♯ min" or "E flat" as a key 0...23, major where neither it nor `mode` says.

    Raises ValueError for anything else.
    """
    pattern = r"\s*([a-g])\s*(#|♯|b|♭|sharp|flat)?\s*(m|maj|min|major|minor)?\s*"
    match = re.fullmatch(pattern, re.sub(r"[-_:]", " ", text), re.IGNORECASE)
    if not match:
        german = " The German H is B, and the German B is Bb." if text[:1] in ("H", "h") else ""
        raise InvalidValue(f"Invalid key '{text}': expected e.g. 'C# minor', 'Bb' or 'Am'.{german}")
    letter, accidental, own_mode = ((part or "").lower() for part in match.groups())
    if not own_mode and mode.lower() not in ("", *MAJOR, *MINOR):
        raise InvalidValue(f"Invalid mode '{mode}': expected major or minor.")
    is_minor = (own_mode or mode.lower()) in MINOR and match[3] != "M"
    return (TONICS[letter] + ACCIDENTALS[accidental]) % 12 + 12 * is_minor
