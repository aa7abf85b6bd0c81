import inspect
from typing import Any

import pytest
import torch
from codecdiff_mimi import Mimi
from safetensors.torch import load_file, save_file
from transformers import MimiModel

from codecdiff import config
from codecdiff.codecs import ChunkedCodec
from codecdiff.testing import check_codec
from codecdiff.testing.tiny import write_tiny

HOP = 240  # audio samples per frame of the small model
FRAME_RATE = 25


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_tiny("mimi", tmp_path_factory.mktemp("mimi"))


@pytest.fixture(scope="session")
def mimi(folder):
    return Mimi(str(folder), num_codebooks=4)


@pytest.fixture(scope="session")
def reference(folder):
    """Give transformers' own network, its weights in memory of their own as the codec's are."""
    network = MimiModel.from_pretrained(folder).eval()
    for tensor in network.parameters():
        tensor.data = tensor.data.clone()
    return network


def noise(samples, batch=1, seed=0):
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


def random_codes(frames, batch=1, seed=0):
    return torch.randint(128, (batch, 4, frames), generator=torch.Generator().manual_seed(seed))


def test_laws(mimi):
    check_codec(mimi, seconds=1.0)


def test_the_released_model_is_outlined_without_fetching_it():
    for asked, levels in ({}, 8), ({"num_codebooks": 1}, 1), ({"num_codebooks": 32}, 32):
        outline = Mimi.skeleton(**asked)
        assert (outline.sample_rate, outline.channels, outline.hop_length, outline.frame_rate) == (24000, 1, 1920, 12.5)
        assert (outline.codebook_size, outline.codebook_dim, outline.levels) == (2048, 256, tuple(range(levels)))
        assert (outline.encode_context_frames, outline.decode_context_frames) == (None, None)
        assert all(tensor.is_meta for tensor in outline.state_dict().values())
    assert round(sum(tensor.numel() for tensor in outline.parameters()) / 1e6) == 79


def test_an_outline_has_the_facts_and_the_shapes_of_weights_and_no_weights(mimi, folder):
    outline = Mimi.skeleton(model=str(folder), num_codebooks=4)
    for fact in ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim"):
        assert getattr(outline, fact) == getattr(mimi, fact)
    assert (mimi.hop_length, mimi.frame_rate) == (HOP, FRAME_RATE)
    assert outline.arguments == mimi.arguments
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in mimi.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in outline.state_dict().items()} == shapes
    codes = torch.empty(1, 4, 5, dtype=torch.long, device="meta")
    assert outline.embed(codes).shape == (1, 4, outline.codebook_dim, 5)


def test_the_laws_are_not_held_by_empty_codebooks(mimi):
    for entries in mimi.embed(torch.arange(128).expand(1, 4, -1))[0]:
        assert len(entries.T.unique(dim=0)) > 128 / 2
    used = mimi.encode(noise(500 * HOP))
    assert all(len(row.unique()) > 128 / 2 for row in used[0])


@pytest.mark.parametrize("frames", [1, 2, 40])  # two frames are four positions; the windows are of ten
def test_codes_and_audio_are_those_of_transformers(mimi, reference, frames):
    audio = noise(frames * HOP)
    with torch.no_grad():
        codes = reference.encode(audio, num_quantizers=4).audio_codes
        heard = reference.decode(codes).audio_values
    assert torch.equal(mimi.encode(audio), codes)
    torch.testing.assert_close(mimi.decode(codes), heard, rtol=0, atol=1e-6)


def test_the_acoustic_levels_are_residual_to_each_other_and_not_to_the_semantic_one(mimi):
    codes, projections = mimi.encode_with_continuous(noise(30 * HOP + 1))
    assert torch.equal(mimi.quantize(projections), codes)
    left = projections[:, 1:2] - mimi.embed(codes)[:, 1:].cumsum(1)
    torch.testing.assert_close(projections[:, 2:], left[:, :-1], rtol=0, atol=1e-5)
    refined = projections[:, 0] - mimi.embed(codes)[:, 0]
    assert not torch.allclose(projections[:, 1], refined, atol=0.1)


def test_fewer_codebooks_are_the_first_of_more(mimi, folder):
    audio = noise(20 * HOP)
    codes = mimi.encode(audio)
    for count in (1, 2):
        few = Mimi(str(folder), num_codebooks=count)
        assert torch.equal(few.encode(audio), codes[:, :count])
        assert few.decode(codes[:, :count]).shape == (1, 1, 20 * HOP)


@pytest.mark.parametrize("count", [0, 9])
def test_a_number_of_codebooks_that_the_model_does_not_have_is_refused(folder, count):
    with pytest.raises(
        ValueError, match=rf"num_codebooks={count}: the Mimi model '.*' has 1 to 8; the first 1 are semantic"
    ):
        Mimi.skeleton(model=str(folder), num_codebooks=count)


def test_the_nearest_entry_is_looked_up(mimi):
    latents = mimi.encode_continuous(noise(100 * HOP))
    entries = mimi.embed(torch.arange(128).expand(1, 4, -1)).double()
    nearest = torch.cdist(latents.double().mT, entries.mT).argmin(-1)
    assert (mimi.quantize(latents) == nearest).float().mean() > 0.99  # but for ties within float32


def test_what_lacks_of_a_frame_is_silence(mimi):
    audio = noise(HOP + 1)
    assert torch.equal(mimi.encode(audio), mimi.encode(torch.cat([audio, torch.zeros(1, 1, HOP - 1)], dim=-1)))


