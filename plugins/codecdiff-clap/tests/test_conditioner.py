from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from codecdiff_clap import Clap, ClapAudio, ClapText, MusicCLAP

from codecdiff import Condition, config
from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.testing import check_conditioner
from codecdiff.testing.tiny import write_tiny

TEXTS = ["a slow waltz for piano", "loud drums", {"text": "fast guitar"}]
RATE = 48_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny("clap", tmp_path_factory.mktemp("clap")))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Files of 2.5 s, two and a half of the tiny model's windows."""
    home, clips = tmp_path_factory.mktemp("clips"), []
    for seed in range(2):
        samples = 0.3 * torch.randn(RATE * 5 // 2, generator=torch.Generator().manual_seed(seed))
        soundfile.write(home / f"{seed}.wav", samples.clamp(-1, 1).numpy(), RATE, subtype="FLOAT")
        clips.append(str(home / f"{seed}.wav"))
    return clips


def vectors(condition: Condition) -> torch.Tensor:
    return condition["clap"].tokens[:, 0]


@pytest.mark.integration
def test_they_obey_the_laws(folder, clips, tmp_path):
    heard = [{"audio": file} for file in clips]
    for conditioner, prompts in ((ClapText(folder), TEXTS), (ClapAudio(folder), heard), (Clap(folder), heard)):
        check_conditioner(conditioner, prompts)
        check_conditioner(CachedConditioner(conditioner, tmp_path), prompts)


def test_vectors_are_those_of_the_embedder(folder, clips):
    embedder = MusicCLAP(folder)
    expected = torch.cat([embedder.embed_text([text]) for text in ("a slow waltz for piano", "loud drums")])
    assert torch.equal(vectors(ClapText(folder).encode(TEXTS[:2])), expected)
    audio = torch.from_numpy(soundfile.read(clips[0], dtype="float32")[0])
    mean = embedder.embed(audio[None])[0].mean(0)
    torch.testing.assert_close(vectors(ClapAudio(folder).encode([{"audio": clips[0]}]))[0], mean / mean.norm())


def test_only_the_half_that_is_needed_is_loaded(folder):
    assert not any("audio" in name for name in ClapText(folder).state_dict())
    assert not any("text" in name for name in ClapAudio(folder).state_dict())


def test_a_clip_may_be_a_file_a_part_of_one_or_samples(folder, clips):
    clap = ClapAudio(folder)
    audio = torch.from_numpy(soundfile.read(clips[0], dtype="float32")[0])[None]
    forms: list[Any] = [clips[0], {"file": clips[0]}, (audio, RATE), (audio.repeat(2, 1), RATE)]
    whole = vectors(clap.encode([{"audio": form} for form in forms]))
    torch.testing.assert_close(whole, whole[:1].expand_as(whole))
    part, cut = vectors(
        clap.encode(
            [
                {"audio": {"file": clips[0], "start": 0.5, "seconds": 1.0}},
                {"audio": (audio[:, RATE // 2 : RATE * 3 // 2], RATE)},
            ]
        )
    )
    torch.testing.assert_close(part, cut)
    assert not torch.allclose(part, whole[0])
    resampled = vectors(clap.encode([{"audio": (audio[:, ::2], RATE // 2)}]))
    assert resampled.isfinite().all()


def test_text_stands_where_there_is_no_audio(folder, clips):
    clap, text, audio = Clap(folder), ClapText(folder), ClapAudio(folder)
    both = [{"audio": clips[0], "text": "loud drums"}, "loud drums", "", {"audio": clips[1]}]
    condition = clap.encode(both)
    assert condition["clap"].mask[:, 0].tolist() == [True, True, False, True]
    assert torch.equal(vectors(condition)[0], vectors(audio.encode(both))[0])
    assert torch.equal(vectors(condition)[1], vectors(text.encode(both))[1])
    assert clap.key(both[0]) == audio.key(both[0])
    assert clap.key(both[1]) == text.key(both[1])
    assert clap.widths == text.widths == audio.widths == {"clap": 24}


def test_features_are_kept_by_the_content_of_a_file(folder, clips, tmp_path):
    clap = ClapAudio(folder)
    copy = tmp_path / "elsewhere.wav"
    copy.write_bytes(Path(clips[0]).read_bytes())
    same, other = clap.key({"audio": str(copy)}), clap.key({"audio": clips[1]})
    assert same == clap.key({"audio": clips[0], "text": "drums"})
    assert same != other
    assert same != clap.key({"audio": {"file": clips[0], "start": 1.0}})
    assert clap.key({"text": "drums"}) == clap.key("") == ""
    copy.write_bytes(Path(clips[1]).read_bytes() + b"\0")
    assert clap.key({"audio": str(copy)}) not in (same, other)


def test_fingerprints_are_of_weights_and_options(folder, tmp_path):
    text = ClapText(folder)
    text.encode(TEXTS)  # its tokenizer remembers how it padded and cut
    assert ClapText(folder).fingerprint() == text.fingerprint() != ClapText(folder, max_tokens=5).fingerprint()
    other = str(write_tiny("clap", tmp_path, seed=1))
    assert ClapAudio(other).fingerprint() != ClapAudio(folder).fingerprint()


@pytest.mark.parametrize(
    ("audio", "error", "sentence"),
    [
        ("nowhere.wav", FileNotFoundError, "audio file 'nowhere.wav' does not exist"),
        ({"path": "x"}, ValueError, "a mapping of file, start and seconds"),
        (7, ValueError, "audio=7: the field 'audio' of a prompt is a path"),
        (torch.zeros(2, 9), ValueError, "is a path"),
        ((torch.zeros(9), 8000), ValueError, "samples"),
        ({"sha256": "ab"}, ValueError, "known by its hash alone"),
    ],
)
def test_other_audio_is_refused(folder, audio, error, sentence):
    with pytest.raises(error, match=sentence):
        ClapAudio(folder).encode([{"audio": audio}])


def test_audio_beyond_the_end_is_told(folder, clips):
    with pytest.raises(ValueError, match="has no audio 9 s from its beginning"):
        ClapAudio(folder).encode([{"audio": {"file": clips[0], "start": 9}}])


@pytest.mark.parametrize("part", [Clap, ClapText, ClapAudio])
def test_the_released_model_is_outlined_without_fetching_it(part):
    outline = part.skeleton()
    assert outline.widths == {"clap": 512}
    assert all(tensor.is_meta for tensor in outline.parameters())


@pytest.mark.parametrize("name", ["clap", "clap-text", "clap-audio"])
def test_they_have_names_and_go_with_others(folder, name):
    built = config.build("conditioners", {"name": name, "model": folder})
    assert config.to_config("conditioners", built)["model"] == folder
    words = config.build("conditioners", {"name": "words", "width": 8})
    assert JoinedConditioner([built, words]).widths == {"clap": 24, "text": 8}
    outline = config.build("conditioners", {"name": name, "model": folder}, skeleton=True)
    assert (outline.widths, outline.arguments) == (built.widths, built.arguments)
    assert outline.state_dict().keys() == built.state_dict().keys()
