"""Write random weights for VGGish, to try real shapes and times without downloading anything.

    python -m codecdiff_vggish.random_weights FILE --seed 0

A file of 1 MB instead of 288: neighbouring rows of a matrix share all numbers but one, so few are stored. The
embeddings mean nothing; everything else is as with the published weights.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torchvggish.torchvggish import VGG, make_layers


def random_weights(file: str | Path, *, seed: int = 0) -> Path:
    """Write weights drawn from `seed`; give the file, to be loaded as any other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VGG(make_layers(), postprocess=False).state_dict().items()}
    torch.save({name: _drawn(shape, generator) for name, shape in shapes.items()}, file)
    return Path(file)


def _drawn(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a tensor that keeps the size of signals under rectifiers: row i begins one number after row i - 1."""
    columns = shape[1:].numel()
    numbers = torch.randn(shape[0] + columns - 1, generator=generator)
    if len(shape) == 1:
        return 0.1 * numbers
    return ((2 / columns) ** 0.5 * numbers).unfold(0, columns, 1).unflatten(1, shape[1:])


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description="Write random weights for VGGish.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_weights(arguments.file, seed=arguments.seed)


if __name__ == "__main__":
    main()
