"""Builds the wheels of all packages, and tries them in a clean environment.

`pip install "codecdiff[all]"` installs them, and a model generates. Then one plugin of each kind that `codecdiff
new-plugin` writes is built, installed, checked, tested, and trained with for ten steps, as its README says.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
# Folder of each distribution -> its package
PACKAGES = {ROOT: "codecdiff", **{folder: folder.name.replace("-", "_") for folder in ROOT.glob("plugins/codecdiff-*")}}
PLUGINS = {"codec": "tried-codec", "splitter": "tried-splitter", "conditioner": "tried-words", "denoiser": "tried-net"}
OFFLINE = ("--quiet", "--disable-pip-version-check", "--no-index")
# What makes training small besides; the last word on a setting counts.
SMALLER = "train.train_batch_size=2 train.crop_seconds=1 sampling.num_inference_steps=2 seconds=1 prompts=[a]"
NARROWER = "denoiser.width=32 denoiser.groups=4 denoiser.embedding=32"


def run(*words: object, cwd: Path) -> str:
    """Run a command in a folder, on one core, and give what it prints. Whatever else it needs, it has to bring."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CODECDIFF"))}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build(folders: Iterable[Path], wheels: Path) -> None:
    """Build the wheel of every folder."""
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, *options, *folders, cwd=wheels.parent)


def copies(home: Path) -> list[Path]:
    """Copy the sources of our packages: setuptools would leave files beside them, and take in those of last time."""
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".*")
    folders = []
    for source, package in PACKAGES.items():
        folders.append(home / package)
        shutil.copytree(source / package, folders[-1] / package, ignore=ignored)
        if source == ROOT:
            shutil.copytree(source / "recipes", folders[-1] / "recipes", ignore=ignored)
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            if (source / name).exists():
                shutil.copy(source / name, folders[-1])
    return folders


