"""What tags are for: the adherence of music to prompts that name instruments, and captions."""

import math

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_datasets.captioning import caption_config
from codecdiff_datasets.testing import check_captioner, example_tracks
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import load_metric
from codecdiff_eval.results import EmbeddingConfig, hash_of
from codecdiff_musicnn import MusiCNNTags
from codecdiff_musicnn.adherence import (
    INSTRUMENTS,
    area_under_curve,
    instrument_scores,
    mean_area,
    named_instruments,
    tag_auc,
)
from codecdiff_musicnn.captioner import CATEGORIES, TagsFromAudio
from codecdiff_musicnn.config import tag_names
from sklearn.metrics import roc_auc_score

from codecdiff.data.audio import BadAudio

WINDOWS = 2


def clips_of(probabilities, prompts):
    """Clips whose windows have these probabilities (n, 100) of tags, a little more and a little less."""
    config = EmbeddingConfig({"name": "musicnn-tags"}, "", 16_000, 6.0, 2.992, 2.992)
    names = [f"clip {i}" for i in range(len(prompts))]
    windows = torch.stack([probabilities + 0.01, probabilities - 0.01], 1).flatten(0, 1)
    hashes = [hash_of(name.encode()) for name in names]
    return ClipEmbeddings(config, names, hashes, windows, torch.full((len(prompts),), WINDOWS), prompts)


def tagged(instruments, strength, seed=0):
    """Random probabilities of tags, those of the named instruments raised by `strength`: (n, 100)."""
    probabilities = 0.3 * torch.rand(len(instruments), 100, generator=torch.Generator().manual_seed(seed))
    for row, names in zip(probabilities, instruments, strict=True):
        for name in names:
            row[tag_names().index(f"mtt/{name}")] += strength
    return probabilities


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a slow tune on Piano with a drum kit", {"piano", "drums"}),
        ("loud guitar without drums, chordal backing or bass", {"guitar"}),
        ("flute with a pad but no drums or guitar, in F sharp minor", {"flute"}),
        ("no drums at first, then with violins and harpsichords", {"strings", "harpsichord"}),
        ({"text": "calm", "instruments": ["Harp", "choir"]}, {"harp", "choir"}),
        ({"text": "drumstick, pianola", "instruments": ["bass"]}, None),
        ("a loud waltz without drums", None),
        ("", None),
    ],
)
def test_instruments_are_found_in_prompts(prompt, named):
    assert named_instruments(prompt) == (named and frozenset(named))


def test_the_area_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 8, (40, 3), generator=generator).double()  # with ties
    labels = torch.randint(0, 2, (40, 3), generator=generator)
    labels[:, 2] = 1
    expected = [roc_auc_score(labels[:, i], scores[:, i]) for i in (0, 1)]
    assert [area_under_curve(scores[:, i], labels[:, i]) for i in (0, 1)] == pytest.approx(expected)
    assert math.isnan(area_under_curve(scores[:, 2], labels[:, 2]))
    assert math.isnan(area_under_curve(scores[:, 2], 1 - labels[:, 2]))
    assert mean_area(scores, labels) == pytest.approx(sum(expected) / 2)
    assert mean_area(scores[:, 2:], labels[:, 2:]) == 0.5


def test_music_that_has_the_instruments_is_told_from_music_that_has_others():
    prompts = ["piano", "guitar with drums", "a flute", "piano and drums", "quiet", "guitar", "a flute with drums"] * 4
    named = [named_instruments(prompt) or () for prompt in prompts]
    good, bad = (clips_of(tagged(named, strength), prompts) for strength in (0.25, 0.0))
    assert load_metric("tag-auc") is tag_auc
    result = tag_auc(good, good)
    scores, labels = instrument_scores(good.select([i for i, tags in enumerate(named) if tags]))
    columns = [list(INSTRUMENTS).index(name) for name in ("piano", "guitar", "flute", "drums")]
    assert result.value == pytest.approx(np.mean([roc_auc_score(labels[:, i], scores[:, i]) for i in columns]))
    assert result.value > 0.9
    assert result.config.num_clips == 24
    assert result.config.options == {"instruments": ["piano", "guitar", "flute", "drums"]}
    assert result.chance is not None
    assert result.upper_bound is not None
    assert result.chance.value == pytest.approx(0.5, abs=0.05)
    assert result.upper_bound.value == result.value
    worse = tag_auc(bad)
    assert worse.value < 0.7
    assert worse.upper_bound is None
    assert any("Not above chance" in warning for warning in worse.warnings)


