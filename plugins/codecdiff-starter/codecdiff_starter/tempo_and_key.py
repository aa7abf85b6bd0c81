"""Tempo, meter and key of a prompt as fixed features: from its fields, or else from what its text says."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields, prompt_text
from codecdiff.errors import InvalidValue

TONICS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # pitch classes
ACCIDENTALS = {"#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}
KEY = re.compile(r"\b([A-G])(?:[\s-]*(sharp|flat)|([#♯b♭]))?[\s-]+(major|minor)\b")  # "a major piece" names no key
TEMPO = re.compile(r"(\d+(?:\.\d+)?)\s*(?:bpm|beats per minute)\b", re.IGNORECASE)
TEMPO_WORDS = {  # times the usual tempo
    **dict.fromkeys(("slow", "slowly", "adagio", "largo", "lento"), 2 / 3),
    **dict.fromkeys(("medium", "moderate", "moderato", "andante"), 1.0),
    **dict.fromkeys(("fast", "quick", "quickly", "lively", "allegro", "presto"), 3 / 2),
}
THREE = re.compile(r"\b3/4|\btriple (?:time|meter)\b|\bwaltz", re.IGNORECASE)
SLOWEST, FASTEST = 20.0, 400.0


class TempoAndKey(Conditioner):
    """Where the beats of a clip are, and its key, as fixed features with nothing to learn.

    A prompt states them in the fields `bpm`, `meter` ("3/4"), `key` ("C#") and `mode` ("minor"), or in its text: "a
    waltz in C sharp minor, 92 bpm". A meter that is not stated is 4/4. `start`, in seconds, is where in the music the
    clip starts; the music starts with the first beat of a bar, and keeps its tempo.

    Its conditions, one token each:

    - `beat`, for the option `waves` of a denoiser: frequencies in Hz, phases in cycles and amplitudes of waves that
      go around once in 4 bars, in 2, in a bar and in a beat, and 2, 3 and 4 times in a beat. Absent for a prompt
      without a tempo.
    - `key`: one of 12 tonics and one of 2 modes. Absent for a prompt without a key.

    Args:
        usual_bpm: Tempo of a text that states none, in beats per minute, for models trained on music whose tempo was
            always known. "fast" is then half as much again, and "slow" two thirds. If None, such a text has no tempo.

    Raises:
        ValueError: `usual_bpm` is not between 20 and 400.

    """

    fields = ("text", "bpm", "meter", "key", "mode", "start")
    marker: Tensor

    def __init__(self, *, usual_bpm: float | None = None) -> None:
        super().__init__()
        if usual_bpm is not None:
            _number(usual_bpm, "usual_bpm", SLOWEST, FASTEST)
        self.usual_bpm = usual_bpm
        self.register_buffer("marker", torch.empty(0), persistent=False)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every entry."""
        return {"beat": 3 * 7, "key": 14}

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The fields that each entry depends on."""
        return {"beat": ("text", "bpm", "meter", "start"), "key": ("text", "key", "mode")}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `beat` (n, 1, 21) and `key` (n, 1, 14)."""
        features = {
            "beat": [_beat(prompt, stated_tempo(prompt, self.usual_bpm)) for prompt in prompts],
            "key": [_key_features(stated_key(prompt)) for prompt in prompts],
        }
        entries = {name: _entry(rows, self.widths[name]) for name, rows in features.items()}
        return Condition(entries).to(self.marker.device)


def _entry(rows: Sequence[Sequence[float] | None], width: int) -> ConditionTokens:
    """Stack features, or None for a row where they are absent."""
    tokens = torch.tensor([[row or [0.0] * width] for row in rows], dtype=torch.float32).reshape(len(rows), 1, width)
    return ConditionTokens(tokens, torch.tensor([[row is not None] for row in rows], dtype=torch.bool).reshape(-1, 1))


def _beat(prompt: Prompt, tempo: float | None) -> list[float] | None:
    """Return frequencies in Hz, phases in cycles and amplitudes of the waves of a tempo."""
    fields = prompt_fields(prompt)
    if tempo is None:
        return None
    beats_per_bar = 3 if THREE.search(str(fields.get("meter") or prompt_text(prompt))) else 4
    rates = [1 / (4 * beats_per_bar), 1 / (2 * beats_per_bar), 1 / beats_per_bar, 1, 2, 3, 4]  # cycles in a beat
    frequencies = [rate * tempo / 60 for rate in rates]
    start = _number(fields.get("start") or 0.0, "start")
    return [*frequencies, *(math.fmod(frequency * start, 1) for frequency in frequencies), *([1.0] * len(rates))]


def stated_tempo(prompt: Prompt, usual_bpm: float | None = None) -> float | None:
    """Return the beats per minute of a prompt; None if it states none and there is no usual tempo."""
    fields, text = prompt_fields(prompt), prompt_text(prompt)
    if fields.get("bpm") not in (None, ""):
        return _number(fields["bpm"], "bpm", SLOWEST, FASTEST)
    if found := TEMPO.search(text):
        return min(max(float(found[1]), SLOWEST), FASTEST)
    if usual_bpm is None or not text.strip():
        return None
    factors = (TEMPO_WORDS.get(word) for word in re.findall(r"[a-z]+", text.lower()))
    return usual_bpm * next((factor for factor in factors if factor), 1.0)


def stated_key(prompt: Prompt) -> tuple[int, str] | None:
    """Return the pitch class of the tonic and the mode that a prompt states; None for one without a key."""
    fields = prompt_fields(prompt)
    written = f"{fields['key']} {fields.get('mode') or ''}" if fields.get("key") else prompt_text(prompt)
    found = KEY.search(written)
    if found is None:
        if fields.get("key"):
            raise InvalidValue(
                f"key={fields['key']!r} and mode={fields.get('mode')!r} are no key: write key=C# and mode=minor, or "
                "key='C# minor'."
            )
        return None
    tonic, word, sign, mode = found.groups()
    shift = ACCIDENTALS[word or sign] if word or sign else 0
    return (TONICS[tonic] + shift) % 12, mode


def _key_features(key: tuple[int, str] | None) -> list[float] | None:
    """Return a one-hot tonic and a one-hot mode, of unit mean square each."""
    if key is None:
        return None
    features = [0.0] * 14
    features[key[0]] = math.sqrt(12)
    features[12 + ("major", "minor").index(key[1])] = math.sqrt(2)
    return features


def _number(value: Any, name: str, low: float = 0.0, high: float = math.inf) -> float:
    """Parse a number between two others, possibly written as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        raise InvalidValue(f"{name}={value!r}: the field '{name}' of a prompt is a number from {low:g} to {high:g}.")
    return number
