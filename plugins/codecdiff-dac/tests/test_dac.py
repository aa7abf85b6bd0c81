import copy
import inspect
import json
import math
import shutil
import sys

import pytest
import torch
from codecdiff_dac import DAC
from codecdiff_dac.weights import SETTINGS, module_names, rename_modules
from torch import nn
from transformers import DacConfig, DacModel

from codecdiff import config
from codecdiff.codecs import ChunkedCodec, context_frames
from codecdiff.testing.tiny import write_tiny

HOP = 40  # audio samples per frame of the tiny model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_tiny("dac", tmp_path_factory.mktemp("dac"))


@pytest.fixture(scope="session")
def dac(folder):
    return DAC(str(folder))


@pytest.fixture(scope="session")
def reference(folder):
    return DacModel.from_pretrained(folder).eval()


def noise(*shape, seed=0):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def every_entry(dac):
    return torch.arange(dac.codebook_size).expand(1, dac.num_codebooks, -1)


def random_codes(dac, frames, batch=1, seed=0):
    shape = (batch, dac.num_codebooks, frames)
    return torch.randint(dac.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


def test_facts_are_true_of_the_tensors(dac):
    codes = dac.encode(noise(1, 1, 3 * HOP))
    latents = dac.embed(codes)
    assert (dac.sample_rate, dac.channels, dac.hop_length) == (8000, 1, HOP)
    assert codes.shape == (1, dac.num_codebooks, 3)
    assert codes.dtype == torch.int64
    assert latents.shape == (1, dac.num_codebooks, dac.codebook_dim, 3)
    assert len(dac.network.quantizer.quantizers[0].codebook.weight) == dac.codebook_size
    assert dac.decode(codes).shape == (1, 1, 3 * HOP)
    assert dac.levels == (0, 1, 2, 3)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 3 * 8000 + 7])
def test_any_length_is_padded_to_whole_frames(dac, samples):
    audio = noise(1, 1, samples)
    codes = dac.encode(audio)
    assert codes.shape[-1] == math.ceil(samples / HOP)
    assert dac.encode_continuous(audio).shape[-1] == codes.shape[-1]
    assert dac.decode(codes).shape == (1, 1, codes.shape[-1] * HOP)


def test_every_entry_is_looked_up_as_itself(dac):
    codes = every_entry(dac)
    moved = {(k, i) for _, k, i in (dac.quantize(dac.embed(codes)) != codes).nonzero().tolist()}
    assert moved == dac.duplicate_codes == frozenset()


def test_the_law_is_not_held_by_empty_codebooks(dac):
    for entries in dac.embed(every_entry(dac))[0]:
        assert len(entries.T.unique(dim=0)) > dac.codebook_size / 2
    used = dac.encode(3 * noise(1, 1, 3 * 8000))
    assert all(len(row.unique()) > dac.codebook_size / 2 for row in used[0])


def test_lookup_is_by_direction_alone(dac):
    codes = random_codes(dac, 50)
    lengths = torch.rand(1, dac.num_codebooks, 1, 50) + 0.01
    assert torch.equal(dac.quantize(dac.embed(codes) * lengths), codes)


def test_entries_of_one_direction_are_declared(folder, tmp_path):
    network = DacModel.from_pretrained(folder)
    _, second, third, _ = [level.get_parameter("codebook.weight") for level in network.quantizer.quantizers]
    with torch.no_grad():
        second[7] = 2 * second[3]
        third[5] = 0
    network.save_pretrained(tmp_path)
    assert DAC(str(tmp_path)).duplicate_codes == {(1, 7), (2, 5)}


def test_codes_and_projections_are_those_of_transformers(dac, reference):
    audio = noise(2, 1, 1000 * HOP)
    with torch.no_grad():
        expected = reference.encode(audio)
    assert torch.equal(dac.encode(audio), expected.audio_codes)
    torch.testing.assert_close(
        dac.encode_continuous(audio).flatten(1, 2), expected.projected_latents, rtol=0, atol=1e-4
    )
    assert torch.equal(dac.quantize(dac.encode_continuous(audio)), dac.encode(audio))


