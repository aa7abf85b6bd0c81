"""Configurations: a part is `{name: dac, options...}`, and its constructor's signature is the schema of the options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, InstanceOf, TypeAdapter, ValidationError, create_model
from pydantic_core import to_jsonable_python

from codecdiff import registry

# What follows from other parts. It is supplied when a model is assembled, and refused in a file.
SUPPLIED = {
    "codecs": (),
    "splitters": ("num_codebooks", "levels"),
    "conditioners": (),
    "denoisers": ("channels", "context_channels", "condition_widths"),
    "embedders": (),
}

# An option that names the part it belongs to: `splitter.stages=...` asks for the grouped splitter.
OWNERS = {("splitters", "stages"): "grouped"}

_LAX = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where, why and what is possible."""


@dataclass(frozen=True)
class PartOf:
    """Marks a field of a configuration as a part of this kind."""

    kind: str


CodecSpec = Annotated[dict[str, Any], PartOf("codecs")]
SplitterSpec = Annotated[dict[str, Any], PartOf("splitters")]
ConditionerSpec = Annotated[dict[str, Any], PartOf("conditioners")]
DenoiserSpec = Annotated[dict[str, Any], PartOf("denoisers")]
EmbedderSpec = Annotated[dict[str, Any], PartOf("embedders")]


def _kind_of(hint: Any) -> str | None:
    """Which kind of part a type hint stands for, if any: `Codec`, `Codec | None`, or a marked field."""
    from codecdiff.interfaces import KINDS

    if get_origin(hint) is Annotated:
        marks = [mark.kind for mark in get_args(hint)[1:] if isinstance(mark, PartOf)]
        return marks[0] if marks else _kind_of(get_args(hint)[0])
    if _element_of(hint) is not None:
        return None
    for option in (hint, *get_args(hint)):
        if isinstance(option, type):
            for kind, interface in KINDS.items():
                if issubclass(option, interface):
                    return kind
        elif get_origin(option) is Annotated and (kind := _kind_of(option)):
            return kind
    return None


def _element_of(hint: Any) -> Any:
    """Give the type hint of a list's elements, as of `list[Conditioner]`; None for what is no list."""
    return get_args(hint)[0] if get_origin(hint) in (list, Sequence) and get_args(hint) else None


def _kind_of_list(hint: Any) -> str | None:
    """Which kind of part a list of them holds, if any."""
    element = _element_of(hint)
    return None if element is None else _kind_of(element)


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def derived_arguments(kind: str) -> tuple[str, ...]:
    """Return the arguments of parts of a kind that follow from other parts; added kinds list them as `derived`."""
    return SUPPLIED[kind] if kind in SUPPLIED else tuple(getattr(registry.interface(kind), "derived", ()))


def options(kind: str, name: str) -> dict[str, Any]:
    """Give the options of a part with their type hints: its constructor's signature, less what is supplied."""
    part = registry.load(kind, name)
    signature = inspect.signature(part.__init__)
    try:
        hints = get_type_hints(part.__init__)
    except NameError as error:
        raise registry.BrokenPlugin(
            f"The type hints of the {kind[:-1]} '{name}' cannot be read: {error}. "
            "Its package must import at run time the types that its constructor names."
        ) from error
    known = (parameter.name for parameter in list(signature.parameters.values())[1:])
    return {key: hints.get(key, Any) for key in known if key in hints and key not in derived_arguments(kind)}


def _adapter(hint: Any, outlined: bool = False) -> TypeAdapter[Any]:
    kind, listed = _kind_of(hint), _kind_of_list(hint)
    if kind:
        built = _built(kind, outlined)
        return TypeAdapter(built | None if type(None) in get_args(hint) else built, config=_LAX)
    if listed:
        parts: Any = GenericAlias(list, _built(listed, outlined))
        return TypeAdapter(parts, config=_LAX)
    return TypeAdapter(hint, config=_LAX)


def _built(kind: str, outlined: bool) -> Any:
    """Give the type hint of a part that is built where it is described."""

    def assembled(value: Any) -> Any:
        return _assemble(kind, value, {}, outlined) if isinstance(value, str | Mapping) else value

    return Annotated[InstanceOf[registry.interface(kind)], BeforeValidator(assembled)]


def _checked(value: Any, hint: Any, where: str, outlined: bool = False) -> Any:
    try:
        return _adapter(hint, outlined).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        spot = ".".join([where, *map(str, first["loc"])])
        raise ConfigError(f"{spot} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}.") from error


def parse(text: str, hint: Any, where: str) -> Any:
    """Read one value of the command line by the type of its field: `0` stays a string where a string is asked for."""
    if text in ("null", "none") and type(None) in get_args(hint):
        return None
    try:
        return _adapter(hint).validate_python(text)
    except ValidationError:
        return _checked(_yaml(text, where), hint, where)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}={text} is not a value that YAML can read: {error}.") from error


