"""A model on disk: one folder, of which every stage is written and read by itself.

model/  codecdiff.json                 parts with their options, target, names of the stages, data; created exclusively
        codec/model.safetensors        state of a fitted codec
        STAGE/stage.json               denoiser, scheduler, how it is sampled, facts of its training
        STAGE/model.safetensors        the averaged weights
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codecdiff import config, registry
from codecdiff.data.code_store import load_state
from codecdiff.diffusion import noise_schedule
from codecdiff.files import atomic_write, atomic_write_text
from codecdiff.interfaces import Codec, Conditioner, Denoiser, Splitter
from codecdiff.pipeline.code_version import warn_of_changes
from codecdiff.pipeline.stage import Stage, build_denoiser

FORMAT = 1
MODEL_FILE = "codecdiff.json"
WRITTEN = ("stage.json", "model.safetensors")  # in the folder of a stage; the codec's has the second alone


def build_parts(spec: dict[str, Any], *, skeleton: bool = False) -> tuple[Codec, Splitter, Conditioner | None]:
    """Build the codec, splitter and conditioner that a model or an experiment names, or outlines of them."""
    build = config.build_skeleton if skeleton else config.build
    codec = build("codecs", spec["codec"])
    splitter = build("splitters", spec["splitter"], num_codebooks=codec.num_codebooks, levels=codec.levels)
    conditioner = build("conditioners", spec["conditioner"]) if spec["conditioner"] else None
    return codec, splitter, conditioner


def trusted_parts(
    folder: Path, spec: dict[str, Any], allow_download: bool
) -> tuple[Codec, Splitter, Conditioner | None]:
    """Build the parts a folder names; a failure without `allow_download` says that this may be why."""
    try:
        return build_parts(spec)
    except (OSError, LookupError) as error:
        if allow_download or isinstance(error, registry.UnknownPart):
            raise
        named = {kind: spec[kind] for kind in ("codec", "conditioner")}
        raise LookupError(
            f"'{folder}' names parts that could not be loaded here: {json.dumps(named)}. ({error}) "
            "If they are hub ids that you trust, fetch them: --allow-download, or allow_download=True."
        ) from error


def read_spec(folder: Path) -> dict[str, Any]:
    """Read a model's codecdiff.json. Raises FileNotFoundError or ValueError saying what is wrong with the folder."""
    file = folder / MODEL_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: there is no {MODEL_FILE} in it. Train one with recipes/discodiff.py."
        )
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}.") from error
    found = spec.get("format") if isinstance(spec, dict) else None
    if found != FORMAT:
        raise ValueError(f"{file} has format {found}; this codecdiff reads format {FORMAT}. Update codecdiff.")
    if missing := {"codec", "splitter", "conditioner", "stages", "snap_context", "target", "data"} - spec.keys():
        raise ValueError(f"{file} is not complete: it lacks {', '.join(sorted(missing))}.")
    if spec["target"] == "projections":  # the name of version 0.1
        spec["target"] = "continuous"
    for name in spec["stages"]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"{file} names a stage {name!r}; a stage is a folder inside the model.")
    return spec


def load_codec_state(folder: Path | str, codec: Codec) -> bool:
    """Give a codec the fitted state that a model folder keeps; False if the folder holds no model yet.

    Raises ValueError if it is the state of another codec.
    """
    file = Path(folder) / "codec" / "model.safetensors"
    if not (Path(folder) / MODEL_FILE).exists():
        return False
    try:
        codec.load_fitted_state(load_state(file))
    except RuntimeError as error:  # of tensors with other shapes
        raise ValueError(
            f"{file} is not the state of this codec: {error}. If its options have changed since, choose another output "
            "folder, or delete this one."
        ) from error
    return True


def stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Give tensors as they are written: contiguous, on the CPU, those of float32 in `dtype`."""
    cast = {name: t.to(dtype) if t.dtype is torch.float32 else t for name, t in tensors.items()}
    return {name: tensor.contiguous().cpu() for name, tensor in cast.items()}


def save_parts(folder: Path, spec: dict[str, Any], codec: Codec, dtype: torch.dtype = torch.float32) -> None:
    """Write codecdiff.json and the state of a fitted codec; a folder that holds them already must agree.

    Raises ValueError if the folder holds another model.
    """
    write_parts(folder, spec, stored(codec.fitted_state(), dtype))


def write_parts(folder: Path, spec: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Write codecdiff.json and a codec's state without the codec itself, else as `save_parts`."""
    folder.mkdir(parents=True, exist_ok=True)
    if state and not (folder / MODEL_FILE).exists():
        (folder / "codec").mkdir(exist_ok=True)
        with atomic_write(folder / "codec" / "model.safetensors") as temporary:
            save_file(state, temporary)
    try:
        with (folder / MODEL_FILE).open("x", encoding="utf-8") as file:  # last: a folder with this file is whole
            file.write(json.dumps(spec, indent=2) + "\n")
    except FileExistsError:
        agree(folder, spec, state)


def differences(there: Any, here: Any, name: str) -> list[str]:
    """Say in what two nests of mappings differ, as in "denoiser.width is 64 there, 96 here"."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = dict.fromkeys([*there, *here])
        return [line for key in keys for line in differences(there.get(key), here.get(key), f"{name}.{key}")]
    if there is None and name.endswith(".revision"):  # it was not known when the folder was written
        return []
    there, here = json.dumps(there), json.dumps(here)
    return [] if there == here else [f"{name} is {there} there, {here} here"]


def agree(folder: Path, spec: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Check that a folder holds this very model. Raises ValueError naming what differs, and warns of changed code."""
    saved = read_spec(folder)
    pairs = {key: (saved.get(key), spec[key]) for key in spec if key not in ("data", "code")}
    pairs |= {key: config.align_defaults(f"{key}s", *pairs[key]) for key in ("codec", "splitter", "conditioner")}
    differ = [line for key, (there, here) in pairs.items() for line in differences(there, here, key)]
    file = folder / "codec" / "model.safetensors"
    kept = load_state(file)
    if kept.keys() != state.keys() or any(not torch.equal(kept[name].float(), state[name].float()) for name in state):
        differ.append("the fitted state of the codec is another")
    if differ:
        raise ValueError(
            f"{folder} holds another model: {'; '.join(differ)}. Choose another output folder, or delete it."
        )
    warn_of_changes(saved.get("code", {}), spec.get("code", {}), folder)  # older folders lack it


def save_stage(folder: Path, stage: Stage, dtype: torch.dtype = torch.float32) -> None:
    """Write one stage's weights, then its stage.json: a stage with a stage.json is whole."""
    target = folder / stage.name
    target.mkdir(parents=True, exist_ok=True)
    with atomic_write(target / "model.safetensors") as temporary:
        save_file(stored(stage.denoiser.state_dict(), dtype), temporary)
    atomic_write_text(target / "stage.json", json.dumps(stage.spec(), indent=2) + "\n")


def load_stage(
    folder: Path, name: str, codec: Codec, splitter: Splitter, conditioner: Conditioner | None, i: int
) -> Stage:
    """Load one stage of a model folder."""
    spec = json.loads((folder / name / "stage.json").read_text(encoding="utf-8"))
    denoiser = build_denoiser(spec["denoiser"], codec, splitter, conditioner, i)
    file = folder / name / "model.safetensors"
    dtype = next(denoiser.parameters()).dtype
    weights = _weights(file).items()
    try:
        denoiser.load_state_dict({key: v.to(dtype) if v.is_floating_point() else v for key, v in weights})
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of this stage: {error}") from error
    return Stage(
        name,
        denoiser.requires_grad_(False).eval(),
        noise_schedule.build(spec["scheduler"]),
        sampler=spec["sampler"],
        steps=spec["steps"],
        guidance=spec["guidance"],
        spacing=spec.get("spacing", "even"),  # older folders lack it
        facts=spec["training"],
        noise_color=spec.get("noise_color", 0.0),  # and this
        stop_at=spec.get("stop_at", 0.0),  # and this
    )


def _weights(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} does not hold the weights of this stage: {error}") from error


