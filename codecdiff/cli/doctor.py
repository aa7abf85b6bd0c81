"""`codecdiff doctor`: what is installed, what is wrong with it, and what fixes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Annotated

import typer

from codecdiff import registry
from codecdiff.cli.console import Json, err, error_line, folded_table, out, print_json
from codecdiff.cli.plugins import TIMEOUT, Timeout, find_problems

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
    """The state of one thing. `hint`, which says how to fix it, is empty where nothing is wrong."""

    what: str
    state: str
    hint: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.hint


def doctor(
    show_all: Annotated[bool, typer.Option("--all", help="List all checks, also those that pass.")] = False,
    as_json: Json = False,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Check the installation.

    Each problem comes with what fixes it. The exit status is 1 if something is wrong.
    """
    with err.status("Importing everything once"):
        findings = list(diagnose(timeout))
    wrong = [finding for finding in findings if not finding.fine]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    elif show_all or wrong:
        table = folded_table("", "what", "finding")
        for finding in findings if show_all else wrong:
            style = None if finding.fine else "red"
            table.add_row("" if finding.fine else "wrong", finding.what, finding.state, style=style)
        out.print(table)
        for finding in wrong:
            out.print(f"{finding.what}: {finding.hint}", soft_wrap=True)
    else:
        states = {finding.what: finding.state for finding in findings}
        for what in ("python", "torch", "audio files", "parts and models"):
            out.print(f"{what}: {states[what]}", soft_wrap=True)
        out.print(f"Nothing is wrong ({len(findings)} checks; --all lists them).")
    if wrong:
        raise typer.Exit(1)


def diagnose(timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Check everything, from Python up; importing one plugin may take `timeout` seconds."""
    yield Finding("python", sys.version.split()[0])
    yield attempt("torch", describe_torch, "pip install --force-reinstall --no-deps torch")
    plugins = {plugin.distribution for plugin in registry.scan().plugins if plugin.enabled}
    for package in ("codecdiff", *sorted(plugins - {"codecdiff"})):
        yield from check_requirements(package)
    for name in COMPANIONS:
        yield from check_companion(name)
    for module, name in CLASSES:
        yield check_class(module, name)
    yield from check_protobuf()
    yield attempt("audio files", describe_audio, "pip install --upgrade --force-reinstall soundfile")
    yield from check_plugins(timeout)


def attempt(what: str, describe: Callable[[], str], hint: str) -> Finding:
    """Return what `describe` says; if it fails, its error and the hint."""
    try:
        return Finding(what, describe())
    except Exception as error:  # a broken build or environment fails in many ways
        return Finding(what, error_line(error), hint)


def installed_version(name: str) -> str:
    """Return the version of a package, empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def describe_torch() -> str:
    """Return what torch was built for, and which devices it finds."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    devices = ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    return f"{torch.__version__}, built for {built}; devices: {', '.join(devices)}"


def requirements(package: str) -> list[Requirement]:
    """Return what a package requires, except for its extras. Raises PackageNotFoundError."""
    from packaging.requirements import Requirement

    needs = [Requirement(line) for line in requires(package) or []]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def check_requirements(package: str) -> Iterator[Finding]:
    """Compare the requirements of a package with what is installed."""
    try:
        needs = requirements(package)
    except PackageNotFoundError:
        yield Finding(package, "its metadata is missing", f"pip install --force-reinstall --no-deps {package}")
        return
    yield Finding(package, version(package))
    for need in needs:
        yield check_requirement(package, need)


def check_requirement(package: str, need: Requirement) -> Finding:
    """Compare one requirement of a package with what is installed."""
    current, what = installed_version(need.name), f"  {need.name}"
    ours = {package for names in registry.install_hints().values() for package in names.values()}
    hint = registry.install_command(need.name) if need.name in ours else f"pip install '{need}'"
    if need.name == registry.CORE:  # which this is: not to be replaced for the sake of one package
        hint = f"correct `dependencies` in the pyproject.toml of {package}, or upgrade codecdiff (git pull)"
    if not current:
        return Finding(what, f"missing; {package} needs it", hint)
    if not need.specifier.contains(current, prereleases=True):
        return Finding(what, f"{current}, but {package} needs {need.specifier}", hint)
    return Finding(what, current)


def check_companion(name: str) -> Iterator[Finding]:
    """Import a companion of torch, if it is installed, and compare the torch it was built for."""
    current, torch = installed_version(name), installed_version("torch")
    if not current:
        return
    hint = f"pip uninstall {name}  # nothing here needs it; else install the one for torch {torch}"
    wanted = next((need.specifier for need in requirements(name) if need.name == "torch"), None)
    if wanted is not None and not wanted.contains(torch, prereleases=True):
        yield Finding(name, f"{current} is for torch{wanted}", hint)
    else:
        yield attempt(name, lambda: import_module(name) and current, hint)


def check_class(module: str, name: str) -> Finding:
    """Import a class, which takes more than importing its package."""
    what = f"{module}.{name}"
    if not installed_version(module):
        return Finding(what, "not installed, and no part needs it")
    hint = f"pip install --upgrade --force-reinstall --no-deps {module}"
    return attempt(what, lambda: getattr(import_module(module), name) and "imports", hint)


def check_protobuf() -> Iterator[Finding]:
    """Check protobuf against sentencepiece, which does not declare it: descript-audiotools brings one too old."""
    from packaging.requirements import Requirement

    if installed_version("protobuf") and installed_version("sentencepiece"):
        yield check_requirement("sentencepiece", Requirement("protobuf>=3.20"))


def describe_audio() -> str:
    """Return which audio formats can be read. Raises ImportError if one is missing."""
    import soundfile

    if missing := set(AUDIO_FORMATS) - set(soundfile.available_formats()):
        raise ImportError(f"libsndfile {soundfile.__libsndfile_version__} cannot read {', '.join(sorted(missing))}")
    return f"{', '.join(AUDIO_FORMATS)} by libsndfile {soundfile.__libsndfile_version__}"


def check_plugins(timeout: float) -> Iterator[Finding]:
    """Load every entry point, each within so many seconds."""
    plugins, issues = registry.scan().plugins, registry.scan().issues
    for issue in issues:
        yield Finding(f"plugin {issue.distribution}", issue.error, issue.hint)
    enabled = [plugin for plugin in plugins if plugin.enabled]
    broken = find_problems(enabled, timeout)
    for plugin, problem in broken.items():
        yield Finding(f"{registry.singular(plugin.kind)} {plugin.name}", *problem)
    off = f", {len(plugins) - len(enabled)} are disabled by {registry.SWITCH}" if len(enabled) < len(plugins) else ""
    yield Finding("parts and models", f"{len(enabled) - len(broken)} of {len(enabled)} load{off}")
