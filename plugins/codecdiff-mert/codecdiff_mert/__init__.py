"""MERT and its kin as an embedder of codecdiff."""

from codecdiff_mert.embedder import MERT

__all__ = ["MERT"]
