"""Toy distributions, made into wheels and installed by pip: every way in which a stranger's plugin goes wrong."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

SPLITTER = """
from codecdiff import Splitter

class Toy(Splitter):
    def __init__(self, *, num_codebooks: int):
        self.num_codebooks = num_codebooks

    def split(self, latents):
        return [latents.flatten(1, 2)]

    def merge(self, stages):
        return stages[0].unflatten(1, (self.num_codebooks, -1))
"""
HALF = "from codecdiff import Splitter\n\nclass Toy(Splitter):\n    def split(self, latents):\n        return []\n"
MODEL = "def folder():\n    return __file__\n"

# Name of the distribution -> its module, and its entry points. The module has the name of the distribution.
TOYS: dict[str, tuple[str, str]] = {
    "toy-good": (
        SPLITTER,
        "[codecdiff.splitters]\ntoy = toy_good:Toy\nshared = toy_good:Toy\ntwice = toy_good:Toy\n",
    ),
    "toy-next": (
        "1 / 0",
        "[codecdiff.splitters.2]\nfuture = toy_next:Toy\nshared = toy_next:Toy\ntwice = toy_next:Toy\n",
    ),
    "toy-both": (
        SPLITTER,
        "[codecdiff.splitters.2]\nboth = toy_both:Absent\n[codecdiff.splitters]\nboth = toy_both:Toy\n"
        "twice = toy_both:Toy\n",
    ),
    "toy-raising": ("1 / 0", "[codecdiff.splitters]\nraising = toy_raising:Toy\n"),
    "toy-leaving": ("raise SystemExit(3)", "[codecdiff.splitters]\nleaving = toy_leaving:Toy\n"),
    "toy-stopping": ("raise KeyboardInterrupt", "[codecdiff.splitters]\nstopping = toy_stopping:Toy\n"),
    "toy-hanging": (
        "import time\n\ntime.sleep(600)",
        "[codecdiff.splitters]\nhanging = toy_hanging:Toy\nhanging-too = toy_hanging:Other\n",
    ),
    "toy-deadly": (
        "import os, signal\n\nos.kill(os.getpid(), signal.SIGSEGV)",
        "[codecdiff.splitters]\ndeadly = toy_deadly:Toy\n",
    ),
    "toy-quitting": ("import os\n\nos._exit(3)", "[codecdiff.splitters]\nquitting = toy_quitting:Toy\n"),
    "toy-half": (HALF, "[codecdiff.splitters]\nhalf = toy_half:Toy\n"),
    "toy-other": (SPLITTER, "[codecdiff.codecs]\nother = toy_other:Toy\n"),
    "toy-absent": (
        SPLITTER,
        "[codecdiff.splitters]\nabsent = toy_absent:Nothing\nmodule = toy_nowhere:Toy\nbare = toy_absent\n",
    ),
    "toy-loud": ('print("loud" * 9)\n' + SPLITTER, "[codecdiff.splitters]\nloud = toy_loud:Toy\n"),
    "toy-misnamed": (SPLITTER, "[codecdiff.splitter]\nmisnamed = toy_misnamed:Toy\n"),
    "toy-model": (MODEL, "[codecdiff.models]\ntoy-model = toy_model:folder\nown = toy_model:folder\n"),
    "toy-model-too": ("1 / 0", "[codecdiff.models]\ntoy-model = toy_model_too:folder\n"),
    "toy-command": ("1 / 0", "[codecdiff.commands]\ntoy-command = toy_command:run\n"),
}


def wheel(folder: Path, name: str, version: str, code: str, entry_points: str) -> Path:
    """Write a wheel of one module, as a build tool would."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: toys\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def install(folder: Path) -> Path:
    """Install all toys with one call of pip into `folder`, and give their site folder."""
    wheels = [wheel(folder, name, "1.0", code, entries) for name, (code, entries) in TOYS.items()]
    offline = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", *wheels]
    subprocess.run(list(map(str, command)), check=True)
    return folder / "site"
