"""Model folders of strangers: what their files may say, which places they may name, and what memory they may take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from codecdiff import registry
from codecdiff.config import ConfigError, check_spec, part_options
from codecdiff.config.parts import item_type, part_kind
from codecdiff.config.schema import Guidance, Target
from codecdiff.errors import InvalidValue, UserError
from codecdiff.precision import SkipInit

__all__ = ["ModelFile", "StageFile", "build_to_fit", "confine", "explained", "leads_outside", "require_short"]

Module = TypeVar("Module", bound=nn.Module)

MAX_TEXT = 1024  # characters of a name or path
SWITCH = "CODECDIFF_ALLOW_LOCAL_PARTS"  # environment variable: 1 trusts all model folders
ALLOW = f"If you trust it, load it with --allow-local-parts, allow_local_parts=True, or {SWITCH}=1 for all models."


def _stage_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise ValueError("expected the name of a folder inside the model")
    return name


class Open(BaseModel):
    """Contents of a file. Those of later versions may say more."""

    model_config = ConfigDict(extra="allow")


class DataFacts(Open):
    """What codecdiff.json says of the music that a model was trained on."""

    tracks: int = 0
    hours: float = 0
    licenses: list[str] = []
    license_hours: dict[str, float] = {}


class ModelFile(Open):
    """The contents of codecdiff.json."""

    codec: dict[str, Any]
    splitter: dict[str, Any]
    conditioner: dict[str, Any] | None
    stages: list[Annotated[str, AfterValidator(_stage_name)]]
    snap_context: bool
    target: Target
    data: DataFacts
    code: dict[str, str] = {}


class Sampling(Open):
    """How a stage is sampled."""

    scheduler: str
    num_inference_steps: Annotated[int, Field(gt=0)]
    guidance_scale: Guidance
    timestep_spacing: str
    final_timestep_fraction: Annotated[float, Field(ge=0, le=1)]


class Distilled(Open):
    """How a distilled stage can be sampled, and nothing else."""

    sampling: Sampling


class TrainingFacts(Open):
    """How a stage was trained."""

    distilled: Distilled | None = None


class StageFile(Sampling):
    """The contents of stage.json."""

    denoiser: dict[str, Any]
    train_scheduler: dict[str, Any]
    noise_color: Annotated[float, Field(ge=0, le=2)]
    training: TrainingFacts
    code: dict[str, str] = {}


def confine(kind: str, spec: Any, folder: Path) -> dict[str, Any]:
    """Return the description of a part that a model folder names, with paths inside of the folder made whole.

    Raises ConfigError for one that names other places of this machine, or a place that the part writes to.
    """
    if os.environ.get(SWITCH) == "1":
        return spec
    name, values = check_spec(kind, spec)
    places, options = registry.load_entry(kind, name).path_options, part_options(kind, name)
    for key, value in values.items():
        hint, where = options[key].annotation, f"{kind[:-1]}.{key} = {value!r} of '{folder}'"
        if value is not None and (inner := part_kind(hint)):
            values[key] = confine(inner, value, folder)
        elif isinstance(value, list) and (inner := part_kind(item_type(hint))):
            values[key] = [confine(inner, each, folder) for each in value]
        elif value is not None and places.get(key) == "write":
            raise ConfigError(f"{where} is a place that would be written to. {ALLOW}")
        elif outside := [text for text in _texts(value) if leads_outside(text)]:
            raise ConfigError(f"{where} names a place outside of it, {outside[0]!r}. {ALLOW}")
        elif key in places and isinstance(value, str) and os.path.exists(inside := folder / value):
            root = folder.resolve()
            root = root.parents[1] if root.parent.name == "snapshots" else root  # of the hub's cache, which has links
            if not inside.resolve().is_relative_to(root):
                raise ConfigError(f"{where} is a link to a place outside of it. {ALLOW}")
            values[key] = str(inside)
    return {"name": name, **values}


def require_short(file: Path, spec: Mapping[str, Any]) -> None:
    """Raise InvalidValue if the description of a model or stage, except for its facts, has an unusually long text."""
    if any(len(text) > MAX_TEXT for key in spec.keys() - {"data", "training"} for text in _texts(spec[key])):
        raise InvalidValue(f"{file} holds a name or path of more than {MAX_TEXT:,} characters.")


def leads_outside(path: str) -> bool:
    """Return whether a path is absolute, in a home folder, or leads out of its folder, on any system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    return path.startswith("~") or posix.is_absolute() or bool(windows.anchor) or ".." in (*posix.parts, *windows.parts)


def _texts(value: Any) -> list[str]:
    """Return all texts in nested lists and mappings."""
    if isinstance(value, Mapping | list):
        items = [*value, *value.values()] if isinstance(value, Mapping) else value
        return [text for item in items for text in _texts(item)]
    return [value] if isinstance(value, str) else []


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn any error of parts that are built from what a file says into a sentence that names it, or pass it on."""
    try:
        yield
    except (UserError, OSError, LookupError) as error:
        if str(place.parent) in str(error) or type(error) not in (InvalidValue, ConfigError, registry.UnknownPart):
            raise
        raise type(error)(f"In '{place}': {error}") from error
    except Exception as error:  # what a part does with values that it does not expect
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InvalidValue(f"'{place}' describes what cannot be built: {cause}. --debug shows where.") from error


def build_to_fit(file: Path, tensors: Mapping[str, Tensor], build: Callable[[], Module]) -> Module:
    """Build a module whose weights a file holds, these `tensors`, without more memory and time than they are worth.

    It is built on the meta device first, with no more parameters than the file has tensors. Raises InvalidValue if
    names or shapes differ, or if integers stand where floats belong.
    """
    shapes, description = _shapes(tensors), file.with_name("stage.json")
    with explained(description), torch.device("meta"), SkipInit(), _bounded(file, 4 * len(shapes) + 64):
        expected = _shapes(build().state_dict())
    if differ := sorted(name for name in {*expected, *shapes} if expected.get(name) != shapes.get(name)):
        there, here = (table.get(differ[0], "missing") for table in (shapes, expected))
        raise InvalidValue(
            f"{file} does not hold the weights of this stage: {len(differ)} of its tensors differ, '{differ[0]}' "
            f"first, {there} in the file and {here} by the description of the stage."
        )
    with explained(description), SkipInit():
        return build()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int | str, ...]]:
    """Return the shape of every tensor, and that it holds integers if it does."""
    return {name: (*each.shape, *["integers"] * (not each.is_floating_point())) for name, each in tensors.items()}


@contextmanager
def _bounded(file: Path, most: int) -> Iterator[None]:
    """Stop the building of a module that has far more parameters than a file has tensors."""
    count = 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise InvalidValue(f"{file} does not hold the weights of this stage: it has far fewer tensors.")

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()
