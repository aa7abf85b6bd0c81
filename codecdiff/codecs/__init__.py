"""Codecs that wrap codecs: each has the interface of the codec inside, so that nothing else needs to know."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecdiff.codecs.chunking import ChunkedCodec, chunked
    from codecdiff.codecs.normalized import NormalizedCodec
    from codecdiff.codecs.pca import PCACodec
    from codecdiff.codecs.pretrained import OriginalPackage, PretrainedCodec, residual_quantize
    from codecdiff.codecs.stereo import StereoCodec
    from codecdiff.codecs.wrapper import CodecWrapper, codebook_vectors, find_duplicate_codes

__all__ = [
    "ChunkedCodec",
    "CodecWrapper",
    "NormalizedCodec",
    "OriginalPackage",
    "PCACodec",
    "PretrainedCodec",
    "StereoCodec",
    "chunked",
    "codebook_vectors",
    "find_duplicate_codes",
    "residual_quantize",
]

_MODULES = {
    "chunking": ("ChunkedCodec", "chunked"),
    "normalized": ("NormalizedCodec",),
    "pca": ("PCACodec",),
    "pretrained": ("OriginalPackage", "PretrainedCodec", "residual_quantize"),
    "stereo": ("StereoCodec",),
    "wrapper": ("CodecWrapper", "codebook_vectors", "find_duplicate_codes"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
