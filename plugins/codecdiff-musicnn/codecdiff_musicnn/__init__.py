"""musicnn as embedders, a metric and a captioner of codecdiff."""

from codecdiff_musicnn.embedder import MusiCNN, MusiCNNTags

__all__ = ["MusiCNN", "MusiCNNTags"]
