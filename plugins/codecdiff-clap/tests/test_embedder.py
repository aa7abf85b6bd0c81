from typing import Any

import pytest
import torch
from codecdiff_clap import CLAP, GeneralCLAP, MusicCLAP
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from codecdiff import config
from codecdiff.fingerprint import module_fingerprint
from codecdiff.testing import check_embedder
from codecdiff.testing.tiny import write_tiny

TEXTS = ["a slow waltz for piano", "loud drums"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_tiny("clap", tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="session")
def clap(folder):
    return MusicCLAP(str(folder))


def noise(*shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.integration
def test_clap_obeys_the_laws(clap):
    check_embedder(clap, TEXTS)


def test_vectors_are_those_of_transformers(clap, folder):
    network: Any = ClapModel.from_pretrained(folder).eval()
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    audio = noise(48_000)
    with torch.no_grad():
        heard = extractor(audio.numpy(), sampling_rate=48_000, return_tensors="pt")
        expected = network.get_audio_features(heard["input_features"].float(), is_longer=heard["is_longer"])
        tokens = clap.tokenizer(TEXTS, padding=True, return_tensors="pt")
        expected_text = network.get_text_features(**{k: tokens[k] for k in ("input_ids", "attention_mask")})
    torch.testing.assert_close(clap.embed(audio[None])[0], expected.pooler_output)
    torch.testing.assert_close(clap.embed_text(TEXTS), expected_text.pooler_output)


@pytest.mark.parametrize("samples", [1, 7_000, 20_000, 47_999])
def test_a_short_clip_is_padded_as_the_processor_pads(clap, samples):
    audio = noise(1, samples)
    settings = {"sampling_rate": 48_000, "return_tensors": "pt"}
    mine = clap.extractor(clap.pad(audio, 48_000)[0].numpy(), **settings)["input_features"]
    theirs = clap.extractor(audio[0].numpy(), **settings)["input_features"]
    assert torch.equal(mine, theirs)


def test_the_rest_of_a_clip_is_heard_alone(clap):
    audio = noise(1, 48_000 + 20_000)
    vectors = clap.embed(audio)
    assert vectors.shape == (1, 2, 24)
    torch.testing.assert_close(vectors[:, 1:], clap.embed(audio[:, 48_000:]))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(1, 2))


def test_long_texts_are_cut_where_it_says(folder, clap):
    cut = MusicCLAP(str(folder), max_tokens=4)
    assert torch.allclose(cut.embed_text(["slow piano"]), clap.embed_text(["slow piano"]))
    assert torch.allclose(cut.embed_text(["slow piano and drums"]), clap.embed_text(["slow piano"]))
    with pytest.raises(ValueError, match="max_tokens=2"):
        MusicCLAP(str(folder), max_tokens=2)


def test_pickled_weights_are_read_for_their_tensors(folder, clap, tmp_path):
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(clap.network.state_dict(), tmp_path / "pytorch_model.bin")
    assert module_fingerprint(GeneralCLAP(str(tmp_path))) == module_fingerprint(clap)


def test_a_fused_model_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fused: Any = ClapConfig.from_pretrained(folder)
    fused.audio_config.enable_fusion = True
    fused.audio_config.fusion_type = "aff_2d"
    ClapModel(fused).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without fusion"):
        MusicCLAP(str(tmp_path))


def test_missing_models_and_weights_are_explained(folder, tmp_path, clap):
    with pytest.raises(LookupError, match=r"(?s)'.*nowhere'.*hf download"):
        MusicCLAP(str(tmp_path / "nowhere"))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = dict(clap.network.state_dict())
    del weights["audio_projection.linear1.weight"]
    clap.network.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'audio_projection\.linear1\.weight'"):
        MusicCLAP(str(tmp_path))


@pytest.mark.parametrize(("part", "model"), [(MusicCLAP, "music"), (GeneralCLAP, "general")])
def test_the_released_models_are_outlined_without_fetching_them(part, model):
    outline = part.skeleton()
    assert outline.arguments["model"] == f"laion/larger_clap_{model}"
    assert (outline.width, outline.sample_rate, outline.window_seconds) == (512, 48_000, 10.0)
    assert all(tensor.is_meta for tensor in outline.parameters())
    assert sum(tensor.numel() for tensor in outline.parameters()) == 193_913_882


def test_an_outline_has_the_facts_and_no_weights(folder, clap):
    outline = MusicCLAP.skeleton(model=str(folder))
    facts = ("width", "sample_rate", "window_seconds", "hop_seconds", "arguments")
    assert all(getattr(outline, name) == getattr(clap, name) for name in facts)
    assert outline.state_dict().keys() == clap.state_dict().keys()
    with pytest.raises(LookupError, match="is not known here"):
        MusicCLAP.skeleton(model=str(folder / "none"))


def test_both_checkpoints_have_names(folder):
    assert isinstance(config.build("embedders", {"name": "clap-general", "model": str(folder)}), CLAP)
    assert config.with_defaults("embedders", "clap-music")["model"] == "laion/larger_clap_music"
    assert config.with_defaults("embedders", "clap-general")["model"] == "laion/larger_clap_general"
