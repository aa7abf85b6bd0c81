"""Transcription of rendered scores, the rules by which notes are found, and the checks of embedders."""

import hashlib
from pathlib import Path

import codecdiff_transcription
import pytest
import torch
from codecdiff_eval.metrics.adherence import key_of_chroma
from codecdiff_transcription import (
    BasicPitch,
    NoteActivations,
    NoteDetector,
    NoteEvent,
    NoteRoll,
    chord_sequence,
    fold_octaves,
    melody_of,
    piano_roll,
    roll_events,
    sequence_similarity,
    without_overtones,
)
from codecdiff_transcription.model import FRAMES_PER_SECOND, HOP_SAMPLES, WEIGHTS
from codecdiff_transcription.notes import edit_distances
from rendered_scores import render, true_roll, write_score

from codecdiff.testing import check_embedder

SECONDS, SEEDS = 8.2, range(6)


@pytest.fixture(scope="module")
def scores():
    return [write_score(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def posteriors(scores):
    return BasicPitch()(torch.stack([render(score.tones, SECONDS) for score in scores]))


@pytest.fixture(scope="module")
def detected(posteriors):
    return [NoteDetector().find(*each) for each in zip(*posteriors, strict=True)]


def weighted_roll(events, num_frames):
    roll = torch.zeros(num_frames, 88)
    for note in events:
        roll[note.start : note.end, note.pitch - 21] = note.amplitude
    return roll


@pytest.mark.integration
def test_frames_of_rendered_scores_are_transcribed(scores, posteriors, detected):
    frames = posteriors.notes.shape[1]
    for score, notes, events in zip(scores, posteriors.notes, detected, strict=True):
        truth = true_roll(score.tones, frames, FRAMES_PER_SECOND)
        for found in (notes > 0.3, weighted_roll(events, frames) > 0):
            f1 = 2 * float((found * truth).sum() / (found.sum() + truth.sum()))
            assert f1 >= 0.8
        shifted = weighted_roll(events, frames).roll(1, 1) > 0  # a semitone too high
        assert float((shifted * truth).sum() / (shifted.sum() + truth.sum())) < 0.1


def test_chroma_of_rendered_scores_is_right(scores, posteriors, detected):
    frames = posteriors.notes.shape[1]
    correlations = []
    for score, events in zip(scores, detected, strict=True):
        truth = fold_octaves(true_roll(score.tones, frames, FRAMES_PER_SECOND).sum(0))
        chroma = fold_octaves(weighted_roll(events, frames).sum(0))
        correlations.append(float(torch.corrcoef(torch.stack([chroma, truth]))[0, 1]))
        assert key_of_chroma(chroma) == score.key
    assert min(correlations) >= 0.97
    assert sum(correlations) / len(correlations) >= 0.98


def test_chords_and_melody_of_rendered_scores(scores, detected, posteriors):
    chords, melodies = [], []
    for score, events in zip(scores, detected, strict=True):
        roll = weighted_roll(events, posteriors.notes.shape[1])
        chords.append(sequence_similarity(chord_sequence(fold_octaves(roll), 1 / FRAMES_PER_SECOND), score.chords))
        melody = melody_of(without_overtones(events, tolerance=4))
        melodies.append(sequence_similarity([p % 12 for p in melody], [p % 12 for p in score.melody]))
    assert sum(chords) / len(chords) >= 0.9
    assert sum(melodies) / len(melodies) >= 0.7


def test_a_clip_does_not_depend_on_its_batch_and_silence_has_no_notes(scores, posteriors):
    audio = torch.stack([render(scores[0].tones, SECONDS), torch.zeros(round(SECONDS * 22_050))])
    together = BasicPitch()(audio)
    torch.testing.assert_close(together.notes[0], posteriors.notes[0], rtol=0, atol=1e-5)
    assert NoteDetector().find(together.notes[1], together.onsets[1]) == []
    assert BasicPitch()(audio[:, :257]).notes.shape == (2, 2, 88)


# The rules by which notes are found, on probabilities of which everything is known.


def probabilities(frames=60):
    return torch.zeros(frames, 88), torch.zeros(frames, 88)


def test_a_note_lasts_until_it_is_silent_for_longer_than_the_tolerance():
    notes, onsets = probabilities()
    notes[5:20, 40] = 0.8
    notes[28:40, 40] = 0.6  # eight silent frames before
    onsets[5, 40] = 0.9
    (note,) = NoteDetector().find(notes, onsets)
    assert note[:3] == (5, 40, 61)
    assert note.amplitude == pytest.approx((15 * 0.8 + 12 * 0.6) / 35)
    assert [note[:3] for note in NoteDetector(tolerance=7).find(notes, onsets)] == [(5, 20, 61), (28, 40, 61)]
    assert [note[:3] for note in NoteDetector(tolerance=7, shortest=13).find(notes, onsets)] == [(5, 20, 61)]
    assert NoteEvent(0, 86, 60, 1.0).seconds == (0, pytest.approx(1, abs=0.01))


def test_a_repeated_note_is_two_and_neighbors_are_not_found_again():
    notes, onsets = probabilities()
    notes[5:45, 40], notes[5:45, 41] = 0.8, 0.7
    onsets[5, 40], onsets[25, 40] = 0.9, 0.6
    assert [note[:3] for note in NoteDetector().find(notes, onsets)] == [(5, 25, 61), (25, 45, 61)]
    assert [note[:3] for note in NoteDetector(onset=0.7).find(notes, onsets)] == [(5, 45, 61)]


def test_a_note_without_a_beginning_is_found_in_both_directions():
    notes, onsets = probabilities()
    notes[10:40, 30] = torch.linspace(0.4, 0.9, 30)
    notes[:3, 70] = 0.5  # too short
    assert [note[:3] for note in NoteDetector().find(notes, onsets)] == [(10, 40, 51)]


def test_overtones_and_covered_notes_are_not_of_the_melody():
    low, octave, other = NoteEvent(0, 40, 48, 0.9), NoteEvent(1, 20, 60, 0.5), NoteEvent(10, 30, 67, 0.6)
    assert without_overtones([low, octave, other], tolerance=2) == [low, other]
    assert without_overtones([low, octave, other], tolerance=0) == [low, octave, other]
    louder = octave._replace(amplitude=0.95)
    assert without_overtones([low, louder], tolerance=2) == [low, louder]
    assert melody_of([low, octave]) == [48, 60]
    assert melody_of([low, octave, other]) == [60, 67]
    assert melody_of([NoteEvent(2, 20, 50, 0.5), other]) == [50, 67]
    assert melody_of([NoteEvent(10, 20, 50, 0.5), other]) == [67]


def test_a_piano_roll_keeps_notes():
    notes = [(0, 40, 60, 0.5), (40, 80, 60, 0.25), (8, 12, 108, 1.0), (78, 99, 21, 0.75)]
    roll = piano_roll([NoteEvent(*note) for note in notes], 99)
    assert roll.shape == (25, 176)
    expected = [(0, 10, 60, 0.5), (2, 3, 108, 1.0), (10, 20, 60, 0.25), (19, 25, 21, 0.75)]
    assert roll_events(roll) == [NoteEvent(*note) for note in expected]
    assert roll_events(torch.zeros(5, 176)) == []


def test_chords_are_smoothed_and_named_once():
    seconds = 0.1
    c_major, a_minor, nothing = torch.zeros(3, 12)
    c_major[[0, 4, 7]], a_minor[[9, 0, 4]] = 1.0, 0.2
    chroma = torch.stack([c_major] * 20 + [a_minor] * 20 + [nothing] * 3 + [c_major] * 20)
    chroma[8] = a_minor  # a passing note
    assert chord_sequence(chroma, seconds) == [0, 21, 0]
    assert chord_sequence(torch.stack([nothing] * 4), seconds) == []
    assert chord_sequence(chroma[:0], seconds) == []


def test_octaves_are_folded_from_c():
    notes = torch.zeros(2, 88)
    notes[0, [0, 3, 15]] = torch.tensor([1.0, 2.0, 3.0])  # A0, C1, C2
    assert fold_octaves(notes)[0, [9, 0]].tolist() == [1, 5]
    assert fold_octaves(notes).sum() == 6


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)]
)
def test_edits_are_counted(first, second, distance):
    codes = [list(map(ord, word)) for word in (first, second)]
    assert edit_distances(*codes)[-1] == distance
    assert sequence_similarity(*codes) == 1 - distance / max(len(first), len(second))
    assert edit_distances([1, 2], [1, 2, 1, 2]) == [2, 1, 0, 1, 2]


