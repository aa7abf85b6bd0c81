import inspect
import json
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from codecdiff_encodec import EnCodec
from safetensors.torch import load_file, save_file
from transformers import EncodecModel

from codecdiff import config
from codecdiff.codecs import ChunkedCodec
from codecdiff.testing import check_codec
from codecdiff.testing.tiny import write_tiny

BANDWIDTHS = {"24khz": 3.0, "32khz": None, "48khz": 3.0}  # kbit/s of the small models: 4, 4 and 2 codebooks
SIZES = {"24khz": "tiny-24khz", "32khz": "tiny-32khz", "48khz": "tiny-48khz"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {name: write_tiny("encodec", tmp_path_factory.mktemp(name), size=size) for name, size in SIZES.items()}


@pytest.fixture(scope="session")
def codecs(folders):
    return {size: EnCodec(str(folders[size]), bandwidth=BANDWIDTHS[size]) for size in SIZES}


@pytest.fixture(params=SIZES)
def size(request):
    return request.param


@pytest.fixture
def codec(codecs, size):
    return codecs[size]


@pytest.fixture
def stereo(codecs):
    return codecs["48khz"]


@pytest.fixture
def mono(codecs):
    return codecs["24khz"]


def noise(codec, samples, batch=1, seed=0):
    return 0.3 * torch.randn(batch, codec.channels, samples, generator=torch.Generator().manual_seed(seed))


def random_codes(codec, frames, batch=1, seed=0):
    shape = (batch, codec.num_codebooks, frames)
    return torch.randint(codec.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


def reference(folder):
    """Give transformers' own network, its weights in memory of their own as the codec's are."""
    network: Any = EncodecModel.from_pretrained(folder).eval()
    for tensor in network.parameters():
        tensor.data = tensor.data.clone()
    network.config.chunk_length_s = None  # of 48 kHz: a clip is one chunk
    return network


@pytest.mark.integration
@pytest.mark.parametrize("size", ["24khz", "32khz", "48khz"])
def test_laws(codecs, size):
    check_codec(codecs[size], seconds=0.1)


@pytest.mark.parametrize(
    ("size", "bandwidth", "facts"),
    [
        ("24khz", 1.5, (24000, 1, 320, 2, 1024, 128)),
        ("24khz", 3.0, (24000, 1, 320, 4, 1024, 128)),
        ("24khz", 6, (24000, 1, 320, 8, 1024, 128)),
        ("24khz", 12.0, (24000, 1, 320, 16, 1024, 128)),
        ("24khz", 24.0, (24000, 1, 320, 32, 1024, 128)),
        ("24khz", None, (24000, 1, 320, 32, 1024, 128)),
        ("32khz", 2.2, (32000, 1, 640, 4, 2048, 128)),
        ("32khz", None, (32000, 1, 640, 4, 2048, 128)),
        ("48khz", 3.0, (48000, 2, 320, 2, 1024, 128)),
        ("48khz", 6.0, (48000, 2, 320, 4, 1024, 128)),
        ("48khz", 12.0, (48000, 2, 320, 8, 1024, 128)),
        ("48khz", 24.0, (48000, 2, 320, 16, 1024, 128)),
    ],
)
def test_the_released_models_are_outlined_without_fetching_them(size, bandwidth, facts):
    outline = EnCodec.skeleton(model=f"facebook/encodec_{size}", bandwidth=bandwidth)
    named = ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim")
    assert tuple(getattr(outline, fact) for fact in named) == facts
    assert (outline.encode_context_frames, outline.decode_context_frames, outline.levels) == (
        None,
        None,
        tuple(range(facts[3])),
    )
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
    assert round(sum(tensor.numel() for tensor in outline.parameters()) / 1e6) == {"32khz": 57}.get(size, 15)


def test_a_bandwidth_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"encodec_48khz' has no bandwidth of 1\.5 kbit/s. It has: 3, 6, 12, 24\."):
        EnCodec.skeleton(model="facebook/encodec_48khz", bandwidth=1.5)


def test_an_outline_has_the_facts_and_the_shapes_of_weights_and_no_weights(codec, folders, size):
    outline = EnCodec.skeleton(model=str(folders[size]), bandwidth=BANDWIDTHS[size])
    for fact in ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim", "loudness"):
        assert getattr(outline, fact) == getattr(codec, fact)
    assert outline.arguments == codec.arguments
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in codec.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in outline.state_dict().items()} == shapes
    codes = torch.empty(1, outline.num_codebooks, 5, dtype=torch.long, device="meta")
    assert outline.embed(codes).shape == (1, outline.num_codebooks, outline.codebook_dim, 5)


