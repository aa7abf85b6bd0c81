"""Codecs around codecs, which have the same interface, and the base class of codecs with a pretrained network."""

from codecdiff.codecs.chunked import ChunkedCodec, chunked
from codecdiff.codecs.normalized import NormalizedCodec
from codecdiff.codecs.pca import PCACodec
from codecdiff.codecs.pretrained import OriginalPackage, PretrainedCodec, residual_quantize
from codecdiff.codecs.stereo import StereoCodec
from codecdiff.codecs.wrapper import CodecWrapper, find_duplicate_codes

__all__ = [
    "ChunkedCodec",
    "CodecWrapper",
    "NormalizedCodec",
    "OriginalPackage",
    "PCACodec",
    "PretrainedCodec",
    "StereoCodec",
    "chunked",
    "find_duplicate_codes",
    "residual_quantize",
]
