"""Figures of the structure of the source, counted on the syntax trees of the files that git tracks.

`python tests/structure.py [ROOT]` prints every figure beside its limit; `--list FIGURE` prints the places behind one.
Nothing of what is counted is imported. tests/test_structure.py holds the figures to LIMITS.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import vocabulary

# What a reader needs in order to understand training and sampling: files, and folders with all their modules.
# docs/architecture.md holds the same list between the two markers.
MUST_READ = (
    "codecdiff/interfaces/",
    "codecdiff/registry.py",
    "codecdiff/config/",
    "codecdiff/splitters.py",
    "codecdiff/diffusion/loss.py",
    "codecdiff/diffusion/sampling.py",
    "codecdiff/diffusion/guidance.py",
    "codecdiff/diffusion/noise_schedule.py",
    "codecdiff/pipeline/stage.py",
    "codecdiff/pipeline/base.py",
    "codecdiff/pipeline/cascade.py",
    "codecdiff/pipeline/pipeline.py",
    "codecdiff/pipeline/checkpoint.py",
    "codecdiff/training/experiment.py",
    "codecdiff/training/batch.py",
    "codecdiff/training/trainer.py",
    "codecdiff/data/code_store.py",
    "codecdiff/data/dataset.py",
    "recipes/discodiff.py",
)
MUST_READ_DOC = ("docs/architecture.md", "<!-- must-read: begin -->", "<!-- must-read: end -->")
RECIPE = "recipes/discodiff.py"
TESTING = "codecdiff/testing/"
STARTER = "plugins/codecdiff-starter/codecdiff_starter/"
EVALUATION = (  # evaluation, comparison, metrics and reports, with the demo of the starter
    "plugins/codecdiff-eval/codecdiff_eval/",
    *(f"{STARTER}{name}{end}" for name in ("clips", "demo", "evaluation", "report") for end in (".py", "/")),
)
INSTALL_HINTS = "codecdiff/install_hints"  # .json, .toml or .yaml: kind -> name of a part -> distribution

PART_KINDS = ("codecs", "splitters", "conditioners", "denoisers", "embedders")  # kinds of the core
INTERFACES = {"Part", "Codec", "Splitter", "Conditioner", "Denoiser", "Embedder"}
PLUGIN_API = {
    "codecdiff",
    "codecdiff.interfaces",
    "codecdiff.codecs",
    "codecdiff.splitters",
    "codecdiff.conditioners",
    "codecdiff.denoisers",
    "codecdiff.embedders",
    "codecdiff.data.audio",
    "codecdiff.testing",
    "codecdiff.errors",
    "codecdiff.rng",
    "codecdiff.huggingface",
}
DEMOS = {"codecdiff-starter"}  # plugins of parts whose other modules are an application
# Groups that one distribution reads, as a kind
READ_BY = dict.fromkeys(("metrics", "suites", "generation_engines"), "codecdiff-eval")

# Public names that two modules may define, each with the reason.
REPEATED = {
    "main": "the program of a module that is run",
    "app": "the Typer application of a module of commands",
    "tiny": "what `codecdiff.testing.tiny` asks the config.py of each plugin for",
    "tiny_tokenizer": "the tokenizer of such a tiny model",
    "is_table": "what each importer of a data set defines: whether a table is of that data set",
    "read": "what each importer of a data set defines: the rows of its table",
    "original_network": "the network of a codec's original package, in each codec that has one",
}

# Functions that may raise a builtin exception, which the command line shows as a traceback, each with the reason.
BUILTIN_RAISES = {
    **dict.fromkeys(
        (
            *("codecdiff/denoisers/conditioning.py fill_nulls", "codecdiff/denoisers/conditioning.py check_inputs"),
            "codecdiff/denoisers/conditioning.py PrecomputedConditioning.rows",
            "codecdiff/denoisers/conditioning.py PreparedDenoiser._index",
            *("codecdiff/embedders.py check_clips", "codecdiff/embedders.py _batches"),
            *(
                "codecdiff/interfaces/condition.py Condition.cat",
                "codecdiff/interfaces/embedder.py Embedder.embed_text",
            ),
            "plugins/codecdiff-eval/codecdiff_eval/audio_features.py window_features",
            "plugins/codecdiff-eval/codecdiff_eval/embeddings.py ClipEmbeddings.__post_init__",
            "plugins/codecdiff-eval/codecdiff_eval/metrics/clap_score.py _clap_score",
            "plugins/codecdiff-eval/codecdiff_eval/report.py Table.cells",
            "plugins/codecdiff-eval/codecdiff_eval/results.py EvalRow.__post_init__",
            "plugins/codecdiff-eval/codecdiff_eval/results.py MetricResult.require_comparable",
            "plugins/codecdiff-starter/codecdiff_starter/harmony.py chord_of",
            "plugins/codecdiff-starter/codecdiff_starter/instruments.py note",
            "plugins/codecdiff-starter/codecdiff_starter/instruments.py play",
        ),
        "what a program passes: a bug in that program",
    ),
    **dict.fromkeys(
        (
            "plugins/codecdiff-datasets/codecdiff_datasets/captioners/describe.py Describe.caption",
            "plugins/codecdiff-datasets/codecdiff_datasets/captioners/rephrase.py Rephrase.caption",
            "plugins/codecdiff-datasets/codecdiff_datasets/captioners/rephrase.py user_message",
            "plugins/codecdiff-datasets/codecdiff_datasets/captioners/tags.py Tags.caption",
            "plugins/codecdiff-musicnn/codecdiff_musicnn/captioner.py TagsFromAudio.caption",
        ),
        "the interface of captioners: a track that cannot be captioned is reported, and others follow",
    ),
    **dict.fromkeys(
        (
            "codecdiff/cli/doctor.py describe_audio",
            "codecdiff/data/audio_writer.py write_audio",
            "codecdiff/files/documents.py _decode",
            *(
                f"codecdiff/files/parquet_size.py {name}"
                for name in (
                    "check_parquet_size",
                    "_pages",
                    "_runs",
                    "_shared_bytes",
                    "_page_header",
                    "_read_footer",
                    "_read_value",
                )
            ),
            "codecdiff/files/parquet_size.py _varint",
            "codecdiff/pipeline/untrusted.py _stage_name",
            "codecdiff/splitters.py parse_range",
            "plugins/codecdiff-datasets/codecdiff_datasets/captioners/chat_server.py ChatServer._post",
            "plugins/codecdiff-datasets/codecdiff_datasets/importers/debian.py _open_data",
            "plugins/codecdiff-datasets/codecdiff_datasets/importers/debian.py _unpack_archive",
            "plugins/codecdiff-datasets/codecdiff_datasets/importers/debian.py _write",
            "plugins/codecdiff-datasets/codecdiff_datasets/importers/debian.py unpack",
        ),
        "caught where it is called, which adds what it is about",
    ),
}
NEVER_SENTENCES = {"AssertionError", "AttributeError", "NotImplementedError", "StopIteration", "SystemExit"}

MAX_PARAMETERS, MAX_FUNCTION_LINES = 8, 40
# What the structure is to reach, and what it has reached: a figure may only fall, and its limit with it.
GOALS = {
    "lines: library in all": 23_000,
    "lines: core": 8_500,
    "lines: interfaces": 350,
    "lines: evaluation": 3_600,
    "lines: must-read set": 2_700,
    "lines: import closure of the recipe": 4_000,
    "import levels": 8,
    "import cycles": 0,
    "modules flat in the core": 12,
    "functions over 8 parameters": 0,
    "functions over 40 lines": 0,
    "names with two meanings": 0,
    "builtin exceptions raised for users": 0,
    "imports beside the tier": 0,
    "plugins named in the core": 0,
    "install hints": 0,
    "imports of fcntl and resource": 0,
    "vocabulary": 0,
}
LIMITS = GOALS | {
    "lines: library in all": 47_976,
    "lines: core": 19_884,
    "lines: interfaces": 444,
    "lines: evaluation": 8_831,
    "lines: must-read set": 5_257,
    "lines: import closure of the recipe": 9_859,
    "import levels": 8,
}


class Import(NamedTuple):
    """One imported name: `from module import name`, or `import module` with name None. Lazy: inside a function."""

    module: str
    name: str | None
    lazy: bool
    line: int


class Place(NamedTuple):
    """Where something was counted."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _is_main_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def walk(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every statement that runs, and whether it does so only in a call, or when the module is run as a program.

    Blocks for type checkers are left out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):  # which holds no statement
            continue
        if isinstance(node, ast.If) and _is_type_checking(node):
            for other in node.orelse:
                yield other, lazy
                yield from walk(other, lazy)
            continue
        yield node, lazy
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        inside = inside or _is_main_block(node)
        yield from walk(node, inside)


