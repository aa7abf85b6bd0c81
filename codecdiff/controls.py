"""Controls: the facts of prompts, tempo, key and instruments, and how well sets of clips keep to them.

Only what a model was told counts: fields that it reads, and what the text says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from codecdiff import adherence
from codecdiff.adherence import Reading
from codecdiff.data.metadata import Track
from codecdiff.data.prompts import prompt_of
from codecdiff.embedded import Embedded
from codecdiff.interfaces import Prompt, prompt_fields
from codecdiff.listeners import Cutting, Reader
from codecdiff.scores import Score

ENOUGH = 8  # clips that are asked for a fact, for it to be measured unasked

Measure = Callable[[Sequence[Track]], Score]


TEMPO = re.compile(r"(?<!\d)(?<!\d[.,])(\d{2,3}(?:\.\d+)?)\s*(?:bpm|beats per minute)", re.IGNORECASE)
KEY = re.compile(r"\b([A-G])(#|♯|b|♭|[ -]sharp|[ -]flat)?[ -](major|minor)\b")
ARTICLE = re.compile(r"""(?:^|[.!?:;\n])[\s"'(]*A (?:major|minor)\s+[a-z]""")  # as in "A minor key throughout"


def tempo_of(prompt: Prompt) -> float | None:
    """Give the beats per minute that a prompt asks for, in its field `bpm` or `tempo` or its text, if it does."""
    fields = prompt_fields(prompt)
    said = TEMPO.search(str(fields.get("text", "")))
    for value in (fields.get("bpm"), fields.get("tempo"), said and said[1]):
        try:
            return adherence.tempo_number(value or "")
        except ValueError:
            continue
    return None


def key_of(prompt: Prompt) -> int | None:
    """Give the key 0...23 that a prompt asks for, in its fields `key` and `mode` or its text, if it does."""
    fields = prompt_fields(prompt)
    said = KEY.search(ARTICLE.sub("", str(fields.get("text", ""))))
    if not fields.get("key") and not said:
        return None
    try:
        return adherence.key_number(str(fields.get("key") or (said and said[0])), str(fields.get("mode", "")))
    except ValueError:
        return None


def instruments_of(prompt: Prompt) -> list[str] | None:
    """Give the instruments that a prompt asks for, in its field `instruments`, if it does."""
    value = prompt_fields(prompt).get("instruments")
    return [str(name) for name in value] if isinstance(value, list | tuple) else None


def are_asked(tracks: Sequence[Track]) -> bool:
    """Tell whether the prompts of enough tracks ask for a tempo, a key or instruments to measure it unasked."""
    prompts = [prompt_of(track) for track in tracks]
    return any(sum(of(p) is not None for p in prompts) >= ENOUGH for of in (tempo_of, key_of, instruments_of))


def readings(cutting: Cutting, cache: Path, reference: Sequence[Track], seed: int) -> dict[str, Measure]:
    """Give the measures of tempo and key by name; each tells what the reference, read alike, gets for its own facts.

    Loudness is left as it is: neither depends on it.
    """
    as_it_is = Cutting(cutting.seconds)
    tempo = Reader("tempo", adherence.read_tempos, as_it_is, cache)
    key = Reader("key", adherence.read_keys, as_it_is, cache)

    def score(
        reader: Reader, of: Callable[[Prompt], Any], rule: Callable[..., Score], tracks: Sequence[Track]
    ) -> Score:
        def heard(tracks: Sequence[Track]) -> tuple[Reading, list[Any]]:
            reading = reader.of(tracks)
            return reading, [of(prompt) for prompt in reading.prompts]

        known = sum(of(prompt_of(track)) is not None for track in reference)
        return rule(*heard(tracks), ceiling=heard(reference) if known > 1 else None, seed=seed)

    return {
        "tempo": partial(score, tempo, tempo_of, adherence.tempo_score),
        "tempo or its octave": partial(score, tempo, tempo_of, partial(adherence.tempo_score, octaves=True)),
        "key": partial(score, key, key_of, adherence.key_score),
        "key, MIREX": partial(score, key, key_of, partial(adherence.key_score, rule="mirex")),
    }


def instruments(judged: Embedded, halves: tuple[Embedded, Embedded], *, seed: int) -> Score:
    """Look for the instruments asked for with probes that one half of the reference taught; the other half's is the
    ceiling. Raises ValueError where too few clips have instruments.
    """
    lessons, rest = (half.select(_told(half)) for half in halves)
    if not len(lessons) or not len(rest):
        raise ValueError("The reference does not say which instruments are played in it.")
    probes = adherence.fit_instruments(lessons, [instruments_of(p) or [] for p in lessons.prompts])
    asked, truth = ([instruments_of(p) for p in some.prompts] for some in (judged, rest))
    return adherence.instrument_score(probes, judged, asked, ceiling=(rest, truth), seed=seed)


def _told(embedded: Embedded) -> list[int]:
    return [i for i, prompt in enumerate(embedded.prompts) if instruments_of(prompt) is not None]
