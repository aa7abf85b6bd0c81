"""Parts of a configuration: a part is `{name: dac, options...}`, and its constructor's signature is their schema."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, InstanceOf, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from codecdiff import files, registry
from codecdiff.errors import ConfigError, did_you_mean, validation_issues

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


def part_kind(hint: Any) -> str | None:
    """Return the kind of part that a type hint stands for: `Codec`, `Codec | None`, a marked field; None for others."""
    if get_origin(hint) is Annotated:
        marks = [mark.kind for mark in get_args(hint)[1:] if isinstance(mark, PartOf)]
        return marks[0] if marks else part_kind(get_args(hint)[0])
    if item_type(hint) is not None:
        return None
    for option in (hint, *get_args(hint)):
        if isinstance(option, type) and (kind := registry.kind_of(option)):
            return kind
        if get_origin(option) is Annotated and (kind := part_kind(option)):
            return kind
    return None


def item_type(hint: Any) -> Any:
    """Return the type hint of the items of a list, such as `list[Conditioner]`; None for other types."""
    return get_args(hint)[0] if get_origin(hint) in (list, Sequence) and get_args(hint) else None


def part_options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a part: its constructor's parameters that have a type hint and are not derived."""
    try:
        signature = inspect.signature(registry.load_entry(kind, name).__init__, eval_str=True)
    except NameError as error:
        raise registry.BrokenPlugin(
            f"The type hints of the {kind[:-1]} '{name}' cannot be read: {error}. "
            "Import the types that its constructor names at run time, not under TYPE_CHECKING."
        ) from error
    typed = [p for p in signature.parameters.values() if p.annotation is not p.empty and p.kind is not p.VAR_KEYWORD]
    return {p.name: p for p in typed if p.name not in registry.interface(kind).derived}


def _adapter(hint: Any, part_type: Callable[[str], Any]) -> TypeAdapter[Any]:
    """Return a validator of a type hint in which parts, and lists of them, are replaced by `part_type(kind)`."""
    item, kind = item_type(hint), part_kind(hint)
    if item is not None and (item_kind := part_kind(item)):
        hint = GenericAlias(list, part_type(item_kind))
    elif kind:
        hint = part_type(kind) | None if type(None) in get_args(hint) else part_type(kind)
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True))


def _built(kind: str, skeleton: bool) -> Any:
    """Return the type of a part that is built where a configuration describes it."""

    def assembled(value: Any) -> Any:
        return build(kind, value, skeleton=skeleton) if isinstance(value, str | Mapping) else value

    return Annotated[InstanceOf[registry.interface(kind)], BeforeValidator(assembled)]


def _described(kind: str) -> Any:
    """Return the type of a description: a name, or a mapping with options, which are checked; nothing is built."""

    def checked(value: Any) -> Any:
        if isinstance(value, str):
            return value if value.startswith("{") else {"name": value}  # braces are YAML
        check_spec(kind, value)
        return value

    return Annotated[dict[str, Any], BeforeValidator(checked)]


def _validated(value: Any, hint: Any, where: str, part_type: Callable[[str], Any]) -> Any:
    try:
        return _adapter(hint, part_type).validate_python(value)
    except ValidationError as error:
        first, issue = error.errors()[0], validation_issues(error)[0]
        place = ".".join(filter(None, [where, issue.place]))
        if isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):  # of a part inside
            raise ConfigError(f"{place}: {cause}") from error
        raise ConfigError(f"{issue._replace(place=place)}.") from error


def parse_value(text: str, hint: Any, where: str) -> Any:
    """Parse a value of the command line by the type of its field: `0` stays a string if the field is a string.

    Parts are described, not built: `dac` is `{name: dac}`.
    """
    if text in ("null", "none") and type(None) in get_args(hint):
        return None
    try:
        return _adapter(hint, _described).validate_python(text)
    except ValidationError:
        return _validated(yaml_value(text, where), hint, where, _described)


def yaml_value(text: str, where: str) -> Any:
    """Parse a value of the command line as YAML. Raises ConfigError if it is not valid."""
    try:
        return files.parse_yaml(text, f"{where}={text}")
    except files.BadDocument as error:
        raise ConfigError(str(error)) from error


