"""Sizes of CLAP: the released models, and a tiny one for tests."""

from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

MUSIC = "laion/larger_clap_music"
GENERAL = "laion/larger_clap_general"

_LARGER: dict[str, Any] = {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128}

RELEASED: dict[str, dict[str, Any]] = {
    MUSIC: _LARGER,
    GENERAL: _LARGER,
    "laion/larger_clap_music_and_speech": _LARGER,
    "laion/clap-htsat-unfused": {},
}  # hub id -> its audio encoder; text encoders are as transformers' default

WORDS = ("a", "and", "bass", "calm", "drums", "fast", "for", "guitar", "loud", "piano", "slow", "the", "waltz")


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe a CLAP of random weights: `tiny`, with windows of one second and a few words, or a `released` size."""
    tokenizer = tiny_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 130,
    }
    audio = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}
    small = {"text_config": text, "audio_config": audio, "projection_dim": 24}
    config = small if size == "tiny" else {"text_config": {}, "audio_config": _LARGER}
    seconds = 1 if size == "tiny" else 10
    extractor = ClapFeatureExtractor(max_length_s=seconds, frequency_min=50, truncation="rand_trunc")
    network = ClapModel(ClapConfig(**{**config, **changes}))
    return {"network": network, "processors": [tokenizer, extractor]}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a few words that puts every text between <s> and </s>, as RoBERTa's does."""
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # ids 0 to 3
    vocabulary = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **special)
