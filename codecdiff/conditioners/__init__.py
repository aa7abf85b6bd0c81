"""Conditioners around conditioners, and one of numbers. All have the same interface, so callers need not know."""

from codecdiff.conditioners.cached import Cached, tokenizer_rules
from codecdiff.conditioners.joined import Joined
from codecdiff.conditioners.numeric import Numbers

__all__ = ["Cached", "Joined", "Numbers", "tokenizer_rules"]
