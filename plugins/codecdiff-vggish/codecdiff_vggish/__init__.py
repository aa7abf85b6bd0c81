"""VGGish as an embedder of codecdiff."""

from codecdiff_vggish.embedder import VGGish

__all__ = ["VGGish"]
