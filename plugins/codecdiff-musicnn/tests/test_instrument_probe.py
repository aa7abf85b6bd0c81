"""A probe of instruments: it names instruments of other notes, and not what has no name."""

import pytest
import torch
from codecdiff_musicnn import MusiCNN
from codecdiff_musicnn.instrument_probe import InstrumentReport, embed_means, probe_instruments

from codecdiff.embedders import Windowed

RATE = 16_000  # Hz
PARTIALS = {"hollow": (1.0, 0.0, 0.5, 0.0, 0.3), "bright": (0.5, 0.7, 0.9, 0.9, 0.7), "pure": (1.0, 0, 0, 0, 0)}


def note(name, hertz, decay):
    time = torch.arange(RATE) / RATE
    tone = sum(level * torch.sin(2 * torch.pi * hertz * (k + 1) * time) for k, level in enumerate(PARTIALS[name]))
    return 0.1 * tone * torch.exp(-decay * time)


def notes(pitches, decay):
    return {name: [note(name, 440 * 2 ** ((pitch - 69) / 12), decay) for pitch in pitches] for name in PARTIALS}


@pytest.fixture(scope="module")
def musicnn():
    return MusiCNN("mtt")


@pytest.mark.integration
def test_timbres_are_recognized_at_other_pitches(musicnn):
    report = probe_instruments(notes(range(55, 79, 3), 2.0), notes(range(56, 80, 6), 3.0), embedder=musicnn)
    assert report.names == ("bright", "hollow", "pure")
    assert report.confusion.sum() == 12
    assert report.accuracy > 0.85 > report.chance == pytest.approx(1 / 3)
    assert sum(report.by_name.values()) / 3 == pytest.approx(report.accuracy)


@pytest.mark.integration
def test_names_that_mean_nothing_are_not_recognized(musicnn):
    def shuffled(pitches):
        clips = [note(name, 440 * 2 ** ((pitch - 69) / 12), 2.0) for pitch in pitches for name in PARTIALS]
        return {"a": clips[::2], "b": clips[1::2]}

    report = probe_instruments(shuffled(range(55, 79, 3)), shuffled(range(56, 80, 3)), embedder=musicnn)
    assert 0.2 < report.accuracy < 0.8


def test_accuracy_is_that_of_the_confusion():
    report = InstrumentReport(("x", "y"), torch.tensor([[3, 1], [0, 2]]))
    assert report.by_name == {"x": 0.75, "y": 1.0}
    assert report.accuracy == pytest.approx(0.875)


class Level(Windowed):
    """The level of a clip, by which a probe can tell loud from quiet."""

    sample_rate, window_seconds, hop_seconds, width = 8000, 0.5, 0.5, 1

    def embed_windows(self, windows):
        return windows.abs().mean(1, keepdim=True)


def test_another_embedder_may_be_passed_and_a_clip_is_the_mean_of_its_windows():
    clips = {"loud": [torch.ones(4000), torch.ones(8000)], "quiet": [0.1 * torch.ones(4000)]}
    means, labels = embed_means(Level(), clips, ["loud", "quiet"])
    assert means.flatten().tolist() == pytest.approx([1, 1, 0.1])
    assert labels.tolist() == [0, 0, 1]
    assert probe_instruments(clips, clips, embedder=Level()).accuracy == 1


@pytest.mark.parametrize("test", [{"piano": [torch.ones(9)]}, {"piano": [torch.ones(9)], "flute": []}])
def test_sets_that_do_not_match_are_refused(test):
    train = {"piano": [torch.ones(9)], "flute": [torch.ones(9)]}
    with pytest.raises(ValueError, match="the same instruments, at least two"):
        probe_instruments(train, test)
