"""Write docs/packages.md, the page of all distributions, from their pyproject.toml: `python docs/packages.py`.

tests/test_docs.py fails if the page is not what this writes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "packages.md"
GROUPS = {  # groups of entry points, by what a reader looks for
    "models": "models",
    "codecs": "codecs",
    "splitters": "splitters",
    "conditioners": "conditioners",
    "denoisers": "denoisers",
    "embedders": "embedders",
    "captioners": "captioners",
    "commands": "commands",
    "metrics": "metrics",
    "suites": "metric suites",
    "engines": "`encode` engines",
    "generation_engines": "`evaluate` and `compare` engines",
    "kinds": "kinds of parts",
    "run_end": "end-of-run hooks",
}
HEAD = """# Packages

<!-- Written by docs/packages.py from the pyproject.toml of every package: change that, and run it again. -->

codecdiff is a core package and {count} packages around it. Each package registers its parts and commands as entry
points, so they are available once it is installed. `codecdiff plugins` lists what is installed.

None of these packages is on PyPI, and their names are not registered there. `make setup` in a clone installs all of
them. To install only some, in an environment with a suitable [torch](https://pytorch.org/get-started/locally/):

```
pip install -e . -e plugins/codecdiff-starter -e plugins/codecdiff-unet    # in a clone
pip install "codecdiff @ git+URL"                                          # without a clone; URL of the repository
pip install "codecdiff-dac @ git+URL#subdirectory=plugins/codecdiff-dac"
```

To install them on other machines, build wheels with `make wheels` and copy the folder `dist`. The extra `all` is every
package; `codecdiff[starter,studio]` is an example of fewer:

```
pip install --find-links dist "codecdiff[all]"
```

To add an extra: `pip install -e 'plugins/codecdiff-eval[adherence]'`.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")


def render() -> str:
    """Return the page."""
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    sections = ["\n".join(_section(file)) for file in files]
    return "\n".join([HEAD.format(count=len(files) - 1), *sections])


def _section(file: Path) -> Iterator[str]:
    """Yield the lines about one distribution."""
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    project: dict[str, Any] = table["project"]
    folder = file.parent.relative_to(ROOT).as_posix()
    title = project["name"] if folder == "." else f"[{project['name']}](../{folder}/README.md)"
    yield f"## {title}\n\n{project['description']} Version {project['version']}.\n"
    groups = {group.removeprefix("codecdiff."): names for group, names in project.get("entry-points", {}).items()}
    rows = [(title, groups[group]) for group, title in GROUPS.items() if group in groups]
    yield from ("| provides | names |", "|---|---|")
    yield from (f"| {title} | {', '.join(f'`{name}`' for name in names)} |" for title, names in rows)
    extras = {} if folder == "." else project.get("optional-dependencies", {})
    if extras:
        installed = (f"`{name}` ({', '.join(f'`{need}`' for need in needs)})" for name, needs in extras.items())
        yield f"\nExtras: {'; '.join(installed)}."
    yield ""


if __name__ == "__main__":
    main()
