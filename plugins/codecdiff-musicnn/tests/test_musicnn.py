"""musicnn: equal to the authors' graph, their spectrograms, and the checks of embedders."""

from pathlib import Path

import codecdiff_musicnn
import numpy as np
import pytest
import torch
from codecdiff_musicnn import MusiCNN, MusiCNNTags
from codecdiff_musicnn.config import WEIGHTS, tag_names
from codecdiff_musicnn.spectrogram import LogMelSpectrogram, compress, slaney_filterbank
from safetensors.torch import load_file

from codecdiff import config
from codecdiff.fingerprint import module_fingerprint
from codecdiff.testing import check_embedder

AUTHORS = Path(__file__).with_name("authors_graph.safetensors")  # written by authors_graph.py
WINDOW = 187 * 256  # samples


def example_audio() -> torch.Tensor:
    """(2, t) a chord that decays over a quiet pulse of noise, and a plucked scale; each of one window."""
    generator = torch.Generator().manual_seed(0)
    seconds = torch.arange(186 * 256, dtype=torch.float64) / 16_000
    chord = sum(torch.sin(2 * torch.pi * hertz * seconds) for hertz in (220.0, 277.2, 329.6, 440.0))
    noise = torch.randn(len(seconds), generator=generator, dtype=torch.float64)
    beat = noise * torch.exp(-20 * seconds.remainder(0.5))
    degrees = (seconds / 0.25).floor().remainder(8)
    pitch = 196 * 2 ** (degrees / 8)
    plucked = sum(torch.sin(2 * torch.pi * k * pitch * seconds) / k**2 for k in range(1, 6))
    scale = plucked * torch.exp(-6 * seconds.remainder(0.25))
    return torch.stack([0.02 * chord * torch.exp(-seconds) + 0.03 * beat, 0.05 * scale]).float()


@pytest.fixture(scope="module")
def musicnn():
    return MusiCNN()


@pytest.fixture(scope="module")
def tagger():
    return MusiCNNTags()


@pytest.mark.parametrize("checkpoint", ["msd", "mtt"])
def test_the_network_is_the_authors_graph(checkpoint, tagger):
    expected = load_file(AUTHORS)
    with torch.no_grad():
        output = getattr(tagger, checkpoint)(expected["spectrograms"].float())
    for name in ("embedding", "tags"):
        torch.testing.assert_close(getattr(output, name), expected[f"{checkpoint}.{name}"], rtol=0, atol=1e-5)
    assert output.embedding.std() > 0.1
    assert 0.3 < output.tags.max() < 1


def same_but_for_rounding(ours, authors):
    """Require equality, except that a power between two halves may be rounded to the other one."""
    differences = (ours - authors).abs()
    assert differences.max() < 5e-3
    assert (differences > 0).float().mean() < 0.01


def test_the_spectrogram_is_the_authors():
    same_but_for_rounding(LogMelSpectrogram()(example_audio()), load_file(AUTHORS)["spectrograms"].float())


def test_powers_are_compressed_in_half_precision_and_loud_ones_stay_finite():
    power = torch.logspace(-9, 3, 5000)
    with np.errstate(over="ignore"):
        authors = torch.from_numpy(np.log10(10_000 * power.numpy().astype(np.float16) + 1)).float()
    assert authors.isinf().float().mean() > 0.15
    finite = authors.isfinite()
    same_but_for_rounding(compress(power)[finite], authors[finite])
    torch.testing.assert_close(compress(power)[~finite], torch.log10(10_000 * power[~finite] + 1), rtol=0, atol=3e-3)


@pytest.mark.integration
def test_filters_and_spectrograms_are_librosa_s():
    import librosa

    filters = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=96, dtype=np.float64)
    torch.testing.assert_close(slaney_filterbank(16_000, 512, 96), torch.from_numpy(filters))
    audio = example_audio()
    power = librosa.feature.melspectrogram(y=audio.numpy(), sr=16_000, hop_length=256, n_fft=512, n_mels=96)
    authors = np.log10(10_000 * power.transpose(0, 2, 1).astype(np.float16) + 1)
    same_but_for_rounding(LogMelSpectrogram()(audio), torch.from_numpy(authors).float())


def test_windows_are_those_of_the_whole_spectrogram(musicnn, tagger):
    audio = example_audio().repeat(1, 3)[:, : 2 * WINDOW + 1000]
    spectrogram = musicnn.spectrogram(audio)
    with torch.no_grad():
        second, tags = (network(spectrogram[:, 187:374]) for network in (musicnn.network, tagger.mtt))
    embeddings = musicnn.embed(audio.clone().requires_grad_())
    assert embeddings.shape == (2, 2, 200)
    torch.testing.assert_close(embeddings[:, 1], second.embedding)
    torch.testing.assert_close(tagger.embed(audio)[:, 1, 50:], tags.tags)
    short = musicnn.embed(audio[:, :9000])
    torch.testing.assert_close(short, musicnn.embed(torch.nn.functional.pad(audio[:, :9000], (0, 5000))))
    assert musicnn.embed(audio[:, : 2 * WINDOW - 257]).shape[1] == 1
    assert musicnn.embed(audio[:, : 2 * WINDOW - 256]).shape[1] == 2


def test_checkpoints_differ_and_are_recorded(musicnn):
    other = config.build("embedders", {"name": "musicnn", "checkpoint": "mtt"})
    assert module_fingerprint(other) != module_fingerprint(musicnn)
    assert config.to_config("embedders", other) == {"name": "musicnn", "checkpoint": "mtt"}
    with pytest.raises(ValueError, match="msd"):
        config.build("embedders", {"name": "musicnn", "checkpoint": "big"})


def test_the_package_has_both_checkpoints_their_tags_and_the_license():
    assert WEIGHTS.stat().st_size < 4_000_000
    names = tag_names()
    assert len(set(names)) == len(names) == MusiCNNTags.width == 100
    assert (names[0], names[49], names[50], names[99]) == ("msd/rock", "msd/happy", "mtt/guitar", "mtt/choral")
    notice = Path(codecdiff_musicnn.__file__).with_name("LICENSE.musicnn").read_text()
    assert "Music Technology Group, Universitat Pompeu Fabra 2019" in notice
    assert "this permission notice appear in all copies" in notice


@pytest.mark.integration
def test_musicnn_passes_the_checks(musicnn):
    check_embedder(musicnn)


@pytest.mark.integration
def test_tags_pass_the_checks(tagger):
    check_embedder(tagger)
