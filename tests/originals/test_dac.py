"""DAC's two backends give the same codes, latents and audio, to the last bit, and read the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dac as package
import pytest
import torch
from codecdiff_dac import DAC
from codecdiff_dac.config import SIZES
from codecdiff_dac.weights import original_network
from torch.nn.utils import weight_norm
from transformers import DacModel

from codecdiff import config
from codecdiff.testing import check_codec
from codecdiff.testing.tiny import write_tiny

FACTS = (
    "sample_rate",
    "hop_length",
    "num_codebooks",
    "codebook_size",
    "codebook_dim",
    "encode_context_frames",
    "decode_context_frames",
)


@pytest.fixture(scope="module", params=list(SIZES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow DAC of random weights: 4 channels at the audio's end, where the released models have 64."""
    return write_tiny(
        "dac", tmp_path_factory.mktemp(request.param), size=request.param, encoder_hidden_size=4, decoder_hidden_size=96
    )


@pytest.fixture(scope="module")
def network(folder: Path) -> Any:
    """The original's network under weight norm, as it is trained and saved."""
    original: Any = original_network(DacModel.from_pretrained(folder))
    for module in original.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            weight_norm(module)
            with torch.no_grad():
                module.get_parameter("weight_v").mul_(3.7)  # its length is `weight_g`, whatever it is here
    return original.eval()


def noise(frames: int, hop: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(2, 1, frames * hop, generator=torch.Generator().manual_seed(seed))


def test_backends_are_equal_to_the_last_bit(folder: Path) -> None:
    ours, original = DAC(str(folder)), DAC(str(folder), backend="descript")
    assert type(original.network) is package.DAC
    assert not any("weight_v" in name for name, _ in original.named_parameters())
    audio = noise(150, ours.hop_length)
    codes, latents = ours.encode_with_continuous(audio)
    assert all(len(row.unique()) > 100 for row in codes.transpose(0, 1))  # of 300: the comparison is of many entries
    for given, wanted in zip(original.encode_with_continuous(audio), (codes, latents), strict=True):
        assert torch.equal(given, wanted)
    assert torch.equal(original.embed(codes), ours.embed(codes))
    assert torch.equal(original.quantize(latents), codes)
    heard = ours.decode(codes)
    assert heard.std() > 0.01
    assert torch.equal(original.decode(codes), heard)


def test_the_original_s_own_file_and_results_are_those_of_both_backends(network: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    network.save(file, package=False)
    audio = noise(100, int(network.hop_length))[:1]  # a batch is computed in another order, and ends in other bits
    with torch.no_grad():
        _, codes, latents, *_ = network.encode(audio)
        heard = network.decode(network.quantizer.from_codes(codes)[0])
    for backend in ("transformers", "descript"):
        dac = DAC(str(file), backend=backend)
        found = dac.encode_with_continuous(audio)
        assert torch.equal(found[0], codes)
        assert torch.equal(found[1].flatten(1, 2), latents)
        assert torch.equal(dac.decode(codes)[..., : heard.shape[-1]], heard)


def test_facts_and_specifications_are_those_of_transformers(folder: Path) -> None:
    ours, original = DAC(str(folder)), DAC(str(folder), backend="descript")
    outline = DAC.skeleton(model=str(folder), backend="descript")
    for fact in FACTS:
        assert getattr(original, fact) == getattr(outline, fact) == getattr(ours, fact)
    spec = config.to_config("codecs", original)
    assert spec == {"name": "dac", "model": str(folder), "revision": None, "backend": "descript"}
    assert isinstance(config.build("codecs", spec).network, package.DAC)


def test_the_original_keeps_every_law(folder: Path) -> None:
    check_codec(DAC(str(folder), backend="descript"), seconds=0.2)


def test_what_holds_code_is_refused(network: Any, tmp_path: Path) -> None:
    network.save(tmp_path / "package.pth")
    with pytest.raises(ValueError, match=r"'.*package\.pth' cannot be read for tensors .* use the `weights\.pth`"):
        DAC(str(tmp_path / "package.pth"))
