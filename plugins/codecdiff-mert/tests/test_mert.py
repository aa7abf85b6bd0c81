import json

import pytest
import torch
from codecdiff_mert import MERT
from transformers import Data2VecAudioModel, HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from codecdiff import config
from codecdiff.fingerprint import module_fingerprint
from codecdiff.testing import check_embedder
from codecdiff.testing.tiny import write_tiny

SAMPLE_RATE = 4000  # Hz, of the tiny models
KINDS = {"mert_model": HubertModel, "hubert": HubertModel, "data2vec-audio": Data2VecAudioModel}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {kind: write_tiny("mert", tmp_path_factory.mktemp(kind), kind=kind) for kind in KINDS}


@pytest.fixture(scope="session")
def mert(folders):
    return MERT(str(folders["mert_model"]), window_seconds=0.5)


def noise(*shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def copied(folder, to):
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("kind", ["mert_model", pytest.param("data2vec-audio", marks=pytest.mark.integration)])
def test_mert_obeys_the_laws(folders, kind):
    check_embedder(MERT(str(folders[kind]), window_seconds=0.5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_vectors_are_means_of_transformers_states(folders, kind, layer):
    folder = folders[kind]
    audio = noise(SAMPLE_RATE)
    shape = json.loads((folder / "config.json").read_text()) | {"model_type": "hubert"}
    configured = {"config": HubertConfig(**shape)} if kind == "mert_model" else {}
    network = KINDS[kind].from_pretrained(folder, **configured).eval()
    heard = Wav2Vec2FeatureExtractor.from_pretrained(folder)(audio.numpy(), sampling_rate=4000, return_tensors="pt")
    with torch.no_grad():
        states = network(heard["input_values"], output_hidden_states=True).hidden_states[layer]
    vectors = MERT(str(folder), layer=layer, window_seconds=1.0).embed(audio[None])
    torch.testing.assert_close(vectors[0, 0], states[0].mean(0))


def test_the_last_layer_is_the_default_and_windows_follow_each_other(mert, folders):
    audio = noise(1, 3 * 2000 + 1999)
    vectors = mert.embed(audio)
    assert vectors.shape == (1, 3, 16)
    torch.testing.assert_close(vectors[:, 1], mert.embed(audio[:, 2000:4000])[:, 0])
    assert torch.equal(vectors, MERT(str(folders["mert_model"]), layer=3, window_seconds=0.5).embed(audio))
    assert not torch.allclose(vectors, MERT(str(folders["mert_model"]), layer=1, window_seconds=0.5).embed(audio))


def test_published_weights_of_old_names_are_read_for_their_tensors(folders, mert, tmp_path):
    copied(folders["mert_model"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    place = "encoder.pos_conv_embed.conv"
    names = {
        f"{place}.parametrizations.weight.original0": f"{place}.weight_g",
        f"{place}.parametrizations.weight.original1": f"{place}.weight_v",
    }
    state = {names.get(name, name): tensor for name, tensor in mert.network.state_dict().items()}
    assert f"{place}.weight_g" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert module_fingerprint(MERT(str(tmp_path), window_seconds=0.5)) == module_fingerprint(mert)


@pytest.mark.parametrize("change", [{"feature_extractor_cqt": True}, {"deepnorm": True}])
def test_a_model_that_needs_its_own_code_is_refused(folders, tmp_path, change):
    file = copied(folders["mert_model"], tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="needs the code it brings"):
        MERT(str(tmp_path))
    file.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"is a bert\. Kinds that are read: mert_model"):
        MERT(str(tmp_path))


def test_what_cannot_be_heard_is_explained(folders, tmp_path, mert):
    folder = str(folders["mert_model"])
    with pytest.raises(LookupError, match=r"(?s)'.*nowhere'.*hf download"):
        MERT(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"layers 0 to 3, or -4 to -1, but layer=4"):
        MERT(folder, layer=4)
    with pytest.raises(ValueError, match=r"at least 0\.01125 s at once"):
        MERT(folder, window_seconds=0.01)
    copied(folders["mert_model"], tmp_path)
    weights = dict(mert.network.state_dict())
    del weights["encoder.layer_norm.weight"]
    mert.network.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'encoder\.layer_norm\.weight'"):
        MERT(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LookupError, match="No music model"):
        MERT(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "width", "parameters"), [("MERT-v1-95M", 768, 94_371_712), ("MERT-v1-330M", 1024, 315_428_992)]
)
def test_the_released_models_are_outlined_without_fetching_them(model, width, parameters):
    outline = MERT.skeleton(model=f"m-a-p/{model}")
    assert (outline.width, outline.sample_rate, outline.window_seconds) == (width, 24_000, 5.0)
    assert all(tensor.is_meta for tensor in outline.state_dict().values())
    assert sum(tensor.numel() for tensor in outline.parameters()) == parameters


def test_an_outline_has_the_facts_and_no_weights(folders, mert):
    outline = MERT.skeleton(model=str(folders["mert_model"]), window_seconds=0.5)
    facts = ("width", "sample_rate", "window_seconds", "hop_seconds", "layer", "arguments")
    assert all(getattr(outline, name) == getattr(mert, name) for name in facts)
    assert outline.state_dict().keys() == mert.state_dict().keys()
    assert config.with_defaults("embedders", "mert")["model"] == "m-a-p/MERT-v1-95M"
