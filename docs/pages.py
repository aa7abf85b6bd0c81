"""Pages that follow from the code: one for every module, the clips of the gallery, and links that leave the site.

Hooks of MkDocs, which calls them by their names.
"""

from __future__ import annotations

import ast
import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
GALLERY = runpy.run_path(str(Path(__file__).with_name("gallery.py")))
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Let the reference find plugins, and add it to the table of contents."""
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] += [str(path.parent) for path in _packages()[1:]]
    names = [name for name, _ in _modules()]
    config.nav.append({"API reference": ["reference/index.md", *(f"reference/{name}.md" for name in names)]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write a page for every module, one that lists them, and the clips of the gallery."""
    rows = []
    for name, audio in GALLERY["files_and_page"]()[0].items():
        files.append(File.generated(config, name, content=audio))
    for name, sentence in _modules():
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {name}\n\n::: {name}\n"))
        rows.append(f"| [`{name}`]({name}.md) | {sentence} |")
    table = "\n".join(["# API reference", "", "| module | what it holds |", "|---|---|", *rows, ""])
    files.append(File.generated(config, "reference/index.md", content=table))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show links to files outside of the site as their paths, and the clips of the gallery."""
    if page.file.src_uri == "gallery.md":
        return markdown.replace("<!-- clips -->", GALLERY["files_and_page"]()[1])

    def shown(match: re.Match[str]) -> str:
        text, target = match.group(1), match.group(2)
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return LINK.sub(shown, markdown)


def _packages() -> list[Path]:
    """Give the folder of the core, and of the package of every plugin."""
    plugins = (path.parent for path in ROOT.glob("plugins/*/codecdiff_*/__init__.py"))
    return [ROOT / "codecdiff", *sorted(plugins)]


def _modules() -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the first sentence of every module of the core, and of every plugin's package."""
    core, *plugins = _packages()
    public = [file for file in sorted(core.rglob("*.py")) if file.stem == "__init__" or file.stem[0] != "_"]
    files = [file for file in public if "templates" not in file.parts]  # of packages that are written, not of the core
    for file in [*files, *(plugin / "__init__.py" for plugin in plugins)]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = parts[2] if parts[0] == "plugins" else ".".join(parts).removesuffix(".__init__")
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if docstring:
            yield name, " ".join(docstring.split("\n\n")[0].split())
