"""Conditioners around conditioners, and one of numbers. All have the same interface, so callers need not know.

What plugins need to write one is here too: `excerpt` and `excerpt_key` for the audio of a prompt, `fingerprint` and
`tokenizer_rules` for the fingerprint of a conditioner.
"""

from codecdiff.conditioners.cached import CachedConditioner, tokenizer_rules
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.conditioners.numeric import NumericConditioner
from codecdiff.data.audio_prompt import excerpt, excerpt_key
from codecdiff.fingerprint import fingerprint

__all__ = [
    "CachedConditioner",
    "JoinedConditioner",
    "NumericConditioner",
    "excerpt",
    "excerpt_key",
    "fingerprint",
    "tokenizer_rules",
]
