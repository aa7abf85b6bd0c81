"""Diffusion models on neural-codec latents, level by level.

Users and plugins import public names from here. Names are loaded when they are used, so `import codecdiff` is fast and
does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from codecdiff.pipeline import GenerationConfig, Pipeline, load, push_to_hub
    from codecdiff.precision import exactly

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "Condition",
    "ConditionTokens",
    "Conditioner",
    "Denoiser",
    "Embedder",
    "GenerationConfig",
    "Part",
    "Pipeline",
    "Prompt",
    "Splitter",
    "device_of",
    "exactly",
    "load",
    "prompt_fields",
    "prompt_text",
    "push_to_hub",
]


def lazy_exports(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that passes on names of these modules, each imported when it is needed."""

    def __getattr__(name: str) -> Any:  # noqa: N807
        for module, names in modules.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module '{package}' has no attribute {name!r}")

    return __getattr__


_MODULES = {
    "codecdiff.fingerprint": ("device_of",),
    "codecdiff.pipeline": ("GenerationConfig", "Pipeline", "load", "push_to_hub"),
    "codecdiff.precision": ("exactly",),
    "codecdiff.interfaces": __all__,  # the others
}
__getattr__ = lazy_exports(__name__, _MODULES)
