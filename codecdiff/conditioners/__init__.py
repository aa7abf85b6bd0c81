"""Conditioners that wrap conditioners, one of numbers and classes, and what other conditioners are made of."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

if TYPE_CHECKING:
    from codecdiff.conditioners.cached import CachedConditioner, tokenizer_rules
    from codecdiff.conditioners.joined import JoinedConditioner
    from codecdiff.conditioners.numeric import FieldType, NumericConditioner, parse_number
    from codecdiff.conditioners.requests import parse_fields, parse_key, parse_tempo, requested_key, requested_tempo
    from codecdiff.conditioners.text_encoder import PretrainedTextEncoder
    from codecdiff.data.audio_prompt import audio_prompt_key, load_audio_prompt
    from codecdiff.fingerprint import hash_values, module_fingerprint

__all__ = [
    "CachedConditioner",
    "FieldType",
    "JoinedConditioner",
    "NumericConditioner",
    "PretrainedTextEncoder",
    "audio_prompt_key",
    "hash_values",
    "load_audio_prompt",
    "module_fingerprint",
    "parse_fields",
    "parse_key",
    "parse_number",
    "parse_tempo",
    "requested_key",
    "requested_tempo",
    "tokenizer_rules",
]

__getattr__, __dir__ = lazy_exports(__name__)