def test_it_looks_back_and_never_ahead(mimi):
    audio, codes = noise(40 * HOP), random_codes(40)
    assert torch.equal(mimi.encode(audio[..., : 20 * HOP]), mimi.encode(audio)[..., :20])
    torch.testing.assert_close(mimi.decode(codes[..., :20]), mimi.decode(codes)[..., : 20 * HOP], rtol=0, atol=1e-5)
    changed = torch.cat([(codes[..., :1] + 1) % 128, codes[..., 1:]], dim=-1)
    heard = (mimi.decode(changed) - mimi.decode(codes)).abs()[0, 0]
    assert heard[: 5 * HOP].max() > 1e-3
    assert heard[8 * HOP :].max() > 1e-6  # through both layers, further than one window of five frames and the kernels


def test_it_does_not_work_in_pieces(mimi):
    with pytest.raises(ValueError, match="Mimi has unbounded context"):
        ChunkedCodec(mimi)


def test_weights_under_the_names_of_the_released_file_are_read(mimi, folder, tmp_path):
    names = {
        "encoder.encoder_seanet.": "encoder.",
        "encoder.encoder_transformer.": "encoder_transformer.",
        "encoder.downsample.": "downsample.",
        "decoder.decoder_seanet.": "decoder.",
        "decoder.decoder_transformer.": "decoder_transformer.",
        "decoder.upsample.": "upsample.",
    }
    weights = MimiModel.from_pretrained(folder).state_dict()
    for new, old in names.items():
        assert any(name.startswith(new) for name in weights)
        weights = {old + name.removeprefix(new) if name.startswith(new) else name: t for name, t in weights.items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    read = Mimi(str(tmp_path), num_codebooks=4).state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in mimi.state_dict().items())


def test_entries_move_with_the_codec_after_they_were_looked_up(mimi, folder):
    codes, moved = random_codes(5), Mimi(str(folder), num_codebooks=4)
    assert moved.embed(codes).dtype == torch.float32
    moved.to(torch.float64)
    assert {
        tensor.dtype for tensor in (moved.embed(codes), moved.decode(codes), moved.encode_continuous(noise(HOP)))
    } == {torch.float64}
    torch.testing.assert_close(moved.decode(codes).float(), mimi.decode(codes), rtol=0, atol=1e-4)
    assert moved.to("meta").embed(codes.to("meta")).is_meta


def test_results_are_the_same_under_autocast(mimi):
    audio = noise(4 * HOP)
    codes, heard = mimi.encode(audio), mimi.decode(random_codes(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mimi.encode(audio), codes)
        assert torch.equal(mimi.decode(random_codes(4)), heard)


def test_codes_may_be_of_any_integer_type(mimi):
    codes = random_codes(5)
    assert torch.equal(mimi.embed(codes.to(torch.uint8)), mimi.embed(codes))
    assert torch.equal(mimi.decode(codes.to(torch.int32)), mimi.decode(codes))


def test_duplicates_are_declared(folder, tmp_path):
    network: Any = MimiModel.from_pretrained(folder)
    codebook = network.quantizer.acoustic_residual_vector_quantizer.layers[1].codebook
    for table in (codebook.embed_sum, codebook.cluster_usage):
        table[9] = table[4]
    network.save_pretrained(tmp_path)
    assert Mimi(str(tmp_path), num_codebooks=4).duplicate_codes == {(2, 9)}


def test_writing_and_loading_leave_the_global_generator_alone(mimi, folder, tmp_path):
    state = torch.get_rng_state()
    again, other = write_tiny("mimi", tmp_path / "again"), write_tiny("mimi", tmp_path / "other", seed=1)
    Mimi(str(again))
    assert torch.equal(torch.get_rng_state(), state)
    same, first, differ = (load_file(place / "model.safetensors") for place in (again, folder, other))
    assert all(torch.equal(same[name], first[name]) for name in first)
    assert not any(torch.equal(differ[name], first[name]) for name in first if name.endswith("conv.weight"))


def test_options_are_remembered(mimi, folder):
    assert mimi.arguments == {"model": str(folder), "num_codebooks": 4, "revision": None}
    assert inspect.signature(Mimi).parameters["model"].default == "kyutai/mimi"
    assert config.build("codecs", {"name": "mimi", "num_codebooks": 16}, skeleton=True).num_codebooks == 16


def test_a_missing_model_is_explained(tmp_path):
    with pytest.raises(LookupError, match=r"(?s)No Mimi model '.*nowhere'.*model\.safetensors.*hf download"):
        Mimi(str(tmp_path / "nowhere"))
    with pytest.raises(LookupError, match=r"is not known here: .* not one of kyutai/mimi"):
        Mimi.skeleton(model=str(tmp_path / "nowhere"))


def test_incomplete_weights_are_refused(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    del weights["quantizer.semantic_residual_vector_quantizer.input_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'quantizer\.semantic"):
        Mimi(str(tmp_path))


@pytest.mark.parametrize("shape", [(1, 2, 100), (1, 1, 0), (1, 100)])
def test_audio_that_is_not_mono_is_refused(mimi, shape):
    with pytest.raises(ValueError, match=r"audio of shape \(b, 1, t\)"):
        mimi.encode(torch.zeros(shape))


def test_codes_of_another_number_of_codebooks_are_refused(mimi):
    for refused in (mimi.embed, mimi.decode):
        with pytest.raises(ValueError, match="4 codebooks, but got 3 rows"):
            refused(torch.zeros(1, 3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="4 codebooks, but got 3 rows"):
        mimi.quantize(torch.zeros(1, 3, 8, 5))