@dataclass(frozen=True)
class Module:
    """A Python file of the library."""

    path: str  # relative to the root
    name: str  # dotted
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree, walked once."""
        return list(ast.walk(self.tree))

    @cached_property
    def lines(self) -> int:
        """Number of lines, as the formatter writes them."""
        return len(self.text.splitlines())

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__` of a package."""
        return self.path.endswith("__init__.py")

    @cached_property
    def imports(self) -> list[Import]:
        """All imports that run."""
        found = []
        for node, lazy in walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, None, lazy, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.path}:{node.lineno} imports relatively: {ast.unparse(node)}"
                found += [Import(node.module or "", alias.name, lazy, node.lineno) for alias in node.names]
        return found

    @cached_property
    def lazy_exports(self) -> dict[str, str]:
        """Names that the module gets from others when they are asked for: those imported for type checkers."""
        blocks = [node for node in self.tree.body if _is_type_checking(node)]
        nodes = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
        return {alias.asname or alias.name: node.module or "" for node in nodes for alias in node.names}

    @cached_property
    def exports(self) -> set[str] | None:
        """The names of `__all__`; None without one."""
        names: set[str] | None = None
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                value = getattr(node, "value", None)
                strings = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant)] if value else []
                names = (names or set()) | {name for name in strings if isinstance(name, str)}
        return names

    @cached_property
    def functions(self) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef | None]]:
        """Every function with its qualified name and the class it is a method of."""
        found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef | None]] = []

        def visit(node: ast.AST, prefix: str, owner: ast.ClassDef | None) -> None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.append((prefix + child.name, child, owner))
                    visit(child, f"{prefix}{child.name}.", None)
                elif isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.", child)
                elif not isinstance(child, ast.expr):
                    visit(child, prefix, owner)

        visit(self.tree, "", None)
        return found


