"""Assignments of the command line, `key.sub=value`, over a configuration file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model

from codecdiff.config.parts import (
    ConfigError,
    Model,
    PartOf,
    check_spec,
    did_you_mean,
    item_type,
    parse_value,
    part_kind,
    part_options,
    yaml_value,
)
from codecdiff.errors import MissingFile, ValidationIssue, validation_issues
from codecdiff.files import BadDocument, is_unicode, missing_file, read_yaml

# An option that implies the part it belongs to: `splitter.stages=...` selects the grouped splitter.
IMPLIED = {("splitters", "stages"): "grouped"}
OTHER_NAMES = {  # what a setting is called elsewhere
    **dict.fromkeys(("batch_size", "per_device_train_batch_size"), "train_batch_size"),
    **dict.fromkeys(("bf16", "fp16"), "mixed_precision"),
    **dict.fromkeys(("data_dir", "dataset", "train_data_dir"), "audio"),
    **dict.fromkeys(("epochs", "max_steps", "num_train_epochs", "steps"), "max_train_steps"),
    **dict.fromkeys(("eval_steps", "save_steps"), "checkpointing_steps"),
    "lr": "learning_rate",
    "output_dir": "output",
}


def override(data: Mapping[str, Any], model: type[BaseModel], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a configuration with `key.sub=value` assignments applied, outer keys before inner ones.

    Setting `X.name` drops the other options of X. An assignment holds for every stage: where the configuration has
    another value for one stage, in a table such as `stages`, it is replaced, unless an assignment names that stage. A
    part that the configuration names for one stage stays, and a warning says what does not apply to it. Raises
    ConfigError for a key that the configuration does not have, listing those it has.
    """
    result = deepcopy(dict(data))
    pairs = []
    for assignment in assignments:
        if not is_unicode(assignment):
            raise ConfigError(f"Invalid setting {assignment!r}: it is not UTF-8. Rename the file or folder.")
        key, equals, text = assignment.partition("=")
        if not equals:
            example = f"data.audio={assignment}" if Path(assignment).is_dir() else "train.max_train_steps=2000"
            raise ConfigError(f"Invalid setting '{assignment}': write KEY=VALUE without spaces, as in {example}.")
        pairs.append((key.split("."), text))
    hints = {name: info.annotation for name, info in model.model_fields.items() if get_origin(info.annotation) is dict}
    tables = {name: row_type for name, hint in hints.items() if (row_type := _group(get_args(hint)[1]))}
    for path, text in sorted(pairs, key=lambda pair: (pair[0][0] in tables, len(pair[0]) - (pair[0][-1] == "name"))):
        _assign(result, model, path, text)
        for name, row_type in tables.items():
            rows = result.get(name)
            for row, settings in rows.items() if isinstance(rows, dict) else ():
                is_named = [name, row, *path] in [other for other, _ in pairs]
                if not _assign_again(settings, result, row_type, path, text) and not is_named:
                    where, own = ".".join([name, row, *path]), settings[path[0]]["name"]
                    warnings.warn(
                        f"{'.'.join(path)}={text} does not apply to {name}.{row}, whose {path[0]} in the configuration "
                        f"is another part, '{own}'. Set {where}=... too.",
                        stacklevel=2,
                    )
    _check_implied(result, pairs)
    return result


def _check_implied(data: Any, pairs: Sequence[tuple[Sequence[str], str]]) -> None:
    """Raise ConfigError where one assignment names a part and another one an option that selects a different part."""
    for *place, option in (path for path, _ in pairs):
        named = [text for path, text in pairs if [*path] in (place, [*place, "name"])]
        implied = [name for (_, implying), name in IMPLIED.items() if implying == option]
        if named and implied and named[-1] != implied[0]:
            part = reduce(lambda here, key: here[int(key)] if isinstance(here, list) else here[key], place, data)
            if part.get("name") == implied[0]:
                where = ".".join(place)
                raise ConfigError(
                    f"{where}={named[-1]} contradicts {where}.{option}, which selects '{implied[0]}'. Leave one out."
                )


