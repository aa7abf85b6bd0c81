import os
import subprocess
import sys

import pytest
import torch
from codecdiff_starter.conditioner import Words, position_signal, split_words, word_vector

from codecdiff.testing import check_conditioner

PROMPT = "a fast tune in G major on piano, with drums"


def similarity(a, b):
    return torch.cosine_similarity(word_vector(a, 128), word_vector(b, 128), dim=0).item()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Slow, SAD piano!", ["slow", "sad", "piano"]),
        ("F# minor, 120-bpm (3/4)", ["f#", "minor", "120", "bpm", "3", "4"]),
        ("F♯, E♭ #jazz", ["f#", "eb", "jazz"]),
        ("Straße ＰＩＡＮＯ", ["strasse", "piano"]),
        ("быстрое пианино; हिन्दी संगीत 钢琴。", ["быстрое", "пианино", "हिन्दी", "संगीत", "钢琴"]),
        ("\t ?!… ### \n", []),
    ],
)
def test_words_of_any_script(text, words):
    assert split_words(text) == words


def test_they_keep_the_laws():
    check_conditioner(Words(width=16))


def test_one_token_per_word():
    conditioner = Words(width=64, max_tokens=9)
    tokens, mask = conditioner.encode(["slow piano", {"text": "flute"}])["text"]
    assert tokens.shape == (2, 2, 64)
    assert tokens.dtype == torch.float32
    assert mask.tolist() == [[True, True], [True, False]]
    assert conditioner.widths == {"text": 64}
    assert conditioner.arguments == {"width": 64, "max_tokens": 9}
    assert not list(conditioner.parameters())
    assert not conditioner.state_dict()


@pytest.mark.parametrize("prompt", ["", "  \n", "?!", {}, {"text": None}, {"text": ""}, {"tempo": 120}])
def test_a_prompt_without_words_is_absent(prompt):
    tokens, mask = Words().encode([prompt])["text"]
    assert tokens.shape == (1, 1, 128)
    assert not mask.any()
    assert not tokens.any()


def test_no_prompts_give_no_rows():
    assert Words().encode([])["text"].tokens.shape == (0, 1, 128)


def test_neighbors_change_nothing_but_padding():
    words = Words()
    alone = words.encode([PROMPT])["text"]
    among = words.encode(["flute", PROMPT, "", PROMPT + " and then a good deal more"])["text"]
    n = alone.tokens.shape[1]
    assert torch.equal(among.tokens[1, :n], alone.tokens[0])
    assert among.mask[1].sum() == alone.mask.sum() == n
    assert not among.tokens[~among.mask].any()


def test_a_long_prompt_is_cut_with_a_warning():
    words = Words(max_tokens=3)
    with pytest.warns(UserWarning, match="longer than 3 words"):
        cut = words.encode([PROMPT])["text"]
    assert torch.equal(cut.tokens, words.encode(["a fast tune"])["text"].tokens)


def test_near_spellings_are_near():
    assert similarity("drums", "drum") > 0.3
    assert similarity("arpeggio", "arpeggios") > 0.4
    assert similarity("pianno", "piano") > similarity("flute", "piano") + 0.2
    assert abs(similarity("flute", "piano")) < 0.25
    assert similarity("c", "c#") < 0.6


def test_order_and_case():
    words = Words()
    forward, backward = (words.encode([text])["text"].tokens for text in ("piano drums", "drums piano"))
    assert not torch.allclose(forward.flip(1), backward)
    assert torch.equal(words.encode(["PIANO  drums."])["text"].tokens, forward)


def test_words_have_unit_variance_beside_small_positions():
    assert word_vector("piano", 128).square().mean().item() == pytest.approx(1, abs=1e-5)
    assert position_signal(48, 128).square().mean().item() == pytest.approx(1, abs=1e-5)
    tokens = Words().encode([PROMPT])["text"].tokens
    assert tokens.square().mean().item() == pytest.approx(1.09, abs=0.1)


@pytest.mark.integration
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_every_process_agrees(hash_seed):
    program = "from codecdiff_starter.conditioner import word_vector; print(word_vector('piano', 16).tolist())"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert output.stdout.strip() == str(word_vector("piano", 16).tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 7}, "even number"), ({"max_tokens": 0}, "Invalid max_tokens 0: expected at least 1")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Words(**options)


def test_text_that_is_not_text_is_refused():
    with pytest.raises(ValueError, match="must be a string, but got int: 7"):
        Words().encode([{"text": 7}])
