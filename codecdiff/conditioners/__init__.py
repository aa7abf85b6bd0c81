"""Conditioners that wrap conditioners, one of numbers and classes, and what other conditioners are made of."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecdiff.conditioners.cached import CachedConditioner, tokenizer_rules
    from codecdiff.conditioners.joined import JoinedConditioner
    from codecdiff.conditioners.numeric import FieldType, NumericConditioner
    from codecdiff.data.audio_prompt import audio_prompt_key, load_audio_prompt
    from codecdiff.fingerprint import module_fingerprint

__all__ = [
    "CachedConditioner",
    "FieldType",
    "JoinedConditioner",
    "NumericConditioner",
    "audio_prompt_key",
    "load_audio_prompt",
    "module_fingerprint",
    "tokenizer_rules",
]

_MODULES = {
    "conditioners.cached": ("CachedConditioner", "tokenizer_rules"),
    "conditioners.joined": ("JoinedConditioner",),
    "conditioners.numeric": ("FieldType", "NumericConditioner"),
    "data.audio_prompt": ("audio_prompt_key", "load_audio_prompt"),
    "fingerprint": ("module_fingerprint",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"codecdiff.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
