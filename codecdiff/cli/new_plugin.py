"""`codecdiff new-plugin`: a package with a small working part, written from the templates of codecdiff.

The templates are a package too, of a part called `part-name` with the class `PartName`: they are linted, typed and run
as they are, and a new package differs from them only in its names.
"""

from __future__ import annotations

import ast
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path
from typing import Annotated

import typer

from codecdiff import registry
from codecdiff.cli.console import out
from codecdiff.errors import FileExists, InvalidValue, UnknownName, did_you_mean
from codecdiff.files import atomic_folder, read_text

# How `part-name` is trained with recipes/configs/starter.yaml, by kind.
SETTINGS = {
    "codec": "codec.name=part-name",
    "splitter": "splitter.name=part-name",
    "conditioner": "conditioner.name=part-name denoiser.vector=bpm",
    "denoiser": "denoiser.name=part-name",
}
# Where to read how to write what has no template.
DOCS = dict.fromkeys(("metric", "suite"), "docs/scores.md#add-a-metric") | {"embedder": "docs/embedders.md#write-one"}
PACKAGE = "codecdiff_part_name"
SHARED = {"pyproject.toml": "pyproject.toml", "README.md": "README.md", ".gitignore": "gitignore"}  # of all kinds
MAX_LENGTH = 30  # letters of a name


def new_plugin(
    kind: Annotated[str, typer.Argument(help="codec, splitter, conditioner or denoiser.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name of the part, as in 'my-part'.", show_default=False)],
    into: Annotated[Path, typer.Option(help="Folder to create the package's folder in.")] = Path("."),
) -> None:
    """Write a package with a working part to start from."""
    folder = write_plugin(kind, name, into)
    install = f"pip install --editable '{folder}[test]'"
    out.print(f"{folder}: install it with {install}. Its README.md says what to do next.", soft_wrap=True)


def write_plugin(kind: str, name: str, into: Path | str = ".") -> Path:
    """Write the package `codecdiff-NAME` with one working part of this kind into a folder; returns its own folder.

    `name` may be the name of the package too.
    Raises UnknownName for a kind without a template, InvalidValue for a name that cannot be used or is taken, and
    FileExists if the package's folder exists, unless it is this very package.
    """
    if kind not in SETTINGS:
        link = DOCS.get(kind.removesuffix("s"), "docs/plugins.md#everything-a-package-can-add")
        hint = did_you_mean(kind, SETTINGS) or f" How to write one without a template: {link}"
        raise UnknownName(f"No template '{kind}'. Templates: {', '.join(SETTINGS)}.{hint}")
    name = name.removeprefix("codecdiff-")
    require_good_name(kind, name)
    require_free_name(kind, name)
    folder = Path(into) / f"codecdiff-{name}"
    contents = {renamed(file, kind, name): renamed(text, kind, name) for file, text in templates(kind).items()}
    if folder.exists():
        existing = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if existing.keys() != contents.keys() or any(
            read_text(existing[file]) != text for file, text in contents.items()
        ):
            raise FileExists(f"'{folder}' exists already. Choose another name, or delete it.")
        return folder
    with atomic_folder(folder) as draft:
        for file, text in contents.items():
            path = draft / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


def templates(kind: str) -> dict[str, str]:
    """Return the files of the package for a part of this kind, by their paths in it."""
    own = {f"{PACKAGE}/{file}": f"{kind}/{PACKAGE}/{file}" for file in ("__init__.py", f"{kind}.py")}
    sources = {**SHARED, **own, f"tests/test_{kind}.py": f"{kind}/test_{kind}.py"}
    root = files("codecdiff") / "templates"
    return {file: (root / source).read_text(encoding="utf-8") for file, source in sources.items()}


def renamed(text: str, kind: str, name: str) -> str:
    """Replace the placeholders in the text of a template."""
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
    """Return the class name of a part: `my-part` becomes `MyPart`."""
    return "".join(word.capitalize() for word in name.split("-"))


def require_good_name(kind: str, name: str) -> None:
    """Raise InvalidValue unless a part and its class can have this name."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > MAX_LENGTH:
        raise InvalidValue(
            f"Invalid name '{name}': expected lower case words joined by '-', as in 'my-{kind}', "
            f"{MAX_LENGTH} letters at most."
        )
    nodes = list(ast.walk(ast.parse(templates(kind)[f"{PACKAGE}/{kind}.py"])))
    taken = {node.id for node in nodes if isinstance(node, ast.Name)}
    taken |= {node.name for node in nodes if isinstance(node, ast.alias | ast.ClassDef)} - {"PartName"}
    if iskeyword(class_name(name)) or class_name(name) in taken:  # what the module defines, imports or uses
        raise InvalidValue(f"'{name}' would make a class {class_name(name)}, which is something else in its module.")


def require_free_name(kind: str, name: str) -> None:
    """Raise InvalidValue if a part of this kind has the name, or a package that of the new one."""
    same = [p.distribution for p in registry.scan().plugins if (p.kind, p.name) == (f"{kind}s", name)]
    owner = same[0] if same else registry.install_hint(f"{kind}s", name)
    if owner:
        raise InvalidValue(f"There is a {kind} '{name}' already, of {owner}. Choose another name.")
    package = f"codecdiff-{name}"
    try:
        version(package)
    except PackageNotFoundError:
        if package not in {owner for names in registry.install_hints().values() for owner in names.values()}:
            return
    raise InvalidValue(f"There is a package {package} already. Choose another name.")
