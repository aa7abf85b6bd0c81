"""`codecdiff doctor`: what is installed, what is wrong with it, and the command that fixes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from typing import TYPE_CHECKING

import typer

from codecdiff import registry
from codecdiff.cli.console import err, error_line, out
from codecdiff.cli.plugins import TIMEOUT, Timeout

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# Packages that can fail although their version is right: a real class of each is imported.
CLASSES = (
    ("transformers", "DacModel"),
    ("transformers", "EncodecModel"),
    ("transformers", "MimiModel"),
    ("transformers", "T5EncoderModel"),
    ("diffusers", "DDPMScheduler"),
    ("accelerate", "Accelerator"),
)
# Nothing here needs these, but one that was built for another torch breaks transformers and diffusers.
COMPANIONS = ("torchaudio", "torchvision")
AUDIO_FORMATS = ("WAV", "FLAC", "OGG", "MP3")


@dataclass(frozen=True)
class Finding:
    """The state of one thing. `hint`, the command that fixes it, is empty where nothing is wrong."""

    what: str
    state: str
    hint: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.hint


def doctor(timeout: Timeout = TIMEOUT) -> None:
    """Check the installation, and show how to fix what is wrong."""
    from rich.table import Table

    with err.status("Importing everything once"):
        findings = list(diagnose(timeout))
    table = Table("", "what", "finding")
    for finding in findings:
        style = None if finding.fine else "red"
        table.add_row("" if finding.fine else "wrong", finding.what, finding.state, style=style)
    out.print(table)
    wrong = [finding for finding in findings if not finding.fine]
    for finding in wrong:
        out.print(f"{finding.what}: {finding.hint}", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    out.print("Nothing is wrong.")


def diagnose(timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Check everything, from Python up; importing one plugin may take `timeout` seconds."""
    yield Finding("python", sys.version.split()[0])
    yield check_torch()
    for package in packages():
        yield from check_requirements(package)
    for name in COMPANIONS:
        yield from check_companion(name)
    for module, name in CLASSES:
        yield check_class(module, name)
    yield from check_protobuf()
    yield check_audio()
    yield from check_plugins(timeout)


def installed_version(name: str) -> str:
    """Return the version of a package, empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def packages() -> list[str]:
    """Return the enabled distributions with entry points, codecdiff itself first."""
    names = {plugin.distribution for plugin in registry.scan().plugins if plugin.enabled}
    return ["codecdiff", *sorted(names - {"codecdiff"})]


def check_torch() -> Finding:
    """Report what torch was built for, and which devices it finds."""
    try:
        import torch
    except Exception as error:  # a broken build fails in many ways
        return Finding("torch", error_line(error), "pip install --force-reinstall --no-deps torch")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    devices = ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    return Finding("torch", f"{torch.__version__}, built for {built}; devices: {', '.join(devices)}")


def check_requirements(package: str) -> Iterator[Finding]:
    """Compare the requirements of a package with what is installed."""
    from packaging.requirements import Requirement

    try:
        needs = [Requirement(line) for line in requires(package) or []]
    except PackageNotFoundError:
        yield Finding(package, "its metadata is missing", f"pip install --force-reinstall --no-deps {package}")
        return
    yield Finding(package, version(package))
    for need in needs:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield check_requirement(package, need)


def check_requirement(package: str, need: Requirement) -> Finding:
    """Compare one requirement of a package with what is installed."""
    current, what = installed_version(need.name), f"  {need.name}"
    if not current:
        return Finding(what, f"missing; {package} needs it", f"pip install '{need}'")
    if not need.specifier.contains(current, prereleases=True):
        return Finding(what, f"{current}, but {package} needs {need.specifier}", f"pip install '{need}'")
    return Finding(what, current)


def check_companion(name: str) -> Iterator[Finding]:
    """Import a companion of torch, if it is installed, and compare the torch it was built for."""
    from packaging.requirements import Requirement

    if not (current := installed_version(name)):
        return
    hint = f"pip uninstall {name}  # nothing here needs it; else install the one for torch {installed_version('torch')}"
    for need in (Requirement(line) for line in distribution(name).requires or []):
        if need.name == "torch" and not need.specifier.contains(installed_version("torch"), prereleases=True):
            yield Finding(name, f"{current} is for torch{need.specifier}", hint)
            return
    try:
        import_module(name)
    except Exception as error:  # a broken build fails in many ways
        yield Finding(name, f"{current}: {error_line(error)}", hint)
    else:
        yield Finding(name, current)


def check_class(module: str, name: str) -> Finding:
    """Import a class, which takes more than importing its package."""
    what = f"{module}.{name}"
    if not installed_version(module):
        return Finding(what, "not installed, and no part needs it")
    try:
        getattr(import_module(module), name)
    except Exception as error:  # a broken environment fails in many ways
        return Finding(what, error_line(error), f"pip install --upgrade --force-reinstall --no-deps {module}")
    return Finding(what, "imports")


def check_protobuf() -> Iterator[Finding]:
    """Check protobuf against sentencepiece: descript-audiotools brings one that is too old for it."""
    from packaging.version import Version

    current = installed_version("protobuf")
    if current and installed_version("sentencepiece"):
        old = Version(current) < Version("3.20")
        state = "older than sentencepiece can use" if old else "good for sentencepiece"
        yield Finding("protobuf", f"{current}, {state}", "pip install --upgrade protobuf" if old else "")


def check_audio() -> Finding:
    """Report which audio formats can be read."""
    try:
        import soundfile
    except Exception as error:  # the library may be missing
        return Finding("audio files", error_line(error), "pip install --force-reinstall soundfile")
    missing = [name for name in AUDIO_FORMATS if name not in soundfile.available_formats()]
    state = f"{', '.join(AUDIO_FORMATS)} by libsndfile {soundfile.__libsndfile_version__}"
    if missing:
        return Finding("audio files", f"no {', '.join(missing)}", "pip install --upgrade soundfile")
    return Finding("audio files", state)


def check_plugins(timeout: float) -> Iterator[Finding]:
    """Load every entry point, each within so many seconds."""
    from codecdiff.cli.plugin_probe import find_problems

    plugins, issues = registry.scan()
    for issue in issues:
        yield Finding(f"plugin {issue.distribution}", issue.error, issue.hint)
    enabled = [plugin for plugin in plugins if plugin.enabled]
    broken = find_problems(enabled, timeout)
    for plugin, problem in broken.items():
        yield Finding(f"{registry.singular(plugin.kind)} {plugin.name}", problem, plugin.hint)
    off = f", {len(plugins) - len(enabled)} are disabled by {registry.SWITCH}" if len(enabled) < len(plugins) else ""
    yield Finding("parts and models", f"{len(enabled) - len(broken)} of {len(enabled)} load{off}")
