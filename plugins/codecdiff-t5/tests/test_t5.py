import inspect
import warnings

import pytest
import torch
from codecdiff_t5 import T5
from transformers import AutoTokenizer, T5Config, T5EncoderModel, T5ForConditionalGeneration

from codecdiff import Condition
from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.denoisers import fill_nulls
from codecdiff.testing import check_conditioner
from codecdiff.testing.tiny import write_tiny

SHORT, LONG = "slow piano", "fast jazz with a loud guitar, and a happy song in the rock of drum!"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_tiny("t5", tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def t5(folder):
    return T5(str(folder))


def assert_same(one: Condition, other: Condition):
    for name in ("text", "vector"):
        assert torch.equal(one[name].tokens, other[name].tokens)
        assert torch.equal(one[name].mask, other[name].mask)


def test_the_tokenizer_ends_every_text_as_t5_s_does(t5):
    assert t5.tokenizer("").input_ids == [t5.tokenizer.eos_token_id] == [1]
    tokens = t5.tokenizer(SHORT).input_ids
    assert tokens[-1] == 1
    assert t5.tokenizer.decode(tokens, skip_special_tokens=True) == SHORT


def test_entries_are_the_states_and_the_first_of_them(t5):
    condition = t5.encode([SHORT, LONG])
    text, vector = condition["text"], condition["vector"]
    assert condition.widths == t5.widths == {"text": 32, "vector": 32}
    assert text.mask.sum(1).tolist() == [3, len(t5.tokenizer(LONG).input_ids)]
    assert torch.equal(vector.tokens, text.tokens[:, :1])
    assert vector.mask.tolist() == [[True], [True]]
    assert not text.tokens[0, 3:].any()


def test_states_are_those_of_transformers_with_an_attention_mask(t5, folder):
    network = T5EncoderModel.from_pretrained(folder).eval()
    tokens = t5.tokenizer([SHORT, LONG], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = network(**tokens).last_hidden_state
    text = t5.encode([SHORT, LONG])["text"]
    assert torch.equal(text.mask, tokens.attention_mask.bool())
    torch.testing.assert_close(text.tokens[text.mask], expected[text.mask], rtol=0, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbors(folder):
    together = T5(str(folder)).encode([SHORT, LONG])["text"]
    alone = T5(str(folder)).encode([SHORT])["text"]
    assert torch.equal(together.tokens[0, :3], alone.tokens[0])
    assert not torch.allclose(together.tokens[0, 0], together.tokens[1, 0])


def test_attended_padding_is_what_transformers_gives_for_the_batch(folder):
    network = T5EncoderModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = network(**tokenizer([SHORT, LONG], padding=True, return_tensors="pt")).last_hidden_state
    padding = T5(str(folder), attend_padding=True)
    condition = padding.encode([SHORT, LONG])
    assert condition["text"].mask.all()
    torch.testing.assert_close(condition["text"].tokens, expected, rtol=0, atol=1e-6)
    assert torch.equal(condition["vector"].tokens, condition["text"].tokens[:, :1])
    assert padding.encode([SHORT])["text"].tokens.shape[1] == 3  # the same prompt, alone


def test_attended_padding_leaves_an_empty_prompt_absent(folder):
    padding = T5(str(folder), attend_padding=True)
    beside, alone = padding.encode(["", SHORT, " ", LONG]), padding.encode([SHORT, LONG])
    assert beside["text"].mask.any(1).tolist() == beside["vector"].mask.any(1).tolist() == [False, True, False, True]
    assert torch.equal(beside["text"].tokens[[1, 3]], alone["text"].tokens)
    assert not padding.encode([""])["text"].mask.any()
    assert padding.encode([])["text"].tokens.shape[0] == 0


def test_attended_padding_is_cut_as_well_and_cannot_be_cached(folder, tmp_path):
    with pytest.warns(UserWarning, match="is cut to 6"):
        cut = T5(str(folder), attend_padding=True, max_tokens=6).encode([SHORT, LONG])
    assert cut["text"].tokens.shape[1] == 6
    with pytest.raises(ValueError, match="depend on its neighbors"):
        CachedConditioner(T5(str(folder), attend_padding=True), tmp_path).encode([SHORT])


@pytest.mark.parametrize("prompt", ["", "  \n", {}, {"text": ""}, {"text": None, "tempo": 120}])
def test_an_empty_prompt_is_absent(t5, prompt):
    condition = t5.encode([prompt])
    assert not condition["text"].mask.any()
    assert not condition["vector"].mask.any()
    nulls = {name: torch.full((width,), 5.0) for name, width in t5.widths.items()}
    null = fill_nulls(t5.encode([SHORT]).null(), nulls)
    for name, entry in fill_nulls(condition, nulls).items():
        assert entry.mask.sum(1).eq(1).all()
        assert torch.equal(entry.tokens, null[name].tokens[:, : entry.tokens.shape[1]])


def test_empty_and_real_prompts_stand_side_by_side(t5):
    condition = t5.encode(["", SHORT, {"text": SHORT, "key": "C"}])
    assert condition["text"].mask.any(1).tolist() == [False, True, True]
    assert torch.equal(condition["text"].tokens[1], condition["text"].tokens[2])
    assert condition["vector"].mask[:, 0].tolist() == [False, True, True]


def test_no_prompts_give_no_rows(t5):
    assert t5.encode([])["text"].tokens.shape[0] == 0


def test_text_that_is_not_a_string_is_refused(t5):
    with pytest.raises(ValueError, match="field 'text' of a prompt must be a string, but got list"):
        t5.encode([{"text": ["piano"]}])


def test_long_prompts_are_cut_and_told_so_once(folder, t5):
    cutting = T5(str(folder), max_tokens=6)
    with pytest.warns(UserWarning, match="is cut to 6"):
        condition = cutting.encode([LONG])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cutting.encode([LONG + " solo", SHORT])
    kept = cutting.tokenizer(LONG).input_ids[:5]
    with torch.no_grad():
        expected = t5.network(input_ids=torch.tensor([[*kept, 1]])).last_hidden_state
    assert torch.equal(condition["text"].tokens, expected)


def test_max_tokens_has_to_be_positive(folder):
    with pytest.raises(ValueError, match="max_tokens is 0"):
        T5(str(folder), max_tokens=0)


def test_it_obeys_the_laws_and_so_does_its_cache(t5, tmp_path):
    check_conditioner(t5)
    check_conditioner(CachedConditioner(t5, tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_gives_back_every_bit_and_computes_nothing(folder, tmp_path, monkeypatch, dtype):
    fresh = T5(str(folder), dtype=dtype)
    cached = CachedConditioner(T5(str(folder), dtype=dtype), tmp_path)
    expected = fresh.encode([SHORT, LONG, ""])
    assert_same(cached.encode([SHORT, LONG, ""]), expected)
    monkeypatch.setattr(T5, "encode_text", lambda self, text: pytest.fail(f"{text!r} was computed again"))
    cached.release()
    assert all(tensor.is_meta for tensor in cached.conditioner.state_dict().values())
    assert_same(cached.encode([SHORT, LONG, ""]), expected)
    assert_same(CachedConditioner(T5(str(folder), dtype=dtype), tmp_path).encode([LONG]), expected.rows([1]))


def test_the_cache_keeps_models_and_options_apart(folder, tmp_path):
    other = write_tiny("t5", tmp_path / "other", seed=1)
    alike = write_tiny("t5", tmp_path / "alike")
    conditioners = [T5(str(folder)), T5(str(other)), T5(str(folder), max_tokens=2), T5(str(folder), dtype="bfloat16")]
    prints = [conditioner.fingerprint() for conditioner in conditioners]
    assert len(set(prints)) == 4
    again = T5(str(alike))
    again.tokenizer.backend_tokenizer.enable_truncation(9)  # as files of tokenizers may say, and every call unsays
    assert again.fingerprint() == prints[0]  # wherever it lies


def test_bfloat16_features_take_half_the_room(folder, tmp_path):
    sizes = []
    for dtype in ("float32", "bfloat16"):
        cached = CachedConditioner(T5(str(folder), dtype=dtype), tmp_path / dtype)
        cached.prepare([LONG])
        sizes.append(sum(file.stat().st_size for file in (tmp_path / dtype).rglob("*.safetensors")))
    assert sizes[1] < 0.65 * sizes[0]


def test_a_prompt_asked_for_twice_is_computed_once(t5, monkeypatch):
    computed = []
    compute = t5.encode_text
    monkeypatch.setattr(t5, "encode_text", lambda text: computed.append(text) or compute(text))
    t5.encode(["a", "bass", "a", "", "bass"])
    assert computed == ["a", "bass"]


def test_half_precision_is_near_and_given_as_float32(folder, t5):
    half = T5(str(folder), dtype="bfloat16").encode([SHORT])["text"].tokens
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, t5.encode([SHORT])["text"].tokens, rtol=0, atol=0.1)


def test_nothing_learns_nor_draws_and_autocast_changes_nothing(folder, t5):
    state = torch.get_rng_state()
    expected = t5.encode([SHORT])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(T5(str(folder)).encode([SHORT]), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in t5.parameters())
    assert not expected["text"].tokens.requires_grad
    assert not any(module.training for module in t5.train().modules())


def test_a_whole_t5_is_read_for_its_encoder(folder, tmp_path, t5):
    config = T5Config.from_pretrained(folder, is_encoder_decoder=True)
    whole = T5ForConditionalGeneration(config)
    whole.save_pretrained(tmp_path)
    t5.tokenizer.save_pretrained(tmp_path)
    weights = T5(str(tmp_path)).network.state_dict()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in weights.items())


def test_arguments_are_remembered(t5, folder):
    assert t5.fields == ("text",)
    assert t5.arguments == {
        "model": str(folder),
        "revision": None,
        "max_tokens": 256,
        "dtype": "float32",
        "attend_padding": False,
    }
    assert inspect.signature(T5).parameters["model"].default == "google/flan-t5-large"


def test_a_missing_model_is_explained(tmp_path):
    with pytest.raises(LookupError, match=r"(?s)'.*nowhere'.*model\.safetensors.*hf download"):
        T5(str(tmp_path / "nowhere"))


def test_incomplete_weights_are_refused(folder, tmp_path, t5):
    weights = dict(t5.network.state_dict())
    del weights["encoder.final_layer_norm.weight"]
    t5.network.save_pretrained(tmp_path, state_dict=weights)
    t5.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"1 of its weights are missing, 'encoder\.final_layer_norm\.weight'"):
        T5(str(tmp_path))


def test_an_outline_has_the_widths_and_no_weights(t5, folder):
    outline = T5.skeleton(model=str(folder))
    assert (outline.widths, outline.arguments) == (t5.widths, t5.arguments)
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in t5.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in outline.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in outline.state_dict().values())


@pytest.mark.parametrize(
    ("size", "width", "parameters"),
    [
        ("small", 512, 35_332_800),
        ("base", 768, 109_628_544),
        ("large", 1024, 341_231_104),
        ("xl", 2048, 1_223_527_424),
        ("xxl", 4096, 4_762_310_656),
    ],
)
def test_the_released_models_are_outlined_without_fetching_them(size, width, parameters):
    outline = T5.skeleton(model=f"google/flan-t5-{size}", dtype="bfloat16")
    assert outline.widths == {"text": width, "vector": width}
    assert sum(tensor.numel() for tensor in outline.parameters()) == parameters
    assert {tensor.dtype for tensor in outline.parameters()} == {torch.bfloat16}


def test_an_unknown_model_cannot_be_outlined(tmp_path):
    with pytest.raises(LookupError, match=r"is not known here: .* not one of google/flan-t5-small"):
        T5.skeleton(model=str(tmp_path / "none"))
