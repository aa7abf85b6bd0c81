"""Resolves the oldest versions that the packages allow into constraints-oldest.txt, by `uv pip compile`.

torch is left out: its older builds for CPUs are not on pip's index, and those with CUDA take gigabytes.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "constraints-oldest.txt"
# Tried together. The others need newer versions of the same packages (mimi), or services and weights of their own
PLUGINS = ("clap", "controls", "dac", "datasets", "dit", "encodec", "eval", "mert", "minilm", "starter", "t5", "unet")
EXTRAS = ("train", "adapters")
TOOLS = ("pytest>=9", "librosa>=0.10.2")
HEAD = (
    "# Written by `make oldest` from the lower bounds of the pyproject.toml files, and tested by `make test-oldest`.\n"
)


def direct_requirements() -> set[str]:
    """Return what our packages require of others, with their bounds."""
    files = [ROOT / "pyproject.toml", *(ROOT / "plugins" / f"codecdiff-{name}" / "pyproject.toml" for name in PLUGINS)]
    projects = [tomllib.loads(file.read_text("utf-8"))["project"] for file in files]
    required = {word for project in projects for word in project["dependencies"]}
    required |= {word for name in EXTRAS for word in projects[0]["optional-dependencies"][name]}
    return {word for word in required if not word.startswith(("codecdiff", "torch>"))} | {*TOOLS}


def main() -> None:
    """Write the file."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--resolution", "lowest-direct", "--python-version", "3.11", "-"]
    requirements = "\n".join(sorted(direct_requirements() | {"torch==2.13.0"}))
    done = subprocess.run(command, input=requirements, text=True, check=True, stdout=subprocess.PIPE)
    ours = [line for line in done.stdout.splitlines() if not line.startswith(("torch==", "nvidia-", "cuda-", "triton"))]
    FILE.write_text(HEAD + "\n".join([*ours, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
