"""Tempo, meter and key of a prompt as fixed features: from its fields, or else from what its text says."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codecdiff import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields, prompt_text
from codecdiff.conditioners import parse_key, parse_number, parse_tempo, requested_key, requested_tempo
from codecdiff.errors import InvalidValue

TEMPO_WORDS = {  # times the usual tempo
    **dict.fromkeys(("slow", "slowly", "adagio", "largo", "lento"), 2 / 3),
    **dict.fromkeys(("medium", "moderate", "moderato", "andante"), 1.0),
    **dict.fromkeys(("fast", "quick", "quickly", "lively", "allegro", "presto"), 3 / 2),
}
THREE = re.compile(r"\b3/4|\btriple (?:time|meter)\b|\bwaltz", re.IGNORECASE)
FOUR = re.compile(r"\b[24]/4|\bcommon time\b", re.IGNORECASE)


class TempoAndKey(Conditioner):
    """Where the beats of a clip are, and its key, as fixed features with nothing to learn.

    A prompt states them in the fields `bpm` or `tempo`, `meter` ("3/4"), `key` ("C#") and `mode` ("minor"), or in its
    text: "a waltz in C sharp minor, 92 bpm". A meter that is not stated is 4/4. `start`, in seconds, is where in the
    music the clip starts; the music starts with the first beat of a bar, and keeps its tempo.

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

    fields = ("text", "bpm", "tempo", "meter", "key", "mode", "start")
    marker: Tensor

    def __init__(self, *, usual_bpm: float | None = None) -> None:
        super().__init__()
        if usual_bpm is not None and not 20 <= usual_bpm <= 400:
            raise InvalidValue(f"usual_bpm={usual_bpm:g}: expected 20 to 400 beats per minute.")
        self.usual_bpm = usual_bpm
        self.register_buffer("marker", torch.empty(0), persistent=False)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every entry."""
        return {"beat": 3 * 7, "key": 14}

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The fields that each entry depends on."""
        return {"beat": ("text", "bpm", "tempo", "meter", "start"), "key": ("text", "key", "mode")}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> `beat` (n, 1, 21) and `key` (n, 1, 14). Raises ValueError for invalid fields."""
        for prompt in prompts:
            for note in _unread(prompt_fields(prompt), stated_tempo(prompt, self.usual_bpm)):
                warnings.warn(note, stacklevel=2)
        features = {
            "beat": [_beat(prompt, stated_tempo(prompt, self.usual_bpm)) for prompt in prompts],
            "key": [_key_features(stated_key(prompt)) for prompt in prompts],
        }
        tokens = {name: _entry(rows, self.widths[name]) for name, rows in features.items()}
        return Condition(tokens).to(self.marker.device)

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode the prompts once, so that invalid values raise ValueError before training, and not during it."""
        self.encode(prompts)


def _unread(fields: Mapping[str, Any], tempo: float | None) -> Iterator[str]:
    """Yield a note on every value of a field that changes nothing."""
    meter = str(fields.get("meter") or "4/4")
    if not (THREE.search(meter) or FOUR.search(meter)):
        yield f"meter={meter}: expected 3/4 or 4/4. It counts as 4/4."
    if fields.get("tempo") and tempo is None:
        yield f"tempo={fields['tempo']}: expected beats per minute, as in tempo=120. It is ignored."
    if fields.get("mode") and not fields.get("key"):
        yield f"mode={fields['mode']}: expected a key beside it, as in key=C. It is ignored."


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
    start = parse_number(fields.get("start") or 0.0, "start")
    return [*frequencies, *(math.fmod(frequency * start, 1) for frequency in frequencies), *([1.0] * len(rates))]


def stated_tempo(prompt: Prompt, usual_bpm: float | None = None) -> float | None:
    """Return the beats per minute of a prompt; None without one in the prompt and a usual one. Raises ValueError."""
    bpm, text = prompt_fields(prompt).get("bpm"), prompt_text(prompt)
    tempo = parse_tempo(bpm) if bpm not in (None, "") else requested_tempo(prompt)
    if tempo is not None or usual_bpm is None or not text.strip():
        return tempo
    factors = (TEMPO_WORDS.get(word) for word in re.findall(r"[a-z]+", text.lower()))
    return usual_bpm * next((factor for factor in factors if factor), 1.0)


def stated_key(prompt: Prompt) -> int | None:
    """Return the key 0...23 of a prompt; None without one. Raises ValueError for a field `key` that is none."""
    fields = prompt_fields(prompt)
    is_field = fields.get("key") not in (None, "")
    return parse_key(str(fields["key"]), str(fields.get("mode") or "")) if is_field else requested_key(prompt)


def _key_features(key: int | None) -> list[float] | None:
    """Return a one-hot tonic and a one-hot mode of a key 0...23, of unit mean square each."""
    if key is None:
        return None
    features = [0.0] * 14
    features[key % 12] = math.sqrt(12)
    features[12 + key // 12] = math.sqrt(2)
    return features
