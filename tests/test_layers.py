"""Imports only go down, and what belongs to a plugin stays there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (  # of packages and flat modules; each imports only its own layer and those before it
    {"interfaces", "files", "fingerprint", "rng", "errors", "precision"},
    {"registry", "config", "huggingface", "origins", "settings", "hub"},
    {"codecs", "conditioners", "splitters", "denoisers", "embedders", "diffusion", "data"}
    | {"schedules", "solvers", "noises", "caches", "guidance", "meters", "metrics", "pictures", "pages"}
    | {"gaussians"},
    {"pipeline", "training", "profiling", "testing"}
    | {"stages", "models", "edits", "requests", "plans", "cards", "experiments", "comparisons"},
    {"cli", "making", "checking", "comparing"}
    | {"terminal", "doctor", "quarantine", "scaffolding", "__init__", "__main__"},
)
LAYER = {name: number for number, names in enumerate(LAYERS, 1) for name in names}
FIRST = {"torch", "numpy", "einops"}  # all that the interfaces may import
OWNED = {  # heavy libraries and their plugins
    "transformers": ("dac", "t5", "encodec", "mimi", "clap", "mert", "datasets"),
    "dac": ("dac",),
    "encodec": ("encodec",),
    "torchvggish": ("vggish",),
    "openai": ("datasets",),
}
# the modules of the core that nobody imports
PROGRAMS = {"making", "checking", "comparing"} | {
    "terminal",
    "doctor",
    "quarantine",
    "scaffolding",
}
READERS = (  # of pickled tensors, and of nothing else in them
    "plugins/codecdiff-dac/codecdiff_dac/weights.py",
    "plugins/codecdiff-unet/codecdiff_unet/weights.py",
    "plugins/codecdiff-vggish/codecdiff_vggish/weights.py",
)
TEMPLATES = sorted((ROOT / "codecdiff" / "templates").rglob("codecdiff_*/*.py"))  # of plugins: not the core's own
MODULES = sorted(f for f in (ROOT / "codecdiff").rglob("*.py") if "templates" not in f.parts)
PLUGINS = [*sorted((ROOT / "plugins").glob("*/codecdiff_*/**/*.py")), *TEMPLATES]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports(file: Path, *, lazily: bool = True) -> Iterator[str]:
    """Yield the dotted names that a file imports; with `lazily=False` only those imported when it is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unread = {id(inner) for node in typed for inner in ast.walk(node)}
    for node in ast.walk(tree) if lazily else tree.body:
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{named(file)} imports relatively: {ast.unparse(node)}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str | None:
    """Which module of the core a dotted name is in; None if it is not in the core."""
    parts = name.split(".")
    if parts[0] != "codecdiff":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYER else "__init__"


@pytest.mark.parametrize("file", MODULES, ids=named)
def test_imports_go_down(file: Path) -> None:
    own = file.relative_to(ROOT / "codecdiff").parts[0].removesuffix(".py")
    assert own in LAYER, f"{named(file)} has no layer; give it one in DESIGN and in this test."
    if own == "__init__":
        return
    for name in imports(file):
        other = module_of(name)
        if other == "__init__":
            other = "interfaces" if name.rpartition(".")[2] != "__version__" else own
        assert other is None or LAYER[other] <= LAYER[own], f"{named(file)} imports {name}, which is above it."


def test_interfaces_need_torch_numpy_and_einops_only() -> None:
    files = sorted((ROOT / "codecdiff" / "interfaces").glob("*.py"))
    found = {name.split(".")[0] for file in files for name in imports(file)}
    assert found - {"codecdiff"} <= FIRST | {
        "__future__",
        "abc",
        "collections",
        "dataclasses",
        "hashlib",
        "inspect",
        "itertools",
        "json",
        "typing",
    }


@pytest.mark.parametrize("file", MODULES, ids=named)
def test_the_core_knows_no_plugin_and_no_library_of_one(file: Path) -> None:
    for name in imports(file):
        package = name.split(".")[0]
        assert not package.startswith("codecdiff_"), f"{named(file)} imports the plugin {package}."
        assert package not in OWNED or (package == "transformers" and file.name == "doctor.py"), named(file)


@pytest.mark.parametrize(
    "name", ["__init__", "config/__init__", "config/parts", "config/overrides", "config/schema", "registry", "cli/main"]
)
def test_names_can_be_listed_without_torch(name: str) -> None:
    file = ROOT / "codecdiff" / f"{name}.py"
    if not file.exists():
        pytest.skip(f"there is no {name} yet")
    heavy = {"torch", "diffusers", "accelerate", "safetensors", "numpy", "einops"}
    eager = {found.split(".")[0] for found in imports(file, lazily=False)}
    assert not eager & heavy
    layers = {
        LAYER[module] for found in imports(file, lazily=False) if (module := module_of(found)) not in (None, "__init__")
    }
    assert layers <= {1, 2, 5}


@pytest.mark.parametrize("file", PLUGINS, ids=named)
def test_a_plugin_sees_only_the_public_core(file: Path) -> None:
    import codecdiff

    own = file.parent.name if file in TEMPLATES else file.relative_to(ROOT / "plugins").parts[1]
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "codecdiff":
            assert not any(part.startswith("_") for part in parts[1:] if part != "__version__"), f"{name} is private."
            public = parts[1] in {*LAYER, *codecdiff.__all__, "__version__"} - PROGRAMS
            assert public, f"{named(file)} imports {name}; import it from `codecdiff` or a public module."
        elif parts[0].startswith("codecdiff_"):
            assert parts[0] == own, f"{named(file)} imports another plugin: {name}."


@pytest.mark.parametrize("file", RECIPES, ids=named)
def test_a_recipe_is_short_and_knows_no_plugin(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) < 150
    assert not [name for name in imports(file) if name.startswith("codecdiff_")]


@pytest.mark.parametrize("file", [*MODULES, *PLUGINS, *RECIPES], ids=named)
def test_nothing_prints_and_nothing_unpickles(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    safe = [node for node in called if named(file) in READERS and "weights_only=True" in ast.unparse(node)]
    calls = [ast.unparse(node.func) for node in called if node not in safe]
    assert not {
        "torch.load",
        "torch.hub.load_state_dict_from_url",
        "pickle.load",
        "pickle.loads",
        "eval",
        "exec",
    } & set(calls)
    assert not any(name.startswith(("pickle", "dill", "joblib")) for name in imports(file))
