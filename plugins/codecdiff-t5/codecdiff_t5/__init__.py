"""Flan-T5 text conditioning for codecdiff."""

from codecdiff_t5.conditioner import T5

__all__ = ["T5"]
