"""Write a small Qwen2-Audio of random weights with a working processor, to try things without downloading anything.

    python -m tiny_qwen2_audio FOLDER --seed 0

Its descriptions mean nothing, but they differ from track to track, and everything else is as with the released weights.
"""

import argparse
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

_PAD, _END = "<|endoftext|>", "<|im_end|>"
_SPECIAL = [_PAD, _END, "<unk>", "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
_WORDS = ["a", "and", "bass", "calm", "drum", "fast", "guitar", "happy", "jazz", "loud", "piano", "slow", "song", "the"]


def random_model(folder: str | Path, *, seed: int = 0, seconds: int = 30) -> Path:
    """Write a tiny Qwen2-Audio with weights drawn from `seed`, and its processor; give the folder.

    It hears up to `seconds` of audio, by default as many as the released one.
    """
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        network = Qwen2AudioForConditionalGeneration(_shape(tokenizer, seconds))
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.ndim >= 2:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    ends = [tokenizer.get_vocab()[mark] for mark in (_END, _PAD)]
    network.generation_config = GenerationConfig(  # as the released model has it: it samples unless it is told not to
        do_sample=True, top_p=0.5, top_k=20, temperature=0.7, eos_token_id=ends, pad_token_id=ends[1]
    )
    network.save_pretrained(folder)
    ears = WhisperFeatureExtractor(feature_size=16, sampling_rate=16_000, chunk_length=seconds)
    Qwen2AudioProcessor(ears, tokenizer).save_pretrained(folder)
    return Path(folder)


def _shape(tokenizer: PreTrainedTokenizerFast, seconds: int) -> Qwen2AudioConfig:
    encoder = Qwen2AudioEncoderConfig(
        num_mel_bins=16,
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        max_source_positions=50 * seconds,
    )
    language = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    audio = tokenizer.get_vocab()["<|AUDIO|>"]
    return Qwen2AudioConfig(audio_config=encoder, text_config=language, audio_token_index=audio)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Build a Unigram tokenizer of a few words and single characters, with Qwen2-Audio's marks."""
    characters = "▁\n" + string.ascii_letters + string.digits + string.punctuation
    pieces = [(piece, 0.0) for piece in _SPECIAL]
    pieces += [(f"▁{word}", -2.0 - rank) for rank, word in enumerate(_WORDS)]
    pieces += [(character, -50.0) for character in characters]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=_SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    marks = [mark for mark in _SPECIAL if mark not in (_PAD, _END, "<unk>")]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token="<unk>",
        extra_special_tokens=marks,
        model_max_length=4096,
    )


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a small Qwen2-Audio of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, seed=arguments.seed)


if __name__ == "__main__":
    main()
