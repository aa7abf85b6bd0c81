"""What is installed here, what is wrong with it, and the line that mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, requires, version

from packaging.requirements import Requirement
from packaging.version import Version

from codecdiff import registry
from codecdiff.cli.plugin_probe import PATIENCE, problems, told

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
    """One thing that was looked at. `remedy`, the line that mends it, is empty where nothing is wrong."""

    what: str
    state: str
    remedy: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.remedy


def examine(seconds: float = PATIENCE) -> Iterator[Finding]:
    """Look at everything, from the ground up; a plugin may take so many seconds to be imported."""
    yield Finding("python", sys.version.split()[0])
    yield look_at_torch()
    for package in packages():
        yield from look_at_requirements(package)
    for name in COMPANIONS:
        yield from look_at_companion(name)
    for module, name in CLASSES:
        yield look_at_class(module, name)
    yield from look_at_protobuf()
    yield look_at_audio()
    yield from look_at_plugins(seconds)


def installed_version(name: str) -> str:
    """Give the version of a package, empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def packages() -> list[str]:
    """Give the packages whose parts count, codecdiff itself first."""
    names = {plugin.distribution for plugin in registry.scan()[0] if plugin.switched_on}
    return ["codecdiff", *sorted(names - {"codecdiff"})]


def look_at_torch() -> Finding:
    """Say for what torch was built, and which devices it finds."""
    try:
        import torch
    except Exception as error:  # a broken build fails in many ways
        return Finding("torch", told(error), "pip install --force-reinstall --no-deps torch")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    devices = ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    return Finding("torch", f"{torch.__version__}, built for {built}; devices: {', '.join(devices)}")


def look_at_requirements(package: str) -> Iterator[Finding]:
    """Say which versions of what a package needs are there, each against the range it asks for."""
    try:
        needs = [Requirement(line) for line in requires(package) or []]
    except PackageNotFoundError:
        yield Finding(package, "its metadata is missing", f"pip install --force-reinstall --no-deps {package}")
        return
    yield Finding(package, version(package))
    for need in needs:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield look_at_requirement(package, need)


def look_at_requirement(package: str, need: Requirement) -> Finding:
    """Compare one requirement of a package with what is installed."""
    found, what = installed_version(need.name), f"  {need.name}"
    if not found:
        return Finding(what, f"missing; {package} needs it", f"pip install '{need}'")
    if not need.specifier.contains(found, prereleases=True):
        return Finding(what, f"{found}, but {package} needs {need.specifier}", f"pip install '{need}'")
    return Finding(what, found)


def look_at_companion(name: str) -> Iterator[Finding]:
    """Import a companion of torch, if it is installed, and compare the torch it was built for."""
    if not (found := installed_version(name)):
        return
    remedy = (
        f"pip uninstall {name}  # nothing here needs it; else install the one for torch {installed_version('torch')}"
    )
    for need in (Requirement(line) for line in distribution(name).requires or []):
        if need.name == "torch" and not need.specifier.contains(installed_version("torch"), prereleases=True):
            yield Finding(name, f"{found} is for torch{need.specifier}", remedy)
            return
    try:
        import_module(name)
    except Exception as error:  # a broken build fails in many ways
        yield Finding(name, f"{found}: {told(error)}", remedy)
    else:
        yield Finding(name, found)


def look_at_class(module: str, name: str) -> Finding:
    """Import a class, which takes more than importing its package."""
    what = f"{module}.{name}"
    if not installed_version(module):
        return Finding(what, "not installed, and no part asks for it")
    try:
        getattr(import_module(module), name)
    except Exception as error:  # a broken environment fails in many ways
        return Finding(what, told(error), f"pip install --upgrade --force-reinstall --no-deps {module}")
    return Finding(what, "imports")


def look_at_protobuf() -> Iterator[Finding]:
    """See that sentencepiece and protobuf get on: descript-audiotools brings a protobuf that is too old."""
    found = installed_version("protobuf")
    if found and installed_version("sentencepiece"):
        old = Version(found) < Version("3.20")
        state = "older than sentencepiece can use" if old else "good for sentencepiece"
        yield Finding("protobuf", f"{found}, {state}", "pip install --upgrade protobuf" if old else "")


def look_at_audio() -> Finding:
    """Say which audio formats can be read."""
    try:
        import soundfile
    except Exception as error:  # the library may be missing
        return Finding("audio files", told(error), "pip install --force-reinstall soundfile")
    missing = [name for name in AUDIO_FORMATS if name not in soundfile.available_formats()]
    state = f"{', '.join(AUDIO_FORMATS)} by libsndfile {soundfile.__libsndfile_version__}"
    if missing:
        return Finding("audio files", f"no {', '.join(missing)}", "pip install --upgrade soundfile")
    return Finding("audio files", state)


def look_at_plugins(seconds: float) -> Iterator[Finding]:
    """Load every installed part, model and command, each within so many seconds."""
    parts, faults = registry.scan()
    for fault in faults:
        yield Finding(f"plugin {fault.distribution}", fault.error, fault.remedy)
    tried = [plugin for plugin in parts if plugin.switched_on]
    broken = problems(tried, seconds)
    for plugin, problem in broken.items():
        yield Finding(f"{plugin.kind[:-1]} {plugin.name}", problem, plugin.remedy)
    off = f", {len(parts) - len(tried)} are switched off by {registry.SWITCH}" if len(tried) < len(parts) else ""
    yield Finding("parts and models", f"{len(tried) - len(broken)} of {len(tried)} load{off}")
