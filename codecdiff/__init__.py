"""Diffusion models on neural-codec latents, level by level.

What a user or a plugin needs can be imported from here. Nothing is loaded before it is used, so `import codecdiff`
is cheap and does not import torch.
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
    from codecdiff.pipeline.pipeline import Pipeline, load, push_to_hub
    from codecdiff.precision import exactly

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "Condition",
    "ConditionTokens",
    "Conditioner",
    "Denoiser",
    "Embedder",
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

_HOMES = {  # modules of the names that are not of the interfaces
    "Pipeline": "pipeline.pipeline",
    "load": "pipeline.pipeline",
    "push_to_hub": "pipeline.pipeline",
    "device_of": "fingerprint",
    "exactly": "precision",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'codecdiff' has no attribute {name!r}")
    return getattr(import_module(f"codecdiff.{_HOMES.get(name, 'interfaces')}"), name)
