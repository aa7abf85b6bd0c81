"""Diffusion models on neural-codec latents, level by level.

Users and plugins import public names from here. Names are loaded when they are used, so `import codecdiff` is fast and
does not import torch.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecdiff.config import SamplingConfig
    from codecdiff.fingerprint import device_of
    from codecdiff.interfaces import (
        Codec,
        Condition,
        Conditioner,
        ConditionTokens,
        Denoiser,
        Embedder,
        Part,
        Prompt,
        Splitter,
        prompt_fields,
        prompt_text,
    )
    from codecdiff.pipeline import (
        Extend,
        GenerationConfig,
        GenerationInterrupted,
        Inpaint,
        Pipeline,
        PipelineOutput,
        Refine,
        Restore,
        Vary,
        load,
    )
    from codecdiff.precision import exactly

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "Condition",
    "ConditionTokens",
    "Conditioner",
    "Denoiser",
    "Embedder",
    "Extend",
    "GenerationConfig",
    "GenerationInterrupted",
    "Inpaint",
    "Part",
    "Pipeline",
    "PipelineOutput",
    "Prompt",
    "Refine",
    "Restore",
    "SamplingConfig",
    "Splitter",
    "Vary",
    "device_of",
    "exactly",
    "load",
    "prompt_fields",
    "prompt_text",
]


@contextmanager
def stand_ins(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Let what is imported find these in place of modules that take long and are not imported yet.

    None raises ImportError. Afterwards, `package.module` still imports a module of a package that does so lazily.
    """
    absent: dict[str, Any] = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package: it imports what is under `if TYPE_CHECKING` when it is used."""

    @cache
    def modules() -> dict[str, str]:
        """Public name -> the module it is imported from."""
        import ast  # takes longer than everything else here

        spec: Any = sys.modules[package].__spec__
        blocks = [node for node in ast.parse(spec.loader.get_source(package)).body if isinstance(node, ast.If)]
        imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
        return {alias.name: str(node.module) for node in imports for alias in node.names}

    def __getattr__(name: str) -> Any:  # noqa: N807  # of a module, PEP 562
        if not name.startswith("__") and name in modules():
            return getattr(import_module(modules()[name]), name)
        raise AttributeError(f"module '{package}' has no attribute {name!r}")

    def __dir__() -> list[str]:  # noqa: N807  # of a module, PEP 562
        return list(sys.modules[package].__all__)

    return __getattr__, __dir__


__getattr__, __dir__ = lazy_exports(__name__)
