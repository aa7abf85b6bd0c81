"""The registry over really installed toy distributions: lazy, isolated, and clear when something is wrong."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
import toys
from toys import SPLITTER
from typer.testing import CliRunner

from codecdiff import config, interfaces, registry
from codecdiff.cli import console
from codecdiff.cli.main import app
from codecdiff.cli.plugins import find_problems
from codecdiff.errors import BrokenPlugin, UnknownPart
from codecdiff.testing.runner import find_kind

Install = Callable[..., Path]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a distribution of one module with these entry points."""
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
    assert registry.load_entry("splitters", "toy") is plugin.load()
    assert plugin.load().__name__ == "Toy"
    assert "toy" in [plugin.name for plugin in registry.installed("splitters")]


def test_finding_imports_nothing(install: Install) -> None:
    install("toy-explosive", "[codecdiff.splitters]\ntoy = toy_explosive:Toy\n", "raise RuntimeError('imported')")
    registry.find("splitters", "toy")
    assert "toy_explosive" not in sys.modules


def test_a_malformed_file_is_an_issue_and_stops_nobody(install: Install) -> None:
    install("toy-bad", "[codecdiff.splitters]\ntoy-bad = not a target\n")
    install("toy-worse", "codecdiff without a section = ?\n")
    install("toy-stranger", "no section, and nothing to do with us\n")
    install("toy-good", "[codecdiff.splitters]\ntoy = toy_good:Toy\n")
    assert registry.load_entry("splitters", "toy").__name__ == "Toy"
    assert {issue.distribution for issue in registry.scan().issues} == {"toy-bad", "toy-worse"}
    assert all(issue.error for issue in registry.scan().issues)


def test_a_file_that_cannot_be_read_stops_nobody(install: Install) -> None:
    info = install("toy-codecdiff-gone", "")
    (info / "entry_points.txt").unlink()
    (info / "entry_points.txt").symlink_to(info / "nowhere")
    registry.scan.cache_clear()
    assert [issue.distribution for issue in registry.scan().issues] == ["toy-codecdiff-gone"]


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        (
            "toy_x:Toy",
            "import nothing_of_this_name",
            r"ModuleNotFoundError: .*\. Install 'nothing_of_this_name', or add it to the dependencies of toy-x\.",
        ),
        ("toy_x:Toy", "raise SystemError('boom')", "SystemError: boom"),
        ("toy_x:Toy", "def Toy(:", r"SyntaxError.* Correct \S+toy_x\.py:1, or remove it with `pip uninstall toy-x`"),
        ("toy_x:Toy", "\n1 / 0", r"ZeroDivisionError.* Correct toy_x\.py:2, or remove it with"),
        (
            "toy_y:Toy",
            SPLITTER,
            r"No module named 'toy_y'\. Correct 'toy = \"toy_y:Toy\"' in the pyproject.toml of toy-x",
        ),
        ("xml.dom.Node", SPLITTER, r"ModuleNotFoundError.* to 'toy = \"xml\.dom:Node\"' in the pyproject.toml"),
        (
            "toy_x:Absent",
            SPLITTER,
            r"AttributeError.*Absent.* Correct 'toy = \"toy_x:Absent\"' in the pyproject.toml.* toy_x has Toy\.",
        ),
        ("toy_x:Toy", "class Toy: pass", r"names the class toy_x\.Toy, which is not a subclass of codecdiff\.Splitter"),
        ("toy_x:Toy", "def Toy(): ...", r"names the function toy_x\.Toy, which is not a subclass"),
        ("toy_x:Toy", "Toy = 3", "names 3, which is not a subclass"),
    ],
)
def test_a_broken_part_says_whose_it_is_and_why(install: Install, target: str, code: str, message: str) -> None:
    install("toy-x", f"[codecdiff.splitters]\ntoy = {target}\n", code)
    with pytest.raises(BrokenPlugin, match=rf"splitter 'toy' of toy-x 1\.0 .*{message}"):
        registry.load_entry("splitters", "toy")
    assert registry.load_entry("splitters", "parallel").__name__ == "Parallel"


