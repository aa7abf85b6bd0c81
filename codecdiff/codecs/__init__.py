"""Codecs that wrap codecs: each has the interface of the codec inside, so that nothing else needs to know."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

if TYPE_CHECKING:
    from codecdiff.codecs.chunking import ChunkedCodec, chunked
    from codecdiff.codecs.normalized import NormalizedCodec
    from codecdiff.codecs.pca import PCACodec
    from codecdiff.codecs.pretrained import OriginalPackage, PretrainedCodec
    from codecdiff.codecs.residual import ResidualCodec, context_frames, nearest_vectors
    from codecdiff.codecs.stereo import StereoCodec
    from codecdiff.codecs.wrapper import CodecWrapper, codebook_vectors, find_duplicate_codes

__all__ = [
    "ChunkedCodec",
    "CodecWrapper",
    "NormalizedCodec",
    "OriginalPackage",
    "PCACodec",
    "PretrainedCodec",
    "ResidualCodec",
    "StereoCodec",
    "chunked",
    "codebook_vectors",
    "context_frames",
    "find_duplicate_codes",
    "nearest_vectors",
]

__getattr__, __dir__ = lazy_exports(__name__)