def test_prompts_that_name_one_instrument_alone_cannot_be_told_apart():
    with pytest.raises(ValueError, match=r"No instrument is named in at least 2.*Instruments.*: piano, guitar"):
        tag_auc(clips_of(tagged([["piano"]] * 6, 0.1), ["piano"] * 6))
    with pytest.raises(ValueError, match="Only 0 clips"):
        tag_auc(clips_of(tagged([[]] * 6, 0.1), ["slow"] * 6))


# Captions.


@pytest.fixture(scope="module")
def captioner():
    return TagsFromAudio()


@pytest.mark.integration
def test_the_captioner_passes_the_checks(captioner, tmp_path):
    check_captioner(captioner, example_tracks(tmp_path))
    assert caption_config(captioner) == {"name": "tags-from-audio", "threshold": 0.15, "most": 3, "seconds": 60.0}


def test_every_tag_of_a_caption_is_one_of_musicnn(captioner):
    named = [name for tags in CATEGORIES.values() for names in tags.values() for name in names]
    assert set(named) <= set(tag_names())
    assert len(set(named)) == len(named)
    left_out = {name.partition("/")[2] for name in set(tag_names()) - set(named)}
    assert {"00s", "60s", "70s", "80s", "90s", "no vocals", "catchy"} <= left_out


def test_probable_tags_are_named_the_most_probable_first(captioner):
    probabilities = dict.fromkeys(tag_names(), 0.01)
    strongest = probabilities | {"msd/jazz": 0.02, "mtt/flute": 0.03}
    assert captioner.select_tags(strongest) == {"genre": ["jazz"], "instrument": ["flute"]}
    some = probabilities | {"msd/Hip-Hop": 0.2, "msd/rock": 0.3, "mtt/rock": 0.5, "mtt/quiet": 0.16, "mtt/fast": 0.14}
    assert captioner.select_tags(some) == {"genre": ["rock", "hip-hop"], "instrument": [], "mood/theme": ["quiet"]}
    many = dict.fromkeys(tag_names(), 0.5)
    assert [len(tags) for tags in captioner.select_tags(many).values()] == [3, 3, 3]


def test_a_caption_follows_from_the_middle_of_the_audio(captioner, tmp_path):
    generator = np.random.default_rng(0)
    seconds = np.arange(4 * 16_000) / 16_000
    pluck = np.sin(2 * np.pi * 220 * seconds) * np.exp(-4 * (seconds % 0.5))
    hiss = 0.3 * generator.standard_normal(len(seconds))
    for name, parts in {"hiss": [hiss], "pluck": [pluck], "both": [hiss, pluck, hiss]}.items():
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * np.concatenate(parts), 16_000)
    short = TagsFromAudio(seconds=4.0)
    captions = {name: short.caption({"file": str(tmp_path / f"{name}.wav")}) for name in ("hiss", "pluck", "both")}
    assert captions["both"] == captions["pluck"] != captions["hiss"]
    samples = torch.from_numpy(0.3 * pluck).float()[None]
    mean = dict(zip(tag_names(), MusiCNNTags().embed(samples)[0].mean(0).tolist(), strict=True))
    assert f"instruments: {short.select_tags(mean)['instrument'][0]}" in captions["pluck"].lower()


def test_tracks_that_cannot_be_tagged_say_why(captioner, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    (tmp_path / "text.mp3").write_text("no music")
    with pytest.raises(ValueError, match="silent"):
        captioner.caption({"file": str(tmp_path / "silence.wav")})
    with pytest.raises(BadAudio, match=r"text\.mp3"):
        captioner.caption({"file": str(tmp_path / "text.mp3")})
    with pytest.raises(LookupError, match="audio is missing"):
        captioner.caption({"file": str(tmp_path / "silence.wav"), "present": False})


@pytest.mark.parametrize(("option", "value"), [("threshold", 0.0), ("threshold", 1.0), ("most", 0), ("seconds", 0.0)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        TagsFromAudio(**{option: value})
