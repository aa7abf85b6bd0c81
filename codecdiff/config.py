"""Configurations: a part is `{name: dac, options...}`, and its constructor's signature is the schema of the options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
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
    "captioners": ("answers",),
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
CaptionerSpec = Annotated[dict[str, Any], PartOf("captioners")]
EmbedderSpec = Annotated[dict[str, Any], PartOf("embedders")]


def _kind_of(hint: Any) -> str | None:
    """Which kind of part a type hint stands for, if any: `Codec`, `Codec | None`, or a marked field."""
    from codecdiff.interfaces import KINDS

    if get_origin(hint) is Annotated:
        marks = [mark.kind for mark in get_args(hint)[1:] if isinstance(mark, PartOf)]
        return marks[0] if marks else _kind_of(get_args(hint)[0])
    for option in (hint, *get_args(hint)):
        if isinstance(option, type):
            for kind, interface in KINDS.items():
                if issubclass(option, interface):
                    return kind
        elif get_origin(option) is Annotated and (kind := _kind_of(option)):
            return kind
    return None


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


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
    return {key: hints.get(key, Any) for key in known if key in hints and key not in SUPPLIED[kind]}


def _adapter(hint: Any, outlined: bool = False) -> TypeAdapter[Any]:
    kind = _kind_of(hint)
    if kind is None:
        return TypeAdapter(hint, config=_LAX)
    from codecdiff.interfaces import KINDS

    interface = KINDS[kind]

    def assembled(value: Any) -> Any:
        return _assemble(kind, value, {}, outlined) if isinstance(value, str | Mapping) else value

    built: Any = Annotated[InstanceOf[interface], BeforeValidator(assembled)]
    return TypeAdapter(built | None if type(None) in get_args(hint) else built, config=_LAX)


def _checked(value: Any, hint: Any, where: str, outlined: bool = False) -> Any:
    try:
        return _adapter(hint, outlined).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        spot = ".".join([where, *map(str, first["loc"])])
        raise ConfigError(f"{spot} = {value!r}: {first['msg']}.") from error


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
        if key in SUPPLIED[kind]:
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
    parameters = inspect.signature(registry.load(kind, name).__init__).parameters
    defaults = {key: parameters[key].default for key in options(kind, name)}
    known = {key: _plain(value) for key, value in defaults.items() if value is not inspect.Parameter.empty}
    return {"name": name, **known, **values}


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
    """Describe a part so that `build` makes its like: its registered name and the arguments it was built with."""
    import sys

    loaded = [plugin for plugin in registry.installed(kind) if plugin.entry.module_name in sys.modules]
    matches = [plugin for plugin in loaded if _names(plugin, type(part))]
    if not matches:
        raise ConfigError(
            f"{type(part).__module__}.{type(part).__qualname__} is not registered, so a model with it cannot be saved. "
            f"Add an entry point in the group 'codecdiff.{kind}' to its package."
        )
    name = matches[0].name
    shared = [plugin for plugin in registry.installed(kind) if plugin.name == name]
    values = {key: _plain(value) for key, value in part.arguments.items() if key not in SUPPLIED[kind]}
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
        return {**data, head: {"name": text}}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        if not rest:
            raise ConfigError(f"'{where}' is a group of settings: write {where}.{next(iter(hint.model_fields))}=...")
        return {**data, head: _assign(inside or {}, hint, rest, text, where)}
    if not rest:
        return {**data, head: parse(text, hint, where)}
    if _is_table(info) and rest[1:]:
        table, row = dict(inside or {}), get_args(hint)[1]
        return {**data, head: table | {rest[0]: _assign(table.get(rest[0]) or {}, row, rest[1:], text, where)}}
    raise ConfigError(f"'{head}' in '{where}' is a single value: write {head}=...")


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
    inner, inside = _kind_of(known[head]), spec.get(head) or {}
    if inner and rest:
        inside = {"name": inside} if isinstance(inside, str) else inside
        return {**spec, head: _assign_part(inside, inner, rest, text, where)}
    return {**spec, head: parse(text, known[head], where) if inner is None else {"name": text}}


def read(model: type[Model], file: Path, assignments: Sequence[str] = ()) -> Model:
    """Read a YAML file, put the assignments of the command line over it and check the whole.

    Raises ConfigError for a file that is not a mapping, unknown settings and values of the wrong type.
    """
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
