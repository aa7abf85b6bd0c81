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
    )
    from codecdiff.pipeline.pipeline import Pipeline, load, push_to_hub

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
    "load",
    "prompt_fields",
    "push_to_hub",
]

_OF_PIPELINE = ("Pipeline", "load", "push_to_hub")  # all others are of the interfaces


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'codecdiff' has no attribute {name!r}")
    home = "pipeline.pipeline" if name in _OF_PIPELINE else "fingerprint" if name == "device_of" else "interfaces"
    return getattr(import_module(f"codecdiff.{home}"), name)