def test_the_laws_are_not_held_by_empty_codebooks(codec):
    every = torch.arange(codec.codebook_size).expand(1, codec.num_codebooks, -1)
    for entries in codec.embed(every)[0]:
        assert len(entries.T.unique(dim=0)) > codec.codebook_size / 2
    used = torch.cat([codec.encode(noise(codec, 400 * codec.hop_length, seed=seed)) for seed in range(5)], dim=-1)
    assert all(len(row.unique()) > codec.codebook_size / 2 for row in used[0])


@pytest.mark.parametrize("frames", [1, 2, 40])
def test_codes_and_audio_are_those_of_transformers(codec, folders, size, frames):
    network, audio = reference(folders[size]), noise(codec, frames * codec.hop_length)
    with torch.no_grad():
        encoded = network.encode(audio, bandwidth=BANDWIDTHS[size] or 2.2)
        assert torch.equal(codec.encode(audio), encoded.audio_codes[0])
        scale = None if codec.loudness is None else torch.tensor([[10 ** (codec.loudness / 20)]])
        heard = network.decode(encoded.audio_codes, [scale]).audio_values
    torch.testing.assert_close(codec.decode(encoded.audio_codes[0]), heard, rtol=0, atol=1e-6)


def test_projections_are_what_the_levels_before_leave_over(codec):
    audio = noise(codec, 30 * codec.hop_length + 1)
    codes, projections = codec.encode_with_continuous(audio)
    left = projections[:, :1] - codec.embed(codes).cumsum(1)
    torch.testing.assert_close(projections[:, 1:], left[:, :-1], rtol=0, atol=1e-5)
    assert torch.equal(codec.quantize(projections), codes)


def test_the_nearest_entry_is_looked_up(codec):
    latents = codec.encode_continuous(noise(codec, 50 * codec.hop_length))
    entries = codec.embed(torch.arange(codec.codebook_size).expand(1, codec.num_codebooks, -1)).double()
    nearest = torch.cdist(latents.double().mT, entries.mT).argmin(-1)
    assert (codec.quantize(latents) == nearest).float().mean() > 0.99  # but for ties within float32


@pytest.mark.parametrize("samples", [1, 319, 321, 1000])
def test_what_lacks_of_a_frame_is_silence(mono, samples):
    audio = noise(mono, samples)
    missing = torch.zeros(1, 1, -samples % 320)
    assert torch.equal(mono.encode(audio), mono.encode(torch.cat([audio, missing], dim=-1)))
    assert mono.encode(audio).shape[-1] == math.ceil(samples / 320)


def test_at_48_khz_loudness_is_an_option_and_not_in_the_codes(stereo, folders):
    audio = noise(stereo, 48000)
    codes = stereo.encode(audio)
    assert (stereo.encode(audio / 64) != codes).float().mean() < 0.01
    heard = stereo.decode(codes)
    assert heard.square().mean().sqrt() == pytest.approx(0.1, abs=1e-3)
    louder = EnCodec(str(folders["48khz"]), bandwidth=3.0, loudness=-14.0)
    torch.testing.assert_close(louder.decode(codes), 10 ** (6 / 20) * heard)
    assert torch.equal(louder.encode(audio), codes)


