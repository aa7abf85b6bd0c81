"""Codecs around codecs: each wraps another and has the same interface, so nobody else needs to know."""

from codecdiff.codecs.chunked import Chunked, in_pieces
from codecdiff.codecs.normalized import Standardized
from codecdiff.codecs.pca import Reduced
from codecdiff.codecs.stereo import Stereo
from codecdiff.codecs.wrapper import Wrapped, shadowed_entries

__all__ = ["Chunked", "Reduced", "Standardized", "Stereo", "Wrapped", "in_pieces", "shadowed_entries"]
