"""Diffusion models on neural-codec latents, level by level.

Users and plugins import public names from here. Names are loaded when they are used, so `import codecdiff` is fast and
does not import torch.
"""

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

_MODULES = {  # of the names that are not interfaces
    "GenerationConfig": "pipeline",
    "Pipeline": "pipeline",
    "device_of": "fingerprint",
    "exactly": "precision",
    "load": "pipeline",
    "push_to_hub": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'interfaces')}"), name)
