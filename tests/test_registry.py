"""The registry over really installed toy distributions: lazy, isolated, and clear when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codecdiff import registry
from codecdiff.registry import BrokenPlugin, UnknownPart

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

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a distribution of one module with these entry points."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def write(name: str, entry_points: str, code: str = SPLITTER, version: str = "1.0") -> Path:
        (site / f"{name.replace('-', '_')}.py").write_text(code)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        registry.scan.cache_clear()
        return info

    yield write
    registry.scan.cache_clear()
    for module in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[module]


def test_an_installed_part_is_found_and_loaded(install: Install) -> None:
    install("toy-one", "[codecdiff.splitters]\ntoy = toy_one:Toy\n", version="2.5")
    plugin = registry.find("splitters", "toy")
    assert (plugin.distribution, plugin.version, plugin.name) == ("toy-one", "2.5", "toy")
    assert registry.load("splitters", "toy") is plugin.load()
    assert plugin.load().__name__ == "Toy"
    assert "toy" in [plugin.name for plugin in registry.installed("splitters")]


def test_finding_imports_nothing(install: Install) -> None:
    install("toy-explosive", "[codecdiff.splitters]\ntoy = toy_explosive:Toy\n", "raise RuntimeError('imported')")
    registry.find("splitters", "toy")
    assert "toy_explosive" not in sys.modules


def test_a_malformed_file_is_a_fault_and_stops_nobody(install: Install) -> None:
    install("toy-bad", "[codecdiff.splitters]\ntoy-bad = not a target\n")
    install("toy-worse", "codecdiff without a section = ?\n")
    install("toy-stranger", "no section, and nothing to do with us\n")
    install("toy-good", "[codecdiff.splitters]\ntoy = toy_good:Toy\n")
    assert registry.load("splitters", "toy").__name__ == "Toy"
    assert [fault.distribution for fault in registry.scan()[1]] == ["toy-bad", "toy-worse"]
    assert all(fault.error for fault in registry.scan()[1])


def test_a_file_that_cannot_be_read_stops_nobody(install: Install) -> None:
    info = install("toy-codecdiff-gone", "")
    (info / "entry_points.txt").unlink()
    (info / "entry_points.txt").symlink_to(info / "nowhere")
    registry.scan.cache_clear()
    assert [fault.distribution for fault in registry.scan()[1]] == ["toy-codecdiff-gone"]


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("toy_x:Toy", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("toy_x:Toy", "raise SystemError('boom')", "SystemError: boom"),
        ("toy_x:Toy", "def Toy(:", "SyntaxError"),
        ("toy_x:Absent", SPLITTER, "AttributeError.*Absent"),
        ("toy_x:Toy", "class Toy: pass", "is not a subclass of codecdiff.Splitter"),
        ("toy_x:Toy", "Toy = 3", "names 3, which is not a subclass"),
    ],
)
def test_a_broken_part_says_whose_it_is_and_why(install: Install, target: str, code: str, message: str) -> None:
    install("toy-x", f"[codecdiff.splitters]\ntoy = {target}\n", code)
    with pytest.raises(BrokenPlugin, match=rf"splitter 'toy' of toy-x 1\.0 .*{message}"):
        registry.load("splitters", "toy")
    assert registry.load("splitters", "parallel").__name__ == "Parallel"


def test_a_broken_part_says_how_to_be_rid_of_it(install: Install) -> None:
    install("toy-x", "[codecdiff.splitters]\ntoy = toy_x:Toy\n", "1 / 0")
    with pytest.raises(BrokenPlugin, match="pip uninstall toy-x"):
        registry.load("splitters", "toy")


def test_a_name_that_two_distributions_use_is_resolved_by_saying_whose(install: Install) -> None:
    for name in ("toy-one", "toy-two"):
        install(name, f"[codecdiff.splitters]\ntoy = {name.replace('-', '_')}:Toy\n")
    with pytest.raises(UnknownPart, match="Say which: 'toy-one:toy', 'toy-two:toy'"):
        registry.find("splitters", "toy")
    assert registry.load("splitters", "toy-two:toy").__module__ == "toy_two"
    assert registry.load("splitters", "toy_two:toy").__module__ == "toy_two"


def test_commands_that_share_a_name_are_told_apart_by_whose_they_are(install: Install) -> None:
    for name in ("toy-one", "toy-two"):
        install(name, f"[codecdiff.commands]\ntoy = {name.replace('-', '_')}:Toy\n{name} = os:getcwd\n")
    found = registry.commands()
    assert {"toy-one:toy", "toy-two:toy", "toy-one", "toy-two"} <= found.keys()
    assert "toy" not in found
    assert found["toy-two:toy"].load().__module__ == "toy_two"


def test_the_first_of_two_versions_counts_as_python_imports_it(install: Install, tmp_path: Path) -> None:
    install("toy-one", "[codecdiff.splitters]\ntoy = toy_one:Toy\n", version="2.0")
    later = tmp_path / "later" / "toy_one-1.0.dist-info"
    later.mkdir(parents=True)
    (later / "entry_points.txt").write_text("[codecdiff.splitters]\ntoy = toy_one:Toy\n")
    sys.path.append(str(later.parent))
    try:
        assert registry.find("splitters", "toy").version == "2.0"
    finally:
        sys.path.remove(str(later.parent))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("splitters", "paralel", r"No splitter named 'paralel'\. Installed: .*parallel.*Did you mean 'parallel'\?"),
        ("splitters", "xyz", r"No splitter named 'xyz'\. Installed: coarse-first, delayed, .*\.$"),
        ("splitters", "no-such:parallel", "No splitter named 'no-such:parallel'"),
        ("codec", "dac", "No kind of part is called 'codec'. There are: codecs, splitters"),
    ],
)
def test_an_unknown_name_is_explained(kind: str, name: str, message: str) -> None:
    with pytest.raises(UnknownPart, match=message):
        registry.find(kind, name)


def test_a_missing_first_party_part_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "scan", lambda: ((), ()))
    with pytest.raises(UnknownPart, match=r"Installed: none\. It comes with codecdiff-dac: pip install codecdiff-dac"):
        registry.find("codecs", "dac")
    with pytest.raises(UnknownPart, match="Did you mean 'dac'"):
        registry.find("codecs", "dca")


def test_listing_imports_neither_torch_nor_a_plugin() -> None:
    program = (
        "import sys, codecdiff, codecdiff.config; from codecdiff import registry; registry.scan(); registry.models();"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers', 'diffusers', 'codecdiff_dac')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_every_first_party_part_that_is_installed_loads() -> None:
    for kind in registry.KINDS:
        for plugin in registry.installed(kind):
            assert issubclass(plugin.load(), object)
