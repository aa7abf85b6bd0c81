"""Notes of audio by Basic Pitch: an embedder and metrics of codecdiff, and functions for other packages.

posteriors = BasicPitch()(audio)                                # (b, t) mono at 22,050 Hz -> (b, f, 88) each
events = NoteDetector().find(posteriors.notes[0], posteriors.onsets[0])
melody_of(without_overtones(events, tolerance=4))               # MIDI numbers
"""

from codecdiff_transcription.chords import chord_sequence
from codecdiff_transcription.embedder import NoteActivations, NoteRoll, piano_roll, roll_events
from codecdiff_transcription.model import BasicPitch, Posteriors
from codecdiff_transcription.notes import (
    NoteDetector,
    NoteEvent,
    fold_octaves,
    melody_of,
    sequence_similarity,
    without_overtones,
)

__all__ = [
    "BasicPitch",
    "NoteActivations",
    "NoteDetector",
    "NoteEvent",
    "NoteRoll",
    "Posteriors",
    "chord_sequence",
    "fold_octaves",
    "melody_of",
    "piano_roll",
    "roll_events",
    "sequence_similarity",
    "without_overtones",
]
