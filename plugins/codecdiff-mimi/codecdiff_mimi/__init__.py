"""Mimi for codecdiff."""

from codecdiff_mimi.codec import Mimi

__all__ = ["Mimi"]
