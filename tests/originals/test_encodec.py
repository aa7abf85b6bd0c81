"""The two backends of EnCodec give the same bits, and the codes are those of the original package as it encodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from codecdiff_encodec import EnCodec
from torch import Tensor
from transformers import EncodecConfig

from codecdiff.testing.tiny import write_tiny

Pair = tuple[EnCodec, EnCodec]

SIZES = ("24khz", "32khz", "48khz")


@pytest.fixture(scope="module", params=SIZES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("encodec", tmp_path_factory.mktemp("encodec"), size=f"tiny-{request.param}")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return EnCodec(str(folder)), EnCodec(str(folder), backend="encodec")


def noise(codec: EnCodec, samples: int) -> Tensor:
    return 0.3 * torch.randn(2, codec.channels, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("frames", [1, 2, 75])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_backends_give_the_same_bits(pair: Pair, frames: int, extra: int) -> None:
    ours, original = pair
    assert type(original.network.get_submodule("encoder")).__module__ == "encodec.modules.seanet"
    audio = noise(ours, frames * ours.hop_length + extra)
    codes, projections = ours.encode_with_continuous(audio)
    assert len(codes.unique()) > codes.shape[1] * frames
    for same, other in zip((codes, projections), original.encode_with_continuous(audio), strict=True):
        assert torch.equal(same, other)
    for function in ("embed", "decode"):
        assert torch.equal(getattr(ours, function)(codes), getattr(original, function)(codes))
    moved = projections + 0.1 * projections.std()
    assert torch.equal(ours.quantize(moved), original.quantize(moved))


def test_backends_have_the_same_facts(pair: Pair) -> None:
    ours, original = pair
    for fact in ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim", "loudness"):
        assert getattr(ours, fact) == getattr(original, fact)
    assert ours.duplicate_codes == original.duplicate_codes


def test_codes_and_audio_are_those_of_the_package_s_own_model_with_one_chunk(folder: Path, pair: Pair) -> None:
    from encodec import EncodecModel as Package

    ours, config, parts = pair[0], EncodecConfig.from_pretrained(folder), pair[1].network
    network = [parts.get_submodule(name) for name in ("encoder", "decoder", "quantizer")]
    facts = (list(config.target_bandwidths), config.sampling_rate, config.audio_channels)
    package = Package(*network, *facts, normalize=config.normalize, segment=None)
    package.set_target_bandwidth(config.target_bandwidths[-1])
    audio = noise(ours, 40 * ours.hop_length)[:1]
    with torch.no_grad():
        ((codes, scale),) = package.encode(audio)
        heard = package.decode(
            [(codes, None if scale is None else torch.full_like(scale, 10 ** ((ours.loudness or 0) / 20)))]
        )
    assert torch.equal(ours.encode(audio), codes)
    assert torch.equal(ours.decode(codes), heard)
    assert (scale is None) == (ours.loudness is None)


def test_nothing_is_fetched_or_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights come from the folder alone")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    EnCodec(str(folder), backend="encodec")
