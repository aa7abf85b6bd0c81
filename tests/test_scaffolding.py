"""What `codecdiff new-plugin` writes. `make test-wheels` builds, installs, checks and trains it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import codecdiff
from codecdiff import registry
from codecdiff.cli.main import app
from codecdiff.cli.new_plugin import MAX_LENGTH, SETTINGS, class_name, templates, write_plugin

ROOT = Path(__file__).parent.parent
LONG = "a-very-long-name-of-a-part-xyz"


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_package_has_six_files_in_which_the_names_are_its_own(kind: str, tmp_path: Path) -> None:
    folder = write_plugin(kind, "soft-grid", tmp_path / "mine")
    assert folder == tmp_path / "mine" / "codecdiff-soft-grid"
    files = {str(f.relative_to(folder)): f.read_text(encoding="utf-8") for f in folder.rglob("*") if f.is_file()}
    assert files.keys() == {
        "pyproject.toml",
        "README.md",
        ".gitignore",
        "codecdiff_soft_grid/__init__.py",
        f"codecdiff_soft_grid/{kind}.py",
        f"tests/test_{kind}.py",
    }
    base = {"codec": "ResidualCodec"}.get(kind, kind.capitalize())
    assert f"class SoftGrid({base}):" in files[f"codecdiff_soft_grid/{kind}.py"]
    for text in files.values():
        assert not [
            word for word in ("part-name", "part_name", "PartName", "part-kind", "part-settings") if word in text
        ]
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "codecdiff-soft-grid"
    assert project["entry-points"] == {f"codecdiff.{kind}s": {"soft-grid": f"codecdiff_soft_grid.{kind}:SoftGrid"}}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing else is left


def test_packages_ask_for_this_codecdiff_and_its_interfaces() -> None:
    major, minor = map(int, codecdiff.__version__.split(".")[:2])
    project = tomllib.loads(templates("codec")["pyproject.toml"])["project"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (torch,) = [line for line in ours if line.startswith("torch>")]
    assert project["dependencies"] == [f"codecdiff>={major}.{minor},<{major}.{minor + 1}", torch]
    parts = [plugin for plugin in registry.scan().plugins if plugin.kind in {f"{kind}s" for kind in SETTINGS}]
    assert all(plugin.supported == 1 for plugin in parts)  # else their groups need a number


def test_templates_are_linted_by_our_own_rules() -> None:
    ours, theirs = (
        tomllib.loads(text)["tool"]["ruff"]
        for text in ((ROOT / "pyproject.toml").read_text(encoding="utf-8"), templates("codec")["pyproject.toml"])
    )
    assert theirs["line-length"] == ours["line-length"]
    assert [theirs["lint"][key] for key in ("select", "ignore")] == [ours["lint"][key] for key in ("select", "ignore")]


def test_packages_of_short_and_of_long_names_are_in_good_style(tmp_path: Path) -> None:
    assert len(LONG) == MAX_LENGTH
    for kind in SETTINGS:
        for name in ("x", LONG):
            write_plugin(kind, name, tmp_path / kind)
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name", ["", "Mine", "2nd", "my_part", "my--part", "-a", "a-", "../a", "a b", "größe", LONG + "z"]
)
def test_an_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower case words joined by '-'"):
        write_plugin("codec", name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("splitter", "parallel", "There is a splitter 'parallel' already, of codecdiff"),
        ("codec", "dac", "There is a codec 'dac' already, of codecdiff-dac"),
        ("codec", "t5", "There is a package codecdiff-t5 already"),
        ("codec", "tensor", "would make a class Tensor, which is something else"),
        ("denoiser", "block", "would make a class Block"),
        ("codec", "none", "would make a class None"),
    ],
)
def test_a_name_that_is_taken_is_refused(kind: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_plugin(kind, name, tmp_path)


def test_names_of_first_party_parts_are_taken_where_they_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "scan", lambda: registry.Scan((), ()))
    with pytest.raises(ValueError, match="There is a codec 'dac' already, of codecdiff-dac"):
        write_plugin("codec", "dac", tmp_path)


def test_a_folder_that_is_there_and_a_kind_that_is_not_are_refused(tmp_path: Path) -> None:
    assert write_plugin("codec", "codecdiff-mine", tmp_path).name == "codecdiff-mine"
    with pytest.raises(LookupError, match=r"docs/scores\.md"):
        write_plugin("metric", "mine", tmp_path)
    with pytest.raises(FileExistsError, match="exists already"):
        write_plugin("splitter", "mine", tmp_path)
    how = "How to write one without a template"
    templates = r"Templates: codec, splitter, conditioner, denoiser\."
    for kind, message in {
        "wizard": rf"No template 'wizard'\. {templates} {how}: docs/plugins\.md#everything-a",
        "embedder": rf"No template 'embedder'\. {templates} {how}: docs/embedders\.md#write-one",
        "codecs": rf"No template 'codecs'\. {templates} Did you mean 'codec'\?",
    }.items():
        with pytest.raises(LookupError, match=message):
            write_plugin(kind, "mine", tmp_path)


def test_the_command_says_how_to_go_on(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["new-plugin", "codec", "mine", "--into", str(tmp_path)])
    assert answer.exit_code == 0
    folder = tmp_path / "codecdiff-mine"
    assert f"pip install --editable '{folder}[test]'" in answer.output  # in one line, to be copied
    again = CliRunner().invoke(app, ["new-plugin", "codec", "mine", "--into", str(tmp_path)])
    assert (again.exit_code, again.output) == (0, answer.output)  # the same package
    (folder / "README.md").write_text("mine")
    again = CliRunner().invoke(app, ["new-plugin", "codec", "mine", "--into", str(tmp_path)])
    assert again.exit_code == 1
    assert "exists already" in again.output
    assert (folder / "README.md").read_text() == "mine"


def test_classes_are_named_by_the_words_of_a_part() -> None:
    assert class_name("every-2nd-frame") == "Every2ndFrame"
