"""Write an EnCodec of random weights, to try real shapes, times and memory without downloading anything.

    python -m codecdiff_encodec.random_weights FOLDER --size 32khz --seed 0

What it decodes is noise; everything else is as with the released weights.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel

from codecdiff_encodec.shapes import SHAPES, Size

_CLIPS, _CLIP_FRAMES = 4, 128  # of noise, that codebooks are seeded from
_SPREAD = 0.4  # of entries, beside what they are seeded from; with 1, what is left over would grow from level to level


def random_model(folder: str | Path, *, size: Size = "tiny-24khz", seed: int = 0) -> Path:
    """Write an EnCodec of this shape with weights drawn from `seed`; give the folder, to be loaded as any other."""
    with torch.random.fork_rng(devices=[]):
        network = EncodecModel(EncodecConfig(**SHAPES[size])).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part, gain in (network.encoder, 1.3), (network.decoder, 0.8):
            for module in part.modules():
                _draw(module, gain, generator)
        _seed_codebooks(network, generator)
    network.save_pretrained(folder)
    return Path(folder)


def _draw(module: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Draw a layer's weights so that signals grow by about `gain`, which an ELU halves again."""
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        overlap = module.kernel_size[0] / (module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1)
        weight = gain * (module.in_channels * overlap) ** -0.5 * torch.randn(module.weight.shape, generator=generator)
        if parametrize.is_parametrized(module, "weight"):
            module.weight = weight  # as a length and a direction
        else:
            module.weight.copy_(weight)
        assert module.bias is not None
        module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=generator))
    elif isinstance(module, nn.LSTM):
        for weight in module.parameters():
            nn.init.normal_(weight, std=module.hidden_size**-0.5, generator=generator)


def _seed_codebooks(network: Any, generator: torch.Generator) -> None:
    """Draw every codebook about what the levels before it leave over of encoded noise.

    transformers builds them of zeros, and then every law of codes holds for nothing.
    """
    config = network.config
    shape = (1, config.audio_channels, _CLIP_FRAMES * config.hop_length)
    clips = [torch.randn(shape, generator=generator) for _ in range(_CLIPS)]
    residual = torch.cat([network.encoder(0.3 * clip) for clip in clips], dim=-1)  # (1, d, l)
    for level in network.quantizer.layers:
        level.codebook.embed.copy_(_like(residual[0].T, config.codebook_size, generator))
        level.codebook.embed_avg.copy_(level.codebook.embed)
        residual = residual - level.decode(level.encode(residual))


def _like(frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(l, d) frames -> (count, d), drawn with their mean and the shape of their covariance, as random sums of them."""
    weights = _SPREAD * torch.randn(count, len(frames), generator=generator) * len(frames) ** -0.5
    return frames.mean(0) + weights @ (frames - frames.mean(0))


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write an EnCodec of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=get_args(Size), default="tiny-24khz")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, size=arguments.size, seed=arguments.seed)


if __name__ == "__main__":
    main()
