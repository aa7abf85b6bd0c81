"""The shipped checkpoints of musicnn: where they lie, and the names of their tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

from safetensors import safe_open

from codecdiff_musicnn.network import MusiCNNNetwork

Checkpoint = Literal["msd", "mtt"]  # trained on the Million Song Dataset, or on MagnaTagATune

WEIGHTS = Path(__file__).with_name("musicnn.safetensors")  # written by `codecdiff_musicnn.convert`


def load_checkpoint(name: Checkpoint) -> MusiCNNNetwork:
    """Load the network of a checkpoint."""
    with safe_open(WEIGHTS, "pt") as file:
        prefix = f"{name}."
        state = {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    return MusiCNNNetwork.of(state)


def tag_names() -> tuple[str, ...]:
    """Return the tags of both checkpoints in the order of their probabilities, `msd/rock` first."""
    with safe_open(WEIGHTS, "pt") as file:
        tags = json.loads(file.metadata()["tags"])
    return tuple(f"{checkpoint}/{tag}" for checkpoint in get_args(Checkpoint) for tag in tags[checkpoint])
