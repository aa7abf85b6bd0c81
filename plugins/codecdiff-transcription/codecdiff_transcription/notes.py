"""Notes from probabilities, and what follows from notes: melody, chroma, chords, key.

Pitches are MIDI numbers, 60 for middle C; pitch classes 0 to 11, 0 for C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codecdiff_transcription.model import FRAMES_PER_SECOND, LOWEST_PITCH, NUM_NOTES

PARTIALS = (12, 19, 24, 28, 31)  # semitones of the second to sixth partial over the first
COVERED = 0.6  # of a note's length, from which a note is not of the melody if higher ones sound for so long


class NoteEvent(NamedTuple):
    """A note."""

    start: int  # frame
    end: int  # frame after its last
    pitch: int  # MIDI number
    amplitude: float  # mean probability that it sounds

    @property
    def seconds(self) -> tuple[float, float]:
        """When it begins and ends."""
        return self.start / FRAMES_PER_SECOND, self.end / FRAMES_PER_SECOND


@dataclass(frozen=True)
class NoteDetector:
    """Finds notes in probabilities.

    Every peak over time of the probability that a note begins starts one, the latest first, which lasts until the
    probability that it sounds stays under a threshold for some frames. What then is left over the threshold, the most
    probable first, becomes notes too, from there in both directions; and notes that are too short are left out. What
    a note is made of is not used again, nor are the frames of its neighbors a semitone off, which sound along.

    onset, frame: thresholds of the probabilities that a note begins, and that it sounds.
    tolerance: frames under the threshold that do not end a note.
    shortest: frames of a note, 0.128 s by default.

    Source: Bittner et al. (2022), section 3.3, after Hawthorne et al. (2018), Onsets and frames, and Salamon & Gómez
    (2012), Melody extraction from polyphonic music signals using pitch contour characteristics.
    """

    onset: float = 0.5
    frame: float = 0.3
    tolerance: int = 11
    shortest: int = 11

    def find(self, notes: Tensor, onsets: Tensor) -> list[NoteEvent]:
        """(f, 88) probabilities that notes sound and begin -> the notes, in order of start and pitch."""
        free = notes.clone()  # probabilities that no note has used
        events = []
        for start, key in reversed(onset_peaks(onsets, self.onset)):
            self._add(notes, free, start, self._reach(free[start:, key]) + start, key, events)
        while float(free.max()) > self.frame:
            middle, key = divmod(int(free.argmax()), NUM_NOTES)
            end = middle + self._reach(free[middle:, key])
            start = middle + 1 - self._reach(free[: middle + 1, key].flip(0))
            self._add(notes, free, start, end, key, events)
            free[middle, key] = 0  # also where the note was too short
        return sorted(events)

    def _reach(self, probabilities: Tensor) -> int:
        """(f,) probabilities from a frame on -> how many of them the note lasts; 0 if it never sounds."""
        sounding = (probabilities >= self.frame).nonzero()[:, 0]
        if not len(sounding) or sounding[0] > self.tolerance:
            return 0
        gaps = sounding.diff() > self.tolerance + 1
        last = int(gaps.nonzero()[0, 0]) if gaps.any() else len(sounding) - 1
        return int(sounding[last]) + 1

    def _add(self, notes: Tensor, free: Tensor, start: int, end: int, key: int, events: list[NoteEvent]) -> None:
        """Use up the frames of a note, and add it unless it is too short."""
        if end - start < self.shortest:
            return
        free[start:end, max(0, key - 1) : key + 2] = 0
        events.append(NoteEvent(start, end, LOWEST_PITCH + key, float(notes[start:end, key].mean())))


def onset_peaks(onsets: Tensor, threshold: float) -> list[tuple[int, int]]:
    """(f, 88) probabilities -> frame and note of each peak over time that reaches the threshold, by frame."""
    before = torch.cat([onsets.new_zeros(1, NUM_NOTES), onsets[:-1]])
    after = torch.cat([onsets[1:], onsets.new_zeros(1, NUM_NOTES)])
    peaks = (onsets >= threshold) & (onsets > before) & (onsets >= after)
    return [(int(frame), int(key)) for frame, key in peaks.nonzero()]


def without_overtones(events: Sequence[NoteEvent], tolerance: int) -> list[NoteEvent]:
    """Return the notes without those that are likely to be overtones of others.

    These begin within `tolerance` frames of a note that is at least as loud, and are as far above it as one of its
    first partials: notes that play an octave or a twelfth over another one are lost, too.
    """

    def is_overtone(note: NoteEvent, other: NoteEvent) -> bool:
        together = abs(note.start - other.start) <= tolerance
        return together and note.pitch - other.pitch in PARTIALS and note.amplitude <= other.amplitude

    return [note for note in events if not any(is_overtone(note, other) for other in events)]


def melody_of(events: Sequence[NoteEvent]) -> list[int]:
    """Return the pitches of the highest notes in order: those over which no higher note sounds most of the time."""
    melody = []
    for note in sorted(events):
        higher = [other for other in events if other.pitch > note.pitch]
        overlaps = (range(max(other.start, note.start), min(other.end, note.end)) for other in higher)
        if len({frame for overlap in overlaps for frame in overlap}) < COVERED * (note.end - note.start):
            melody.append(note.pitch)
    return melody


def fold_octaves(notes: Tensor) -> Tensor:
    """(..., 88) -> (..., 12) sums over octaves, from C: chroma."""
    classes = (torch.arange(NUM_NOTES) + LOWEST_PITCH) % 12
    return notes.new_zeros(*notes.shape[:-1], 12).index_add(-1, classes, notes)


def sequence_similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """Return 1 - edits / length of the longer: 1 for equal sequences, 0 where nothing agrees (Levenshtein 1966)."""
    longest = max(len(first), len(second))
    return 1 - edit_distances(first, second)[-1] / longest if longest else 1.0


def edit_distances(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return how many items have to be inserted, removed or replaced from `first` to each beginning of `second`."""
    row = list(range(len(second) + 1))
    for i, item in enumerate(first, 1):
        before, row = row, [i]
        for j, other in enumerate(second, 1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (item != other)))
    return row
