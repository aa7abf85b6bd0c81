"""A package with a part of one's own, written from the templates beside this module.

The templates are a package too, of a part called `part-name` with the class `PartName`: they are linted, typed and run
as they stand, and a new package differs from them in its names alone.
"""

from __future__ import annotations

import ast
import re
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path

from codecdiff import registry

# How `part-name` is trained with recipes/configs/starter.yaml, by kind.
SETTINGS = {
    "codec": "codec.name=part-name",
    "splitter": "splitter.name=part-name",
    "conditioner": "conditioner.name=part-name denoiser.vector=bpm",
    "denoiser": "denoiser.name=part-name",
}
MODULE = "codecdiff_part_name.py"
SHARED = ("pyproject.toml", "README.md")  # by all kinds
LONGEST = 30  # letters of a name


def new_plugin(kind: str, name: str, into: Path | str = ".") -> Path:
    """Write the package `codecdiff-NAME` with one working part of this kind into a folder, and give its own folder.

    Raises LookupError for a kind there is no template of, ValueError for a name that cannot be used or is taken, and
    FileExistsError if the package's folder is there.
    """
    if kind not in SETTINGS:
        raise LookupError(f"No kind '{kind}' to write a plugin of. There are: {', '.join(SETTINGS)}.")
    require_good_name(kind, name)
    require_free_name(kind, name)
    folder = Path(into) / f"codecdiff-{name}"
    if folder.exists():
        raise FileExistsError(f"'{folder}' exists already. Choose another name, or delete it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        inside = Path(temporary) / folder.name
        inside.mkdir()
        for file, text in templates(kind).items():
            (inside / renamed(file, kind, name)).write_text(renamed(text, kind, name), encoding="utf-8")
        inside.rename(folder)
    return folder


def templates(kind: str) -> dict[str, str]:
    """Give the files of the package for a part of this kind, by their names."""
    root = files("codecdiff") / "templates"
    paths = [*(root / file for file in SHARED), root / kind / MODULE, root / kind / f"test_{MODULE}"]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def renamed(text: str, kind: str, name: str) -> str:
    """Put the names of a part into the text of a template."""
    for placeholder, value in (
        ("part-settings", SETTINGS[kind]),
        ("part-kind", kind),
        ("part-name", name),
        ("part_name", name.replace("-", "_")),
        ("PartName", class_name(name)),
    ):
        text = text.replace(placeholder, value)
    return text


def class_name(name: str) -> str:
    """Give the name of the class of a part: `my-part` becomes `MyPart`."""
    return "".join(word.capitalize() for word in name.split("-"))


def require_good_name(kind: str, name: str) -> None:
    """Raise ValueError unless a part and its class can be called so."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise ValueError(
            f"'{name}' is no name of a part. Write lower case words joined by '-', as in 'my-{kind}', "
            f"{LONGEST} letters at most."
        )
    if iskeyword(class_name(name)) or class_name(name) in _names_in(templates(kind)[MODULE]):
        raise ValueError(f"'{name}' would make a class {class_name(name)}, which is something else in its module.")


def _names_in(source: str) -> set[str]:
    """Which names some Python defines, imports or uses."""
    nodes = list(ast.walk(ast.parse(source)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    return used | {node.name for node in nodes if isinstance(node, ast.alias | ast.ClassDef)} - {"PartName"}


def require_free_name(kind: str, name: str) -> None:
    """Raise ValueError if a part of this kind has the name, or a package has that of the new one."""
    owners = [plugin.distribution for plugin in registry.scan()[0] if (plugin.kind, plugin.name) == (f"{kind}s", name)]
    owners += [package for part, package in registry.FIRST_PARTY.items() if part == (f"{kind}s", name)]
    if owners:
        raise ValueError(f"There is a {kind} '{name}' already, of {owners[0]}. Choose another name.")
    package = f"codecdiff-{name}"
    try:
        version(package)
    except PackageNotFoundError:
        if package not in registry.FIRST_PARTY.values():
            return
    raise ValueError(f"There is a package {package} already. Choose another name.")
