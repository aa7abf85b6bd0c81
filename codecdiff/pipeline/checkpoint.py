"""A model on disk: one folder, in which every stage is written and read by itself.

model/  codecdiff.json                 parts with their options, target, names of the stages, data; created exclusively
        codec/model.safetensors        state of a fitted codec
        generation_config.json         options of a call that does not say otherwise
        STAGE/stage.json               denoiser, training scheduler, sampling options, facts of its training
        STAGE/model.safetensors        the averaged weights
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecdiff import config, registry
from codecdiff.config.schema import SamplingConfig
from codecdiff.data import legacy
from codecdiff.diffusion.noise_schedule import scheduler_from_config
from codecdiff.errors import InvalidValue, MissingFile, UnknownName
from codecdiff.files import DamagedFile, atomic_write_text, read_safetensors, write_safetensors
from codecdiff.interfaces import Codec, Conditioner, Splitter
from codecdiff.pipeline.code_version import warn_of_code_changes
from codecdiff.pipeline.generation import GenerationConfig
from codecdiff.pipeline.stage import Stage, build_denoiser
from codecdiff.precision import SkipInit

FORMAT = 2
MODEL_FILE, STAGE_FILE, WEIGHTS_FILE = "codecdiff.json", "stage.json", "model.safetensors"
GENERATION_FILE = "generation_config.json"
REQUIRED = {"codec", "splitter", "conditioner", "stages", "snap_context", "target", "data"}

Parts = tuple[Codec, Splitter, Conditioner | None]


def build_parts(spec: dict[str, Any], *, skeleton: bool = False) -> Parts:
    """Build the codec, splitter and conditioner of a model or an experiment, or skeletons of them."""
    build = config.build_skeleton if skeleton else config.build
    codec = build("codecs", spec["codec"])
    splitter = build("splitters", spec["splitter"], num_codebooks=codec.num_codebooks, levels=codec.levels)
    conditioner = build("conditioners", spec["conditioner"]) if spec["conditioner"] else None
    return codec, splitter, conditioner


def load_parts(folder: Path, spec: dict[str, Any], allow_download: bool) -> Parts:
    """Build the parts that a model folder names, and load the state of its codec."""
    try:
        parts = build_parts(spec)
    except (OSError, LookupError) as error:
        if allow_download or isinstance(error, registry.UnknownPart):
            raise
        named = {kind: spec[kind] for kind in ("codec", "conditioner")}
        raise UnknownName(
            f"The parts of '{folder}' could not be loaded: {json.dumps(named)}. ({error}) If they name hub ids that "
            "you trust, fetch them: --allow-download, or allow_download=True."
        ) from error
    load_codec_state(folder, parts[0])
    return parts


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises ValueError if it is not valid."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValue(f"{file} is not valid JSON: {error}.") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's codecdiff.json. Raises FileNotFoundError or ValueError if the folder does not hold a model."""
    file = folder / MODEL_FILE
    if not file.is_file():
        raise MissingFile(f"{folder} does not hold a model: {MODEL_FILE} is missing. Train one with the recipe.")
    spec = legacy.upgrade_model(read_json(file))
    version = spec.get("format") if isinstance(spec, dict) else None
    if version != FORMAT:
        raise InvalidValue(f"{file} has format {version}; this codecdiff reads format {FORMAT}. Update codecdiff.")
    if missing := REQUIRED - spec.keys():
        raise InvalidValue(f"{file} is incomplete: it lacks {', '.join(sorted(missing))}.")
    for name in spec["stages"]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise InvalidValue(f"{file} has an invalid stage {name!r}: expected the name of a folder inside the model.")
    return spec


def read_stage_config(folder: Path) -> dict[str, Any]:
    """Read the stage.json of a stage's folder. Raises ValueError if it is not valid."""
    return legacy.upgrade_stage(read_json(folder / STAGE_FILE))


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Load a safetensors file. Raises ValueError if it is missing or damaged."""
    try:
        return read_safetensors(file)[0]
    except (OSError, DamagedFile) as error:
        raise InvalidValue(f"{file} is missing or damaged: {error}") from error


def load_codec_state(folder: Path | str, codec: Codec) -> bool:
    """Load the fitted state of a model folder into a codec; return False if the folder does not hold a model yet.

    Raises ValueError if it is the state of another codec.
    """
    if not (Path(folder) / MODEL_FILE).exists():
        return False
    file = Path(folder) / "codec" / WEIGHTS_FILE
    try:
        codec.load_fitted_state(load_tensors(file) if file.exists() else {})
    except RuntimeError as error:  # of tensors with other shapes
        raise InvalidValue(
            f"{file} is not the state of this codec: {error}. If its options have changed since, choose another output "
            "folder, or delete this one."
        ) from error
    return True


def _to_save(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors on the CPU, with float32 converted to `dtype`."""
    return {name: (t.to(dtype) if t.dtype is torch.float32 else t).cpu() for name, t in tensors.items()}