def test_models_that_do_not_normalise_keep_loudness_in_their_codes(mono, folders):
    audio = noise(mono, 24000)
    assert (mono.encode(audio / 64) != mono.encode(audio)).float().mean() > 0.5
    with pytest.raises(ValueError, match=r"carry the loudness of what they encode\. Leave `loudness` out"):
        EnCodec(str(folders["24khz"]), loudness=-20.0)


def test_channels_are_heard_apart_and_extremes_of_stereo_stay_finite(stereo):
    audio = noise(stereo, 9600)
    assert not torch.equal(stereo.encode(audio), stereo.encode(audio.flip(1)))
    opposite = torch.cat([audio[:, :1], -audio[:, :1]], dim=1)  # its mean, which sets the level, is silence
    assert stereo.encode_continuous(opposite).isfinite().all()
    assert stereo.decode(stereo.encode(opposite)).isfinite().all()


def test_it_does_not_work_in_pieces(codec):
    with pytest.raises(ValueError, match="EnCodec has unbounded context"):
        ChunkedCodec(codec)


def test_the_last_bits_do_not_depend_on_where_weights_lie_in_their_file(folders, tmp_path):
    codes = torch.tensor([[[7], [8]]])
    heard = EnCodec(str(folders["48khz"]), bandwidth=3.0).decode(codes)
    weights = load_file(folders["48khz"] / "model.safetensors")
    (tmp_path / "config.json").write_text((folders["48khz"] / "config.json").read_text())
    for padding in (8, 32):
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt", "padding": "x" * padding})
        assert torch.equal(EnCodec(str(tmp_path), bandwidth=3.0).decode(codes), heard)


def test_weights_under_the_names_of_the_released_files_are_read(mono, folders, tmp_path):
    old = {"original0": "weight_g", "original1": "weight_v"}
    weights = {}
    for name, tensor in load_file(folders["24khz"] / "model.safetensors").items():
        stem, _, leaf = name.rpartition(".parametrizations.weight.")
        weights[f"{stem}.{old[leaf]}" if stem else name] = tensor
    assert any(name.endswith("weight_g") for name in weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folders["24khz"] / "config.json").read_text())
    read = EnCodec(str(tmp_path), bandwidth=3.0).state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in mono.state_dict().items())


def test_it_computes_in_the_precision_it_is_moved_to(folders, codecs):
    codec = EnCodec(str(folders["24khz"]), bandwidth=3.0).to(torch.float64)
    audio = noise(codec, 3200)
    codes = codec.encode(audio)
    assert (codes == codecs["24khz"].encode(audio)).float().mean() > 0.9
    assert {tensor.dtype for tensor in (codec.encode_continuous(audio), codec.embed(codes), codec.decode(codes))} == {
        torch.float64
    }
    torch.testing.assert_close(codec.decode(codes).float(), codecs["24khz"].decode(codes), rtol=0, atol=1e-5)


