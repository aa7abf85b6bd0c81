"""Adapters of a model: a small change of the weights of its stages, trained on a few tracks (LoRA or DoRA).

FOLDER/  adapter.json       the model it belongs to, by its fingerprint, and the music it was trained on
         STAGE/             as in a model's folder; `denoiser` in stage.json says what is adapted and how, and
                            model.safetensors holds the adapter's layers alone

In training the layers of `peft` are in the network: `AdaptedDenoiser`. For sampling, what they change is added to the
weights, so that a stage is a plain network with a plain network's speed. With weight w, w times the change is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from codecdiff.data.sealed import FILES, SEAL, read_sealed, write_sealed
from codecdiff.denoisers.adapted import AdaptedDenoiser, AdapterConfig
from codecdiff.errors import InvalidValue, MissingFile, UnknownName
from codecdiff.files import check_schema
from codecdiff.fingerprint import hash_values
from codecdiff.pipeline.checkpoint import combined_fingerprint
from codecdiff.pipeline.provenance import AdapterRecord
from codecdiff.pipeline.stage import Stage
from codecdiff.pipeline.stage_folder import STAGE_FILE, is_trained, load_weights

ADAPTER_FILE = "adapter.json"
FORMAT = 1
HASH = r"^[0-9a-f]{32}$"

StageWeights = float | Mapping[str, float]  # of an adapter: in every stage, or by their names


class AdapterFile(BaseModel):
    """The contents of adapter.json. Those of later versions may say more."""

    model_config = ConfigDict(extra="allow")

    format: Literal[1]
    model: Annotated[str, Field(pattern=HASH)]
    model_name: str = Field(default="", max_length=256)
    data: dict[str, Any] = {}


@dataclass(frozen=True)
class Adapter:
    """An adapter of a model that is loaded.

    name: of its folder.
    fingerprint: hash of its files.
    stages: configuration and tensors of its layers in every stage that it changes.
    weights: of every such stage.
    """

    name: str
    fingerprint: str
    stages: Mapping[str, tuple[AdapterConfig, Mapping[str, Tensor]]]
    weights: Mapping[str, float]

    @property
    def record(self) -> AdapterRecord:
        """Return what generated files say of it."""
        return AdapterRecord(name=self.name, fingerprint=self.fingerprint, weights=dict(self.weights))


class AdapterStage(Stage):
    """A stage in training whose denoiser is an `AdaptedDenoiser`."""

    def to_config(self) -> dict[str, Any]:
        """Return the description of the stage, with the adapter as an option of its denoiser."""
        spec, denoiser = super().to_config(), self.denoiser
        adapter = denoiser.adapter.model_dump() if isinstance(denoiser, AdaptedDenoiser) else None
        return spec | {"denoiser": spec["denoiser"] | {"adapter": adapter}}


def write_adapter(
    folder: Path, fingerprint: str | None, data: Mapping[str, Any], *, model_name: str = "", allow_changes: bool = False
) -> None:
    """Write adapter.json, or check that the folder holds an adapter of this model, trained on this music.

    `fingerprint` is that of the model without adapters. Raises InvalidValue for an adapter of another model and,
    unless `allow_changes`, for other music.
    """
    file = folder / ADAPTER_FILE
    if not file.exists():
        model = {"model": fingerprint, "model_name": model_name}
        return write_sealed(file, {"format": FORMAT, **model, "data": dict(data)})
    saved = _read_adapter_file(file, fingerprint)
    if saved.data.get("hash") == data.get("hash"):
        return
    if not allow_changes:
        raise InvalidValue(
            f"{folder} was trained on other music, captions or splits. Choose another output=FOLDER, or "
            "resume with --allow-changes."
        )
    before = [*saved.data.get("before", []), saved.data.get("hash")]
    write_sealed(file, {**saved.model_dump(), "data": {**data, "before": before}})


def _read_adapter_file(file: Path, fingerprint: str | None, digests: dict[str, str] | None = None) -> AdapterFile:
    """Read adapter.json. Raises InvalidValue if it belongs to another model, and MissingFile."""
    if not file.is_file():
        raise MissingFile(
            f"'{file.parent}' does not hold an adapter: {ADAPTER_FILE} is missing. Train one: codecdiff train "
            "--adapter lora start_from=MODEL data.audio=FOLDER."
        )
    spec = read_sealed(file, digests, ADAPTER_FILE)
    spec = {key: value for key, value in spec.items() if key not in (FILES, SEAL)} if isinstance(spec, dict) else spec
    saved = check_schema(spec, str(file), AdapterFile)
    if saved.model != fingerprint:
        raise InvalidValue(
            f"'{file.parent}' is an adapter of another model, '{saved.model_name}' ({saved.model}), and this one is "
            f"{fingerprint}: load that model, or train an adapter of this one."
        )
    return saved


def read_adapter(
    folder: Path | str, fingerprint: str | None, stage_names: Iterable[str], weight: StageWeights = 1.0
) -> Adapter:
    """Read an adapter of a model, with this fingerprint and stages, from its folder or that of the run with it inside.

    Raises InvalidValue for an adapter of another model, for weights of stages that it lacks and damaged files, and
    MissingFile.
    """
    home, digests = Path(folder), dict[str, str]()
    home = home / "adapter" if (home / "adapter" / ADAPTER_FILE).is_file() else home
    _read_adapter_file(home / ADAPTER_FILE, fingerprint, digests)
    stages = {}
    for name in (name for name in stage_names if is_trained(home / name)):
        spec, tensors = load_weights(home / name, digests)
        where = f"'adapter' of {home / name / STAGE_FILE}"
        stages[name] = check_schema(spec["denoiser"].get("adapter"), where, AdapterConfig), tensors
    if not stages:
        raise InvalidValue(f"'{home}' has no trained stage of this model: run the training of the adapter again.")
    name = "/".join(home.resolve().parts[-2:])
    weights = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(stages, weight)
    for stage, value in weights.items():
        if stage not in stages:
            raise UnknownName(f"'{home}' does not adapt a stage '{stage}', but {', '.join(stages)}.")
        if not math.isfinite(value):
            raise InvalidValue(f"Invalid weight {value} of '{home}': expected a finite number, e.g. 0.5.")
    weights = {stage: float(weights.get(stage, 1.0)) for stage in stages}
    return Adapter(name, combined_fingerprint(digests), stages, weights)


def parse_adapter(text: str) -> tuple[str, StageWeights]:
    """Parse FOLDER, FOLDER:0.5 or FOLDER:primary=0.5,secondary=1. Raises InvalidValue for other weights."""
    folder, colon, weights = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    pairs = [pair.rpartition("=") for pair in weights.split(",")]
    try:
        by_name = {name: float(number) for name, _, number in pairs}
        if len(by_name) < len(pairs) or ("" in by_name and len(pairs) > 1):
            raise ValueError
    except ValueError:
        raise InvalidValue(
            f"Invalid adapter '{text}': expected FOLDER, FOLDER:0.5, or a weight for each stage, as in "
            "FOLDER:primary=0.5,secondary=1."
        ) from None
    return folder, by_name[""] if list(by_name) == [""] else by_name


def adapted_fingerprint(fingerprint: str, adapters: Iterable[Adapter]) -> str:
    """Return the fingerprint of a model with adapters: that of the model if none of them changes it."""
    active = [repr(a.record.model_dump(exclude={"name"})) for a in adapters if any(a.weights.values())]
    return hash_values(fingerprint, *active) if active else fingerprint


BaseWeights = dict[str, dict[str, Tensor]]  # of stages and their parameters: those of the model without adapters


@torch.no_grad()
def apply_adapters(stages: Sequence[Stage], adapters: Sequence[Adapter], base: BaseWeights) -> BaseWeights:
    """Make the weights of stages those of the model plus the changes of all adapters, and return the model's own.

    `base` are those that earlier adapters have changed. Nothing is changed if an adapter does not fit.
    """
    changes = {stage.name: _total_change(stage, adapters, base.get(stage.name, {})) for stage in stages}
    replaced: BaseWeights = {}
    for stage in stages:
        parameters = dict(stage.denoiser.named_parameters())
        for name, weight in base.get(stage.name, {}).items():
            parameters[name].copy_(weight)
        replaced[stage.name] = {name: parameters[name].clone() for name in changes[stage.name]}
        for name, change in changes[stage.name].items():
            parameters[name].copy_(parameters[name].float() + change)
    return replaced


def _total_change(stage: Stage, adapters: Sequence[Adapter], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weighted sum of what adapters change in a stage's weights, in float32."""
    total: dict[str, Tensor] = {}
    for adapter in adapters:
        if weight := adapter.weights.get(stage.name, 0.0):
            config, tensors = adapter.stages[stage.name]
            network = deepcopy(stage.denoiser)
            network.load_state_dict(base, strict=False)
            adapted = AdaptedDenoiser(network.float(), config)
            adapted.load_state_dict(tensors)
            for name, change in adapted.weight_changes().items():
                total[name] = total.get(name, 0) + weight * change
    return total
