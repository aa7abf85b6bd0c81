"""The structure of the source: size, direction of imports, what plugins may read, long functions, names and words.

The counting is in structure.py and vocabulary.py. `python tests/structure.py` prints all figures, and
`python tests/structure.py --list FIGURE` the places behind one.
"""

from __future__ import annotations

import ast
import itertools
import runpy
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import structure
import vocabulary
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from structure import LIMITS, Library, Module

import codecdiff

ROOT = Path(__file__).parent.parent
LIBRARY = Library(ROOT)
PLUGIN_MODULES = [m for m in LIBRARY.modules.values() if m.path.startswith("plugins/")]
PLUGIN_TEMPLATES = [
    m for m in LIBRARY.templates if Path(m.path).parent.name.startswith("codecdiff_")
]  # as new-plugin writes them

LAYERS = (  # packages and flat modules of the core; those of a layer import those below, and each other without a cycle
    {"arguments", "errors", "execution", "files", "fingerprint", "interfaces", "precision", "rng"},
    {"config", "huggingface", "registry"},
    {"codecs", "conditioners", "data", "denoisers", "diffusion", "embedders", "splitters"},
    {"pipeline"},
    {"profiling", "testing", "training"},
    {"recipes"},
    {"cli", "__main__"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
LISTS_NAMES = ("codecdiff", "codecdiff.config", "codecdiff.registry", "codecdiff.cli.main")  # without torch
HEAVY = {"torch", "diffusers", "accelerate", "safetensors", "numpy", "einops", "transformers", "scipy", "pyarrow"}
INTERFACE_IMPORTS = {"torch", "numpy", "einops"} | {
    *(
        "__future__",
        "abc",
        "collections",
        "dataclasses",
        "hashlib",
        "inspect",
        "itertools",
        "json",
        "typing",
        "codecdiff",
    ),
}
OWNED = {  # heavy libraries, and the plugins that may import them
    "transformers": {"dac", "t5", "minilm", "encodec", "mimi", "snac", "clap", "mert", "datasets"},
    "dac": {"dac"},
    "encodec": {"encodec"},
    "snac": {"snac"},
    "torchvggish": {"vggish"},
    "httpx2": {"datasets"},
    "onnxruntime": {"transcription"},
}
DOCTOR = "codecdiff/cli/doctor.py"  # reports the versions of libraries it does not use
READS_PICKLED_TENSORS = {"codecdiff-dac", "codecdiff-unet", "codecdiff-vggish"}  # one file each, and tensors alone
UNPICKLING = {"torch.load", "torch.hub.load_state_dict_from_url", "pickle.load", "pickle.loads", "eval", "exec"}
FILE_OF_KIND = {"codecs": "codec", "conditioners": "conditioner", "denoisers": "denoiser", "embedders": "embedder"}


def by_path(module: Module) -> str:
    return module.path


def shown(places: Iterable[object]) -> str:
    return "\n" + "\n".join(map(str, places))


@pytest.fixture(scope="module")
def figures() -> dict[str, tuple[int, list[object]]]:
    return structure.figures(LIBRARY)


@pytest.mark.integration
@pytest.mark.parametrize("figure", LIMITS)
def test_figure(figure: str, figures: dict[str, tuple[int, list[object]]]) -> None:
    value, behind = figures[figure]
    assert value <= LIMITS[figure], f"{figure}: {value}, at most {LIMITS[figure]}{shown(behind)}"


@pytest.mark.integration
def test_every_figure_has_a_limit(figures: dict[str, tuple[int, list[object]]]) -> None:
    assert set(figures) == set(LIMITS)


# What has to be read.


def test_the_documentation_lists_the_same_must_read_set() -> None:
    assert not (places := structure.missing_must_read(LIBRARY)), shown(places)


def test_a_recipe_is_short_and_knows_no_plugin() -> None:
    assert LIBRARY.recipes
    for recipe in LIBRARY.recipes:
        assert recipe.lines < 150, recipe.path
        assert not [item.module for item in recipe.imports if item.module.startswith("codecdiff_")], recipe.path


# Imports.


def test_imports_go_down() -> None:
    places = []
    for module in LIBRARY.core:
        own = structure.node_of(module.name)
        if own == "__init__":  # it passes names on, and nothing is loaded before it is used
            continue
        assert own in LAYER, f"{module.path} has no layer: add it to DESIGN and to this test."
        for item in module.imports:
            target = LIBRARY.home(item.module, item.name)
            other = structure.node_of(target)
            if target.startswith("codecdiff.") and LAYER.get(other, len(LAYERS)) > LAYER[own]:
                places.append(f"{module.path}:{item.line} imports {target}, which is above it.")
    assert not places, shown(places)


def test_interfaces_need_torch_numpy_and_einops_only() -> None:
    modules = LIBRARY.under("codecdiff/interfaces/", "codecdiff/interfaces.py")
    assert modules
    wrong = {
        (m.path, item.module)
        for m in modules
        for item in m.imports
        if item.module.split(".")[0] not in INTERFACE_IMPORTS
    }
    assert not wrong


@pytest.mark.parametrize("name", LISTS_NAMES)
def test_names_can_be_listed_without_torch(name: str) -> None:
    """Nothing that importing these modules runs imports a heavy library."""
    heavy = {
        f"{module.path} imports {item.module}"
        for module in LIBRARY.closure([LIBRARY.modules[name]])
        for item in module.imports
        if not item.lazy and item.module.split(".")[0] in HEAVY
    }
    assert not heavy, shown(sorted(heavy))


def test_heavy_libraries_are_imported_by_their_plugins() -> None:
    places = []
    for module in (*LIBRARY.modules.values(), *LIBRARY.templates):
        own = module.path.split("/")[1].removeprefix("codecdiff-") if module.path.startswith("plugins/") else ""
        for item in module.imports:
            library = item.module.split(".")[0]
            is_reported = module.path == DOCTOR and library == "transformers"
            if library in OWNED and own not in OWNED[library] and not is_reported:
                places.append(f"{module.path}:{item.line} imports {library}.")
    assert not places, shown(places)


# Plugins.


@pytest.mark.parametrize("module", PLUGIN_TEMPLATES, ids=by_path)
def test_a_new_plugin_reads_the_plugin_api_alone(module: Module) -> None:
    for source, name, line in structure.uses(module, LIBRARY):
        if source.startswith("codecdiff_part_name."):
            continue
        assert source in structure.PLUGIN_API, f"{module.path}:{line} imports {source}."
        exports = LIBRARY.modules[source].exports
        assert name is None or (exports is not None and name in exports), (
            f"{module.path}:{line}: {name} is not in __all__."
        )


@pytest.mark.parametrize("plugin", LIBRARY.plugins, ids=lambda plugin: plugin.distribution)
def test_a_plugin_of_parts_has_the_usual_file_names(plugin: structure.Plugin) -> None:
    for kind, file in FILE_OF_KIND.items():
        for target in plugin.entry_points.get(kind, {}).values():
            module = target.split(":")[0]
            assert not plugin.is_application or plugin.distribution in structure.DEMOS or module in LIBRARY.modules
            if not plugin.is_application:
                package, *rest = module.split(".")  # the package passes the class on, or the module itself is named
                assert rest in ([], [file]), f"{plugin.distribution}: {target} is not in {file}.py."
                assert f"{package}.{file}" in LIBRARY.modules, f"{plugin.distribution} has no {file}.py."
    modules = LIBRARY.modules_of(plugin)
    assert not [m.path for m in modules if "random_weights" in m.name], "Random weights belong under tests/."


@pytest.mark.parametrize("plugin", LIBRARY.plugins, ids=lambda plugin: plugin.distribution)
def test_entry_points_name_what_exists(plugin: structure.Plugin) -> None:
    for group, entries in plugin.entry_points.items():
        for name, target in entries.items():
            module, _, attribute = target.partition(":")
            assert module in LIBRARY.modules, f"{plugin.distribution}, codecdiff.{group}: {name} = {target}"
            assert attribute.isidentifier(), f"{plugin.distribution}, codecdiff.{group}: {name} = {target}"


# Safety.


def test_nothing_prints_and_nothing_unpickles() -> None:
    places = []
    for module in (*LIBRARY.modules.values(), *PLUGIN_TEMPLATES):
        calls = [node for node in module.nodes if isinstance(node, ast.Call)]
        reads_tensors = module.path.split("/")[1] in READS_PICKLED_TENSORS
        safe = [node for node in calls if reads_tensors and "weights_only=True" in ast.unparse(node)]
        names = {ast.unparse(node.func) for node in calls if node not in safe}
        wrong = names & (UNPICKLING if module in LIBRARY.recipes else {*UNPICKLING, "print"})
        wrong |= {i.module for i in module.imports if i.module.startswith(("pickle", "dill", "joblib"))}
        places += [f"{module.path}: {each}" for each in sorted(wrong)]
    assert not places, shown(places)


def test_one_file_of_a_plugin_reads_pickled_tensors() -> None:
    for distribution in READS_PICKLED_TENSORS:
        readers = [
            m.path
            for m in PLUGIN_MODULES
            if m.path.startswith(f"plugins/{distribution}/") and "weights_only=True" in m.text
        ]
        assert len(readers) == 1, readers


# The counting itself, on a small library of which everything is known.

SMALL = {
    "codecdiff/__init__.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from codecdiff.pipeline import Pipeline
__all__ = ["Pipeline"]
""",
    "codecdiff/interfaces/__init__.py": "from codecdiff.interfaces.codec import Codec\n__all__ = ['Codec']\n",
    "codecdiff/interfaces/codec.py": "class Codec:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...\n",
    "codecdiff/pipeline/__init__.py": "from codecdiff.pipeline.pipeline import Pipeline\n__all__ = ['Pipeline']\n",
    "codecdiff/pipeline/pipeline.py": """
from codecdiff import interfaces
class Pipeline:
    def sample(self, a, b, c, d, e, f, g, h, *, i):
        from codecdiff.training import train
        return "codecdiff-toy"
""",
    "codecdiff/training.py": "import resource\nfrom codecdiff import Pipeline\ndef train(kept_codes): ...\n",
    "codecdiff/cli.py": "def main(): ...\n",
    "plugins/codecdiff-toy/codecdiff_toy/checks.py": """
def check(value):
    if value:
        raise ValueError(value)
    try:
        raise FileNotFoundError
    except OSError:
        pass
    @model_validator(mode="after")
    def validated(self):
        raise ValueError
    def inner():
        try:
            pass
        finally:
            raise KeyError(value)
    raise NotImplementedError
""",
    "recipes/discodiff.py": """
from codecdiff import Pipeline
if __name__ == "__main__":
    from codecdiff.cli import main
    main()
""",
    "plugins/codecdiff-toy/pyproject.toml": """
[project]
name = "codecdiff-toy"
[project.entry-points."codecdiff.codecs"]
toy = "codecdiff_toy.codec:Toy"
""",
    "plugins/codecdiff-toy/codecdiff_toy/codec.py": """
from codecdiff.interfaces import Codec
from codecdiff.interfaces.codec import Codec as Same
from codecdiff.training import train
class Toy(Codec):
    def __init__(self, a, b, c, d, e, f, g, h, i):
        '''Give the colour.'''
def train(): ...
""",
}


@pytest.fixture
def small(tmp_path: Path) -> Library:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name, text in SMALL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    return Library(tmp_path)


def test_what_importing_the_recipe_runs_is_counted(small: Library) -> None:
    eager = {m.name for m in structure.recipe_closure(small)}
    pipeline = {"codecdiff", "codecdiff.pipeline", "codecdiff.pipeline.pipeline"}
    interfaces = {"codecdiff.interfaces", "codecdiff.interfaces.codec"}
    assert eager == {"codecdiff.recipes.discodiff", *pipeline, *interfaces}
    more = {"codecdiff.training", "codecdiff.cli"}
    assert {m.name for m in structure.recipe_closure(small, lazy=True)} == eager | more


def test_levels_and_cycles_are_those_of_packages(small: Library) -> None:
    assert structure.graph(small) == {
        "cli": set(),
        "interfaces": set(),
        "pipeline": {"interfaces", "training"},
        "training": {"pipeline"},
    }
    assert structure.longest_chain(structure.graph(small)) == ["pipeline+training", "interfaces"]
    assert [place.what for place in structure.cycles(small)] == ["pipeline -> training", "training -> pipeline"]


def test_long_parameter_lists_are_found_but_not_those_of_parts(small: Library) -> None:
    assert [place.what for place in structure.long_parameter_lists(small)] == ["Pipeline.sample has 9 parameters"]


def test_what_a_plugin_may_not_read_is_found(small: Library) -> None:
    assert [place.what for place in structure.tier_violations(small)] == [
        "codecdiff.interfaces.codec.Codec is not of the plugin API",
        "codecdiff.training.train is not of the plugin API",
    ]
    assert [place.what for place in structure.plugins_named_in_core(small)] == ["codecdiff-toy"]


def test_names_and_modules_with_a_limit_of_zero_are_found(small: Library) -> None:
    assert list(structure.repeated_names(small)) == ["train"]
    assert [place.what for place in structure.platform_imports(small)] == ["imports resource"]


def test_builtin_exceptions_are_found_unless_they_are_caught_or_of_a_validator(small: Library) -> None:
    assert [(place.line, place.what) for place in structure.builtin_raises(small)] == [
        (3, "check raises ValueError"),
        (15, "check.inner raises KeyError"),
    ]


def test_every_exemption_is_of_a_function_that_raises_a_builtin_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    exempt = structure.BUILTIN_RAISES
    monkeypatch.setattr(structure, "BUILTIN_RAISES", {})
    found = {f"{place.file} {place.what.rpartition(' raises ')[0]}" for place in structure.builtin_raises(LIBRARY)}
    assert found == set(exempt)


def test_old_words_are_found_where_they_are(small: Library) -> None:
    assert [(place.file.split("/")[-1], place.line) for place in structure.vocabulary_places(small)] == [
        ("training.py", 3),
        ("codec.py", 6),
        ("codec.py", 6),
    ]


@pytest.mark.parametrize(
    "text", ["There is no codec.", "but for\nthe last", "It hears", "centred", "Normalise it", "laws"]
)
def test_old_phrases_are_found(text: str) -> None:
    assert list(vocabulary.in_prose(text, "docs/a.md", 1))


@pytest.mark.parametrize("text", ["learned by heart", "They come along", "Whoever installs it", "**It moves.** A"])
def test_turns_of_phrase_are_found_in_documents_alone(text: str) -> None:
    assert [*vocabulary.in_document("docs/a.md", text)]
    assert not [*vocabulary.in_document("report.html", text)]


@pytest.mark.parametrize(
    "text", ["It is no longer used.", "precise analyses, color", "four hours", "a style sheet", "pre-asked"]
)
def test_other_phrases_are_not(text: str) -> None:
    assert not list(vocabulary.in_prose(text, "docs/a.md", 1))


def test_every_distribution_has_the_version_of_the_release() -> None:
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    versions = {
        str(file.relative_to(ROOT)): tomllib.loads(file.read_text("utf-8"))["project"]["version"] for file in files
    }
    versions["CITATION.cff"] = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]
    assert set(versions.values()) == {codecdiff.__version__}, versions


def test_our_packages_require_the_same_minor_version_of_each_other() -> None:
    release = Version(codecdiff.__version__)
    minor = SpecifierSet(f">={release.major}.{release.minor},<{release.major}.{release.minor + 1}")
    for file in ROOT.glob("plugins/*/pyproject.toml"):
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        words = [*project["dependencies"], *itertools.chain(*project.get("optional-dependencies", {}).values())]
        ours = [requirement for requirement in map(Requirement, words) if requirement.name.startswith("codecdiff")]
        assert "codecdiff" in {requirement.name for requirement in ours}, file
        assert {requirement.specifier for requirement in ours} == {minor}, file


def test_the_extra_all_has_every_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    folders = [folder.name for folder in ROOT.glob("plugins/codecdiff-*")]
    assert sorted(extras["all"][1:]) == sorted(folders)
    assert {word for extra in extras for word in extras[extra] if extra not in ("all", "dev")} >= {*folders}


def test_every_distribution_has_the_same_license_and_python() -> None:
    core = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for folder in ROOT.glob("plugins/codecdiff-*"):
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        assert project["license"].startswith(core["license"]), folder
        assert project["requires-python"] == core["requires-python"], folder
        assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes(), folder


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds: dict[str, list[Version]] = {}
    for word in runpy.run_path(str(ROOT / ".ci" / "oldest.py"))["direct_requirements"]():
        requirement = Requirement(word)
        (bound,) = requirement.specifier
        assert bound.operator == ">=", word
        bounds.setdefault(requirement.name.lower(), []).append(Version(bound.version))
    assert {name: Version(pinned[name]) for name in bounds} == {name: max(each) for name, each in bounds.items()}
