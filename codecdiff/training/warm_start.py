"""Initial weights of a stage from another trained stage: the setting `stages.NAME.start_from`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from codecdiff import config
from codecdiff.config.schema import ExperimentConfig
from codecdiff.errors import ConfigError, InvalidValue, MissingFile
from codecdiff.interfaces import Denoiser
from codecdiff.pipeline.pipeline import Pipeline
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.stage_folder import STAGE_FILE, load_weights, read_stage_config


def warm_start_folder(experiment: ExperimentConfig, pipeline: Pipeline, name: str, model: Path) -> Path | None:
    """Return the folder of the stage whose weights initialize the stage called `name`, if there is one.

    `model` is the folder of the model in training. Raises ConfigError for a stage that is to start from itself.
    """
    source = experiment.stage_config(name).start_from
    if source == name:
        raise ConfigError(
            f"stages.{name}.start_from={source}: a stage cannot start from itself. Name another, or a folder."
        )
    return None if source is None else model / source if source in pipeline.stage_names else Path(source)


def check_warm_starts(experiment: ExperimentConfig, pipeline: Pipeline, stages: Sequence[Stage], model: Path) -> None:
    """Check, before the first is trained, that `stages`, in this order, can start from the stages they name.

    Those already in training resume instead. Raises ConfigError, and what `require_same_denoiser` raises.
    """
    earlier: dict[Path, Stage] = {}
    for stage in stages:
        folder = warm_start_folder(experiment, pipeline, stage.name, model)
        if folder is not None and not (model / stage.name / STAGE_FILE).exists():
            source = earlier.get(folder)
            if source is None:
                require_same_denoiser(stage.denoiser, folder)
            elif type(source.denoiser) is not type(stage.denoiser):
                raise ConfigError(f"{stage.name} cannot start from {source.name}: their denoisers differ.")
        earlier[model / stage.name] = stage


def require_same_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Raise ValueError unless the trained stage of a folder has a denoiser of the same kind."""
    if not (folder / STAGE_FILE).is_file():
        raise MissingFile(
            f"{folder} does not hold a trained stage: {STAGE_FILE} is missing. Name a stage of this model that is "
            "trained before, or the folder of one, e.g. runs/other/model/primary."
        )
    there, here = read_stage_config(folder)["denoiser"]["name"], config.to_config("denoisers", denoiser)["name"]
    if there != here:
        raise InvalidValue(f"{folder} has the denoiser '{there}', not '{here}': its weights do not fit.")


def warm_start(denoiser: Denoiser, folder: Path) -> tuple[dict[str, Any], str]:
    """Copy the averaged weights of a trained stage, a folder, into a denoiser wherever name and shape agree.

    Returns the facts to keep of it, without paths: the stage, a hash of its weights, and the numbers of parameters
    copied and in all; and the same as the end of a sentence, which names the tensors that keep their initial values.
    Raises ValueError if no weights agree, and the errors of `require_same_denoiser`.
    """
    require_same_denoiser(denoiser, folder)
    digests: dict[str, str] = {}
    source, target = load_weights(folder, digests)[1], denoiser.state_dict()
    names = [name for name, tensor in target.items() if name in source and source[name].shape == tensor.shape]
    copied, total = (sum(target[name].numel() for name in each) for each in (names, target))
    if not copied:
        raise InvalidValue(f"No weights of {folder} agree in name and shape with this denoiser. Choose another stage.")
    with torch.no_grad():
        for name in names:
            target[name].copy_(source[name])  # a state dict's tensors are the module's own
    facts = {"stage": folder.name, "weights": [*digests.values()][-1][:32], "copied": copied, "total": total}
    skipped = [name for name in target if name not in names]
    message = f"starts with {copied:,} of {total:,} weights of {folder.name}"
    if skipped:
        message += f"; randomly initialized: {', '.join(skipped[:9])}{'...' if skipped[9:] else ''}"
    return facts, message
