"""Write a DAC of random weights, to try real shapes, times and memory without downloading anything.

    python -m codecdiff_dac.random_weights FOLDER --size 44khz --seed 0

What it decodes is noise; everything else is as with the released weights.
"""

import argparse
from pathlib import Path
from typing import get_args

import torch
from torch import nn
from transformers import DacConfig, DacModel

from codecdiff_dac.shapes import SHAPES, Size


def random_model(folder: str | Path, *, size: Size = "tiny", width: int | None = None, seed: int = 0) -> Path:
    """Write a DAC of the given shape with weights drawn from `seed`; give the folder, to be loaded as any other.

    `width` is the number of channels at the audio's end of the encoder, where the released models have 64: all others
    follow. A narrow model has the facts of its size at a small part of its cost.
    """
    shape = dict(SHAPES[size])
    if width is not None:
        shape |= {"encoder_hidden_size": width, "decoder_hidden_size": 24 * width}
    with torch.random.fork_rng(devices=[]):
        network = DacModel(DacConfig(**shape))
    generator = torch.Generator().manual_seed(seed)
    for part, gain in (network.encoder, 1.0), (network.quantizer, 1.0), (network.decoder, 0.5):
        for module in part.modules():
            _draw(module, gain, generator)
    network.save_pretrained(folder)
    return Path(folder)


def _draw(module: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Draw a layer's weights so that signals grow by about `gain`; codebook entries are of unit variance.

    At 1 the encoder's outputs differ enough to use many codes; the decoder, which has residual sums on top, would
    saturate its tanh, and at 0.5 its audio is as loud as music.
    """
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, generator=generator)
    elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        overlap = module.kernel_size[0] / (module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1)
        nn.init.normal_(module.weight, std=gain * (module.in_channels * overlap) ** -0.5, generator=generator)
        assert module.bias is not None
        nn.init.normal_(module.bias, std=0.1, generator=generator)


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a DAC of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=get_args(Size), default="tiny")
    parser.add_argument("--width", type=int, help="channels at the audio's end; the released models have 64")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, size=arguments.size, width=arguments.width, seed=arguments.seed)


if __name__ == "__main__":
    main()
