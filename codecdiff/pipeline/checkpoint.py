"""A model on disk: one folder, in which every stage is written and read by itself.

model/  codecdiff.json                 parts with their options, target, names of the stages, data; created exclusively
        codec/model.safetensors        state of a fitted codec
        generation_config.json         options of a call that does not say otherwise
        presets.json                   sampling options of every stage by quality, where the usual presets do not suit
        STAGE/stage.json               denoiser, training scheduler, sampling options, facts of its training
        STAGE/model.safetensors        the averaged weights
        STAGE/training/step-N/         a stage of its own, with what resuming needs: `generations`

Each JSON file holds the hashes of the files beside it and of itself (`sealed`), and is written after them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecdiff import config, registry
from codecdiff.config.schema import SamplingConfig
from codecdiff.data import legacy
from codecdiff.data.sealed import FILES, SEAL, read_sealed, seal, sealed_text, verify_file, write_sealed
from codecdiff.diffusion.noise_schedule import scheduler_from_config
from codecdiff.errors import InvalidValue, MissingFile, UnknownName
from codecdiff.files import DamagedFile, atomic_write, check_schema, read_safetensors, sha256, write_safetensors
from codecdiff.interfaces import Codec, Conditioner, Splitter
from codecdiff.pipeline.code_version import warn_of_code_changes
from codecdiff.pipeline.generation import GenerationConfig, Presets
from codecdiff.pipeline.stage import Stage, build_denoiser
from codecdiff.pipeline.untrusted import ModelFile, StageFile, build_to_fit, confine, explained

FORMAT = 2
MODEL_FILE, STAGE_FILE, WEIGHTS_FILE = "codecdiff.json", "stage.json", "model.safetensors"
LOG = "log.jsonl"  # of a stage's training
CODEC_WEIGHTS = f"codec/{WEIGHTS_FILE}"
STATE = "training"  # folder of what resuming needs, in that of a stage
GENERATION_FILE, PRESETS_FILE = "generation_config.json", "presets.json"
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
        spec = spec | {kind: confine(f"{kind}s", spec[kind], folder) for kind in kinds}
    try:
        with explained(folder):
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
        raise MissingFile(f"{folder} does not hold a model: {MODEL_FILE} is missing. Train one with the recipe.")
    spec = legacy.upgrade_model(read_sealed(file, digests, MODEL_FILE))
    version = spec.get("format") if isinstance(spec, dict) else None
    if version != FORMAT:
        raise InvalidValue(f"{file} has format {version}; this codecdiff reads format {FORMAT}. Update codecdiff.")
    if missing := REQUIRED - spec.keys():
        raise InvalidValue(f"{file} is incomplete: it lacks {', '.join(sorted(missing))}.")
    return check_schema(spec, str(file), ModelFile).model_dump(exclude_unset=True)


def read_stage_config(folder: Path, digests: dict[str, str] | None = None) -> dict[str, Any]:
    """Read the stage.json of a stage's folder. Raises ValueError if it is not valid."""
    file = folder / STAGE_FILE
    spec = legacy.upgrade_stage(read_sealed(file, digests, f"{folder.name}/{STAGE_FILE}"))
    return check_schema(spec, str(file), StageFile).model_dump(exclude_unset=True)


def load_tensors(file: Path, files: Mapping[str, Any], source: Path) -> tuple[dict[str, Tensor], str]:
    """Load a safetensors file, and return its SHA-256 too, which is that in `files`, of `source`, if it is there.

    Raises DamagedFile if it is missing or not what was written.
    """
    status = file.stat() if file.is_file() else None
    digest, tensors = verify_file(file, files, source), read_safetensors(file)[0]
    if status is None or not os.path.samestat(status, file.stat()) or status.st_mtime_ns != file.stat().st_mtime_ns:
        raise DamagedFile(f"'{file}' was replaced while it was read. Try again.")
    return tensors, digest


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


def config_differences(saved: Any, current: Any, name: str) -> list[str]:
    """Return the differences of two nested mappings, as in "denoiser.width is 64 there, 96 here"."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = dict.fromkeys([*saved, *current])
        return [line for k in keys for line in config_differences(saved.get(k), current.get(k), f"{name}.{k}")]
    if saved is None and name.endswith(".revision"):  # it was unknown when the folder was written
        return []
    if saved == current:  # as 0 and 0.0
        return []
    saved, current = json.dumps(saved), json.dumps(current)
    return [] if saved == current else [f"{name} is {saved} there, {current} here"]


def check_same_model(folder: Path, spec: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise ValueError, naming the differences, unless a folder holds this model; warn of changed code."""
    saved = read_config(folder)
    pairs = {key: (saved.get(key), spec[key]) for key in spec if key not in ("data", "code", FILES, SEAL)}
    pairs |= {key: config.align_defaults(f"{key}s", *pairs[key]) for key in ("codec", "splitter", "conditioner")}
    differences = [line for key, pair in pairs.items() for line in config_differences(*pair, key)]
    tensors, _ = _codec_state(folder)
    if tensors.keys() != state.keys() or any(not torch.equal(tensors[k].float(), state[k].float()) for k in state):
        differences.append("the fitted state of the codec differs")
    if differences:
        raise InvalidValue(
            f"{folder} holds another model: {'; '.join(differences)}. Choose another output folder, or delete it."
        )
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