def test_a_name_that_two_distributions_use_is_resolved_by_saying_whose(install: Install) -> None:
    for name in ("toy-one", "toy-two"):
        install(name, f"[codecdiff.splitters]\ntoy = {name.replace('-', '_')}:Toy\n")
    with pytest.raises(UnknownPart, match="Choose one: 'toy-one:toy', 'toy-two:toy'"):
        registry.find("splitters", "toy")
    assert registry.load_entry("splitters", "toy-two:toy").__module__ == "toy_two"
    assert registry.load_entry("splitters", "toy_two:toy").__module__ == "toy_two"


def test_commands_that_share_a_name_are_told_apart_by_whose_they_are(install: Install) -> None:
    for name in ("toy-one", "toy-two"):
        entry_points = f"[codecdiff.commands]\ntoy = {name.replace('-', '_')}:toy\n{name} = os:getcwd\n"
        install(name, entry_points, "def toy(): ...")
    found = registry.entries("commands")
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
        (
            "splitters",
            "xyz",
            r"No splitter named 'xyz'\. Installed: coarse-first, .* with `pip install -e FOLDER`, and again after",
        ),
        ("splitters", "no-such:parallel", "No splitter named 'no-such:parallel'"),
        ("codec", "dac", "No kind named 'codec'. Installed: .*codecs, .*Did you mean 'codecs'"),
    ],
)
def test_an_unknown_name_is_explained(kind: str, name: str, message: str) -> None:
    with pytest.raises(UnknownPart, match=message):
        registry.find(kind, name)


def test_a_missing_first_party_part_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [plugin for plugin in registry.scan().plugins if plugin.kind == "kinds"]
    monkeypatch.setattr(registry, "scan", lambda: registry.Scan(tuple(kinds), ()))
    with pytest.raises(
        UnknownPart, match=r"Installed: none\. It comes with codecdiff-dac: pip install -e \S*plugins/codecdiff-dac"
    ):
        registry.find("codecs", "dac")
    with pytest.raises(UnknownPart, match="Did you mean 'dac'"):
        registry.find("codecs", "dca")


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (None, "pip install ./plugins/codecdiff-gone in a checkout of codecdiff"),
        (
            '{"url": "file:///home/me/codecdiff", "dir_info": {}}',
            "pip install ./plugins/codecdiff-gone in a checkout of codecdiff",
        ),
        (
            '{"url": "https://example.org/codecdiff.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "pip install 'codecdiff-gone @ git+https://example.org/codecdiff.git@abc#subdirectory=plugins/codecdiff-gone'",
        ),
    ],
)
def test_our_packages_are_installed_from_where_codecdiff_is_from(
    source: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata.PathDistribution, "read_text", lambda self, name: source)
    assert registry.install_command("codecdiff-gone") == command


# Kinds and other groups of third parties.

LIMITER = """
from codecdiff import Part

class Limiter(Part):
    derived = ("channels",)

class Hard(Limiter):
    def __init__(self, *, channels: int, level: float = 1.0):
        self.level = level

def run_checks(request):
    raise NotImplementedError
"""
LIMITERS = """
[codecdiff.kinds]
limiters = toy_limiter:Limiter
[codecdiff.limiters]
hard = toy_limiter:Hard
wrong = toy_limiter:run_checks
[codecdiff.checks]
limiters = toy_limiter:run_checks
"""


def test_a_distribution_registers_a_kind_of_part(install: Install) -> None:
    install("toy-limiter", LIMITERS, LIMITER)
    assert registry.kinds()[:1] != ("limiters",)
    assert "limiters" in registry.kinds()
    assert "toy_limiter" not in sys.modules
    assert registry.interface("limiters").__name__ == "Limiter"
    part = config.build("limiters", {"name": "hard", "level": "2"}, channels=1)
    assert part.level == 2
    assert config.to_config("limiters", part) == {"name": "hard", "level": 2}
    assert registry.load_entry("checks", "limiters").__name__ == "run_checks"
    with pytest.raises(config.ConfigError, match=r"limiter\.channels follows from the other parts"):
        config.build("limiters", {"name": "hard", "channels": 2})
    with pytest.raises(
        BrokenPlugin, match=r"limiter 'wrong' of toy-limiter 1\.0 .*not a subclass of toy_limiter\.Limiter"
    ):
        registry.load_entry("limiters", "wrong")


