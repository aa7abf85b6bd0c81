"""The tutorials are true: what a page writes, built and installed as a wheel, keeps the laws, trains and plays."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small import write_music

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("write-a-*.md"))
FILE = re.compile(r"^`([\w.-]+\.(?:py|toml))`:\n\n```\w+\n(.*?)^```$", flags=re.S | re.M)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)
SCRIPTS = Path(sys.executable).parent
SMALLER = {  # what a command is told besides, by its first words; what a command begins with none of these is not run
    "codecdiff plugins": "",
    "codecdiff check": "",
    "codecdiff generate": "--seconds 1",
    "codecdiff train": "train.max_train_steps=2 train.warmup_steps=0 train.train_batch_size=2 train.crop_seconds=1 "
    "train.checkpointing_steps=2 seconds=1 sampling.num_inference_steps=2 denoiser.width=32 prompts=[x]",
}
# The wheel is built and installed in the place of these, and test_docs.py runs the tests of a page
NOT_RUN = ("python -m pip install", "python -m build", "twine upload", "pytest")


def written(page: Path, folder: Path) -> list[str]:
    """Write the files of a page into a folder, and give its commands."""
    text = page.read_text(encoding="utf-8")
    folder.mkdir()
    for name, content in FILE.findall(text):
        (folder / name).write_text(content, encoding="utf-8")
    blocks = [block for language, block in FENCED.findall(text) if not language]
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_ends_in_a_package_that_works(page: Path, tmp_path: Path) -> None:
    lines = written(page, tmp_path / "package")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", "./package"], tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run([*pip, "install", "--no-deps", "--no-index", "--target", "site", str(wheel)], tmp_path)
    write_music(tmp_path / "music", seconds=2.0)
    for line in lines:
        if line.startswith(NOT_RUN):
            continue
        start = next(start for start in SMALLER if line.startswith(start))
        program, *words = shlex.split(line.replace("FOLDER", str(tmp_path / "music")))
        command = [str(SCRIPTS / program), *words, *shlex.split(SMALLER[start])]
        said = run(command, tmp_path, PYTHONPATH=str(tmp_path / "site"), COLUMNS="200")
        assert start != "codecdiff plugins" or wheel.name.split("-")[0].replace("_", "-") in said
    assert (tmp_path / "out.wav").stat().st_size > 1000
