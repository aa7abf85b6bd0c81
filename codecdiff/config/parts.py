"""Configurations: a part is `{name: dac, options...}`, and its constructor's signature is the schema of the options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, InstanceOf, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from codecdiff import registry
from codecdiff.errors import ConfigError

_LAX = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)

Model = TypeVar("Model", bound=BaseModel)


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
    if get_origin(hint) is Annotated:
        marks = [mark.kind for mark in get_args(hint)[1:] if isinstance(mark, PartOf)]
        return marks[0] if marks else _kind_of(get_args(hint)[0])
    if _element_of(hint) is not None:
        return None
    for option in (hint, *get_args(hint)):
        if isinstance(option, type) and (kind := registry.kind_of(option)):
            return kind
        if get_origin(option) is Annotated and (kind := _kind_of(option)):
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
    return {key: hints.get(key, Any) for key in known if key in hints and key not in registry.interface(kind).derived}


def _adapter(hint: Any, skeleton: bool = False) -> TypeAdapter[Any]:
    kind, listed = _kind_of(hint), _kind_of_list(hint)
    if kind:
        built = _built(kind, skeleton)
        return TypeAdapter(built | None if type(None) in get_args(hint) else built, config=_LAX)
    if listed:
        parts: Any = GenericAlias(list, _built(listed, skeleton))
        return TypeAdapter(parts, config=_LAX)
    return TypeAdapter(hint, config=_LAX)


def _built(kind: str, skeleton: bool) -> Any:
    """Give the type hint of a part that is built where it is described."""

    def assembled(value: Any) -> Any:
        return _assemble(kind, value, {}, skeleton) if isinstance(value, str | Mapping) else value

    return Annotated[InstanceOf[registry.interface(kind)], BeforeValidator(assembled)]


def _checked(value: Any, hint: Any, where: str, skeleton: bool = False) -> Any:
    try:
        return _adapter(hint, skeleton).validate_python(value)
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
        if key in registry.interface(kind).derived:
            raise ConfigError(f"{kind[:-1]}.{key} follows from the other parts; leave it out.")
        if key not in known:
            raise ConfigError(
                f"The {kind[:-1]} '{name}' has no option '{key}'. "
                f"It has: {', '.join(known) or 'none'}.{_near(key, list(known))}"
            )
    return name, values


def completed(kind: str, spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Describe a part as `to_config` would, its options left out at their defaults, without building it.

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


def build_skeleton(kind: str, spec: str | Mapping[str, Any], **supplied: Any) -> Any:
    """Build the outline of a part, and of every part inside it: as `build`, but for its facts alone."""
    return _assemble(kind, spec, supplied, skeleton=True)


def _assemble(kind: str, spec: str | Mapping[str, Any], supplied: Mapping[str, Any], skeleton: bool = False) -> Any:
    name, values = part_spec(kind, spec)
    part = registry.load(kind, name)
    known = options(kind, name)
    accepted = inspect.signature(part.__init__).parameters
    arguments = {key: _checked(value, known[key], f"{kind[:-1]}.{key}", skeleton) for key, value in values.items()}
    arguments |= {key: value for key, value in supplied.items() if key in accepted}
    required = [p.name for p in list(accepted.values())[1:] if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if missing := [key for key in required if key in known and key not in arguments]:
        raise ConfigError(f"The {kind[:-1]} '{name}' needs a value for: {', '.join(missing)}.")
    return (part.skeleton if skeleton else part)(**arguments)


def over(spec: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the options of `other` over those of `spec`, unless it names another part: then it stands alone."""
    other = other or {}
    return dict(other) if other.get("name", spec.get("name")) != spec.get("name") else {**spec, **other}


def to_config(kind: str, part: Any) -> dict[str, Any]:
    """Describe a part so that `build` makes its like: its registered name and the arguments it was built with.

    What is about this machine alone, such as a cache around a part, is left out (`Part.recorded`).
    """
    import sys

    part = part.portable()
    loaded = [plugin for plugin in registry.installed(kind) if plugin.entry.module_name in sys.modules]
    matches = [plugin for plugin in loaded if _names(plugin, type(part))]
    if not matches:
        raise ConfigError(
            f"{type(part).__module__}.{type(part).__qualname__} is not registered, so a model with it cannot be saved. "
            f"Add an entry point in the group 'codecdiff.{kind}' to its package."
        )
    name = matches[0].name
    shared = [plugin for plugin in registry.installed(kind) if plugin.name == name]
    values = {
        key: _plain(value) for key, value in part.arguments.items() if key not in registry.interface(kind).derived
    }
    return {"name": name if len(shared) == 1 else f"{matches[0].distribution}:{name}", **values}


def _names(plugin: registry.Plugin, part: type) -> bool:
    try:
        return plugin.load() is part
    except registry.BrokenPlugin:  # somebody else's
        return False


def _plain(value: Any) -> Any:
    from codecdiff.interfaces import Part

    if isinstance(value, Part) and (kind := registry.kind_of(type(value))):
        return to_config(kind, value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return to_jsonable_python(value)
