"""Conditioners around conditioners, and one of numbers. All have the same interface, so callers need not know."""

from codecdiff.conditioners.cached import CachedConditioner, tokenizer_rules
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.conditioners.numeric import NumericConditioner

__all__ = ["CachedConditioner", "JoinedConditioner", "NumericConditioner", "tokenizer_rules"]
