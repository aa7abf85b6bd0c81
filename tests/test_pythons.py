"""Other Pythons than the one that runs the tests: all sources compile there, and what needs no torch runs.

Everything else is tested with Python 3.11 alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest
from structure import tracked

from codecdiff import registry

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.12", "3.13")  # the fast tests try the second
# What the command line imports before a command runs, all of it pure Python: packages, and what they import.
PURE = ("typer", "rich", "entrypoints", "click", "shellingham", "pygments", "markdown_it", "mdurl", "annotated_doc")
INSTALLED = ("codecdiff", "codecdiff-unet")
COMPILE = """
import sys
for file in sys.stdin.read().splitlines():
    with open(file, encoding="utf-8") as stream:
        compile(stream.read(), file, "exec")
"""


@cache
def interpreter(version: str) -> Path | None:
    """Find a Python of this version on the path, or of pyenv; None if there is none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    candidates = [*sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    candidates = [Path(on_path), *candidates] if on_path else candidates
    for python in candidates:
        done = subprocess.run([python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
        if done.stdout.startswith(f"{version}."):
            return python
    return None


@pytest.fixture(params=[pytest.param(VERSIONS[0], marks=pytest.mark.integration), VERSIONS[1]])
def python(request: pytest.FixtureRequest, record_property: Callable[[str, str], None]) -> Path:
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"No Python {request.param} here, neither on the path nor of pyenv.")
    record_property("python", str(found))
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder to import from: codecdiff, its metadata, and the pure packages that its command line imports."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in PURE:
        if (spec := importlib.util.find_spec(name)) and spec.origin:
            source = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
            (folder / source.name).symlink_to(source)
    (folder / "codecdiff").symlink_to(ROOT / "codecdiff")
    for name in INSTALLED:
        metadata = Path(str(distribution(name).locate_file("")))
        (source,) = metadata.glob(f"{name.replace('-', '_')}-*.dist-info")
        (folder / source.name).symlink_to(source)
    return folder


def test_sources_compile_without_a_warning(python: Path) -> None:
    files = "\n".join(str(ROOT / file) for file in tracked(ROOT) if file.endswith(".py"))
    command = [python, "-W", "error", "-c", COMPILE]
    done = subprocess.run(command, input=files, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_what_needs_no_torch_runs(python: Path, site: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        environment = {"PYTHONPATH": str(site), "COLUMNS": "80", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [python, "-W", "error::DeprecationWarning:codecdiff", "-m", "codecdiff", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version").startswith("codecdiff ")
    commands = registry.entries(registry.COMMANDS).items()
    shown = run("--help")
    assert all(f"\n  {name} " in shown for name, plugin in commands if plugin.distribution in INSTALLED)
    assert "--guidance-scale" in run("generate", "--help")
    listed = {(row["kind"], row["name"]) for row in json.loads(run("plugins", "--json"))}
    assert {("splitters", "coarse-first"), ("denoisers", "unet"), ("codecs", "chunked")} <= listed
    run("new-plugin", "codec", "my-codec")
    assert (tmp_path / "codecdiff-my-codec" / "codecdiff_my_codec" / "codec.py").is_file()


def test_the_classifiers_are_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    assert named == {"3.11", *VERSIONS}
    assert sys.version_info[:2] == (3, 11), "These are the tests of Python 3.11."
