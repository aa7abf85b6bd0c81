"""Sizes of MiniLM: the released model, and a tiny one for tests."""

import string
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from codecdiff.huggingface import PretrainedModels

RELEASED = "sentence-transformers/all-MiniLM-L6-v2"
SIZES: dict[str, dict[str, Any]] = {
    "l6": {"vocab_size": 30522, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
}
COMMON: dict[str, Any] = {"num_attention_heads": 12}

MODELS = PretrainedModels(
    "MiniLM",
    BertModel,
    {RELEASED: {**COMMON, **SIZES["l6"]}},
    files="config.json, model.safetensors and a tokenizer",
    optional=frozenset({"pooler.dense.weight", "pooler.dense.bias"}),  # the sentence vector is a mean instead
)

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}  # ids 0 to 3
WORDS = ("a", "and", "bass", "calm", "drum", "fast", "flute", "guitar", "loud", "piano", "slow", "song", "the")


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe a MiniLM of random weights, with a tokenizer of a few words: `tiny`, or the released size `l6`."""
    tokenizer = tiny_tokenizer()
    small = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = {**COMMON, "num_attention_heads": 4, **small} if size == "tiny" else {**COMMON, **SIZES[size]}
    return {"network": BertModel(BertConfig(**{**config, **changes})), "processors": [tokenizer]}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer of a few words and single characters, which frames a text as BERT's does."""
    characters = string.ascii_lowercase + string.digits
    subwords = [*SPECIAL.values(), *WORDS, *characters[1:], *(f"##{character}" for character in characters)]
    tokenizer = Tokenizer(WordPiece({subword: i for i, subword in enumerate(subwords)}, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **SPECIAL)