def write_parts(
    folder: Path, spec: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """Write codecdiff.json and the fitted state of the codec, or check that the folder holds the same model.

    Raises InvalidValue if it holds another one.
    """
    state = _to_save(state, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    if state and not (folder / MODEL_FILE).exists():
        write_safetensors(folder / "codec" / WEIGHTS_FILE, state)
    try:
        with (folder / MODEL_FILE).open("x", encoding="utf-8") as file:  # last: it marks the folder as complete
            file.write(json.dumps(spec, indent=2) + "\n")
    except FileExistsError:
        check_same_model(folder, spec, state)


def config_differences(saved: Any, current: Any, name: str) -> list[str]:
    """Return the differences of two nested mappings, as in "denoiser.width is 64 there, 96 here"."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = dict.fromkeys([*saved, *current])
        return [line for k in keys for line in config_differences(saved.get(k), current.get(k), f"{name}.{k}")]
    if saved is None and name.endswith(".revision"):  # it was unknown when the folder was written
        return []
    saved, current = json.dumps(saved), json.dumps(current)
    return [] if saved == current else [f"{name} is {saved} there, {current} here"]


def check_same_model(folder: Path, spec: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise ValueError, naming the differences, unless a folder holds this model; warn of changed code."""
    saved = read_config(folder)
    pairs = {key: (saved.get(key), spec[key]) for key in spec if key not in ("data", "code")}
    pairs |= {key: config.align_defaults(f"{key}s", *pairs[key]) for key in ("codec", "splitter", "conditioner")}
    differences = [line for key, pair in pairs.items() for line in config_differences(*pair, key)]
    file = folder / "codec" / WEIGHTS_FILE
    tensors = load_tensors(file) if file.exists() else {}
    if tensors.keys() != state.keys() or any(not torch.equal(tensors[k].float(), state[k].float()) for k in state):
        differences.append("the fitted state of the codec differs")
    if differences:
        raise InvalidValue(
            f"{folder} holds another model: {'; '.join(differences)}. Choose another output folder, or delete it."
        )
    warn_of_code_changes(saved.get("code", {}), spec.get("code", {}), folder)


def save_stage(folder: Path, stage: Stage, dtype: torch.dtype = torch.float32) -> None:
    """Write one stage's weights, then its stage.json, which marks the stage as complete."""
    target = folder / stage.name
    write_safetensors(target / WEIGHTS_FILE, _to_save(stage.denoiser.state_dict(), dtype))
    atomic_write_text(target / STAGE_FILE, json.dumps(stage.to_config(), indent=2) + "\n")


def save_generation_config(folder: Path, generation_config: GenerationConfig) -> None:
    """Write generation_config.json: the fields that differ from their defaults."""
    text = generation_config.model_dump_json(exclude_defaults=True, indent=2)
    atomic_write_text(folder / GENERATION_FILE, text + "\n")


def load_generation_config(folder: Path) -> GenerationConfig:
    """Read generation_config.json, if there is one. Raises InvalidValue if it is not valid."""
    file = folder / GENERATION_FILE
    return GenerationConfig().merge(**read_json(file)) if file.exists() else GenerationConfig()


def load_stage(
    folder: Path, name: str, codec: Codec, splitter: Splitter, conditioner: Conditioner | None, i: int
) -> Stage:
    """Load stage `i` of a model folder, called `name`."""
    spec, file = read_stage_config(folder / name), folder / name / WEIGHTS_FILE
    with SkipInit():
        denoiser = build_denoiser(spec["denoiser"], codec, splitter, conditioner, i)
    dtype = next(denoiser.parameters()).dtype
    weights = {key: v.to(dtype) if v.is_floating_point() else v for key, v in load_tensors(file).items()}
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidValue(f"{file} does not hold the weights of this stage: {error}") from error
    return Stage(
        name,
        denoiser.requires_grad_(False).eval(),
        scheduler_from_config(spec["train_scheduler"]),
        SamplingConfig(**{option: spec[option] for option in SamplingConfig.model_fields}),
        noise_color=spec["noise_color"],
        facts=spec["training"],
    )


def model_fingerprint(folder: Path) -> str:
    """Hash the configuration and weights of a model folder: folders with equal fingerprints generate the same audio."""
    stages = [folder / name for name in read_config(folder)["stages"]]
    files = [
        folder / MODEL_FILE,
        *(home / f for home in (folder / "codec", *stages) for f in (STAGE_FILE, WEIGHTS_FILE)),
    ]
    digest = hashlib.sha256()
    for file in files:
        if file.exists():
            with file.open("rb") as stream:
                digest.update(f"{file.relative_to(folder).as_posix()} ".encode())
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]
