"""Write a Mimi of random weights, to try real shapes, times and memory without downloading anything.

    python -m codecdiff_mimi.random_weights FOLDER --size 24khz --seed 0

What it decodes is noise; everything else is as with the released weights.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import MimiConfig, MimiModel

from codecdiff_mimi.shapes import SHAPES, Size

_CLIPS, _CLIP_FRAMES = 4, 64  # of noise, that codebooks are seeded from
_SPREAD = 0.4  # of entries, beside what they are seeded from; with 1, what is left over would grow from level to level
_LAYER_SCALE = 0.3  # of every layer of the transformers; at transformers' 0.01 they would hardly be heard


def random_model(folder: str | Path, *, size: Size = "tiny", seed: int = 0) -> Path:
    """Write a Mimi of the given shape with weights drawn from `seed`; give the folder, to be loaded as any other."""
    with torch.random.fork_rng(devices=[]):
        network: Any = MimiModel(MimiConfig(**SHAPES[size], layer_scale_initial_scale=_LAYER_SCALE)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part, gain in (network.encoder, 1.3), (network.quantizer, 1.0), (network.decoder, 0.7):
            for module in part.modules():
                _draw(module, gain, generator)
        _seed_codebooks(network, generator)
    network.save_pretrained(folder)
    return Path(folder)


def _draw(module: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Draw a layer's weights so that signals grow by about `gain`, which an ELU halves again."""
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        overlap = module.kernel_size[0] / (module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1)
        std = gain * (module.in_channels / module.groups * overlap) ** -0.5
        nn.init.normal_(module.weight, std=std, generator=generator)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
    if isinstance(bias := getattr(module, "bias", None), Tensor):
        nn.init.normal_(bias, std=0.1, generator=generator)


def _seed_codebooks(network: Any, generator: torch.Generator) -> None:
    """Draw every codebook about what the levels before it leave over of encoded noise.

    transformers builds them of zeros, and then every law of codes holds for nothing.
    """
    config = network.config
    shape = (1, config.audio_channels, _CLIP_FRAMES * config.frame_size)
    clips = [torch.randn(shape, generator=generator) for _ in range(_CLIPS)]
    latents = torch.cat([network.encoder(0.3 * clip).latents for clip in clips], dim=-1)  # (1, e, l)
    split = network.quantizer
    for quantizer in (split.semantic_residual_vector_quantizer, split.acoustic_residual_vector_quantizer):
        residual = latents if quantizer.input_proj is None else quantizer.input_proj(latents)
        for level in quantizer.layers:
            entries = _like(residual[0].T, config.codebook_size, generator)
            uses = 1 + 9 * torch.rand(config.codebook_size, generator=generator)
            level.codebook.cluster_usage.copy_(uses)
            level.codebook.embed_sum.copy_(entries * uses[:, None])  # the network divides again
            residual = residual - level.decode(level.encode(residual))


def _like(frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(l, d) frames -> (count, d), drawn with their mean and the shape of their covariance, as random sums of them."""
    weights = _SPREAD * torch.randn(count, len(frames), generator=generator) * len(frames) ** -0.5
    return frames.mean(0) + weights @ (frames - frames.mean(0))


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a Mimi of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=get_args(Size), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, size=arguments.size, seed=arguments.seed)


if __name__ == "__main__":
    main()
