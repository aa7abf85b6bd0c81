"""A model on disk: one folder, in which every stage is written and read by itself.

model/  codecdiff.json                 parts with their options, target, names of the stages, data; created exclusively
        codec/model.safetensors        state of a fitted codec
        generation_config.json         options of a call that does not say otherwise
        presets.json                   sampling options of every stage by quality, where the usual presets do not suit
        STAGE/                         weights and description of a stage: `stage_folder`

Each JSON file holds the hashes of the files beside it and of itself (`sealed`), and is written after them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecdiff import config, registry
from codecdiff.config.schema import SamplingConfig
from codecdiff.data import legacy
from codecdiff.data.sealed import FILES, SEAL, read_sealed, seal, sealed_text, verify_file
from codecdiff.diffusion.noise_schedule import scheduler_from_config
from codecdiff.errors import InvalidValue, MissingFile, UnknownName, did_you_mean
from codecdiff.files import atomic_write, check_schema, write_safetensors
from codecdiff.interfaces import Codec, Conditioner, Splitter
from codecdiff.pipeline.code_version import warn_of_code_changes
from codecdiff.pipeline.stage import Stage, build_denoiser
from codecdiff.pipeline.stage_folder import (
    LOG,
    STAGE_FILE,
    WEIGHTS_FILE,
    load_tensors,
    load_weights,
    published,
    read_stage_config,
    write_stage_config,
)
from codecdiff.pipeline.untrusted import ModelFile, build_to_fit, confine, explained, require_short

FORMAT = 2
MODEL_FILE = "codecdiff.json"
CODEC_WEIGHTS = f"codec/{WEIGHTS_FILE}"
REQUIRED = {"codec", "splitter", "conditioner", "stages", "snap_context", "target", "data"}

Parts = tuple[Codec, Splitter, Conditioner | None]


def build_parts(spec: dict[str, Any], *, skeleton: bool = False) -> Parts:
    """Build the codec, splitter and conditioner of a model or an experiment, or skeletons of them."""
    build = partial(config.build, skeleton=skeleton)
    codec = build("codecs", spec["codec"])
    splitter = build("splitters", spec["splitter"], num_codebooks=codec.num_codebooks, levels=codec.levels)
    conditioner = build("conditioners", spec["conditioner"]) if spec["conditioner"] else None
    return codec, splitter, conditioner


def load_parts(
    folder: Path,
    spec: dict[str, Any],
    *,
    allow_download: bool,
    allow_local_parts: bool,
    digests: dict[str, str] | None = None,
) -> Parts:
    """Build the parts that a model folder names, and load the state of its codec.

    `digests` receives the hashes of files that are read, for `combined_fingerprint`.
    """
    if not allow_local_parts:
        kinds = [kind for kind in ("codec", "splitter", "conditioner") if spec[kind]]
        with explained(folder / MODEL_FILE):
            spec = spec | {kind: confine(f"{kind}s", spec[kind], folder) for kind in kinds}
    try:
        with explained(folder / MODEL_FILE):
            parts = build_parts(spec)
    except (OSError, LookupError) as error:
        if allow_download or isinstance(error, registry.UnknownPart):
            raise
        named = {kind: spec[kind] for kind in ("codec", "conditioner")}
        raise UnknownName(
            f"The parts of '{folder}' could not be loaded: {json.dumps(named)}. ({error}) If they name hub ids that "
            "you trust, fetch them: --allow-download, or allow_download=True."
        ) from error
    load_codec_state(folder, parts[0], digests)
    return parts


def read_config(folder: Path, digests: dict[str, str] | None = None) -> dict[str, Any]:
    """Read a model's codecdiff.json. Raises FileNotFoundError or ValueError if the folder does not hold a model."""
    file = folder / MODEL_FILE
    if not file.is_file():
        if any((folder / place).is_file() for place in ("adapter.json", "adapter/adapter.json")):
            raise MissingFile(f"{folder} holds an adapter: name its model too, --model MODEL --adapter {folder}.")
        problem = f"does not hold a model: {MODEL_FILE} is missing" if folder.exists() else "does not exist"
        raise MissingFile(f"{folder} {problem}.{models_hint(str(folder))}")
    spec = legacy.upgrade_model(read_sealed(file, digests, MODEL_FILE))
    if not isinstance(spec, dict) or "format" not in spec:
        raise InvalidValue(f"{file} does not describe a model: it has no format. Copy it again.")
    require_short(file, spec)
    if (version := spec["format"]) != FORMAT:
        raise InvalidValue(f"{file} has format {version}; this codecdiff reads format {FORMAT}. Update codecdiff.")
    if missing := REQUIRED - spec.keys():
        raise InvalidValue(f"{file} is incomplete: it lacks {', '.join(sorted(missing))}. Copy it again.")
    return check_schema(spec, str(file), ModelFile).model_dump(exclude_unset=True)


