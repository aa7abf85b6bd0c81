"""Whether music has the key, the chords and the melody that its prompts request."""

import pytest
import torch
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import load_metric
from codecdiff_eval.results import EmbeddingConfig, hash_of
from codecdiff_transcription import NoteEvent, NoteRoll, piano_roll
from codecdiff_transcription.adherence import (
    chords,
    chords_similarity,
    key_from_notes,
    melody,
    mode_from_notes,
    parse_pitch,
    requested_chords,
    requested_melody,
)
from codecdiff_transcription.model import FRAMES_PER_SECOND
from rendered_scores import write_score

FRAMES = 720
NAMES = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]


def name_of(chord):
    return NAMES[chord % 12] + "m" * (chord >= 12)


def rolls_of(scores, prompts):
    """Clips with the piano rolls of scores, as a perfect transcription would have them."""
    config = EmbeddingConfig({"name": "basic-pitch-notes"}, "", 22_050, 8.0, None, None)
    names = [f"clip {i}" for i in range(len(scores))]
    rolls = []
    for score in scores:
        notes = [
            NoteEvent(round(FRAMES_PER_SECOND * start), round(FRAMES_PER_SECOND * end), pitch, 4 * amplitude)
            for start, end, pitch, amplitude in score.tones
        ]
        rolls.append(piano_roll(notes, FRAMES))
    hashes = [hash_of(name.encode()) for name in names]
    return ClipEmbeddings(config, names, hashes, torch.cat(rolls), torch.full((len(rolls),), len(rolls[0])), prompts)


@pytest.fixture(scope="module")
def scores():
    return [write_score(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def prompts(scores):
    return [
        {
            "text": "a tune",
            "key": NAMES[score.key % 12],
            "mode": ("major", "minor")[score.key // 12],
            "chords": [name_of(chord) for chord in score.chords],
            "melody": score.melody,
        }
        for score in scores
    ]


@pytest.mark.parametrize(
    ("prompt", "requested"),
    [
        ({"chords": "Am F C G"}, (21, 5, 0, 7)),
        ({"chords": ["F#m", "Bb", "E minor"]}, (18, 10, 16)),
        ("a waltz with the chords Dm - G - C, slow", (14, 7, 0)),
        ("progression: C, Am, F, G", (0, 21, 5, 7)),
        ("chords Am F C G#", (21, 5, 0, 8)),
        ("A minor chords", None),
        ("chords", None),
        ("chords A great tune", None),
        ({"chords": ["H7"]}, None),
        ("a tune", None),
    ],
)
def test_chords_are_read_from_prompts(prompt, requested):
    assert requested_chords(prompt) == requested


@pytest.mark.parametrize(
    ("melody", "requested"),
    [("C4 E4 G#4", (0, 4, 8)), (["Bb3", "C-1"], (10, 0)), ([60, 61], (0, 1)), ("C4 X", None), ("", None), (None, None)],
)
def test_melodies_are_read_from_prompts(melody, requested):
    assert requested_melody({"text": "a tune", "melody": melody}) == requested


def test_pitches_are_midi_numbers():
    assert [parse_pitch(name) for name in ("C4", "A0", "C#4", "B♭3", 60)] == [60, 21, 61, 58, 60]
    with pytest.raises(ValueError, match=r"Invalid pitch 'H2': expected e\.g\. 'C#4'"):
        parse_pitch("H2")


@pytest.mark.parametrize(
    ("played", "similarity"),
    [
        ((0, 21, 5, 7), 1),
        ((0, 21, 5, 7, 0, 21, 5, 7), 1),
        ((0, 21, 5, 7, 0, 21), 1),  # ends in the middle of a repetition
        ((0, 21, 5), 3 / 4),  # ends before it was played once
        ((0,), 1 / 4),
        ((), 0),
        ((0, 21, 6, 7), 3 / 4),
    ],
)
def test_a_progression_may_be_repeated(played, similarity):
    assert chords_similarity(played, (0, 21, 5, 7)) == similarity


@pytest.mark.parametrize("name", ["key-from-notes", "mode-from-notes", "chords", "melody"])
def test_what_is_played_is_told_from_what_others_request(name, scores, prompts):
    metric = load_metric(name)
    assert metric.embedder is NoteRoll
    right = rolls_of(scores, prompts)
    result = metric(right, right)
    assert result.chance is not None
    assert result.upper_bound is not None
    assert result.value == result.upper_bound.value > 0.85
    assert result.value > result.chance.high
    assert len(result.per_clip) == 12
    wrong = metric(rolls_of(scores[1:] + scores[:1], prompts))
    assert wrong.value < result.value - 0.2
    assert wrong.upper_bound is None


def test_clips_without_a_request_do_not_count_and_silence_agrees_with_nothing(scores, prompts):
    some = [*prompts[:8], *["a tune"] * 4]
    assert key_from_notes(rolls_of(scores, some)).config.num_clips == 8
    silence = rolls_of([score._replace(tones=[]) for score in scores], prompts)
    for metric in (key_from_notes, mode_from_notes, chords, melody):
        assert metric(silence).value == 0
    with pytest.raises(ValueError, match="Only 0 clips"):
        chords(rolls_of(scores, ["a tune"] * 12))
