"""CLAP for codecdiff: a judge of music, and conditions of text and of audio."""

from codecdiff_clap.conditioners import Clap, ClapAudio, ClapText
from codecdiff_clap.embedder import CLAP, GeneralCLAP, MusicCLAP

__all__ = ["CLAP", "Clap", "ClapAudio", "ClapText", "GeneralCLAP", "MusicCLAP"]
