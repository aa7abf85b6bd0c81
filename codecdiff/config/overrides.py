"""Assignments of the command line, `key.sub=value`, over a configuration file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError, create_model

from codecdiff.config.parts import (
    ConfigError,
    Model,
    PartOf,
    _element_of,
    _kind_of,
    _kind_of_list,
    _near,
    _yaml,
    options,
    parse,
    part_spec,
)

# An option that names the part it belongs to: `splitter.stages=...` asks for the grouped splitter.
OWNERS = {("splitters", "stages"): "grouped"}


def override(data: dict[str, Any], model: type[BaseModel], assignments: Sequence[str]) -> dict[str, Any]:
    """Put `key.sub=value` assignments over a configuration.

    Setting `X.name` drops the other options of X, and those that tables of settings, such as `stages`, put over them.
    Raises ConfigError for a key the configuration does not have, saying which it has.
    """
    pairs = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"'{assignment}' is not an override. Write key=value, as in train.steps=2000.")
        pairs.append((path.split("."), text))
    result = dict(data)
    for path, text in sorted(pairs, key=lambda pair: len(pair[0]) > 1 and pair[0][-1] != "name"):
        result = _assign(result, model, path, text, ".".join(path))
        if path[1:] in ([], ["name"]):
            result = _without_options_over(result, model, path[0])
    return result


def _without_options_over(data: dict[str, Any], model: type[BaseModel], key: str) -> dict[str, Any]:
    """Drop what tables of settings put over the options of a part `key`: they were meant for the one it was."""
    tables = {name: data[name] for name, info in model.model_fields.items() if data.get(name) and _is_table(info)}
    others = {
        name: {row: {k: v for k, v in settings.items() if k != key or "name" in v} for row, settings in table.items()}
        for name, table in tables.items()
    }
    return {**data, **others}


def _is_table(info: Any) -> bool:
    """Tell whether a field holds groups of settings by name, as `stages` does."""
    hint, inner = get_origin(info.annotation), get_args(info.annotation)
    return hint is dict and isinstance(inner[1], type) and issubclass(inner[1], BaseModel)


def chosen(kind: str, name: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Describe the part called `name` with the `option=value` assignments of a command line, read by their types.

    Raises ConfigError for options it does not have.
    """
    model = create_model("Chosen", part=(Annotated[dict[str, Any], PartOf(kind)], ...))
    return override({"part": {"name": name}}, model, [f"part.{assignment}" for assignment in assignments])["part"]


def _assign(data: Mapping[str, Any], model: type[BaseModel], path: list[str], text: str, where: str) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    fields = model.model_fields
    if head not in fields:
        raise ConfigError(f"There is no setting '{where}'. There are: {', '.join(fields)}.{_near(head, list(fields))}")
    info = fields[head]
    kinds = [mark.kind for mark in info.metadata if isinstance(mark, PartOf)]
    hint = info.annotation
    kind = kinds[0] if kinds else _kind_of(hint)
    inside = data.get(head)
    if kind and rest:
        return {
            **data,
            head: _assign_part({"name": inside} if isinstance(inside, str) else inside or {}, kind, rest, text, where),
        }
    if kind and text in ("null", "none"):
        return {**data, head: None}
    if kind:
        return {**data, head: _whole(kind, text, where)}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        if not rest:
            raise ConfigError(f"'{where}' is a group of settings: write {where}.{next(iter(hint.model_fields))}=...")
        return {**data, head: _assign(inside or {}, hint, rest, text, where)}
    return {**data, head: _assign_value(inside, hint, rest, text, where)}