def test_audio_is_that_of_transformers_with_the_end_filled(dac, reference):
    codes = random_codes(dac, 30)
    with torch.no_grad():
        expected = reference.decode(audio_codes=codes).audio_values
    audio = dac.decode(codes)
    missing = audio.shape[-1] - expected.shape[-1]
    assert missing > 0  # the tiny model has an odd stride, as the 24 and 16 kHz models have
    torch.testing.assert_close(audio[:, 0, :-missing], expected, rtol=0, atol=1e-6)
    assert not audio[..., -missing:].any()


def test_codes_may_be_of_any_integer_type(dac):
    codes = random_codes(dac, 5)
    assert torch.equal(dac.embed(codes.to(torch.uint8)), dac.embed(codes))
    assert torch.equal(dac.decode(codes.to(torch.int32)), dac.decode(codes))


def test_a_row_does_not_depend_on_its_neighbors(dac):
    audio = torch.cat([noise(1, 1, 8000, seed=1), noise(1, 1, 8000, seed=2)])
    codes = dac.encode(audio)
    assert torch.equal(codes, torch.cat([dac.encode(row) for row in audio.split(1)]))
    assert torch.equal(dac.decode(codes), torch.cat([dac.decode(row) for row in codes.split(1)]))


def test_chunks_with_halos_equal_the_whole(dac):
    audio, first, last = noise(1, 1, 100 * HOP), 40, 60
    codes = dac.encode(audio)
    halo = dac.encode_context_frames
    chunk = dac.encode(audio[..., (first - halo) * HOP : (last + halo) * HOP])
    assert torch.equal(chunk[..., halo:-halo], codes[..., first:last])
    halo = dac.decode_context_frames
    chunk = dac.decode(codes[..., first - halo : last + halo])
    whole = dac.decode(codes)[..., first * HOP : last * HOP]
    torch.testing.assert_close(chunk[..., halo * HOP : -halo * HOP], whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratios", [[2, 4, 8, 8], [2, 4, 5, 8], [2, 4, 5], [3, 3]])
def test_halos_are_exactly_what_convolutions_reach(ratios):
    """Measure with one-channel networks of positive weights, in which nothing that is reached cancels out."""
    hop, frames = math.prod(ratios), 61
    middle = frames // 2

    def reach(network, signal, frame_of_input, output):
        signal = signal.requires_grad_()
        network(signal)[..., output].sum().backward()
        touched = frame_of_input(signal.grad.flatten().nonzero().flatten())
        return max(middle - touched.min().item(), touched.max().item() - middle)

    encoder, decoder = nn.Sequential(nn.Conv1d(1, 1, 7, padding=3)), nn.Sequential(nn.Conv1d(1, 1, 7, padding=3))
    units = [(7, 1), (7, 3), (7, 9)]
    for stride in ratios:
        for kernel, dilation in units:
            encoder.append(nn.Conv1d(1, 1, kernel, dilation=dilation, padding=3 * dilation))
        encoder.append(nn.Conv1d(1, 1, 2 * stride, stride=stride, padding=math.ceil(stride / 2)))
    encoder.append(nn.Conv1d(1, 1, 3, padding=1))
    for stride in reversed(ratios):
        decoder.append(nn.ConvTranspose1d(1, 1, 2 * stride, stride=stride, padding=math.ceil(stride / 2)))
        for kernel, dilation in units:
            decoder.append(nn.Conv1d(1, 1, kernel, dilation=dilation, padding=3 * dilation))
    decoder.append(nn.Conv1d(1, 1, 7, padding=3))
    for weight in [*encoder.parameters(), *decoder.parameters()]:
        nn.init.constant_(weight, 0.5)

    samples = slice(middle * hop, (middle + 1) * hop)
    encoded = reach(encoder.double(), torch.zeros(1, 1, frames * hop).double(), lambda i: i // hop, middle)
    decoded = reach(decoder.double(), torch.zeros(1, 1, frames).double(), lambda i: i, samples)
    assert (context_frames(encoder, hop, 1), context_frames(decoder, 1, hop)) == (encoded, decoded)
    with torch.device("meta"):
        network = DacModel(DacConfig(downsampling_ratios=ratios))
    assert (context_frames(network.encoder, hop, 1), context_frames(network.decoder, 1, hop)) == (encoded, decoded)


@pytest.mark.parametrize("size", ["44khz", "24khz", "16khz"])
def test_released_shapes_have_halos_of_eight_and_ten_frames(size):
    outline = DAC.skeleton(model=f"descript/dac_{size}")
    assert (outline.encode_context_frames, outline.decode_context_frames) == (8, 10)


@pytest.mark.parametrize("audio", [torch.zeros(1, 1, 500), 3 * torch.ones(1, 1, 500), noise(1, 1, 500).sign()])
def test_silence_and_clipping_stay_finite(dac, audio):
    codes = dac.encode(audio)
    assert ((codes >= 0) & (codes < dac.codebook_size)).all()
    assert dac.encode_continuous(audio).isfinite().all()
    assert dac.decode(codes).isfinite().all()
    assert dac.decode(codes).abs().max() <= 1


def test_nothing_learns_and_training_mode_is_refused(dac):
    audio = noise(1, 1, 200).requires_grad_()
    results = [dac.encode_continuous(audio), dac.decode(dac.encode(audio)), dac.embed(dac.encode(audio))]
    assert not any(tensor.requires_grad for tensor in [*results, *dac.parameters()])
    assert not any(module.training for module in dac.train().modules())


def test_results_are_the_same_again_and_under_autocast(dac):
    audio = noise(1, 1, 4000)
    codes, state = dac.encode(audio), torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dac.encode(audio), codes)
        assert torch.equal(dac.quantize(dac.embed(codes)), codes)
        again = dac.decode(codes)
    assert torch.equal(again, dac.decode(codes))
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_and_writing_leave_the_global_generator_alone(folder, tmp_path):
    state = torch.get_rng_state()
    other = write_tiny("dac", tmp_path / "other", seed=1)
    weights = DAC(str(write_tiny("dac", tmp_path / "again"))).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    same, differ = DAC(str(folder)).state_dict(), DAC(str(other)).state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in same)
    assert not torch.equal(weights["network.encoder.conv1.weight"], differ["network.encoder.conv1.weight"])