def check_spec(kind: str, spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a part. Raises ConfigError for options that are unknown or derived."""
    values = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"A {kind[:-1]} needs a name, as in {{name: {registry.installed(kind)[0].name}}}; got {spec!r}."
        )
    available = part_options(kind, name)
    for key in values:
        if key in registry.interface(kind).derived:
            raise ConfigError(f"{kind[:-1]}.{key} follows from the other parts; leave it out.")
        if key not in available:
            is_parameter = key in inspect.signature(registry.load_entry(kind, name).__init__).parameters
            untyped = f" '{key}' has no type annotation, so it is not an option." if is_parameter else ""
            choices = f"It has: {', '.join(available)}." if available else "It has no options."
            hint = untyped or did_you_mean(key, list(available))
            raise ConfigError(f"The {kind[:-1]} '{name}' has no option '{key}'. {choices}{hint}")
    return name, values


def with_defaults(kind: str, spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Describe a part as `to_config` would, with options that `spec` leaves out at their defaults, without building it.

    Raises ConfigError for unknown options.
    """
    name, values = check_spec(kind, spec)
    options = part_options(kind, name)
    defaults = {
        key: _plain(option.default, f"{kind[:-1]}.{key}")
        for key, option in options.items()
        if option.default is not option.empty
    }
    for key, value in values.items():
        hint = options[key].annotation
        if items := part_kind(item_type(hint)):
            values[key] = [with_defaults(items, item) for item in value]
        elif (inner := part_kind(hint)) and value is not None:
            values[key] = with_defaults(inner, value)
    return {"name": name, **defaults, **values}


def align_defaults(kind: str, first: Any, second: Any) -> tuple[Any, Any]:
    """Complete two descriptions of the same part, so that one from before an option existed has it at its default.

    Descriptions of parts with different names are returned unchanged, for those need not be installed.
    """
    pair = (first, second)
    if not all(isinstance(spec, Mapping) and "name" in spec for spec in pair) or first["name"] != second["name"]:
        return pair
    return with_defaults(kind, first), with_defaults(kind, second)


def build(kind: str, spec: str | Mapping[str, Any], *, skeleton: bool = False, **derived: Any) -> Any:
    """Build the part that `spec` describes, with those of the `derived` arguments that its constructor takes.

    A `skeleton`, and every part inside it, is built for its facts alone, by `Part.skeleton`. Raises ConfigError for
    options that are unknown, of the wrong type, missing or refused by the part.
    """
    name, values = check_spec(kind, spec)
    part, options, built = registry.load_entry(kind, name), part_options(kind, name), partial(_built, skeleton=skeleton)
    arguments = {
        key: _validated(value, options[key].annotation, f"{kind[:-1]}.{key}", built) for key, value in values.items()
    }
    accepted = inspect.signature(part.__init__).parameters
    arguments |= {key: value for key, value in derived.items() if key in accepted}
    if missing := [key for key, o in options.items() if o.default is o.empty and key not in arguments]:
        raise ConfigError(f"The {kind[:-1]} '{name}' needs a value for: {', '.join(missing)}.")
    named = [p for p in accepted.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    if untyped := [p.name for p in named if p.default is p.empty and p.name not in {*options, *arguments}]:
        unset = ", ".join(f"'{each}'" for each in untyped)
        text = f"its constructor requires {unset}, which needs a type annotation to be an option"
        raise ConfigError(f"The {kind[:-1]} '{name}' cannot be built: {text}.")
    return (part.skeleton if skeleton else part)(**arguments)


def merge_spec(spec: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """Override the options of `spec` by those of `other`, unless it names another part: that one stands alone."""
    other = other or {}
    return dict(other) if other.get("name", spec.get("name")) != spec.get("name") else {**spec, **other}


def to_config(kind: str, part: Any) -> dict[str, Any]:
    """Describe a part so that `build` builds an equal one: its registered name and the arguments it was built with.

    What concerns this machine alone, such as a cache around a part, is left out (`Part.portable`).
    """
    part = part.portable()
    loaded = [plugin for plugin in registry.installed(kind) if plugin.entry.module_name in sys.modules]
    matches = [plugin for plugin in loaded if _loads(plugin, type(part))]
    if not matches:
        raise ConfigError(
            f"{type(part).__module__}.{type(part).__qualname__} is not registered, so a model with it cannot be saved. "
            f"Add an entry point in the group 'codecdiff.{kind}' to its package."
        )
    name = matches[0].name
    namesakes = [plugin for plugin in registry.installed(kind) if plugin.name == name]
    values = {
        key: _plain(value, f"{kind[:-1]}.{key}") for key, value in part.arguments.items() if key not in part.derived
    }
    return {"name": name if len(namesakes) == 1 else f"{matches[0].distribution}:{name}", **values}


def _loads(plugin: registry.Plugin, part: type) -> bool:
    try:
        return plugin.load() is part
    except registry.BrokenPlugin:  # of another package
        return False


def _plain(value: Any, option: str) -> Any:
    from codecdiff.interfaces import Part

    if isinstance(value, Part) and (kind := registry.kind_of(type(value))):
        return to_config(kind, value)
    if isinstance(value, list | tuple):
        return [_plain(item, option) for item in value]
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        kind = type(value).__name__
        raise ConfigError(
            f"{option} is a {kind}, which cannot be an option: a model cannot be saved with it."
        ) from error
