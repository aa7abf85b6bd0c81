"""Prompt adherence by notes: the key, the mode, the chords and the melody that prompts request, as transcribed.

All read one embedder, `NoteRoll`, so that a clip is transcribed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial

import torch
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric
from codecdiff_eval.metrics.adherence import (
    NOTHING,
    Compared,
    agreement_with_prompts,
    key_agreement,
    key_of_chroma,
    numbers_compared,
)
from torch import Tensor

from codecdiff.conditioners import parse_key, requested_key
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Prompt, prompt_fields
from codecdiff_transcription.chords import chord_sequence
from codecdiff_transcription.embedder import NoteRoll, roll_events
from codecdiff_transcription.model import NUM_NOTES
from codecdiff_transcription.notes import (
    edit_distances,
    fold_octaves,
    melody_of,
    sequence_similarity,
    without_overtones,
)

TOGETHER = 1  # frames of a roll between beginnings of notes that are played at once
CHORD = r"[A-G](?:#|♯|b|♭)?(?:m|min|maj|minor|major)?"
CHORDS = re.compile(rf"\b(?:chords?|progression)\b:?\s*({CHORD}(?:[\s,|–-]+{CHORD})+)(?![\w#♯])")
PITCH = re.compile(r"([A-G])(#|♯|b|♭)?(-?\d)")
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11, "#": 1, "♯": 1, "b": -1, "♭": -1, None: 0}

Items = tuple[int, ...]
Similarity = Callable[[Items, Items], float]


def requested_chords(prompt: Prompt) -> Items | None:
    """Return the chords that a prompt requests in order, 0...23 as keys, in its field `chords` or its text, if it does.

    "Am F C G", ["Am", "F", "C", "G"], or a text with "chords Am F C G".
    """
    fields = prompt_fields(prompt)
    match = CHORDS.search(str(fields.get("text", "")))
    value = fields.get("chords") or (match and match[1])
    names = re.split(r"[\s,|–-]+", value.strip()) if isinstance(value, str) else value or ()
    try:
        return tuple(parse_key(str(name)) for name in names) or None
    except ValueError:
        return None


def requested_melody(prompt: Prompt) -> Items | None:
    """Return the pitch classes of the melody that a prompt requests in its field `melody`, if it does.

    "C4 E4 G4", ["C4", "E4", "G4"] or MIDI numbers, [60, 64, 67].
    """
    value = prompt_fields(prompt).get("melody")
    names = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value or ()
    try:
        return tuple(parse_pitch(name) % 12 for name in names) or None
    except ValueError:
        return None


def parse_pitch(name: str | int) -> int:
    """Parse "C#4" or 61 as a MIDI number, 60 for C4. Raises ValueError for anything else."""
    if isinstance(name, int):
        return name
    match = PITCH.fullmatch(str(name).strip())
    if not match:
        raise InvalidValue(f"Invalid pitch '{name}': expected e.g. 'C#4', or a MIDI number such as 61.")
    letter, accidental, octave = match.groups()
    return 12 * (int(octave) + 1) + STEPS[letter] + STEPS[accidental]


def transcribed_key(roll: Tensor) -> float:
    """(w, 176) piano roll -> key 0...23 by its chroma, `NOTHING` where no note sounds."""
    chroma = fold_octaves(roll[:, :NUM_NOTES].double().sum(0))
    return float(key_of_chroma(chroma)) if float(chroma.sum()) else NOTHING


def transcribed_chords(roll: Tensor) -> Items:
    """(w, 176) piano roll -> its chords in order."""
    return tuple(chord_sequence(fold_octaves(roll[:, :NUM_NOTES]), NoteRoll.hop_seconds))


def transcribed_melody(roll: Tensor) -> Items:
    """(w, 176) piano roll -> the pitch classes of its melody."""
    return tuple(pitch % 12 for pitch in melody_of(without_overtones(roll_events(roll), TOGETHER)))


def chords_similarity(played: Items, requested: Items) -> float:
    """Return how similar chords are to a progression that may be repeated, and may end after it was played once."""
    repeats = -(-len(played) // len(requested)) + 1
    distances = edit_distances(played, requested * repeats)
    lengths = range(len(requested), len(distances))
    return max(1 - distances[length] / max(length, len(played)) for length in lengths)


def sequences_compared(
    transcribe: Callable[[Tensor], Items], requested: Callable[[Prompt], Items | None], similarity: Similarity
) -> Compared:
    """Return how far clips agree in sequences: the mean similarity of what is transcribed with what is requested."""

    def compared(rolls: ClipEmbeddings) -> Callable[[Tensor, Tensor], float]:
        played = [transcribe(roll) for roll in rolls.by_clip()]
        requests = [requested(prompt) or () for prompt in rolls.prompts]
        of_pair = cache(lambda i, j: similarity(played[i], requests[j]))
        return lambda a, b: sum(map(of_pair, a.tolist(), b.tolist())) / len(a)

    return compared


def transcribed_keys(rolls: ClipEmbeddings) -> Tensor:
    """Return the key of every clip."""
    return torch.tensor([transcribed_key(roll) for roll in rolls.by_clip()])


def _metric(label: str, compared: Compared, requested: Callable[[Prompt], object], meaning: str) -> Metric:
    prepare = partial(agreement_with_prompts, compared=compared, requested=requested)
    own = {"embedder": NoteRoll, "requested": requested, "meaning": meaning}
    return Metric(label, prepare, "higher", compares="prompts", **own)


_exact, _mode = (
    numbers_compared(partial(key_agreement, rule=rule), requested_key, transcribed_keys) for rule in ("exact", "mode")
)
_chords = sequences_compared(transcribed_chords, requested_chords, chords_similarity)
_melody = sequences_compared(transcribed_melody, requested_melody, sequence_similarity)
KEY_MEANING = "fraction of clips whose transcribed notes are in the requested key, its tonic and mode"
MODE_MEANING = "fraction of clips whose transcribed notes are in major or minor as requested"
SEQUENCE_MEANING = "how much of the requested {} is in the transcribed notes, in order: 1 is all of it and nothing else"
key_from_notes = _metric("key and mode, by notes", _exact, requested_key, KEY_MEANING)
mode_from_notes = _metric("mode, by notes", _mode, requested_key, MODE_MEANING)
chords = _metric("chords", _chords, requested_chords, SEQUENCE_MEANING.format("progression"))
melody = _metric("melody", _melody, requested_melody, SEQUENCE_MEANING.format("melody"))
