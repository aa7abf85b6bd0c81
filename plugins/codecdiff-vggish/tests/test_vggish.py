import pickle

import pytest
import torch
from codecdiff_vggish import VGGish
from torchvggish.torchvggish import VGG, make_layers
from torchvggish.vggish_input import waveform_to_examples

from codecdiff import config
from codecdiff.fingerprint import module_fingerprint
from codecdiff.testing import check_embedder
from codecdiff.testing.tiny import write_tiny

WINDOW, HOP = 15_600, 15_360  # samples


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_tiny("vggish", tmp_path_factory.mktemp("vggish")) / "weights.pth"


@pytest.fixture(scope="module")
def vggish(file):
    return VGGish(weights=file)


def noise(*shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_vggish_obeys_the_laws(vggish):
    check_embedder(vggish)


def test_embeddings_are_those_of_torchvggish(vggish, file):
    audio = noise(WINDOW + HOP + 5_000)
    published = VGG(make_layers(), postprocess=False).eval()
    published.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected = published(waveform_to_examples(audio.numpy(), 16_000))
    embeddings = vggish.embed(audio[None].requires_grad_())[0]
    assert embeddings.shape == (2, 128)
    assert not embeddings.requires_grad
    torch.testing.assert_close(embeddings.relu(), expected)
    assert (embeddings < 0).any()


@pytest.mark.parametrize("samples", [WINDOW, WINDOW + HOP - 1, WINDOW + HOP, WINDOW + 3 * HOP - 1])
def test_windows_are_as_many_as_torchvggish_has_examples(vggish, samples):
    assert vggish.cut(torch.zeros(1, samples)).shape[1] == len(
        waveform_to_examples(torch.zeros(samples).numpy(), 16_000)
    )


def test_a_short_clip_is_followed_by_silence_and_stands_alone(vggish):
    short, other = noise(1, 9_000), noise(1, 9_000, seed=1)
    together = vggish.embed(torch.cat([short, other]))
    assert together.shape == (2, 1, 128)
    padded = torch.cat([short, torch.zeros(1, WINDOW - 9_000)], dim=1)
    torch.testing.assert_close(vggish.embed(padded), together[:1])


def test_the_published_file_is_found_in_torch_s_cache(vggish, file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "vggish-10086976.pth").write_bytes(file.read_bytes())
    cached = VGGish(activation=True)
    assert module_fingerprint(cached) == module_fingerprint(vggish)
    audio = noise(1, WINDOW)
    assert torch.equal(cached.embed(audio), vggish.embed(audio).relu())


class Trap:
    """What a pickle could do: make a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_files_that_hold_something_else_are_refused_and_do_nothing(tmp_path):
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    torch.save({"weights": Trap(tmp_path / "sprung")}, tmp_path / "zipped.pth")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    for name in ("trap", "zipped", "empty"):
        with pytest.raises(ValueError, match="cannot be read for tensors alone"):
            VGGish(weights=tmp_path / f"{name}.pth")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="no weights by name"):
        VGGish(weights=tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not contain the weights"):
        VGGish(weights=tmp_path / "other.pth")
    with pytest.raises(LookupError, match=r"are missing.*weights=FILE"):
        VGGish(weights=tmp_path / "none.pth")


def test_an_outline_has_the_facts_and_no_weights(vggish):
    outline = VGGish.skeleton()
    assert (outline.width, outline.sample_rate, outline.hop_seconds) == (128, 16_000, 0.96)
    assert outline.state_dict().keys() == vggish.state_dict().keys()
    assert all(tensor.is_meta for tensor in outline.parameters())
    assert config.with_defaults("embedders", "vggish") == {"name": "vggish", "weights": None, "activation": False}