def test_results_are_the_same_under_autocast(codec):
    audio = noise(codec, 4 * codec.hop_length)
    codes, heard = codec.encode(audio), codec.decode(random_codes(codec, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(audio), codes)
        assert torch.equal(codec.decode(random_codes(codec, 4)), heard)


def test_codes_may_be_of_any_integer_type(mono):
    codes = random_codes(mono, 5)
    assert torch.equal(mono.embed(codes.to(torch.int16)), mono.embed(codes))
    assert torch.equal(mono.decode(codes.to(torch.int32)), mono.decode(codes))


def test_duplicates_are_declared(folders, tmp_path):
    network: Any = EncodecModel.from_pretrained(folders["32khz"])
    network.quantizer.layers[2].codebook.embed[9] = network.quantizer.layers[2].codebook.embed[4]
    network.save_pretrained(tmp_path)
    assert EnCodec(str(tmp_path)).duplicate_codes == {(2, 9)}


def test_writing_and_loading_leave_the_global_generator_alone(folders, tmp_path):
    state = torch.get_rng_state()
    again, other = (
        write_tiny("encodec", tmp_path / "again", size="tiny-32khz"),
        write_tiny("encodec", tmp_path / "other", seed=1),
    )
    EnCodec(str(again))
    assert torch.equal(torch.get_rng_state(), state)
    same, first = (load_file(folder / "model.safetensors") for folder in (again, folders["32khz"]))
    assert all(torch.equal(same[name], first[name]) for name in first)
    name = "encoder.layers.0.conv.bias"
    assert not torch.equal(
        load_file(other / "model.safetensors")[name], load_file(folders["24khz"] / "model.safetensors")[name]
    )


def test_options_are_remembered_and_read_by_their_types(mono, folders):
    assert mono.arguments == {
        "model": str(folders["24khz"]),
        "bandwidth": 3.0,
        "loudness": None,
        "backend": "transformers",
        "revision": None,
    }
    assert inspect.signature(EnCodec).parameters["model"].default == "facebook/encodec_32khz"
    assert config.parse_options("codecs", "encodec", ["bandwidth=6"]) == {"name": "encodec", "bandwidth": 6.0}
    outline = config.build(
        "codecs", {"name": "encodec", "model": "facebook/encodec_24khz", "bandwidth": 6}, skeleton=True
    )
    assert outline.num_codebooks == 8


def test_a_missing_model_is_explained(tmp_path):
    with pytest.raises(LookupError, match=r"(?s)No EnCodec model '.*nowhere'.*model\.safetensors.*hf download"):
        EnCodec(str(tmp_path / "nowhere"))
    with pytest.raises(LookupError, match=r"is not known here: .* not one of facebook/encodec_24khz"):
        EnCodec.skeleton(model=str(tmp_path / "nowhere"))


def test_incomplete_weights_are_refused(folders, tmp_path):
    weights = load_file(folders["32khz"] / "model.safetensors")
    del weights["quantizer.layers.1.codebook.embed"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folders["32khz"] / "config.json").read_text())
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'quantizer\.layers\.1\.codebook\.embed'"):
        EnCodec(str(tmp_path))


@pytest.mark.parametrize("shape", [(1, 2, 100), (1, 1, 0), (1, 100)])
def test_audio_of_other_channels_is_refused(mono, shape):
    with pytest.raises(ValueError, match=r"audio of shape \(b, 1, t\)"):
        mono.encode(torch.zeros(shape))


def test_mono_audio_for_a_stereo_model_is_refused(stereo):
    with pytest.raises(ValueError, match=r"\(b, 2, t\).*audio\.expand"):
        stereo.encode(torch.zeros(1, 1, 100))


def test_codes_of_another_number_of_codebooks_are_refused(mono):
    for refused in (mono.embed, mono.decode):
        with pytest.raises(ValueError, match="4 codebooks, but got 3 rows"):
            refused(torch.zeros(1, 3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="4 codebooks, but got 3 rows"):
        mono.quantize(torch.zeros(1, 3, 16, 5))


@pytest.mark.skipif(find_spec("encodec") is not None, reason="the original package is installed")
def test_the_original_package_is_asked_for_by_its_extra(folders):
    with pytest.raises(ImportError, match=r"codecdiff-encodec\[encodec\].*not for commercial use"):
        EnCodec(str(folders["24khz"]), backend="encodec")


def test_an_unknown_backend_is_refused(folders):
    with pytest.raises(ValueError, match=r"Invalid backend 'jax': expected transformers or encodec"):
        EnCodec(str(folders["24khz"]), backend="jax")  # pyright: ignore[reportArgumentType]


def test_the_folder_keeps_the_shape_it_was_given(folders):
    shape = json.loads((folders["48khz"] / "config.json").read_text())
    assert (shape["chunk_length_s"], shape["normalize"], shape["norm_type"]) == (1.0, True, "time_group_norm")
