"""Initial weights of a stage from another trained stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codecdiff import config
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.interfaces import Denoiser
from codecdiff.pipeline.checkpoint import STAGE_FILE, load_weights, read_stage_config


def require_same_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Raise ValueError unless the trained stage of a folder has a denoiser of the same kind."""
    if not (folder / STAGE_FILE).is_file():
        raise MissingFile(
            f"{folder} does not hold a trained stage: {STAGE_FILE} is missing. Name a stage of this model that is "
            "trained before, or the folder of one, e.g. runs/other/model/primary."
        )
    there, here = read_stage_config(folder)["denoiser"]["name"], config.to_config("denoisers", denoiser)["name"]
    if there != here:
        raise InvalidValue(f"{folder} has the denoiser '{there}', not '{here}': its weights cannot be used.")


@dataclass(frozen=True)
class WarmStart:
    """What a denoiser copied from another stage.

    stage: name of that stage.
    weights: SHA-256 of its weights file, shortened.
    copied, total: numbers of parameters copied, and in the denoiser.
    skipped: names of the tensors that keep their initial values.
    """

    stage: str
    weights: str
    copied: int
    total: int
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it for the facts of a stage, without paths."""
        return {"stage": self.stage, "weights": self.weights, "copied": self.copied, "total": self.total}

    def __str__(self) -> str:
        names = ", ".join(self.skipped[:9]) + ("..." if self.skipped[9:] else "")
        return f"starts with {self.copied:,} of {self.total:,} weights of {self.stage}" + (
            f"; randomly initialized: {names}" if names else ""
        )


def warm_start(denoiser: Denoiser, folder: Path) -> WarmStart:
    """Copy the averaged weights of a trained stage, a folder, into a denoiser wherever name and shape agree.

    Raises ValueError if none do, and the errors of `require_same_denoiser`.
    """
    require_same_denoiser(denoiser, folder)
    digests: dict[str, str] = {}
    source, target = load_weights(folder, digests)[1], denoiser.state_dict()
    names = [name for name, tensor in target.items() if name in source and source[name].shape == tensor.shape]
    copied = sum(target[name].numel() for name in names)
    if not copied:
        raise InvalidValue(f"No weights of {folder} agree in name and shape with this denoiser. Choose another stage.")
    with torch.no_grad():
        for name in names:
            target[name].copy_(source[name])  # a state dict's tensors are the module's own
    skipped = tuple(name for name in target if name not in names)
    total = sum(tensor.numel() for tensor in target.values())
    return WarmStart(folder.name, [*digests.values()][-1][:32], copied, total, skipped)
