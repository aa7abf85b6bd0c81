"""CLAP as an embedder of codecdiff."""

from codecdiff_clap.embedder import CLAP, GeneralCLAP, MusicCLAP

__all__ = ["CLAP", "GeneralCLAP", "MusicCLAP"]