def models_hint(name: str, folders: Iterable[str] = ()) -> str:
    """Return the end of an error message about a model: which there are, among them those in `folders`."""
    names = list(registry.entries("models"))
    own = "Name one that you trained by its folder, as in runs/mine. To train one: codecdiff train data.audio=FOLDER"
    return f"{did_you_mean(name, [*names, *folders])} Installed models: {', '.join(names) or 'none'}. {own}."


def load_codec_state(folder: Path | str, codec: Codec, digests: dict[str, str] | None = None) -> bool:
    """Load the fitted state of a model folder into a codec; return False if the folder does not hold a model yet.

    Raises ValueError if it is the state of another codec.
    """
    if not (Path(folder) / MODEL_FILE).exists():
        return False
    state, digest = _codec_state(Path(folder))
    if digest and digests is not None:
        digests[CODEC_WEIGHTS] = digest
    try:
        codec.load_fitted_state(state)
    except RuntimeError as error:  # of tensors with other shapes
        raise InvalidValue(
            f"{folder} does not hold the state of this codec: {error}. If its options have changed since, choose "
            "another output folder, or delete this one."
        ) from error
    return True


def _codec_state(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Return the fitted state of a model folder's codec and its SHA-256, or nothing."""
    file, files = folder / CODEC_WEIGHTS, read_config(folder).get(FILES, {})
    files = {file.name: files[CODEC_WEIGHTS]} if CODEC_WEIGHTS in files else {}
    return load_tensors(file, files, folder / MODEL_FILE) if files or file.exists() else ({}, "")


def _to_save(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors on the CPU, with float32 converted to `dtype`."""
    return {name: (t.to(dtype) if t.dtype is torch.float32 else t).cpu() for name, t in tensors.items()}


def write_parts(
    folder: Path, spec: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """Write codecdiff.json and the fitted state of the codec, or check that the folder holds the same model.

    Raises InvalidValue if it holds another one.
    """
    state, hashes = _to_save(state, dtype), {}
    file = folder / MODEL_FILE
    if not file.exists():
        if state:
            hashes[CODEC_WEIGHTS] = write_safetensors(folder / CODEC_WEIGHTS, state)
        with suppress(FileExistsError), atomic_write(file, replace=False) as temporary:  # last: the folder is complete
            temporary.write_text(sealed_text(spec, seal(folder, hashes)), encoding="utf-8")
            return
    check_same_model(folder, spec, state)


def config_differences(
    saved: Any, current: Any, name: str, wording: str = "{name} is {saved} there, {current} here"
) -> list[str]:
    """Return the differences of two nested mappings, as in "denoiser.width is 64 there, 96 here".

    The options of parts with different names are not compared.
    """
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = dict.fromkeys([*saved, *current] if saved.get("name") == current.get("name") else ["name"])
        return [line for k in keys for line in config_differences(saved.get(k), current.get(k), f"{name}.{k}", wording)]
    if saved is None and name.endswith(".revision"):  # it was unknown when the folder was written
        return []
    if saved == current:  # as 0 and 0.0
        return []
    saved, current = json.dumps(saved), json.dumps(current)
    return [] if saved == current else [wording.format(name=name, saved=saved, current=current)]


def check_same_model(folder: Path, spec: dict[str, Any], state: dict[str, Tensor] | None = None) -> None:
    """Raise InvalidValue, naming the differences, unless a folder holds this model; warn of changed code.

    Without a fitted state, that of its codec is not compared.
    """
    saved = read_config(folder)
    pairs = {key: (saved.get(key), spec[key]) for key in spec if key not in ("data", "code", FILES, SEAL)}
    pairs |= {key: config.align_defaults(f"{key}s", *pairs[key]) for key in ("codec", "splitter", "conditioner")}
    differences = [line for key, pair in pairs.items() for line in config_differences(*pair, key)]
    tensors = {} if state is None else _codec_state(folder)[0]
    state = state or {}
    if tensors.keys() != state.keys() or any(not torch.equal(tensors[k].float(), state[k].float()) for k in state):
        differences.append("the fitted state of the codec differs")
    if differences:
        listed = "; ".join(differences).replace("codec.codec.", "codec.")  # within the one that normalizes latents
        raise InvalidValue(f"{folder} holds another model: {listed}. Use another output, or delete it.")
    warn_of_code_changes(saved.get("code", {}), spec.get("code", {}), folder)


def save_stage(folder: Path, stage: Stage, dtype: torch.dtype = torch.float32, *, source: Path | None = None) -> None:
    """Write one stage's weights, then its stage.json, which marks the stage as complete.

    The log of its training is copied from `source`, the model folder that it was loaded from, if there is one. Raises
    DamagedFile if that is not what was written.
    """
    home = folder / stage.name
    log = published(source / stage.name, LOG) / LOG if source else None
    hashes = {WEIGHTS_FILE: write_safetensors(home / WEIGHTS_FILE, _to_save(stage.denoiser.state_dict(), dtype))}
    if log is not None and log.is_file():
        hashes[LOG] = verify_file(log, read_stage_config(log.parent).get(FILES, {}), log.parent / STAGE_FILE)
        if log.resolve() != (home / LOG).resolve():
            with atomic_write(home / LOG) as temporary:
                shutil.copyfile(log, temporary)
    write_stage_config(home, stage.to_config(), hashes)


def load_stage(
    folder: Path,
    name: str,
    codec: Codec,
    splitter: Splitter,
    conditioner: Conditioner | None,
    i: int,
    *,
    allow_local_parts: bool = False,
    digests: dict[str, str] | None = None,
) -> Stage:
    """Load stage `i` of a model folder, called `name`."""
    file = folder / name / WEIGHTS_FILE
    spec, tensors = load_weights(folder / name, digests)
    with explained(folder / name / STAGE_FILE):
        denoiser_spec = spec["denoiser"] if allow_local_parts else confine("denoisers", spec["denoiser"], folder)
    denoiser = build_to_fit(file, tensors, lambda: build_denoiser(denoiser_spec, codec, splitter, conditioner, i))
    dtype = next(denoiser.parameters()).dtype
    weights = {key: v.to(dtype) if v.is_floating_point() else v for key, v in tensors.items()}
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidValue(f"{file} does not hold the weights of this stage: {error}") from error
    with explained(folder / name / STAGE_FILE):
        return Stage(
            name,
            denoiser.requires_grad_(False).eval(),
            scheduler_from_config(spec["train_scheduler"]),
            SamplingConfig(**{option: spec[option] for option in SamplingConfig.model_fields if option in spec}),
            noise_color=spec["noise_color"],
            facts=spec["training"],
        )


def combined_fingerprint(digests: Mapping[str, str]) -> str:
    """Hash the SHA-256 of the files that a model was loaded from, by their names in its folder, in that order.

    Models of equal fingerprints generate the same audio.
    """
    digest = hashlib.sha256()
    for name, value in digests.items():
        digest.update(f"{name} ".encode() + bytes.fromhex(value))
    return digest.hexdigest()[:32]