@dataclass(frozen=True)
class Plugin:
    """A first-party plugin: its distribution, its package and its entry points."""

    distribution: str
    package: str
    entry_points: Mapping[str, Mapping[str, str]]  # group without "codecdiff." -> name -> target

    @property
    def part_modules(self) -> set[str]:
        """Modules that hold parts of the core's kinds."""
        return {target.split(":")[0] for kind in PART_KINDS for target in self.entry_points.get(kind, {}).values()}

    @property
    def is_application(self) -> bool:
        """Whether it adds more than parts and models, or is a demo."""
        return bool(set(self.entry_points) - {*PART_KINDS, "models"}) or self.distribution in DEMOS


class Library:
    """The Python source of the core, the plugins and the recipes, without tests and templates."""

    def __init__(self, root: Path):
        self.root = root
        self.files = tracked(root)
        self.modules = {m.name: m for m in map(self._module, filter(_is_source, self.files))}
        self.core = [m for m in self.modules.values() if m.path.startswith("codecdiff/")]
        self.recipes = [m for m in self.modules.values() if m.path.startswith("recipes/")]
        self.templates = [self._module(f) for f in self.files if "templates" in Path(f).parts and f.endswith(".py")]
        self.plugins = [
            self._plugin(f) for f in self.files if f.startswith("plugins/") and f.endswith("/pyproject.toml")
        ]

    def _module(self, path: str) -> Module:
        parts = list(Path(path).with_suffix("").parts)
        parts = ["codecdiff", *parts] if parts[0] == "recipes" else parts  # as they are installed
        parts = parts[2:] if parts[0] == "plugins" else parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        return Module(path, ".".join(parts), (self.root / path).read_text(encoding="utf-8"))

    def _plugin(self, path: str) -> Plugin:
        project = tomllib.loads((self.root / path).read_text(encoding="utf-8"))["project"]
        groups = {
            g.removeprefix("codecdiff."): e for g, e in project.get("entry-points", {}).items() if "codecdiff." in g
        }
        return Plugin(project["name"], project["name"].replace("-", "_"), groups)

    def modules_of(self, plugin: Plugin) -> list[Module]:
        """Modules of a plugin's package."""
        return [m for m in self.modules.values() if m.name.split(".")[0] == plugin.package]

    def under(self, *paths: str) -> list[Module]:
        """Modules at these paths; a path that ends with / is a folder."""
        return [m for m in self.modules.values() if m.path.startswith(paths)]

    def home(self, module: str, name: str | None) -> str:
        """Return the module that `from module import name` reads, through packages that only pass the name on."""
        if name is not None and f"{module}.{name}" in self.modules:
            return f"{module}.{name}"
        found = self.modules.get(module)
        if found is None or name is None:
            return module
        if source := found.lazy_exports.get(name):
            return self.home(source, name) if source != module else module
        if found.is_package:
            for each in found.imports:
                if each.name == name and each.module != module and each.module in self.modules:
                    return self.home(each.module, name)
        return module

    def executed(self, item: Import) -> set[str]:
        """Return our modules that an import runs directly: with a module all packages around it."""
        targets = {item.module}
        if item.name is not None:
            if f"{item.module}.{item.name}" in self.modules:
                targets.add(f"{item.module}.{item.name}")
            elif (found := self.modules.get(item.module)) and item.name in found.lazy_exports:
                targets.add(self.home(item.module, item.name))
        around = {".".join(t.split(".")[:n]) for t in targets for n in range(1, t.count(".") + 2)}
        return around & set(self.modules)

    def closure(self, start: Iterable[Module], *, lazy: bool = False, inside: str = "") -> list[Module]:
        """Return the modules that importing these runs, themselves included; with `lazy` also those of calls."""
        found = {m.name: m for m in start}
        queue = list(found.values())
        while queue:
            for item in queue.pop().imports:
                if item.lazy and not lazy:
                    continue
                for name in sorted(self.executed(item) - set(found)):
                    if name.split(".")[0].startswith(inside):
                        found[name] = self.modules[name]
                        queue.append(found[name])
        return list(found.values())


