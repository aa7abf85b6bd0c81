"""Sizes of T5 encoders: the released models, and a tiny one for tests."""

import string
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from codecdiff.huggingface import PretrainedModels

SIZES: dict[str, dict[str, Any]] = {
    "small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "xl": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "xxl": {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
}

COMMON: dict[str, Any] = {"vocab_size": 32128, "d_kv": 64, "feed_forward_proj": "gated-gelu"}  # of all sizes

MODELS = PretrainedModels(
    "T5 encoder",
    T5EncoderModel,
    {f"google/flan-t5-{size}": {**COMMON, **config} for size, config in SIZES.items()},
    files="config.json, model.safetensors and a tokenizer",
)

WORDS = ("a", "and", "bass", "calm", "drum", "fast", "guitar", "happy", "jazz", "loud", "piano", "slow", "song", "the")


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe a T5 encoder of random weights, with a tokenizer of a few words: `tiny`, or a released size."""
    tokenizer = tiny_tokenizer()
    small = {"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = {**COMMON, **(small if size == "tiny" else SIZES[size]), **changes}
    return {"network": T5EncoderModel(T5Config(**config)), "processors": [tokenizer]}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer of a few words and single characters that ends every text in </s>, as T5's does."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # ids 0, 1 and 2
    scores = dict.fromkeys(special.values(), 0.0)
    scores |= {f"▁{word}": -2.0 - rank for rank, word in enumerate(WORDS)}
    for character in "▁" + string.ascii_letters + string.digits + string.punctuation:
        scores.setdefault(character, -50.0)
    tokenizer = Tokenizer(Unigram(list(scores.items()), unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special)
