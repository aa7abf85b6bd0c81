"""Write a small music model of random weights, to try things without downloading anything.

    python -m codecdiff_mert.random_weights FOLDER --kind mert_model --seed 0

Its vectors mean nothing, but they differ from clip to clip, and everything else is as with the released weights.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

from codecdiff_mert.shapes import NETWORKS

SAMPLE_RATE = 4000  # Hz


def random_model(folder: str | Path, *, kind: str = "mert_model", seed: int = 0) -> Path:
    """Write a tiny model of a kind in `shapes.NETWORKS` with weights drawn from `seed`; give the folder."""
    folder = Path(folder)
    configuration, network_type = NETWORKS[kind]
    shape = configuration(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[5, 4],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_feat_extract_layers=2,
    )
    with torch.random.fork_rng(devices=[]):
        network = network_type(shape)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    network.save_pretrained(folder)
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**told, "model_type": kind}), encoding="utf-8")
    Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE).save_pretrained(folder)
    return folder


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Write a small music model of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=list(NETWORKS), default="mert_model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_model(arguments.folder, kind=arguments.kind, seed=arguments.seed)


if __name__ == "__main__":
    main()