def tracked(root: Path) -> list[str]:
    """Return the files of a checkout that git tracks, or will once they are added."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({name for name in listed if name and (root / name).is_file()})


def _is_source(path: str) -> bool:
    if not path.endswith(".py") or {"tests", "templates"} & set(path.split("/")):
        return False
    return re.match(r"codecdiff/|recipes/|plugins/[^/]+/codecdiff_[^/]+/", path) is not None


# Lines.


def lines(modules: Iterable[Module]) -> int:
    """Sum of the lines of modules."""
    return sum(m.lines for m in modules)


def core_without_testing(library: Library) -> list[Module]:
    """Modules of the core without the conformance checks."""
    return [m for m in library.core if not m.path.startswith(TESTING)]


def missing_must_read(library: Library) -> list[Place]:
    """Entries of the must-read set that are not there, and differences between it and the list in the docs."""
    file, begin, end = MUST_READ_DOC
    places = [Place(path, 1, "in the must-read set, and missing") for path in MUST_READ if not library.under(path)]
    text = (library.root / file).read_text(encoding="utf-8") if (library.root / file).is_file() else ""
    listed = text.partition(begin)[2].partition(end)[0]
    named = {word for line in listed.splitlines() for word in line.split("`")[1::2] if "/" in word}
    places += [Place(file, 1, f"does not list {path} as must-read") for path in MUST_READ if path not in named]
    return places + [
        Place(file, 1, f"lists {path}, which MUST_READ does not") for path in sorted(named - set(MUST_READ))
    ]


def recipe_closure(library: Library, *, lazy: bool = False) -> list[Module]:
    """The recipe and all of codecdiff that importing it runs."""
    return library.closure(library.under(RECIPE), lazy=lazy, inside="codecdiff")


# Imports between packages.


def node_of(name: str) -> str:
    """Package or flat module of the core that a dotted name is in, `codecdiff.data.audio` -> `data`."""
    return name.split(".")[1] if "." in name else "__init__"


def graph(library: Library, *, packages: bool = True) -> dict[str, set[str]]:
    """Which packages (folders and flat modules) of the core import which, or which modules with `packages=False`.

    An import inside a function counts; one for type checkers only does not. A name that a package passes on counts as
    an import of the module that defines it, so the lazy `codecdiff/__init__.py` is not a node.
    """
    edges: dict[str, set[str]] = {}
    for module in library.core:
        source = node_of(module.name) if packages else module.name
        if source in ("__init__", "codecdiff") or (not packages and module.is_package):
            continue
        targets = {library.home(item.module, item.name) for item in module.imports}
        targets = {t for t in targets if t.startswith("codecdiff.") and t in library.modules}
        if not packages:
            targets = {t for t in targets if not library.modules[t].is_package}
        edges.setdefault(source, set()).update({node_of(t) if packages else t for t in targets} - {source})
    for targets in list(edges.values()):
        for target in targets:
            edges.setdefault(target, set())
    return edges


def components(edges: Mapping[str, set[str]]) -> list[set[str]]:
    """Strongly connected components, those that are imported first (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            found.append(set(stack[cut:]))
            del stack[cut:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def longest_chain(edges: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of imports, top first; every node of a cycle counts for one level together."""
    best: dict[frozenset[str], list[str]] = {}
    of = {}
    for component in map(frozenset, components(edges)):
        below = {of[t] for node in component for t in edges[node] if t not in component}
        tail = max((best[b] for b in below), key=len, default=[])
        best[component] = ["+".join(sorted(component)), *tail]
        of |= dict.fromkeys(component, component)
    return max(best.values(), key=len, default=[])


def cycles(library: Library) -> list[Place]:
    """Packages of the core that import each other, with an import of each."""
    edges = graph(library)
    groups = [group for group in components(edges) if len(group) > 1]
    places = []
    for module in library.core:
        source = node_of(module.name)
        for item in module.imports:
            target = library.home(item.module, item.name)
            pair = {source, node_of(target)} if target.startswith("codecdiff.") else set()
            if len(pair) == 2 and any(pair <= group for group in groups):
                places.append(Place(module.path, item.line, f"{source} -> {node_of(target)}"))
    return sorted(set(places), key=lambda p: (p.what, p.file, p.line))


def flat_modules(library: Library) -> list[Module]:
    """Python modules that lie in codecdiff/ itself, `__init__` and `__main__` included."""
    return [m for m in library.core if m.path.count("/") == 1]


# Functions.


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, owner: ast.ClassDef | None) -> list[str]:
    """Names of the parameters, without `self` and `cls`; *args and **kwargs are one each."""
    a = function.args
    named = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    named += [p.arg for p in (a.vararg, a.kwarg) if p]
    is_static = any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
    return named[1:] if owner and not is_static and named and named[0] in ("self", "cls", "mcs") else named


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, decorators and docstring left out."""
    total = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or 0) - first.lineno + 1
    return total


def option_aliases(library: Library) -> set[str]:
    """Names of annotations that stand for `Annotated[..., typer.Option(...)]`, in any module."""
    return {
        target.id
        for m in library.modules.values()
        for node in m.tree.body
        if isinstance(node, ast.Assign) and "typer." in ast.unparse(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef, aliases: set[str]) -> bool:
    """Whether Typer reads the signature: more than half of the parameters are annotated as options or arguments."""
    a = function.args
    annotations = [p.annotation for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    options = [n for n in annotations if n is not None and ("typer." in ast.unparse(n) or ast.unparse(n) in aliases)]
    return len(options) * 2 > len(annotations)


def part_classes(library: Library) -> set[str]:
    """Names of the classes that derive from an interface of the core, or of a kind that a plugin registers."""
    bases: dict[str, set[str]] = defaultdict(set)
    for module in library.modules.values():
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                bases[node.name] |= {ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases}
    kinds = {t.split(":")[-1] for p in library.plugins for t in p.entry_points.get("kinds", {}).values()}
    found, size = INTERFACES | kinds, 0
    while size != len(found):
        size = len(found)
        found |= {name for name, above in bases.items() if above & found}
    return found


def long_parameter_lists(library: Library) -> list[Place]:
    """Functions of more than 8 parameters, but for commands and constructors of parts."""
    parts, aliases = part_classes(library), option_aliases(library)
    places = []
    for module in library.modules.values():
        for name, function, owner in module.functions:
            count = len(parameters(function, owner))
            is_schema = function.name == "__init__" and owner is not None and owner.name in parts
            if count > MAX_PARAMETERS and not is_schema and not is_command(function, aliases):
                places.append(Place(module.path, function.lineno, f"{name} has {count} parameters"))
    return places


def long_functions(library: Library) -> list[Place]:
    """Functions of more than 40 lines."""
    return [
        Place(module.path, function.lineno, f"{name} has {length(function)} lines")
        for module in library.modules.values()
        for name, function, _ in module.functions
        if length(function) > MAX_FUNCTION_LINES
    ]


# Errors.


def builtin_raises(library: Library) -> list[Place]:
    """Places that raise a builtin exception: mistakes of users are subclasses of UserError.

    Left out are functions of BUILTIN_RAISES, validators of pydantic, which has to catch a ValueError, and exceptions
    that the same function catches.
    """
    names = {name for name, value in vars(builtins).items() if isinstance(value, type)} - NEVER_SENTENCES
    places = []
    for module in library.modules.values():
        for function_name, function, _ in module.functions:
            validates = any("_validator" in ast.unparse(each) for each in function.decorator_list)
            if validates or f"{module.path} {function_name}" in BUILTIN_RAISES:
                continue
            caught = _caught(function)
            for node in _own_nodes(function):
                if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in caught:
                    raised = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
                    if raised in names:
                        places.append(Place(module.path, node.lineno, f"{function_name} raises {raised}"))
    return places


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions inside it, which are listed themselves."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _own_nodes(child)


def _caught(function: ast.AST) -> set[int]:
    """Ids of the raise statements whose exception a handler around them names, itself or a class above it."""
    caught = set()
    for block in (node for node in _own_nodes(function) if isinstance(node, ast.Try)):
        handlers = [ast.unparse(handler.type) for handler in block.handlers if handler.type]
        handled = tuple(
            vars(builtins)[name] for name in re.findall(r"\w+", " ".join(handlers)) if name in vars(builtins)
        )
        for node in (inner for statement in block.body for inner in ast.walk(statement)):
            if isinstance(node, ast.Raise) and node.exc is not None:
                raised = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
                if isinstance(value := vars(builtins).get(raised), type) and issubclass(value, handled):
                    caught.add(id(node))
    return caught


# Names.


def public_definitions(module: Module) -> Iterator[tuple[str, int]]:
    """Functions and classes at the top of a module whose names don't begin with an underscore."""
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node.lineno


def repeated_names(library: Library) -> dict[str, list[Place]]:
    """Public functions and classes that two modules of the core or of plugins define.

    codecdiff/testing counts as one module: what is checked of several kinds of parts has one name on purpose.
    """
    places: dict[str, list[Place]] = defaultdict(list)
    for module in library.modules.values():
        if module.path.startswith("recipes/"):
            continue
        owner = TESTING if module.path.startswith(TESTING) else module.path
        for name, line in public_definitions(module):
            if not any(p.file.startswith(owner) for p in places[name]):
                places[name].append(Place(module.path, line, name))
    return {name: found for name, found in sorted(places.items()) if len(found) > 1 and name not in REPEATED}


# Plugins.


def uses(module: Module, library: Library) -> Iterator[tuple[str, str | None, int]]:
    """Yield (module, name, line) for what is read of first-party packages, attributes of imported modules included."""
    bound: dict[str, str] = {}  # name here -> the module it is
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0].startswith("codecdiff"):
                    bound[alias.asname or alias.name] = alias.name
                    yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0].startswith("codecdiff"):
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                if dotted in library.modules:
                    bound[alias.asname or alias.name] = dotted
                    yield dotted, None, node.lineno
                else:
                    yield node.module or "", alias.name, node.lineno
    attributes = [node for node in module.nodes if isinstance(node, ast.Attribute)]
    for node in sorted(attributes, key=lambda node: len(ast.unparse(node.value))):  # a.b before a.b.c
        if base := bound.get(ast.unparse(node.value)):
            if f"{base}.{node.attr}" in library.modules:
                bound[ast.unparse(node)] = f"{base}.{node.attr}"
            else:
                yield base, node.attr, node.lineno


def tier_violations(library: Library) -> list[Place]:
    """What plugins read of the core beside the `__all__` of the modules open to their tier, and of other plugins."""
    places = []
    for plugin in library.plugins:
        parts = library.closure(
            (library.modules[n] for n in plugin.part_modules if n in library.modules), lazy=True, inside=plugin.package
        )
        in_parts = {m.name for m in parts if m.name != plugin.package}
        providers = _providers(plugin, library.plugins)
        for module in library.modules_of(plugin):
            open_to_all = plugin.is_application and module.name not in in_parts
            for source, name, line in uses(module, library):
                package = source.split(".")[0]
                if package == plugin.package:
                    continue
                if package == "codecdiff":
                    if why := _core_refusal(library, source, name, open_to_all):
                        places.append(Place(module.path, line, why))
                elif package not in providers:
                    places.append(
                        Place(module.path, line, f"imports {source}, of a plugin that registers no kind of its")
                    )
                elif why := _unexported(library, source, name):
                    places.append(Place(module.path, line, why))
    return sorted(set(places))


def _providers(plugin: Plugin, plugins: Sequence[Plugin]) -> set[str]:
    """Packages of the distributions that register or read a group in which the plugin has entry points."""
    owners = {kind: p.package for p in plugins for kind in p.entry_points.get("kinds", {})}
    owners |= {group: name.replace("-", "_") for group, name in READ_BY.items()}
    return {owners[group] for group in plugin.entry_points if group in owners}


def _core_refusal(library: Library, source: str, name: str | None, is_application: bool) -> str | None:
    if not is_application and source not in PLUGIN_API:
        return f"{source}{'.' + name if name else ''} is not of the plugin API"
    return _unexported(library, source, name)


def _unexported(library: Library, source: str, name: str | None) -> str | None:
    found = library.modules.get(source)
    if found is None:
        return f"{source} does not exist"
    if name in ("__version__", "__all__", "__file__", "__name__", "__doc__", "__path__"):
        return None
    if found.exports is None:
        return f"{source} has no __all__" + (f", and {name} is read of it" if name else "")
    return f"{name} is not in {source}.__all__" if name and name not in found.exports else None


def docstrings(module: Module) -> dict[int, ast.Constant]:
    """Docstring nodes by their id."""
    found = {}
    for node in module.nodes:
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found[id(first.value)] = first.value
    return found


def plugins_named_in_core(library: Library) -> list[Place]:
    """Strings of the core's code, docstrings aside, and imports that name a first-party plugin."""
    names = {n for p in library.plugins for n in (p.distribution, p.package)}
    places = []
    for module in library.core:
        told = docstrings(module)
        for node in module.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
                found = {n for n in names if n in node.value}
            elif isinstance(node, ast.Import | ast.ImportFrom):
                dotted = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                found = {d.split(".")[0] for d in dotted} & names
            else:
                continue
            places += [Place(module.path, node.lineno, n) for n in sorted(found)]
    return places


def install_hints(library: Library) -> dict[str, dict[str, str]] | None:
    """Read the table of install hints: kind -> name -> distribution; None without one."""
    for file in library.files:
        if file.startswith(INSTALL_HINTS + "."):
            text = (library.root / file).read_text(encoding="utf-8")
            if file.endswith(".json"):
                return json.loads(text)
            if file.endswith(".toml"):
                return tomllib.loads(text)
            import yaml

            return yaml.safe_load(text)
    return None


def wrong_hints(library: Library) -> list[Place]:
    """Entry points of our plugins without an install hint, and hints without an entry point.

    Parts of every kind need one. Commands and models do as soon as the table has one of them.
    """
    table = install_hints(library)
    if table is None:
        return [Place(INSTALL_HINTS + ".*", 1, "missing")]
    kinds = {*PART_KINDS, *(k for p in library.plugins for k in p.entry_points.get("kinds", {})), *table}
    there = {
        (g, n, p.distribution) for p in library.plugins for g, e in p.entry_points.items() for n in e if g in kinds
    }
    hinted = {(g, n, d) for g, names in table.items() for n, d in names.items()}
    return [Place(INSTALL_HINTS, 1, f"lacks {g} {n}: {d}") for g, n, d in sorted(there - hinted)] + [
        Place(INSTALL_HINTS, 1, f"has {g} {n}: {d}, which is not an entry point") for g, n, d in sorted(hinted - there)
    ]


def platform_imports(library: Library) -> list[Place]:
    """Imports of modules that only Unix has."""
    return [
        Place(m.path, item.line, f"imports {item.module}")
        for m in library.modules.values()
        for item in m.imports
        if item.module.split(".")[0] in ("fcntl", "resource")
    ]


def vocabulary_places(library: Library) -> list[Place]:
    """Words and phrases of the old dialect, in code and documentation."""
    modules = [*library.modules.values(), *library.templates]
    places = [
        Place(m.path, line, what) for m in modules for line, what in vocabulary.in_module(m.path, m.nodes, m.text)
    ]
    for file in library.files:
        if vocabulary.is_document(file):
            text = (library.root / file).read_text(encoding="utf-8")
            places += [Place(file, line, what) for line, what in vocabulary.in_document(file, text)]
    return sorted(set(places))


# The table.


def figures(library: Library) -> dict[str, tuple[int, list[Any]]]:
    """Every figure: its value, and what is behind it."""
    levels, repeated = longest_chain(graph(library)), repeated_names(library)

    def sized(modules: Sequence[Module]) -> tuple[int, list[Any]]:
        return lines(modules), [f"{m.lines:6} {m.path}" for m in sorted(modules, key=lambda m: m.path)]

    def counted(places: list[Any]) -> tuple[int, list[Any]]:
        return len(places), places

    must_read = library.under(*MUST_READ)
    size, behind = sized(must_read)
    return {
        "lines: library in all": sized(list(library.modules.values())),
        "lines: core": sized(core_without_testing(library)),
        "lines: interfaces": sized(library.under("codecdiff/interfaces/", "codecdiff/interfaces.py")),
        "lines: evaluation": sized(library.under(*EVALUATION)),
        "lines: must-read set": (size, [*behind, *missing_must_read(library)]),
        "lines: import closure of the recipe": sized(recipe_closure(library)),
        "import levels": (len(levels), [" -> ".join(levels)]),
        "import cycles": counted(cycles(library)),
        "modules flat in the core": counted([m.path for m in flat_modules(library)]),
        "functions over 8 parameters": counted(long_parameter_lists(library)),
        "functions over 40 lines": counted(long_functions(library)),
        "names with two meanings": counted(
            [f"{name}: {', '.join(f'{p.file}:{p.line}' for p in found)}" for name, found in repeated.items()]
        ),
        "builtin exceptions raised for users": counted(builtin_raises(library)),
        "imports beside the tier": counted(tier_violations(library)),
        "plugins named in the core": counted(plugins_named_in_core(library)),
        "install hints": counted(wrong_hints(library)),
        "imports of fcntl and resource": counted(platform_imports(library)),
        "vocabulary": counted(vocabulary_places(library)),
    }


def extra_figures(library: Library) -> dict[str, int]:
    """Figures without a limit."""
    lengths = [length(f) for m in library.modules.values() for _, f, _ in m.functions]
    modules = graph(library, packages=False)
    counts: dict[str, Callable[[], int]] = {
        "lines: codecdiff/testing": lambda: lines(library.under(TESTING)),
        "lines: plugins": lambda: lines(m for m in library.modules.values() if m.path.startswith("plugins/")),
        "lines: recipes": lambda: lines(library.recipes),
        "lines: import closure of the recipe with imports of its functions": lambda: lines(
            recipe_closure(library, lazy=True)
        ),
        "must-read entries missing here or in the docs": lambda: len(missing_must_read(library)),
        "import levels between modules": lambda: len(longest_chain(modules)),
        "modules in import cycles": lambda: sum(len(g) for g in components(modules) if len(g) > 1),
        "modules in the core": lambda: len(library.core),
        "longest function, lines": lambda: max(lengths, default=0),
        "modules beside the tier": lambda: len({p.what.split(" ")[0] for p in tier_violations(library)}),
        "modules under 40 lines, packages aside": lambda: sum(
            m.lines < 40 and not m.is_package for m in library.modules.values()
        ),
    }
    return {name: count() for name, count in counts.items()}


def main() -> None:
    """Print the table, or what is behind a figure."""
    parser = argparse.ArgumentParser(description="Count the structure of a checkout.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--list", metavar="FIGURE", help="print what is behind one figure (part of its name)")
    parser.add_argument("--under", default="", help="with --list: only files whose path begins so")
    options = parser.parse_args()
    library = Library(options.root.resolve())
    table = figures(library)
    if options.list:
        for name, (value, behind) in table.items():
            if options.list in name:
                sys.stdout.write(f"# {name}: {value} (at most {LIMITS[name]})\n")
                sys.stdout.writelines(f"{each}\n" for each in behind if str(each).startswith(options.under))
        return
    for name, (value, _) in table.items():
        state = "ok" if value <= LIMITS[name] else "over"
        sys.stdout.write(f"{name:<70} {value:>7,} {LIMITS[name]:>7,}  {state}\n")
    for name, value in extra_figures(library).items():
        sys.stdout.write(f"{name:<70} {value:>7,}\n")


if __name__ == "__main__":
    main()