def _assign_again(row: Any, data: Mapping[str, Any], model: type[BaseModel], path: Sequence[str], text: str) -> bool:
    """Apply an assignment to a row of a table, in place, if the row has a value of its own there.

    Return False where it concerns a part and the row names another one, which stays; `data` has the assignment.
    """
    own = row.get(path[0]) if isinstance(row, dict) else None
    if not isinstance(own, dict):
        return True
    if "name" in own and own["name"] != (data[path[0]] or {}).get("name"):
        return False
    if path[1:] in ([], ["name"]):
        if "name" not in own:
            del row[path[0]]
    elif path[1] in own:
        _assign(row, model, path, text)
    return True


def _assign(data: dict[str, Any], model: type[BaseModel], path: Sequence[str], text: str) -> None:
    """Parse a value by the type of its setting and put it into `data`, in place."""
    here: Any = data
    hint: Any = model
    for depth in range(len(path) - 1):
        key, hint = _member(here, hint, path, depth, model)
        there = here[key] if isinstance(here, list) else here.get(key)
        if not isinstance(there, dict | list):
            here[key] = there = {"name": there} if isinstance(there, str) and part_kind(hint) else {}
        here = there
    if path[-1] == "name" and part_kind(hint):
        here.clear()
    where = ".".join(path)
    key, hint = _member(here, hint, path, len(path) - 1, model)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        raise ConfigError(f"'{where}' is a group of settings: write {where}.{next(iter(hint.model_fields))}=...")
    here[key] = yaml_value(text, where) if hint is None else parse_value(text, hint, where)


def _member(here: Any, hint: Any, path: Sequence[str], depth: int, root: type[BaseModel]) -> tuple[Any, Any]:
    """Return the key and the type of `path[depth]` in `here`, a value of type `hint` of a configuration `root`."""
    name, where = path[depth], ".".join(path)
    if group := _group(hint):
        names = list(group.model_fields)
        if name not in names:
            near = _nearest(name, group) or _nearest(name, root, is_elsewhere=True)
            raise ConfigError(f"Unknown setting '{where}'. Available: {', '.join(names)}.{near}")
        info = group.model_fields[name]
        mark = next((mark for mark in info.metadata if isinstance(mark, PartOf)), None)
        return name, Annotated[Any, mark] if mark else info.annotation
    if kind := part_kind(hint):
        return name, _option_type(here, kind, path, depth)
    item = item_type(hint)
    if item is not None and part_kind(item):
        return _index(here, name, where), item
    if table := next((option for option in _alternatives(hint) if get_origin(option) is dict), None):
        return name, get_args(table)[1]
    raise ConfigError(f"'{path[depth - 1]}' in '{where}' is a single value: write {'.'.join(path[:depth])}=...")


def _nearest(name: str, group: type[BaseModel], *, is_elsewhere: bool = False) -> str:
    """Return the end of an error message: the setting of a group that has a name elsewhere or in a group inside it."""
    inner = {key: _group(info.annotation) for key, info in group.model_fields.items()}
    places = {sub: f"{key}.{sub}" for key, fields in inner.items() if fields for sub in fields.model_fields}
    places |= {key: key for key in inner}
    own_first = [*zip(inner, inner, strict=True), *places.items()]
    words = [place for key, place in own_first if name in key.split("_")]  # as in scale, of guidance_scale
    if place := places.get(OTHER_NAMES.get(name, name)):
        return f" Did you mean '{place}'?"
    return did_you_mean(name, () if is_elsewhere else inner) or (f" Did you mean '{words[0]}'?" if words else "")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _group(hint: Any) -> type[BaseModel] | None:
    """Return the group of settings that a type hint stands for, if any."""
    types = [option for option in _alternatives(hint) if isinstance(option, type)]
    return next((option for option in types if issubclass(option, BaseModel)), None)


