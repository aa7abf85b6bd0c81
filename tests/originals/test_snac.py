"""Codes and audio of SNAC are those of its package, as it reads the files that its authors publish."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import snac
import torch
from codecdiff_snac import SNAC
from safetensors.torch import load_file

from codecdiff.testing.tiny import write_tiny

SIZES = ("tiny-24khz", "tiny-32khz", "tiny-44khz")


@pytest.fixture(scope="module", params=SIZES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small model as its authors publish theirs: arguments of the network, and a file of tensors."""
    folder = write_tiny("snac", tmp_path_factory.mktemp("snac"), size=request.param)
    config = json.loads((folder / "config.json").read_text())
    published = {name: config[name] for name in inspect.signature(snac.SNAC).parameters}
    (folder / "config.json").write_text(json.dumps(published))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("windows", [1, 2, 20])
def test_codes_and_audio_are_those_of_the_package(folder: Path, windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, package = SNAC(str(folder)), snac.SNAC.from_pretrained(str(folder))
    frames = windows * ours.chunk_multiple
    noise = torch.randn(1, 1, frames * ours.hop_length, generator=torch.Generator().manual_seed(windows))
    with torch.no_grad():
        levels = package.encode(0.3 * noise)
    codes = ours.encode(0.3 * noise)
    assert [level.shape for level in levels] == [(1, frames * rate) for rate in ours.rates]
    folded = [level.unflatten(1, (frames, rate)).mT for level, rate in zip(levels, ours.rates, strict=True)]
    assert torch.equal(codes, torch.cat(folded, dim=1))
    assert len(codes.unique()) > 0.3 * min(64, codes.numel())
    audio, drawn = ours.decode(codes), ours.decoder_noise(codes)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: next(drawn).view(shape))  # as the package draws it
    with torch.no_grad():
        torch.testing.assert_close(audio, package.decode(levels), rtol=0, atol=1e-6)
    assert next(drawn, None) is None
    assert audio.std() > 0.01


def test_any_length_is_encoded_as_the_package_pads_it(folder: Path) -> None:
    ours, package = SNAC(str(folder)), snac.SNAC.from_pretrained(str(folder))
    for samples in (1, ours.hop_length - 1, 5 * ours.hop_length + 1):
        audio = 0.3 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(samples))
        with torch.no_grad():
            slowest = package.encode(audio)[0]
        codes = ours.encode(audio)
        assert codes.shape[-1] == -(-samples // ours.hop_length)
        assert torch.equal(codes[:, 0], slowest[:, : codes.shape[-1]])
