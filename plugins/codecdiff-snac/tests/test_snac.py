import inspect
import json
from pathlib import Path

import pytest
import snac
import torch
from codecdiff_snac import SNAC
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from codecdiff.codecs import ChunkedCodec, CodecWrapper, StereoCodec
from codecdiff.pipeline.windows import decode_loop
from codecdiff.splitters import CoarseFirst, Grouped
from codecdiff.testing import check_codec
from codecdiff.testing.tiny import write_tiny

HOP = 48  # audio samples per frame of the small model
WINDOW = 4  # frames
ROWS = 15


def publish(folder: Path, size: str) -> Path:
    """Write a small model as its authors publish theirs: arguments of the network, and a file of tensors."""
    write_tiny("snac", folder, size=size)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({name: config[name] for name in inspect.signature(snac.SNAC).parameters})
    )
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("snac", tmp_path_factory.mktemp("snac"))


@pytest.fixture(scope="session")
def codec(folder: Path) -> SNAC:
    return SNAC(str(folder))


def noise(samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


def random_codes(frames: int, seed: int = 0) -> Tensor:
    return torch.randint(64, (1, ROWS, frames), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", ["tiny-24khz", pytest.param("tiny-44khz", marks=pytest.mark.integration)])
def test_a_small_one_passes_the_checks(tmp_path: Path, size: str) -> None:
    results = check_codec(SNAC(str(write_tiny("snac", tmp_path, size=size))), seconds=0.2)
    assert {result.state for result in results} == {"passed"}


@pytest.mark.parametrize("size", ["tiny-44khz"])  # the others: tests/originals
def test_codes_and_audio_are_those_of_the_package(tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, package = SNAC(str(publish(tmp_path, size))), snac.SNAC.from_pretrained(str(tmp_path))
    audio = noise(8 * ours.hop_length)
    with torch.no_grad():
        levels = package.encode(audio)
    codes = ours.encode(audio)
    assert [level.shape[-1] for level in levels] == [8 * rate for rate in ours.rates]
    folded = [rearrange(level, "b (l r) -> b r l", r=rate) for level, rate in zip(levels, ours.rates, strict=True)]
    assert torch.equal(codes, torch.cat(folded, dim=1))
    audio, drawn = ours.decode(codes), ours.decoder_noise(codes)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: next(drawn).view(shape))  # as the package draws it
    with torch.no_grad():
        torch.testing.assert_close(audio, package.decode(levels), rtol=0, atol=1e-6)
    assert next(drawn, None) is None
    assert audio.std() > 0.01


@pytest.mark.parametrize(
    ("size", "rates", "facts", "millions"),
    [
        ("24khz", (1, 2, 4), (24000, 2048, 1), 19.8),
        ("32khz", (1, 2, 4, 8), (32000, 3072, 4), 54.5),
        ("44khz", (1, 2, 4, 8), (44100, 3072, 4), 54.5),
    ],
)
def test_the_released_models_are_outlined_without_fetching_them(
    size: str, rates: tuple[int, ...], facts: tuple[int, ...], millions: float
) -> None:
    outline = SNAC.skeleton(model=f"hubertsiuzdak/snac_{size}")
    assert (outline.sample_rate, outline.hop_length, outline.chunk_multiple) == facts
    assert (outline.rates, outline.num_codebooks) == (rates, sum(rates))
    assert (outline.codebook_size, outline.codebook_dim, outline.channels) == (4096, 8, 1)
    assert all(tensor.is_meta for tensor in outline.parameters())
    with torch.device("meta"):  # as published, its convolutions still under weight norm
        network = snac.SNAC(**{n: getattr(outline.network.config, n) for n in inspect.signature(snac.SNAC).parameters})
    assert round(sum(tensor.numel() for tensor in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("frames", [1, 4, 21])
def test_chunks_equal_the_whole_wherever_they_are_cut(codec: SNAC, frames: int) -> None:
    audio = noise(70 * HOP + 5)
    codes, chunked = codec.encode(audio), ChunkedCodec(codec, frames=frames)
    assert torch.equal(chunked.encode(audio), codes)
    torch.testing.assert_close(chunked.decode(codes), codec.decode(codes), rtol=0, atol=1e-6)
    assert ChunkedCodec(StereoCodec(codec), frames=frames).chunk_multiple == WINDOW


def test_chunks_that_ignore_windows_or_context_differ(codec: SNAC) -> None:
    """The facts are needed: each makes a difference."""
    audio = noise(70 * HOP)
    codes = codec.encode(audio)
    for fact in ("chunk_multiple", "encode_context_frames", "decode_context_frames"):
        narrow = CodecWrapper(codec)
        setattr(narrow, fact, 1)
        chunked = ChunkedCodec(narrow, frames=7)
        is_same = torch.equal(chunked.encode(audio), codes)
        assert not (is_same and torch.allclose(chunked.decode(codes), codec.decode(codes), atol=1e-5)), fact


def test_rows_of_a_level_are_in_order_of_time(codec: SNAC) -> None:
    codes = random_codes(40)
    features = codec.features_of(codes)
    for row in range(7, ROWS):  # the eight of the fastest level
        other = codes.clone()
        other[:, row, 20] = (other[:, row, 20] + 1) % 64
        changed = (codec.features_of(other) - features).abs().sum(1)[0].nonzero().flatten()
        assert changed.tolist() == [20 * 8 + row - 7]


def test_what_ends_within_a_window_goes_on_as_its_last_frame(codec: SNAC) -> None:
    codes = random_codes(6)
    longer = torch.cat([codes, codes[..., -1:], codes[..., -1:]], dim=-1)
    assert torch.equal(codec.decode(codes), codec.decode(longer)[..., : 6 * HOP])
    audio = noise(6 * HOP - 1)
    silence = torch.zeros(1, 1, 2 * HOP + 1)
    assert torch.equal(codec.encode(audio), codec.encode(torch.cat([audio, silence], dim=-1))[..., :6])


def test_noise_is_a_function_of_the_codes_of_a_frame(codec: SNAC) -> None:
    codes = random_codes(8)
    state = torch.get_rng_state()
    first = list(codec.decoder_noise(codes))
    assert torch.equal(torch.get_rng_state(), state)
    assert [tensor.shape for tensor in first] == [(1, 1, 8 * 8 * 3), (1, 1, 8 * 8 * 6)]
    other = codes.clone()
    other[:, 14, 5] = (other[:, 14, 5] + 1) % 64
    for before, after, size in zip(first, codec.decoder_noise(other), (24, 48), strict=True):
        same = (before == after)[0, 0].unflatten(0, (8, size)).all(1)
        assert same.tolist() == [True] * 5 + [False] + [True] * 2
    everything = torch.cat(list(codec.decoder_noise(random_codes(200))), dim=-1)
    assert abs(float(everything.mean())) < 0.05
    assert abs(float(everything.std()) - 1) < 0.05


def test_a_loop_is_decoded_in_the_windows_of_its_codes(codec: SNAC) -> None:
    codes, context = random_codes(40), 8
    looped = decode_loop(codec.decode, codes, context, HOP)
    middle = slice(12 * HOP, 28 * HOP)
    torch.testing.assert_close(looped[..., middle], codec.decode(codes)[..., middle], rtol=0, atol=1e-6)
    assert not torch.allclose(decode_loop(codec.decode, codes, 7, HOP)[..., middle], looped[..., middle], atol=1e-4)


def test_stages_are_levels_or_rates(codec: SNAC) -> None:
    named = {"num_codebooks": codec.num_codebooks, "levels": codec.levels}
    assert Grouped("1x|2x|4x-8x", **named).groups == [[0], [1, 2], [*range(3, 15)]]
    latents = codec.embed(random_codes(5))
    for splitter in (Grouped("1x|2x|4x-8x", **named), CoarseFirst(**named)):
        assert torch.equal(splitter.merge(splitter.split(latents)), latents)


def test_an_incomplete_or_strange_model_is_refused(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    del weights["quantizer.quantizers.0.codebook.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"is not a complete SNAC: 1 of its weights are missing, 'quantizer"):
        SNAC(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "vq_strides": [8, 3, 2, 1]}))
    with pytest.raises(ValueError, match=r"Invalid vq_strides=\[8, 3, 2, 1\]"):
        SNAC.skeleton(model=str(tmp_path))
    with pytest.raises(LookupError, match=r"(?s)No SNAC model '.*nowhere'.*pytorch_model\.bin.*hf download"):
        SNAC(str(tmp_path / "nowhere"))


def test_context_is_exactly_what_networks_reach(codec: SNAC) -> None:
    """Follow gradients, in which little cancels out: those of each frame of a window."""
    frames, window = 48, slice(24, 28)
    network = SNAC(codec.arguments["model"]).double().network
    audio = noise(frames * HOP).double().requires_grad_()
    features = torch.randn(
        1, 64, frames * 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    reaches = {"encode": 0, "decode": 0}
    for frame in range(window.start, window.stop):
        for name, source, result, inside in (
            ("encode", audio, network.encoder(audio), slice(frame * 8, (frame + 1) * 8)),
            ("decode", features, network.decoder(features), slice(frame * HOP, (frame + 1) * HOP)),
        ):
            (gradient,) = torch.autograd.grad(result[..., inside].square().sum(), source)
            touched = gradient.abs().sum(1)[0].nonzero().flatten() // (source.shape[-1] // frames)
            reaches[name] = max(reaches[name], frame - int(touched.min()), int(touched.max()) - frame)
    assert reaches == {"encode": codec.encode_context_frames, "decode": codec.decode_context_frames}
    assert codec.chunk_multiple == WINDOW