def _option_type(spec: dict[str, Any], kind: str, path: Sequence[str], depth: int) -> Any:
    """Return the type hint of the option `path[depth]` of a part, which is replaced if the option implies another.

    None for an option over those of a part that is named elsewhere, as in stages.secondary.denoiser.width.
    """
    option, name = path[depth], spec.get("name")
    if option == "name":
        return str
    implied = IMPLIED.get((kind, option))
    if implied and (name is None or option not in part_options(kind, name)):
        spec.clear()
        spec["name"] = name = implied
    if name is None and depth == len(path) - 1:
        return None
    if name is None:
        where = ".".join(path)
        raise ConfigError(f"'{where}' sets an option of a {kind[:-1]} that has no name yet: set its name too.")
    try:
        check_spec(kind, {"name": name, option: None})
    except ConfigError as error:
        if not did_you_mean(option, [each for owner, each in IMPLIED if owner == kind]):
            raise
        raise ConfigError(f'{error} For groups of levels: {".".join(path[:depth])}.stages="0|1-8".') from error
    return part_options(kind, name)[option].annotation


def _index(parts: Sequence[Any], key: str, where: str) -> int:
    """Return the index of a part in a list, by its number from 0 or by its name."""
    names = [part if isinstance(part, str) else part.get("name") for part in parts]
    if key.isdigit() and int(key) < len(names):
        return int(key)
    if names.count(key) == 1:
        return names.index(key)
    listed = ", ".join(f"{i} ({name})" for i, name in enumerate(names)) or "none"
    raise ConfigError(f"'{where}': '{key}' does not name one part. Name one by its number: {listed}.")


def parse_options(kind: str, name: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Describe the part called `name` with the `option=value` assignments of a command line, parsed by their types.

    Raises ConfigError for unknown options.
    """
    model = create_model("Options", part=(Annotated[dict[str, Any], PartOf(kind)], ...))
    try:
        return override({"part": {"name": name}}, model, [f"part.{assignment}" for assignment in assignments])["part"]
    except ConfigError as error:
        raise ConfigError(re.sub(r"\bpart\.", "", str(error))) from error


def load_config(model: type[Model], file: Path, assignments: Sequence[str] = ()) -> Model:
    """Read a YAML file, apply the assignments of the command line and validate the result.

    Raises MissingFile if the file does not exist, and ConfigError for a file that is not a mapping, unknown
    settings and values of the wrong type.
    """
    try:
        data = read_yaml(file) or {}
    except MissingFile as error:
        raise missing_file(file, "Configuration file") from error
    except BadDocument as error:
        raise ConfigError(str(error)) from error
    return validate_config(model, data, file, assignments)


def validate_config(model: type[Model], data: Any, file: Path, assignments: Sequence[str] = ()) -> Model:
    """Return the configuration that is the contents of a file, as `load_config` does."""
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ConfigError(f"{file} holds a {type(data).__name__}; a configuration is a mapping, as in seed: 0.")
    _validated(model, data, file, is_partial=True)
    return _validated(model, override(data, model, assignments), file)


def _validated(model: type[Model], data: dict[str, Any], file: Path, *, is_partial: bool = False) -> Model:
    """Validate a configuration: a partial one is that of the file, in which settings may be missing."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        issues = validation_issues(error)
        is_missing = any(issue.type == "missing" for issue in issues)
        lines = [_explain(model, issue) for issue in issues if not (is_partial and issue.type == "missing")]
        if not lines:
            return model.model_construct()
        if is_partial or is_missing or len(lines) > 1:
            lines = [f"{file} cannot be used:" if is_partial or is_missing else "Invalid settings:", *lines]
        raise ConfigError("\n  ".join(lines)) from error


def _explain(model: type[BaseModel], issue: ValidationIssue) -> str:
    if issue.type == "extra_forbidden":
        try:
            override({}, model, [f"{issue.place}="])
        except ConfigError as error:
            return str(error)
    return str(issue).rstrip(".") + "."