def write_stage_config(home: Path, spec: Mapping[str, Any], hashes: Mapping[str, str] | None = None) -> None:
    """Write the stage.json of a stage's folder, which names the files of the stage by their SHA-256."""
    write_sealed(home / STAGE_FILE, spec, seal(home, hashes or {WEIGHTS_FILE: sha256(home / WEIGHTS_FILE)}))


def save_generation_config(folder: Path, generation_config: GenerationConfig) -> None:
    """Write generation_config.json: the fields that differ from their defaults."""
    write_sealed(folder / GENERATION_FILE, generation_config.model_dump(mode="json", exclude_defaults=True))


def load_generation_config(folder: Path) -> GenerationConfig:
    """Read generation_config.json, if there is one. Raises InvalidValue if it is not valid."""
    file = folder / GENERATION_FILE
    options = read_sealed(file) if file.exists() else {}
    if isinstance(options, dict):
        options = {name: value for name, value in options.items() if name not in (FILES, SEAL)}
    return check_schema(options, str(file), GenerationConfig)


def save_presets(folder: Path, presets: Presets) -> None:
    """Write presets.json."""
    table = {
        name: {stage: own.model_dump(exclude_unset=True) for stage, own in p.items()} for name, p in presets.items()
    }
    write_sealed(folder / PRESETS_FILE, {"presets": table})


def load_presets(folder: Path, digests: dict[str, str] | None = None) -> Presets:
    """Read presets.json, if there is one. Raises InvalidValue if it is not valid."""
    file = folder / PRESETS_FILE
    spec = read_sealed(file, digests, PRESETS_FILE) if file.exists() else {"presets": {}}
    return check_schema(spec.get("presets") if isinstance(spec, dict) else None, str(file), Presets)


def generations(home: Path) -> list[Path]:
    """Return the folders of the steps of a stage's training that are kept, newest first."""
    return sorted((home / STATE).glob("step-[0-9]*"), key=lambda path: int(path.name[5:]), reverse=True)


def is_trained(home: Path) -> bool:
    """Return whether a stage's folder holds one: anything of it, so that a missing file is noticed."""
    return (home / STAGE_FILE).exists() or (home / WEIGHTS_FILE).exists() or bool(generations(home))


def load_weights(home: Path, digests: dict[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a stage's stage.json and the weights it names, even while training saves others.

    Raises DamagedFile if they are not what was written.
    """
    while True:
        before, folder, read = _status(home / STAGE_FILE), home, dict[str, str]()
        try:
            folder = published(home, WEIGHTS_FILE)
            spec = read_stage_config(folder, read)
            tensors, read[WEIGHTS_FILE] = load_tensors(folder / WEIGHTS_FILE, spec.get(FILES, {}), folder / STAGE_FILE)
        except (InvalidValue, FileNotFoundError):
            if before == _status(home / STAGE_FILE) and published(home, WEIGHTS_FILE) == folder:
                raise
        else:
            if folder != home and not before:
                warnings.warn(f"'{home / STAGE_FILE}' is missing: the stage of '{folder}' is read.", stacklevel=2)
            if digests is not None:
                names = (f"{home.name}/{STAGE_FILE}", f"{home.name}/{WEIGHTS_FILE}")
                digests |= zip(names, read.values(), strict=True)
            return spec, tensors


def _status(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced; nothing if it is missing."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def published(home: Path, name: str) -> Path:
    """Return the folder to read a file of a stage from: the stage's, or that of its newest generation.

    The latter where a save has replaced the file and not yet stage.json, or was killed then; before the first save
    has written stage.json, too.
    """

    def entry(folder: Path) -> Any:
        with suppress(InvalidValue, FileNotFoundError):
            return read_stage_config(folder).get(FILES, {}).get(name, {}).get(SEAL)

    newest, *older = generations(home) or [home]
    if not (home / STAGE_FILE).exists():
        return newest
    is_file, own = (home / name).is_file(), entry(home)
    is_behind = is_file and own and own != entry(newest) and own in [entry(path) for path in older]
    return newest if is_behind and sha256(home / name) == entry(newest) else home


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


def model_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the configuration and weights that a model folder holds now."""
    homes = ["codec", *read_config(folder)["stages"]]
    names = [MODEL_FILE, *(f"{home}/{file}" for home in homes for file in (STAGE_FILE, WEIGHTS_FILE)), PRESETS_FILE]
    return combined_fingerprint({name: sha256(folder / name) for name in names if (folder / name).exists()})
