"""Embedders of notes: how much each sounds in a window, and the notes of a clip as a piano roll."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codecdiff.embedders import check_clips
from codecdiff.interfaces import Embedder
from codecdiff_transcription.model import (
    FRAME_LENGTH,
    HOP_FRAMES,
    HOP_SAMPLES,
    LOWEST_PITCH,
    MARGIN_SAMPLES,
    NUM_NOTES,
    SAMPLE_RATE,
    BasicPitch,
)
from codecdiff_transcription.notes import NoteDetector, NoteEvent

ROLL_FRAMES = 4  # of the network in one of a piano roll: 46 ms


class NoteActivations(Embedder):
    """How much each of 88 notes sounds in a window of 1.65 s: the mean of the probabilities that Basic Pitch gives it.

    It tells register, harmony and density, and nothing of timbre. What is left at the end of a clip is a window, too.

    Source: Bittner et al. (2022), A lightweight instrument-agnostic model for polyphonic note transcription and
    multipitch estimation.

    Example:
        NoteActivations().embed(audio)  # (b, t) mono at 22,050 Hz -> (b, w, 88), A0 to C8

    """

    sample_rate, width = SAMPLE_RATE, NUM_NOTES
    window_seconds = hop_seconds = HOP_SAMPLES / SAMPLE_RATE
    context_seconds = MARGIN_SAMPLES / SAMPLE_RATE
    policy = "silence surrounds a clip, and the rest after the last whole window is averaged as far as it reaches"

    def __init__(self) -> None:
        super().__init__()
        self.network = BasicPitch()

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, 88)."""
        check_clips(audio)
        means = [frames.mean(1) for frames in self.network(audio).notes.split(HOP_FRAMES, dim=1)]
        return torch.stack(means, dim=1).to(audio.device)


class NoteRoll(Embedder):
    """The notes of a clip as a piano roll, 46 ms a frame: for the metrics of key, chords and melody.

    The first 88 numbers of a frame are the amplitudes of the notes that sound in it, 0 where none does. The other 88
    are 1 for notes that begin in it. Notes are found in the clip as a whole, so that it cannot be embedded in blocks.
    """

    sample_rate, width = SAMPLE_RATE, 2 * NUM_NOTES
    window_seconds = hop_seconds = ROLL_FRAMES * FRAME_LENGTH / SAMPLE_RATE
    policy = "the clip as a whole"

    def __init__(self) -> None:
        super().__init__()
        self.network, self.detector = BasicPitch(), NoteDetector()

    @property
    def description(self) -> dict[str, Any]:
        """Name and options, for the metrics that use it by themselves."""
        return {"name": "basic-pitch-notes", **vars(self.detector)}

    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio -> (b, w, 176)."""
        check_clips(audio)
        notes, onsets = self.network(audio)
        rolls = [piano_roll(self.detector.find(*each), len(each[0])) for each in zip(notes, onsets, strict=True)]
        return torch.stack(rolls).to(audio.device)


def piano_roll(events: list[NoteEvent], num_frames: int) -> Tensor:
    """Notes of `num_frames` frames of the network -> (w, 176) amplitudes and beginnings."""
    roll = torch.zeros(2, -(-num_frames // ROLL_FRAMES), NUM_NOTES)
    for note in events:
        first, last, key = note.start // ROLL_FRAMES, (note.end - 1) // ROLL_FRAMES, note.pitch - LOWEST_PITCH
        sounding = roll[0, first : last + 1, key]
        roll[0, first : last + 1, key] = sounding.clamp(min=note.amplitude)
        roll[1, first, key] = 1
    return torch.cat(list(roll), dim=1)


def roll_events(roll: Tensor) -> list[NoteEvent]:
    """(w, 176) piano roll -> its notes, with frames of the roll: each until it is silent or begins again."""
    amplitudes, begins = roll.split(NUM_NOTES, dim=1)
    ends = functional.pad((amplitudes == 0) | (begins > 0), (0, 0, 0, 1), value=True)  # a frame more
    events = []
    for frame, key in begins.nonzero().tolist():
        end = frame + 1 + int(ends[frame + 1 :, key].nonzero()[0, 0])
        events.append(NoteEvent(frame, end, LOWEST_PITCH + key, float(amplitudes[frame:end, key].mean())))
    return events