def part_spec(kind: str, spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Give the name and the options of a part, refusing options it does not have and those that are supplied."""
    values = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"A {kind[:-1]} needs a name, as in {{name: {registry.installed(kind)[0].name}}}; got {spec!r}."
        )
    known = options(kind, name)
    for key in values:
        if key in derived_arguments(kind):
            raise ConfigError(f"{kind[:-1]}.{key} follows from the other parts; leave it out.")
        if key not in known:
            raise ConfigError(
                f"The {kind[:-1]} '{name}' has no option '{key}'. "
                f"It has: {', '.join(known) or 'none'}.{_near(key, list(known))}"
            )
    return name, values


def completed(kind: str, spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Describe a part as `spec_of` would, its options left out at their defaults, without building it.

    Raises ConfigError for options it does not have.
    """
    name, values = part_spec(kind, spec)
    parameters, known = inspect.signature(registry.load(kind, name).__init__).parameters, options(kind, name)
    defaults = {key: parameters[key].default for key in known}
    plain = {key: _plain(value) for key, value in defaults.items() if value is not inspect.Parameter.empty}
    inner = {key: part for key in values if (part := _kind_of(known[key])) and values[key] is not None}
    return {"name": name, **plain, **values, **{key: completed(part, values[key]) for key, part in inner.items()}}


def alike(kind: str, there: Any, here: Any) -> tuple[Any, Any]:
    """Complete two descriptions of one part, so that a file from before an option existed has it at its default.

    Descriptions of parts of other names come back as they are, for those need not be installed.
    """
    pair = (there, here)
    if not all(isinstance(spec, Mapping) and "name" in spec for spec in pair) or there["name"] != here["name"]:
        return pair
    return completed(kind, there), completed(kind, here)


def build(kind: str, spec: str | Mapping[str, Any], **supplied: Any) -> Any:
    """Build the part that `spec` describes, with those of the `supplied` arguments that its constructor takes.

    Raises ConfigError for options that are unknown, of the wrong type, missing or refused by the part.
    """
    return _assemble(kind, spec, supplied)


def outline(kind: str, spec: str | Mapping[str, Any], **supplied: Any) -> Any:
    """Build the outline of a part, and of every part inside it: as `build`, but for its facts alone."""
    return _assemble(kind, spec, supplied, outlined=True)


def _assemble(kind: str, spec: str | Mapping[str, Any], supplied: Mapping[str, Any], outlined: bool = False) -> Any:
    name, values = part_spec(kind, spec)
    part = registry.load(kind, name)
    known = options(kind, name)
    accepted = inspect.signature(part.__init__).parameters
    arguments = {key: _checked(value, known[key], f"{kind[:-1]}.{key}", outlined) for key, value in values.items()}
    arguments |= {key: value for key, value in supplied.items() if key in accepted}
    required = [p.name for p in list(accepted.values())[1:] if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if missing := [key for key in required if key in known and key not in arguments]:
        raise ConfigError(f"The {kind[:-1]} '{name}' needs a value for: {', '.join(missing)}.")
    return (part.outline if outlined else part)(**arguments)


def over(spec: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the options of `other` over those of `spec`, unless it names another part: then it stands alone."""
    other = other or {}
    return dict(other) if other.get("name", spec.get("name")) != spec.get("name") else {**spec, **other}


def spec_of(kind: str, part: Any) -> dict[str, Any]:
    """Describe a part so that `build` makes its like: its registered name and the arguments it was built with.

    What is about this machine alone, such as a cache around a part, is left out (`Part.recorded`).
    """
    import sys

    part = part.recorded()
    loaded = [plugin for plugin in registry.installed(kind) if plugin.entry.module_name in sys.modules]
    matches = [plugin for plugin in loaded if _names(plugin, type(part))]
    if not matches:
        raise ConfigError(
            f"{type(part).__module__}.{type(part).__qualname__} is not registered, so a model with it cannot be saved. "
            f"Add an entry point in the group 'codecdiff.{kind}' to its package."
        )
    name = matches[0].name
    shared = [plugin for plugin in registry.installed(kind) if plugin.name == name]
    values = {key: _plain(value) for key, value in part.arguments.items() if key not in derived_arguments(kind)}
    return {"name": name if len(shared) == 1 else f"{matches[0].distribution}:{name}", **values}


def _names(plugin: registry.Plugin, part: type) -> bool:
    try:
        return plugin.load() is part
    except registry.BrokenPlugin:  # somebody else's
        return False


def _plain(value: Any) -> Any:
    from codecdiff.interfaces import KINDS, Part

    if isinstance(value, Part):
        return spec_of(next(kind for kind, interface in KINDS.items() if isinstance(value, interface)), value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return to_jsonable_python(value)


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