def _assign_value(inside: Any, hint: Any, path: list[str], text: str, where: str) -> Any:
    """Give a value with what `path` leads to in it replaced; with no path left, the whole."""
    if not path:
        return parse(text, hint, where)
    head, rest = path[0], path[1:]
    for option in (hint, *get_args(hint)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return _assign(inside if isinstance(inside, Mapping) else {}, option, path, text, where)
        if get_origin(option) is dict:
            table = dict(inside) if isinstance(inside, Mapping) else {}
            return table | {head: _assign_value(table.get(head), get_args(option)[1], rest, text, where)}
    value = where.removesuffix(f".{'.'.join(path)}")
    raise ConfigError(f"'{value.rpartition('.')[2]}' in '{where}' is a single value: write {value}=...")


def _assign_part(spec: Mapping[str, Any], kind: str, path: list[str], text: str, where: str) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    if head == "name" and not rest:
        return {"name": text}
    name = spec.get("name")
    owner = OWNERS.get((kind, head))
    if owner and (name is None or head not in options(kind, name)):
        spec, name = {"name": owner}, owner
    if name is None and not rest:  # an option over another part's, as in stages.secondary.denoiser
        return {**spec, head: _yaml(text, where)}
    if name is None:
        raise ConfigError(f"'{where}' sets an option of a {kind[:-1]} that has no name yet: set its name too.")
    known = options(kind, name)
    part_spec(kind, {"name": name, head: None})
    return {**spec, head: _assign_option(spec.get(head), known[head], rest, text, where)}


def _assign_option(inside: Any, hint: Any, path: list[str], text: str, where: str) -> Any:
    """As `_assign_value`, for an option of a part: it may be a part itself, or a list of them."""
    kind, listed = _kind_of(hint), _kind_of_list(hint)
    if kind and path:
        return _assign_part({"name": inside} if isinstance(inside, str) else inside or {}, kind, path, text, where)
    if kind:
        return _whole(kind, text, where)
    if listed and path:
        i = _place_in(inside or [], path[0], where)
        return [*inside[:i], _assign_option(inside[i], _element_of(hint), path[1:], text, where), *inside[i + 1 :]]
    if listed:
        return _described(_yaml(text, where), listed, where)
    return _assign_value(inside, hint, path, text, where)


def _whole(kind: str, text: str, where: str) -> dict[str, Any]:
    """Read a part that is given whole: by its name, or with options in braces, as {name: dac, backend: descript}."""
    if not text.startswith("{"):
        return {"name": text}
    spec = _yaml(text, where)
    part_spec(kind, spec)
    return spec


def _described(parts: Any, kind: str, where: str) -> list[Any]:
    """Check that a value describes a list of parts, without building them."""
    if not isinstance(parts, list):
        raise ConfigError(f"{where} is a list of {kind}, as in [{{name: ...}}, {{name: ...}}]; got {parts!r}.")
    for part in parts:
        part_spec(kind, part)
    return parts


def _place_in(parts: Sequence[Any], place: str, where: str) -> int:
    """Give the index of a part in a list, by its number from 0 or by its name."""
    names = [part if isinstance(part, str) else part.get("name") for part in parts]
    if place.isdigit() and int(place) < len(names):
        return int(place)
    if names.count(place) == 1:
        return names.index(place)
    there = ", ".join(f"{i} ({name})" for i, name in enumerate(names)) or "none"
    raise ConfigError(f"'{where}': no one part is '{place}'. Name one by its number: {there}.")


def read(model: type[Model], file: Path, assignments: Sequence[str] = ()) -> Model:
    """Read a YAML file, put the assignments of the command line over it and check the whole.

    Raises FileNotFoundError if there is none, and ConfigError for a file that is not a mapping, unknown settings and
    values of the wrong type.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no configuration file '{file}'.")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file} holds a {type(data).__name__}; a configuration is a mapping of settings.")
    try:
        return model.model_validate(override(data, model, assignments))
    except ValidationError as error:
        lines = [_explain(model, fault) for fault in error.errors()]
        raise ConfigError("\n".join([f"{file} cannot be used:", *lines])) from error


def _explain(model: type[BaseModel], fault: Any) -> str:
    spot = ".".join(map(str, fault["loc"]))
    if fault["type"] != "extra_forbidden":
        return f"  {spot} = {fault['input']!r}: {fault['msg']}"
    for key in fault["loc"][:-1]:
        hint = model.model_fields[key].annotation if key in model.model_fields else None
        inner = [option for option in (hint, *get_args(hint)) if isinstance(option, type)]
        model = next((option for option in inner if issubclass(option, BaseModel)), model)
    names = list(model.model_fields)
    return f"  {spot}: there is no such setting. There are: {', '.join(names)}.{_near(str(fault['loc'][-1]), names)}"
