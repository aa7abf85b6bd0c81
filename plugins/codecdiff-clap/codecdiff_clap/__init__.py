"""CLAP for codecdiff: an embedder of music and text, and conditioners of text and of audio."""

from codecdiff_clap.conditioner import Clap, ClapAudio, ClapText
from codecdiff_clap.embedder import CLAP, GeneralCLAP, MusicCLAP

__all__ = ["CLAP", "Clap", "ClapAudio", "ClapText", "GeneralCLAP", "MusicCLAP"]