# Embedders.


def test_activations_are_means_of_probabilities(scores, posteriors):
    audio = render(scores[0].tones, SECONDS)[None]
    activations = NoteActivations().embed(audio)
    assert activations.shape == (1, 5, 88)
    torch.testing.assert_close(activations[0, 1], posteriors.notes[0, 142:284].mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(activations[0, 4], posteriors.notes[0, 568:].mean(0), rtol=0, atol=1e-5)


def test_a_roll_has_the_notes_of_the_clip(scores, detected, posteriors):
    roll = NoteRoll().embed(render(scores[0].tones, SECONDS)[None])
    assert torch.equal(roll[0] > 0, piano_roll(detected[0], posteriors.notes.shape[1]) > 0)
    thresholds = {"onset": 0.5, "frame": 0.3, "tolerance": 11, "shortest": 11}
    assert NoteRoll().description == {"name": "basic-pitch-notes", **thresholds}


@pytest.mark.integration
def test_notes_pass_the_checks():
    check_embedder(NoteActivations())


def test_the_package_has_the_published_network_and_its_license():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest().startswith("2c3c1d144bfa61ad")
    folder = Path(codecdiff_transcription.__file__).parent
    assert "Apache License" in (folder / "LICENSE.basic-pitch").read_text()
    assert "Copyright 2022 Spotify AB" in (folder / "NOTICE.basic-pitch").read_text()
    assert NoteActivations().state_dict()["network.file"].numel() == WEIGHTS.stat().st_size
    assert HOP_SAMPLES == 36_352