def test_a_kind_has_a_version_of_its_own(install: Install) -> None:
    lines = "[codecdiff.kinds]\nlimiters.3 = toy_limiter:Limiter\n[codecdiff.limiters.3]\nhard = toy_limiter:Hard\n"
    install("toy-limiter", lines, LIMITER)
    install("toy-old", "[codecdiff.limiters.2]\nold = toy_old:Toy\n")
    assert registry.load_entry("limiters", "hard").__name__ == "Hard"
    with pytest.raises(BrokenPlugin, match="version 2 of the limiter interface, and this codecdiff has version 3"):
        registry.load_entry("limiters", "old")


def test_a_part_of_a_kind_that_is_not_installed_is_an_issue(install: Install) -> None:
    install("toy-limiter", "[codecdiff.limiters]\nhard = toy_limiter:Hard\n", LIMITER)
    (issue,) = [issue for issue in registry.scan().issues if issue.distribution == "toy-limiter"]
    assert "'codecdiff.limiters' is not a group" in issue.error
    with pytest.raises(UnknownPart, match="No kind named 'limiters'"):
        registry.find("limiters", "hard")


def test_a_kind_of_the_core_cannot_be_replaced(install: Install) -> None:
    install("toy-limiter", "[codecdiff.kinds]\ncodecs = toy_limiter:Limiter\n", LIMITER)
    assert registry.interface("codecs") is interfaces.Codec


def test_what_a_kind_names_has_to_be_a_part(install: Install) -> None:
    install("toy-limiter", "[codecdiff.kinds]\nlimiters = toy_limiter:run_checks\n", LIMITER)
    with pytest.raises(BrokenPlugin, match=r"is not a subclass of codecdiff\.Part"):
        registry.interface("limiters")


def test_metrics_suites_and_hooks_are_found_by_name(install: Install) -> None:
    lines = "[codecdiff.metrics]\ngap = toy_eval:GAP\n[codecdiff.suites]\nquick = toy_eval:QUICK\n"
    install(
        "toy-eval",
        f"{lines}[codecdiff.run_end]\nnote = toy_eval:note\n",
        "GAP = 1\nQUICK = 'fast'\ndef note(folder): ...",
    )
    assert registry.load_entry("metrics", "gap") == 1
    assert registry.load_entry("suites", "quick") == "fast"
    assert [
        function.__name__
        for function in (entry.load() for entry in registry.entries("run_end").values())
        if function.__module__ == "toy_eval"
    ] == ["note"]
    with pytest.raises(UnknownPart, match=r"No metric named 'gpa'\. Installed: .*gap.*Did you mean 'gap'\?"):
        registry.load_entry("metrics", "gpa")


def test_a_hook_and_a_command_have_to_be_functions(install: Install) -> None:
    lines = "[codecdiff.run_end]\nnote = toy_eval:NOTE\n[codecdiff.commands]\nnote = toy_eval:Note\n"
    install("toy-eval", lines, "NOTE = 1\nclass Note: ...")
    with pytest.raises(BrokenPlugin, match=r"run end 'note' of toy-eval 1\.0 names 1, which is not a function"):
        registry.load_entry("run_end", "note")
    with pytest.raises(BrokenPlugin, match=r"names the class toy_eval\.Note, which is not a function"):
        registry.load_entry("commands", "note")


def test_install_hints_are_the_entry_points_of_our_plugins() -> None:
    ours: dict[str, dict[str, str]] = {}
    for file in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        for group, names in project.get("entry-points", {}).items():
            for name in names:
                ours.setdefault(group.removeprefix("codecdiff."), {})[name] = project["name"]
    hints = registry.install_hints()
    unhinted = ("checks", "metrics", "suites", "run_end")  # found through the distribution that brings them
    assert hints == {group: names for group, names in ours.items() if group not in unhinted}