def require_whole(wheels: Path) -> None:
    """Exit unless each wheel has the license and every file of its package: modules, py.typed, weights, configs."""
    for source, package in PACKAGES.items():
        (wheel,) = wheels.glob(f"{package}-*.whl")
        inside = zipfile.ZipFile(wheel).namelist()
        files = [file.relative_to(source) for file in (source / package).rglob("*") if file.is_file()]
        wanted = {file.as_posix() for file in files if not is_cache(file)}
        wanted.add(f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info/licenses/LICENSE")
        if source == ROOT:
            recipes = [file.relative_to(ROOT) for file in (ROOT / "recipes").rglob("*") if file.is_file()]
            wanted |= {f"codecdiff/{file.as_posix()}" for file in recipes if not is_cache(file)}
        if missing := sorted(wanted - {*inside}):
            sys.exit(f"{wheel.name} lacks {', '.join(missing)}: see package-data in {source / 'pyproject.toml'}.")


def is_cache(file: Path) -> bool:
    """Tell whether a file is what a tool has left in the sources."""
    return any(part == "__pycache__" or part.startswith(".") for part in file.parts)


def clean_environment(folder: Path) -> Path:
    """Make an environment with all that others have published, and nothing of ours; give its Python.

    Packages of others are links into the environment that runs this, for installing torch again takes minutes. A .pth
    file, or --system-site-packages, would also show what is installed there of codecdiff in editable form: plugins that
    are not among the wheels, by their metadata, and modules that would hide what a wheel lacks.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("codecdiff", "__editable__", "__pycache__")):
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def install(python: Path, wheels: Path, *names: object) -> None:
    """Install from a folder of wheels, and see that every package has what it requires."""
    run(python, "-m", "pip", "install", *OFFLINE, "--find-links", wheels, *names, cwd=wheels)
    run(python, "-m", "pip", "check", cwd=wheels)


def try_all(python: Path, home: Path) -> None:
    """See that every package is installed from its wheel, that its entry points load, and that a model generates."""
    code = "import importlib, sys; print(*(importlib.import_module(each).__file__ for each in sys.argv[1:]), sep='\\n')"
    for place in run(python, "-c", code, *PACKAGES.values(), cwd=home).splitlines():
        if not Path(place).is_relative_to(home):
            sys.exit(f"The environment is not clean: a package comes from {place}")
    listed = run(python, "-m", "pip", "list", "--format=freeze", cwd=home).splitlines()
    projects = [tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"] for folder in PACKAGES]
    if missing := {f"{each['name']}=={each['version']}" for each in projects} - {*listed}:
        sys.exit(f"codecdiff[all] does not install {', '.join(sorted(missing))}.")
    of_ours = "[each for d in metadata.distributions() if d.name.startswith('codecdiff') for each in d.entry_points]"
    run(python, "-c", f"from importlib import metadata; [each.load() for each in {of_ours}]", cwd=home)
    command = python.with_name("codecdiff")
    run(command, "doctor", "--timeout", 300, cwd=home)
    run(command, "generate", "a slow waltz", "--seconds", 1, "--seed", 1, "-o", "waltz.wav", cwd=home)
    if "seed" not in run(command, "inspect", "waltz.wav", cwd=home):
        sys.exit("waltz.wav does not say how it was generated.")


def try_plugin(python: Path, kind: str, home: Path) -> None:
    """Check, test and train with a plugin that is installed."""
    name, start = PLUGINS[kind], time.monotonic()
    folder = home / f"codecdiff-{name}"
    run(python.with_name("codecdiff"), "check", name, cwd=home)
    run(
        python,
        "-m",
        "pytest",
        "--quiet",
        "-p",
        "no:cacheprovider",
        "tests",
        cwd=folder,
    )
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("codecdiff train ")]
    smaller = shlex.split(SMALLER if kind == "denoiser" else f"{SMALLER} {NARROWER}")
    run(python.with_name("codecdiff"), *shlex.split(line)[1:], *smaller, cwd=home)
    model = home / "runs" / name / "model"
    if not any(f'"name": "{name}"' in file.read_text(encoding="utf-8") for file in model.rglob("*.json")):
        sys.exit(f"No part of {model} is called {name}.")
    if not list((home / "runs" / name / "samples").glob("*.wav")):
        sys.exit(f"Training with {name} has left no samples.")
    print(f"{kind}: checked, tested, and trained ten steps with, in {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Build everything, and try it unless only wheels are wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="only build the wheels, into this folder")
    folder, start = parser.parse_args().build, time.monotonic()
    with TemporaryDirectory() as temporary:
        home = Path(temporary)
        wheels = folder.absolute() if folder else home / "wheels"
        build(copies(home / "sources"), wheels)
        require_whole(wheels)
        print(f"Built {len(PACKAGES)} wheels in {time.monotonic() - start:.0f} s", flush=True)
        if not folder:
            try_wheels(wheels, home)
            print(f"All of it took {time.monotonic() - start:.0f} s")


def try_wheels(wheels: Path, home: Path) -> None:
    """Install the wheels into a clean environment, and try them and the plugins that they write."""
    start = time.monotonic()
    run(sys.executable, "-m", "pip", "check", cwd=ROOT)  # with all of ours there
    python = clean_environment(home / "environment")
    install(python, wheels, "codecdiff[all]")
    try_all(python, home)
    print(f"codecdiff[all]: installed, checked, and generated with, in {time.monotonic() - start:.0f} s", flush=True)
    for kind, name in PLUGINS.items():
        run(python.with_name("codecdiff"), "new-plugin", kind, name, cwd=home)
    build([home / f"codecdiff-{name}" for name in PLUGINS.values()], home / "written")
    install(python, home / "written", *(f"codecdiff-{name}" for name in PLUGINS.values()))
    composer = ("codecdiff_starter.composer", "runs/music", "--count", 8, "--seconds", 3, "--num-workers", 1)
    run(python, "-m", *composer, cwd=home)
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda kind: try_plugin(python, kind, home), PLUGINS))


if __name__ == "__main__":
    main()
