"""Codecs around codecs: each wraps another and has the same interface, so nobody else needs to know."""

from codecdiff.codecs.chunked import ChunkedCodec, chunked
from codecdiff.codecs.normalized import NormalizedCodec
from codecdiff.codecs.pca import PCACodec
from codecdiff.codecs.stereo import StereoCodec
from codecdiff.codecs.wrapper import CodecWrapper, find_duplicate_codes

__all__ = [
    "ChunkedCodec",
    "CodecWrapper",
    "NormalizedCodec",
    "PCACodec",
    "StereoCodec",
    "chunked",
    "find_duplicate_codes",
]
