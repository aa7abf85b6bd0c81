"""Documents that may come from anyone: JSON and YAML, of bounded size and depth, each with a schema."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from codecdiff.errors import InvalidValue, MissingFile, UnusableFile, did_you_mean, validation_issues

MAX_BYTES, MAX_DEPTH, MAX_BITS = 2**24, 64, 1000  # no number of as many bits is too large for a float
MAX_VALUES = 100_000  # in YAML, which takes 2 kB of memory and 10 us for each
OF_TAGS = (ArithmeticError, AttributeError, LookupError, TypeError)  # of a value that its tag in YAML does not fit
LONG_NUMBER = re.compile(r"[-+]?[\d_:.]{1000,}", re.ASCII)  # colons are those of base 60


class BadDocument(InvalidValue):
    """JSON or YAML that cannot be used; the message names the file, and where in it what is wrong."""


def missing_file(path: Path | str, what: str = "File") -> MissingFile:
    """Return the error for a file that does not exist, which names the nearest beside it, or where it is looked for."""
    path = Path(path)
    if path.is_dir():
        return MissingFile(f"'{path}' is a folder: name a file.")
    if path.exists() and not path.is_file():
        return MissingFile(f"'{path}' is a pipe or a device: name a file.")
    is_readable = path.parent.is_dir() and os.access(path.parent, os.R_OK)
    hint = did_you_mean(path.name, os.listdir(path.parent)[:500] if is_readable else ())
    return MissingFile(f"{what} '{path}' does not exist.{hint or f' It would be in {path.parent.absolute()}.'}")


def require_file(path: Path | str) -> Path:
    """Return the path of a regular file. Raises MissingFile; UnusableFile for a pipe or a device, which may not end."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_file(path) from error
    except (OSError, ValueError) as error:  # ValueError: of a zero byte
        raise UnusableFile(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not stat.S_ISREG(mode):
        raise UnusableFile(f"'{path}' cannot be read: it is a folder, a pipe or a device. Name a file.")
    return path


def read_json(path: Path | str, schema: Any = Any) -> Any:
    """Read a JSON file as `schema`, a type that pydantic knows. Raises BadDocument, MissingFile or UnusableFile."""
    return parse_json(read_bytes(path), str(path), schema)


def read_yaml(path: Path | str, schema: Any = Any) -> Any:
    """Read a YAML file as `schema`, a type that pydantic knows. Raises BadDocument, MissingFile or UnusableFile."""
    return parse_yaml(read_bytes(path), str(path), schema)


def parse_json(text: str | bytes, where: str, schema: Any = Any) -> Any:
    """Parse JSON as `schema`; `where` names it in messages. Raises BadDocument.

    What is too long or too deep for any file of ours is refused, and so is text that no file can hold (surrogates).
    """
    try:
        text = _decode(text)
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"{where} is not valid JSON: {_reason(error)}.") from error
    if "\\ud" in text.lower() and not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise BadDocument(f"{where} holds half of a character, as \\ud83d without its other half.")
    return check_schema(value, where, schema)


def parse_yaml(text: str | bytes, where: str, schema: Any = Any) -> Any:
    """Parse YAML without aliases, which can stand for any amount of text, as `parse_json` does JSON.

    A key that stands twice in a mapping is refused: one of its values would be ignored.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text, depth = _decode(text), 0
        for count, event in enumerate(yaml.parse(text, loader)):
            if count > MAX_VALUES:
                raise ValueError(f"it has more than {MAX_VALUES:,} values")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias, *{event.anchor}; write its value there")
            if isinstance(event, yaml.ScalarEvent) and LONG_NUMBER.fullmatch(event.value):
                raise ValueError(f"line {event.start_mark.line + 1} has a number of {len(event.value):,} digits")
            if depth > MAX_DEPTH:
                raise RecursionError
        document = loader(text)
        node = document.get_single_node()
        if repeated := next(_repeated_keys(node), ""):
            raise ValueError(f"a key stands twice in a mapping, {repeated}")
        value = None if node is None else document.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError, *OF_TAGS) as error:
        raise BadDocument(f"{where} is not valid YAML: {_reason(error)}.") from error
    return check_schema(value, where, schema)


def _repeated_keys(node: Any) -> Iterator[str]:
    """Yield the keys that stand twice in a mapping of a document of YAML, with the line of that."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        yield from (f"'{key}', line {node.start_mark.line + 1}" for key, count in counts.items() if count > 1)
    for each in node.value if isinstance(node, yaml.CollectionNode) else ():
        for inner in each if isinstance(each, tuple) else (each,):
            yield from _repeated_keys(inner)


def read_bytes(path: Path | str) -> bytes:
    """Read a regular file, one byte beyond MAX_BYTES at most: parsers refuse as many."""
    try:
        with require_file(path).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except PermissionError as error:
        raise UnusableFile(f"'{path}' cannot be read: {error.strerror}.") from error


def is_unicode(text: str) -> bool:
    """Return whether a text can be written in UTF-8: half of an emoji cannot."""
    return text.isascii() or text.encode(errors="ignore") == text.encode(errors="surrogatepass")


def read_text(path: Path | str) -> str:
    """Read a text in UTF-8, of as many bytes as a document has. Raises BadDocument, MissingFile or UnusableFile."""
    try:
        return _decode(read_bytes(path))
    except ValueError as error:
        raise BadDocument(f"{path} is not a text in UTF-8: {_reason(error)}.") from error


def _decode(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 2**20} MB")
    return text if isinstance(text, str) else text.decode()


def _reason(error: Exception) -> str:
    """Return an error of a parser as the end of a sentence."""
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {MAX_DEPTH} levels"
    if mark := getattr(error, "problem_mark", None):  # of YAML
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def check_schema(value: Any, where: str, schema: Any) -> Any:
    """Return a value that was parsed as `schema`. Raises BadDocument; also if it is too deep, or a number too large."""
    from pydantic import ValidationError

    level, depth = [value], 0
    while level:
        depth += any(isinstance(each, dict | list) for each in level)
        if depth > MAX_DEPTH:
            raise BadDocument(f"{where} is nested deeper than {MAX_DEPTH} levels.")
        if any(isinstance(each, int) and each.bit_length() > MAX_BITS for each in level):
            raise BadDocument(f"{where} holds a number of more than {MAX_BITS} bits.")
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        issue, names = validation_issues(error)[0], getattr(schema, "model_fields", ())
        is_unknown = issue.type == "extra_forbidden" and "." not in issue.place
        hint = did_you_mean(issue.place, names) or f" Known are {', '.join(names)}."
        raise BadDocument(f"{where} cannot be used: {issue}.{hint if is_unknown else ''}") from error


@cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)
