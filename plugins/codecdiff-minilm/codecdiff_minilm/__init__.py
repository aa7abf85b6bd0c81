"""Text conditioning by the sentence encoder MiniLM for codecdiff."""

from codecdiff_minilm.conditioner import MiniLM

__all__ = ["MiniLM"]
