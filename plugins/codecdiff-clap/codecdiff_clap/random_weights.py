"""Write a small CLAP of random weights with a working tokenizer, to try things without downloading anything.

    python -m codecdiff_clap.random_weights FOLDER --seed 0

It hears windows of one second instead of ten. Its vectors mean nothing, but they differ from clip to clip and from
text to text, and everything else is as with the released weights.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as RoBERTa has them
_WORDS = ["a", "and", "bass", "calm", "drums", "fast", "for", "guitar", "loud", "piano", "piece", "slow", "the"]


def random_model(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a tiny CLAP with weights drawn from `seed`, and its processor; give the folder."""
    tokenizer = _tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 130,
    }
    audio = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}
    with torch.random.fork_rng(devices=[]):
        network = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24))
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor = ClapFeatureExtractor(max_length_s=1, frequency_min=50, truncation="rand_trunc")
    extractor.save_pretrained(folder)
    return Path(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of a few words that puts every text between <s> and </s>, as RoBERTa's does."""
    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *_WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
    )


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a small CLAP of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, seed=arguments.seed)


if __name__ == "__main__":
    main()