# Toys that pip has installed.


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.install(tmp_path_factory.mktemp("toys"))


@pytest.fixture
def site(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the toys on the path."""
    monkeypatch.syspath_prepend(toy_folder)
    monkeypatch.setattr(console.out, "width", 400)  # each row in one line
    registry.scan.cache_clear()
    yield toy_folder
    registry.scan.cache_clear()
    for module in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[module]


def switch(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv(registry.SWITCH, names)
    registry.scan.cache_clear()


def listed(*arguments: str) -> dict[str, str]:
    """Give the last column of `codecdiff plugins`, or what is above it, by the name of the part, or of the package."""
    lines = CliRunner().invoke(app, ["plugins", *arguments]).output.splitlines()
    rows = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    problems = [line.split(": ", 1) for line in lines if "│" not in line and ": " in line]
    return {row[1]: row[-1] for row in rows} | {where.split(" of ")[0]: text for where, text in problems}


def test_every_kind_of_the_core_is_registered_and_has_an_interface() -> None:
    core = {"codecs": "Codec", "splitters": "Splitter", "conditioners": "Conditioner", "denoisers": "Denoiser"}
    for kind, name in {**core, "embedders": "Embedder"}.items():
        assert kind in registry.kinds()
        assert registry.interface(kind) is getattr(interfaces, name)
        assert registry.kind_of(registry.interface(kind)) == kind
    assert registry.kind_of(int) is None


@pytest.mark.usefixtures("site")
def test_a_part_for_a_newer_interface_says_so_without_importing_it() -> None:
    says = "built for version 2 of the splitter interface, and this codecdiff has version 1: upgrade codecdiff"
    assert listed()["future"].startswith(f"was {says}")
    with pytest.raises(BrokenPlugin, match=f"The splitter 'future' of toy-next 1.0 was {says}"):
        registry.load_entry("splitters", "future")
    assert "future" not in [plugin.name for plugin in registry.installed("splitters")]
    assert "toy_next" not in sys.modules


@pytest.mark.usefixtures("site")
def test_a_part_for_an_older_interface_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    core = tmp_path / "codecdiff-2.0.dist-info"  # of which the first on the path counts
    core.mkdir()
    (core / "entry_points.txt").write_text("[codecdiff.kinds]\nsplitters.2 = codecdiff.interfaces:Splitter\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.scan.cache_clear()
    with pytest.raises(BrokenPlugin, match=r"has version 2: upgrade the plugin \(pip install --upgrade toy-good\)"):
        registry.load_entry("splitters", "toy")


@pytest.mark.usefixtures("site")
def test_a_part_for_another_interface_shadows_none() -> None:
    assert registry.load_entry("splitters", "shared").__module__ == "toy_good"
    assert registry.load_entry("splitters", "both").__module__ == "toy_both"
    assert [p.interface for p in registry.scan().plugins if p.name == "both"] == [1]
    with pytest.raises(UnknownPart, match="Choose one: 'toy-both:twice', 'toy-good:twice'"):
        registry.load_entry("splitters", "twice")
    with pytest.raises(BrokenPlugin, match=r"of toy-next 1\.0 was built for version 2"):
        registry.load_entry("splitters", "toy-next:twice")


@pytest.mark.usefixtures("site")
def test_a_list_of_packages_disables_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    switch(monkeypatch, " Toy_Good, codecdiff-dac")
    assert registry.load_entry("splitters", "toy").__module__ == "toy_good"
    assert registry.load_entry("splitters", "parallel").__name__ == "Parallel"
    assert registry.load_entry("splitters", "twice").__module__ == "toy_good"
    assert "disabled by CODECDIFF_PLUGINS" in listed()["raising"]
    with pytest.raises(BrokenPlugin, match=r"of toy-raising 1\.0 is disabled: CODECDIFF_PLUGINS lists"):
        registry.load_entry("splitters", "raising")
    assert "toy_raising" not in sys.modules


@pytest.mark.usefixtures("site")
def test_an_empty_list_leaves_the_core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    switch(monkeypatch, "")
    assert {plugin.distribution for kind in registry.kinds() for plugin in registry.installed(kind)} == {"codecdiff"}
    assert registry.entries("models") == {}
    assert registry.scan().issues == ()
    with pytest.raises(BrokenPlugin, match=r"The model 'own' of toy-model 1\.0 is disabled"):
        registry.installed_model("own")
    answer = CliRunner().invoke(app, ["toy-command"])
    assert "command 'toy-command' of toy-command 1.0 is disabled" in answer.output
    assert "toy-command" not in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.usefixtures("site")
def test_a_listed_package_that_is_not_there_is_an_issue(monkeypatch: pytest.MonkeyPatch) -> None:
    switch(monkeypatch, "toy-godo,typer")
    errors = {issue.distribution: issue.error for issue in registry.scan().issues}
    assert errors.keys() == {"toy-godo", "typer"}
    assert "Did you mean 'toy-good'?" in errors["toy-godo"]
    assert "CODECDIFF_PLUGINS names it" in listed()["toy-godo"]


@pytest.mark.usefixtures("site")
def test_a_group_that_is_misspelled_is_an_issue() -> None:
    (issue,) = [issue for issue in registry.scan().issues if issue.distribution == "toy-misnamed"]
    assert "'codecdiff.splitter' is not a group" in issue.error
    assert "write 'codecdiff.splitters'" in issue.hint
    with pytest.raises(
        UnknownPart, match=r"toy-misnamed has an entry of this name, but .*: write 'codecdiff\.splitters'"
    ):
        registry.find("splitters", "misnamed")
    with pytest.raises(UnknownPart, match="toy-misnamed has an entry of this name"):
        find_kind("misnamed")


@pytest.mark.parametrize(
    ("group", "near"),
    [
        ("codecdif.codecs", "codecdiff.codecs"),
        ("codecdiff-codecs", "codecdiff.codecs"),
        ("Codecdiff.splitters", "codecdiff.splitters"),
        ("codecdiff.comands", "codecdiff.commands"),
        ("codediff.plugins", ""),  # of another program
        ("code.splitters", ""),
    ],
)
def test_a_group_that_is_nearly_ours_is_an_issue(install: Install, group: str, near: str) -> None:
    install("toy-x", f"[{group}]\ntoy = toy_x:Toy\n")
    hints = [issue.hint for issue in registry.scan().issues if issue.distribution == "toy-x"]
    assert [hint.split(" instead")[0] for hint in hints] == ([f"write '{near}'"] if near else [])


def test_a_name_that_breaks_the_rules_is_an_issue_and_is_found_in_any_case(install: Install) -> None:
    install("toy-x", "[codecdiff.splitters]\nMy_Toy = toy_x:Toy\n", SPLITTER)
    (issue,) = [issue for issue in registry.scan().issues if issue.distribution == "toy-x"]
    assert "Invalid name 'My_Toy' in 'codecdiff.splitters': expected lower case words" in issue.error
    assert issue.hint == "rename it in the package's pyproject.toml, as in 'my-toy'"
    with pytest.raises(UnknownPart, match="Did you mean 'My_Toy'"):
        registry.find("splitters", "my_toy")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("splitters", "raising", "of toy-raising 1.0 cannot be loaded: ZeroDivisionError: division by zero"),
        ("splitters", "leaving", "of toy-leaving 1.0 cannot be loaded: SystemExit: 3"),
        ("splitters", "absent", "AttributeError: module 'toy_absent' has no attribute 'Nothing'"),
        ("splitters", "module", "ModuleNotFoundError: No module named 'toy_nowhere'"),
        ("splitters", "bare", "names the module toy_absent, which is not a subclass.* to 'bare = \"toy_absent:NAME\"'"),
        ("splitters", "half", "does not implement merge"),
        ("codecs", "other", "not a subclass of codecdiff.Codec; it belongs in the group 'codecdiff.splitters'"),
    ],
)
def test_a_toy_that_cannot_be_used_says_why(kind: str, name: str, message: str) -> None:
    with pytest.raises(BrokenPlugin, match=message):
        registry.load_entry(kind, name)


@pytest.mark.usefixtures("site")
def test_an_import_can_be_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        registry.load_entry("splitters", "stopping")


@pytest.mark.usefixtures("site")
def test_a_model_that_two_packages_carry_is_resolved_by_saying_whose() -> None:
    assert {"own", "toy-model:toy-model", "toy-model-too:toy-model"} <= registry.entries("models").keys()
    with pytest.raises(
        UnknownPart, match=r"a model named 'toy-model'\. Choose one: 'toy-model:toy-model', 'toy-model-"
    ):
        registry.installed_model("toy-model")
    folder = registry.installed_model("toy-model:toy-model")
    assert folder is not None
    assert folder.name == "toy_model.py"
    assert registry.installed_model("nobody") is None


@pytest.mark.integration
def test_each_toy_is_tried_and_none_stops_the_others(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Those that hang or end the process too; what they print is not shown."""
    tried = [plugin for plugin in registry.scan().plugins if plugin.distribution.startswith("toy-")]
    found = {plugin.name: problem for plugin, problem in find_problems(tried, seconds=10).items()}
    assert found.keys() == {plugin.name for plugin in tried} - {"toy", "loud"} - {"both"}
    for name, text in {
        "future": "built for version 2",
        "raising": "ZeroDivisionError",
        "leaving": "SystemExit",
        "stopping": "KeyboardInterrupt",
        "hanging": "not been imported within 10 s",
        "hanging-too": "not been imported within 10 s",
        "deadly": "ends the Python process that imports it (SIGSEGV)",
        "quitting": "ends the Python process that imports it (exit code 3)",
        "half": "does not implement merge",
        "toy-model": "ZeroDivisionError",
        "own": "does not hold a model",
        "toy-command": "ZeroDivisionError",
    }.items():
        assert text in found[name].text, name
    assert capfd.readouterr() == ("", "")
    assert not [name for name in sys.modules if name.startswith("toy_")]


def test_no_plugin_is_blamed_where_torch_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = find_problems([registry.find("splitters", "parallel")], seconds=60).values()
    assert problem.text == "codecdiff itself cannot be imported: RuntimeError: half installed"


def test_what_pip_leaves_of_a_failed_removal_does_not_count(install: Install) -> None:
    info = install("toy-one", "[codecdiff.splitters]\ntoy = toy_one:Toy\n")
    info.rename(info.with_name(f"~{info.name[1:]}"))
    registry.scan.cache_clear()
    with pytest.raises(UnknownPart, match="No splitter named 'toy'"):
        registry.find("splitters", "toy")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_metadata_in_another_encoding_is_read_or_an_issue(install: Install, encoding: str) -> None:
    info = install("toy-one", "")
    lines = "[codecdiff.splitters]\ntoy = toy_one:Toy\ngrün = toy_one:Toy\n"
    (info / "entry_points.txt").write_bytes(lines.encode(encoding))
    registry.scan.cache_clear()
    if encoding == "utf-8-sig":
        assert registry.load_entry("splitters", "grün") is registry.load_entry("splitters", "toy")
    else:
        assert [issue.distribution for issue in registry.scan().issues] == ["toy-one"]


def test_one_line_that_cannot_be_read_costs_no_other(install: Install) -> None:
    install("toy-one", "[codecdiff.splitters]\nbad = not a target\ntoy = toy_one:Toy\n")
    assert registry.load_entry("splitters", "toy").__name__ == "Toy"
    assert [issue.distribution for issue in registry.scan().issues] == ["toy-one"]


def test_listing_imports_neither_torch_nor_a_plugin() -> None:
    program = (
        "import sys, codecdiff, codecdiff.config; from codecdiff import registry; registry.scan();"
        "registry.entries('models'); registry.installed('codecs'); registry.kinds();"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers', 'diffusers', 'codecdiff_dac')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_every_first_party_part_that_is_installed_loads() -> None:
    for kind in registry.kinds():
        for plugin in registry.installed(kind):
            assert issubclass(plugin.load(), object)
