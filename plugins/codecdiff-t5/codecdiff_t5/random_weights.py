"""Write a small T5 of random weights with a working tokenizer, to try things without downloading anything.

    python -m codecdiff_t5.random_weights FOLDER --seed 0

Its features mean nothing, but they differ from prompt to prompt, and everything else is as with the released weights.
"""

import argparse
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

_SPECIAL = ["<pad>", "</s>", "<unk>"]  # ids 0, 1 and 2, as T5 has them
_WORDS = ["a", "and", "bass", "calm", "drum", "fast", "guitar", "happy", "jazz", "loud", "piano", "slow", "song", "the"]


def random_model(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a tiny T5 encoder with weights drawn from `seed`, and its tokenizer; give the folder."""
    tokenizer = _tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    with torch.random.fork_rng(devices=[]):
        network = T5EncoderModel(config)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Build a Unigram tokenizer of a few words and single characters that ends every text in </s>, as T5's does."""
    characters = "▁" + string.ascii_letters + string.digits + string.punctuation
    pieces = [(piece, 0.0) for piece in _SPECIAL]
    pieces += [(f"▁{word}", -2.0 - rank) for rank, word in enumerate(_WORDS)]
    pieces += [(character, -50.0) for character in characters]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=_SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", _SPECIAL.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a small T5 of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, seed=arguments.seed)


if __name__ == "__main__":
    main()