def require_kind(denoiser: Denoiser, folder: Path) -> dict[str, Any]:
    """Give the stage.json of a trained stage whose denoiser is of the same kind as this one.

    Raises FileNotFoundError for a folder that holds no stage, and ValueError for another kind.
    """
    file = folder / "stage.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no trained stage to start from: there is no stage.json in it. "
            "Name a stage of this model that is trained before, or the folder of one, as in runs/other/model/primary."
        )
    spec = json.loads(file.read_text(encoding="utf-8"))
    there, here = spec["denoiser"]["name"], config.to_config("denoisers", denoiser)["name"]
    if there != here:
        raise ValueError(
            f"{folder} has a denoiser of another kind: '{there}', not '{here}', so none of it can be used."
        )
    return spec


@dataclass(frozen=True)
class WarmStart:
    """What a denoiser took of another stage: its name, the hash of its weights, and which tensors did not agree."""

    stage: str
    weights: str
    taken: int  # numbers
    of: int  # numbers there are in the denoiser
    left: tuple[str, ...]  # tensors that stay as they were

    def facts(self) -> dict[str, Any]:
        """Describe it for a stage's facts: no paths."""
        return {"stage": self.stage, "weights": self.weights, "taken": self.taken, "of": self.of}

    def __str__(self) -> str:
        rest = f"; as initialised: {', '.join(self.left[:9])}" + ("..." if self.left[9:] else "") if self.left else ""
        return f"starts with {self.taken:,} of {self.of:,} weights of {self.stage}{rest}"


def warm_start(denoiser: Denoiser, folder: Path) -> WarmStart:
    """Copy the averaged weights of a trained stage, a folder, into a denoiser wherever name and shape agree.

    Raises ValueError if none do, and what `require_kind` raises. Only what it says was `left` is not copied.
    """
    require_kind(denoiser, folder)
    file = folder / "model.safetensors"
    there, here = _weights(file), denoiser.state_dict()
    agreed = [name for name, tensor in here.items() if name in there and there[name].shape == tensor.shape]
    taken = sum(here[name].numel() for name in agreed)
    if not taken:
        raise ValueError(f"None of the weights in {folder} has the name and shape of one here. Choose another stage.")
    with torch.no_grad():
        for name in agreed:
            here[name].copy_(there[name])  # a state dict's tensors are the module's own
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    left = tuple(name for name in here if name not in agreed)
    return WarmStart(folder.name, digest, taken, sum(tensor.numel() for tensor in here.values()), left)


def fingerprint(folder: Path) -> str:
    """Hash what a model folder says and weighs: two folders of one fingerprint make the same music."""
    stages = [folder / name for name in read_spec(folder)["stages"]]
    files = [folder / MODEL_FILE, *(home / name for home in (folder / "codec", *stages) for name in WRITTEN)]
    digest = hashlib.sha256()
    for file in files:
        if file.exists():
            with file.open("rb") as stream:
                digest.update(f"{file.relative_to(folder).as_posix()} ".encode())
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def require_shareable(folder: Path) -> None:
    """Raise ValueError unless others could load the model of a folder: it is whole, and no part of it is only here."""
    spec = read_spec(folder)
    files = {name: folder / name / "stage.json" for name in spec["stages"]}
    if untrained := [name for name, file in files.items() if not file.exists()]:
        raise ValueError(f"'{folder}' is not whole: train its {' and '.join(untrained)} first.")
    stages = [json.loads(file.read_text(encoding="utf-8"))["denoiser"] for file in files.values()]
    if places := [text for part in (spec["codec"], spec["conditioner"], *stages) for text in _places(part)]:
        raise ValueError(
            f"'{folder}' names parts that are only on this machine: {', '.join(places)}. Send them to the hub as well, "
            f"and name their ids in {MODEL_FILE}."
        )


def _places(spec: Any) -> list[str]:
    """Give the texts in a nest of mappings and lists that are paths of this machine."""
    if isinstance(spec, Mapping | list):
        return [text for value in (spec.values() if isinstance(spec, Mapping) else spec) for text in _places(value)]
    is_path = isinstance(spec, str) and (Path(spec).is_absolute() or ("/" in spec and Path(spec).exists()))
    return [spec] if is_path else []
