"""Codecs around codecs: each wraps another and has the same interface, so nobody else needs to know."""

from codecdiff.codecs.chunked import Chunked, in_pieces
from codecdiff.codecs.entries import shadowed_entries
from codecdiff.codecs.reduced import Reduced
from codecdiff.codecs.standardized import Standardized
from codecdiff.codecs.stereo import Stereo
from codecdiff.codecs.wrapped import Wrapped

__all__ = ["Chunked", "Reduced", "Standardized", "Stereo", "Wrapped", "in_pieces", "shadowed_entries"]