def test_the_hop_is_the_network_s_whatever_the_configuration_says(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hop_length": 512}))  # as the released 24 kHz model
    assert DAC(str(tmp_path)).hop_length == HOP


def test_arguments_are_remembered(dac, folder):
    assert dac.arguments == {"model": str(folder), "revision": None, "backend": "transformers"}
    assert inspect.signature(DAC).parameters["model"].default == "descript/dac_44khz"


def test_a_missing_model_is_explained(tmp_path):
    with pytest.raises(LookupError, match=r"(?s)'.*nowhere'.*model\.safetensors.*hf download"):
        DAC(str(tmp_path / "nowhere"))


def test_weights_that_are_not_safetensors_are_refused(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(LookupError, match=r"safetensors"):
        DAC(str(tmp_path))


def test_incomplete_weights_are_refused(folder, reference, tmp_path):
    weights = {name: tensor for name, tensor in reference.state_dict().items() if name != "decoder.conv1.weight"}
    reference.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'decoder\.conv1\.weight'"):
        DAC(str(tmp_path))


@pytest.mark.parametrize("shape", [(1, 2, 100), (1, 1, 0), (1, 100)])
def test_audio_that_is_not_mono_is_refused(dac, shape):
    with pytest.raises(ValueError, match=r"audio of shape \(b, 1, t\)"):
        dac.encode(torch.zeros(shape))


def test_codes_of_another_number_of_codebooks_are_refused(dac):
    for refused in (dac.embed, dac.decode):
        with pytest.raises(ValueError, match="4 codebooks, but got 3 rows"):
            refused(torch.zeros(1, 3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="4 codebooks, but got 3 rows"):
        dac.quantize(torch.zeros(1, 3, 8, 5))


FACTS = (
    "sample_rate",
    "hop_length",
    "num_codebooks",
    "codebook_size",
    "codebook_dim",
    "encode_context_frames",
    "decode_context_frames",
)


def test_an_outline_has_the_facts_and_no_weights(dac, folder):
    outline = DAC.skeleton(model=str(folder))
    assert [getattr(outline, fact) for fact in FACTS] == [getattr(dac, fact) for fact in FACTS]
    assert outline.arguments == dac.arguments
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in dac.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in outline.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
    codes = torch.empty(1, dac.num_codebooks, 5, dtype=torch.long, device="meta")
    assert outline.embed(codes).shape == (1, dac.num_codebooks, dac.codebook_dim, 5)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("44khz", (44100, 512, 9, 1024, 8)),
        ("24khz", (24000, 320, 32, 1024, 8)),
        ("16khz", (16000, 320, 12, 1024, 8)),
    ],
)
def test_the_released_models_are_outlined_without_fetching_them(name, facts):
    outline = DAC.skeleton(model=f"descript/dac_{name}")
    assert tuple(getattr(outline, fact) for fact in FACTS[:5]) == facts
    assert round(sum(tensor.numel() for tensor in outline.parameters()) / 1e6) in (74, 75, 77)
    assert outline.arguments["model"] == f"descript/dac_{name}"


def test_an_outline_inside_another_part():
    spec = {"name": "chunked", "codec": {"name": "dac"}, "frames": 100}
    chunked = config.build("codecs", spec, skeleton=True)
    assert (chunked.frames, chunked.sample_rate, chunked.codec.arguments["model"]) == (100, 44100, "descript/dac_44khz")
    assert all(tensor.is_meta for tensor in chunked.parameters())


def test_an_unknown_model_cannot_be_outlined(tmp_path):
    with pytest.raises(LookupError, match=r"is not known here: .* not one of descript/dac_16khz"):
        DAC.skeleton(model=str(tmp_path / "none"))


NARROW = {"44khz": (44100, 512, 9), "24khz": (24000, 320, 32), "16khz": (16000, 320, 12)}  # Hz, hop, codebooks


@pytest.fixture(scope="module", params=NARROW)
def narrow(request, tmp_path_factory):
    """A DAC of a released shape, but with few channels."""
    model = write_tiny(
        "dac", tmp_path_factory.mktemp(request.param), size=request.param, encoder_hidden_size=2, decoder_hidden_size=48
    )
    return request.param, DAC(str(model))


@pytest.mark.integration
def test_every_released_shape_has_its_facts_in_its_tensors(narrow):
    size, dac = narrow
    assert (dac.sample_rate, dac.hop_length, dac.num_codebooks) == NARROW[size]
    assert (dac.encode_context_frames, dac.decode_context_frames) == (8, 10)
    for samples in (1, dac.hop_length - 1, dac.hop_length, 3 * dac.hop_length + 1):
        codes = dac.encode(noise(1, 1, samples))
        assert codes.shape == (1, dac.num_codebooks, math.ceil(samples / dac.hop_length))
        assert dac.embed(codes).shape == (1, dac.num_codebooks, 8, codes.shape[-1])
    audio = dac.decode(codes)
    assert audio.shape == (1, 1, 4 * dac.hop_length)
    assert bool(audio[..., -8:].any()) == (size == "44khz")  # an odd stride ends 8 samples early
    assert audio[..., -9].any()
    entries = every_entry(dac)
    assert torch.equal(dac.quantize(dac.embed(entries)), entries)


@pytest.mark.integration
def test_pieces_of_every_released_shape_equal_the_whole(narrow):
    dac = copy.deepcopy(narrow[1]).double()  # in float32 the last bits depend on the processor
    chunked = ChunkedCodec(dac, frames=64)
    audio = 3 * noise(1, 1, (3 * 64 + 17) * dac.hop_length - 13).double()  # three chunks and an odd end
    codes = dac.encode(audio)
    assert (chunked.encode(audio) != codes).float().mean() <= 1e-3
    whole = dac.decode(codes)
    assert whole.std() > 0.05
    torch.testing.assert_close(chunked.decode(codes), whole, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_pieces_of_the_whole_44_khz_network_equal_the_whole(tmp_path):
    dac = DAC(str(write_tiny("dac", tmp_path, size="44khz")))
    chunked = ChunkedCodec(dac, frames=128)
    audio = 3 * noise(1, 1, (3 * 128 + 17) * dac.hop_length - 13)
    codes = dac.encode(audio)
    assert (chunked.encode(audio) != codes).float().mean() <= 1e-3
    torch.testing.assert_close(chunked.decode(codes), dac.decode(codes), rtol=0, atol=1e-6)


def original_weights(network):
    """Give transformers' weights as the original package names them, its convolutions under weight norm."""
    weights = rename_modules(network.state_dict(), module_names(len(network.config.downsampling_ratios)))
    normed = {name for name in weights if name.endswith(".weight") and "codebook" not in name}
    kept = {name: tensor for name, tensor in weights.items() if name not in normed}
    lengths = {f"{name}_g": weights[name].flatten(1).norm(dim=1).view(-1, 1, 1) for name in normed}
    return kept | lengths | {f"{name}_v": 3 * weights[name] for name in normed}


def original_file(file, network, **changes):
    """Write a `weights.pth` as the original package does."""
    told = {original: getattr(network.config, ours) for ours, original in SETTINGS.items()}
    weights = original_weights(network)
    torch.save({"state_dict": weights, "metadata": {"kwargs": {**told, "latent_dim": 32}}} | changes, file)
    return file


def test_weights_of_the_original_package_are_read_without_it(reference, dac, tmp_path):
    file = original_file(tmp_path / "weights.pth", reference)
    state = torch.get_rng_state()
    found = DAC(str(file))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.state_dict().keys() == dac.state_dict().keys()
    for name, tensor in dac.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)
    audio = noise(1, 1, 40 * HOP)
    assert torch.equal(found.encode(audio), dac.encode(audio))
    assert config.to_config("codecs", found)["model"] == str(file)
    outline = DAC.skeleton(model=str(file))
    assert [getattr(outline, fact) for fact in FACTS] == [getattr(dac, fact) for fact in FACTS]


def test_files_that_are_not_such_weights_are_refused(reference, tmp_path):
    file = tmp_path / "weights.pth"
    with pytest.raises(LookupError, match=r"No DAC model '.*weights\.pth': no such file"):
        DAC(str(file))
    for content in (b"hello", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read for tensors and plain values alone"):
            DAC(str(file))
    torch.save({"state_dict": {}, "metadata": {"kwargs": {"x": tmp_path}}}, file)  # a path is an object of a class
    with pytest.raises(ValueError, match="cannot be read for tensors and plain values alone"):
        DAC(str(file))
    for content in ([], {"state_dict": {}}, {"state_dict": {}, "metadata": 3}):
        torch.save(content, file)
        with pytest.raises(ValueError, match="lacks weights or their metadata"):
            DAC(str(file))
    original_file(file, reference, metadata={"kwargs": {"encoder_dim": 4}})
    with pytest.raises(ValueError, match="does not say how to build a network"):
        DAC(str(file))
    weights = original_weights(reference)
    del weights["encoder.block.0.weight_g"]
    original_file(file, reference, state_dict=weights)
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'encoder\.conv1\.weight'"):
        DAC(str(file))
    original_file(file, reference, state_dict=original_weights(reference) | {"more.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"(?s)contains other weights than its network has.*more\.bias"):
        DAC(str(file))


def test_compressed_audio_is_no_model():
    with pytest.raises(ValueError, match=r"'song\.dac' is audio that the original package compressed"):
        DAC("song.dac")


def test_without_its_package_the_other_backend_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "dac", None)  # as if it were not installed, where it is
    spec = {"name": "dac", "model": str(folder), "backend": "descript"}
    with pytest.raises(ImportError, match=r"(?s)Install.*'codecdiff-dac\[descript\]'"):
        config.build("codecs", spec)
    outline = config.build("codecs", spec, skeleton=True)  # planning needs no package
    assert (outline.hop_length, outline.arguments["backend"]) == (HOP, "descript")
    with pytest.raises(config.ConfigError, match=r"codec\.backend = 'torch'"):
        config.build("codecs", spec | {"backend": "torch"})
    with pytest.raises(ValueError, match=r"Invalid backend 'torch': expected transformers or descript"):
        DAC(str(folder), backend="torch")  # pyright: ignore[reportArgumentType]
